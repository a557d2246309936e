"""``file.py:function``: a generator as TFLite takes it, out of a file."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from quantcli.data import InputSpec, from_callable, open_dataset, open_signature, read_signatures
from quantcli.data.memory import FunctionSource
from quantcli.errors import DatasetError

X = InputSpec("x", np.dtype("float32"), ("n", 2))
Y = InputSpec("y", np.dtype("float32"), ("n", 1))
SAMPLES = """import numpy as np

def samples():
    for i in range(3):
        yield {body}
"""


@pytest.fixture
def write(tmp_path):
    def written(text, name="calib.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / f"{name}:samples"

    return written


def failure(path, inputs=(X,)):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, inputs).check()
    assert caught.value.hint
    return caught.value.message


def values(dataset, name="x"):
    return sorted(feed[name].ravel().tolist() for feed in dataset)


@pytest.mark.parametrize("body", ["{'x': np.full((1, 2), i, np.float32)}", "[np.full((1, 2), i, np.float32)]"])
def test_what_the_function_yields_is_fed(write, body):
    dataset = open_dataset(write(SAMPLES.format(body=body)), [X])
    assert values(dataset) == [[0, 0], [1, 1], [2, 2]]
    assert dataset.description == "calib.py:samples"
    assert len(dataset.warnings) == body.startswith("[")


def test_samples_limit_the_function(write):
    assert len(open_dataset(write(SAMPLES.format(body="[np.full(2, i, np.float32)]")), [X], samples=2)) == 2


def test_nothing_is_left_behind(write, tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 7.0")
    text = SAMPLES.format(body="[np.full((1, 2), beside.VALUE, np.float32)]").replace("import", "import beside\nimport")
    before, known = list(sys.path), set(sys.modules)
    assert values(open_dataset(write(text), [X])) == [[7, 7]] * 3
    assert sys.path == before
    assert set(sys.modules) - known <= {"beside"}
    sys.modules.pop("beside")
    assert not list(tmp_path.rglob("calib*.pyc"))


def test_a_changed_file_is_read_again(write):
    for value in (1, 2):
        path = write(SAMPLES.format(body=f"[np.full((1, 2), {value}, np.float32)]"))
        assert values(open_dataset(path, [X]))[0] == [value, value]


def test_dataclasses_in_the_file_find_their_module(write):
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    a: int\n"
    assert len(open_dataset(write(head + SAMPLES.format(body="[np.zeros((1, 2), np.float32)]")), [X])) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def other(): pass", "no function 'samples', expected FILE.py:FUNCTION; functions there: other"),
        ("def sample(): pass", "did you mean 'sample'?"),
        ("samples = 3", "no function 'samples'"),
        ("import nowhere_at_all", "calib.py:1: cannot be imported: ModuleNotFoundError: No module named"),
        ("x = 1\nraise SystemExit(3)", "calib.py:2: cannot be imported: SystemExit: 3"),
        ("x = 1\ndef f(:\n", "calib.py:2: cannot be imported: SyntaxError"),
        (
            SAMPLES.format(body="1 / 0"),
            "raised ZeroDivisionError: division by zero; expected an iterable of samples, at ",
        ),
        (SAMPLES.format(body="np.ones((3, 2)) @ np.ones(3)"), "calib.py:5"),
        (SAMPLES.format(body="{'z': np.zeros(2)}"), "'z' is not an input"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(write, text, said):
    message = failure(write(text))
    assert said in message
    assert "\n" not in message


def test_the_function_has_to_be_named(write, tmp_path):
    write("def samples(): pass")
    assert "a Python file without the name of a function" in failure(tmp_path / "calib.py")
    assert "nowhere.py: no such file" in failure(tmp_path / "nowhere.py:samples")


def signed():
    for i in range(3):
        yield "serve", {"x": np.full((1, 2), i, np.float32)}
        yield "train", {"x": np.full((1, 2), 9, np.float32), "y": np.ones((1, 1), np.float32)}


def test_samples_of_another_signature_are_left_out():
    dataset = from_callable(signed, [X])
    assert values(dataset) == [[0, 0], [1, 1], [2, 2]]
    assert "only those of the signature that has the model's inputs are fed" in dataset.warnings[0]
    assert values(from_callable(signed, [X, Y]))[0] == [9, 9]


def test_a_signature_may_be_asked_for():
    assert values(from_callable(signed, [X], signature="serve")) == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(DatasetError, match="'y' is not an input"):
        from_callable(signed, [X], signature="train").check()


@pytest.mark.parametrize(
    ("inputs", "signature", "said"),
    [
        ([InputSpec("z", np.dtype("float32"), (2,))], "", "0 samples with inputs 'z', expected at least 1 .*'train'"),
        ([X], "predict", "0 samples of signature 'predict'"),
    ],
)
def test_no_sample_of_the_signature_is_told(inputs, signature, said):
    with pytest.raises(DatasetError, match=said):
        from_callable(signed, inputs, signature=signature).check()


def test_two_signatures_that_fit_are_ambiguous():
    def both():
        yield "a", {"x": np.zeros((1, 2), np.float32)}
        yield "b", {"x": np.zeros((1, 2), np.float32)}

    with pytest.raises(DatasetError, match="signatures 'a' and 'b' both have the inputs"):
        from_callable(both, [X]).check()


def test_a_spec_may_name_a_function(write, tmp_path):
    write(SAMPLES.format(body="[np.full((1, 2), i, np.float32)]"))
    spec = tmp_path / "calib.yaml"
    spec.write_text("source: calib.py:samples\nsamples: 2")
    assert len(open_dataset(spec, [X])) == 2
    spec.write_text("source: calib.py:samples\nseed: 2")
    assert "seed, balanced or labels beside a function" in failure(spec)


def test_the_first_sample_is_not_lost():
    source = FunctionSource(lambda: iter([{"x": np.zeros((1, 2), np.float32)}] * 2), (X,), "f()")
    assert source.first()
    assert len(list(source.items())) == 2


def test_the_place_is_in_the_users_file(tmp_path):
    def broken():
        np.load(tmp_path / "nowhere.npy")
        yield

    with pytest.raises(DatasetError, match=f"at {Path(__file__)}:\\d+$"):
        from_callable(broken, [X])


def test_signatures_of_one_spec_get_their_own_samples(tmp_path):
    (tmp_path / "gen.py").write_text(
        "import numpy as np\ndef samples():\n    for i in range(3):\n"
        "        yield 'a', {'x': np.full((1, 2), i, np.float32)}\n"
        "        yield 'b', {'x': np.full((1, 2), -i, np.float32)}\n"
    )
    (tmp_path / "s.yaml").write_text(
        "signatures: {a: {model: a.onnx, dataset: gen.py:samples}, b: {model: b.onnx, source: gen.py:samples}}"
    )
    signatures = read_signatures(tmp_path / "s.yaml").signatures
    assert values(open_signature(signatures["a"], [X])) == [[0, 0], [1, 1], [2, 2]]
    assert values(open_signature(signatures["b"], [X])) == [[-2, -2], [-1, -1], [0, 0]]
