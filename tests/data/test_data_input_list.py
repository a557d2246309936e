"""QNN's input lists and the raw files that they name."""

from __future__ import annotations

import numpy as np
import pytest

from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

A = InputSpec("a", np.dtype("float32"), ("n", 2))
B = InputSpec("b", np.dtype("int64"), (1, "n"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw").mkdir()
    for i in range(3):
        np.full(2, i, np.float32).tofile(tmp_path / f"raw/a{i}.raw")
        np.arange(i + 1, dtype=np.float32).tofile(tmp_path / f"raw/b{i}.raw")
    return tmp_path


def listed(folder, text):
    (folder / "input_list.txt").write_text(text)
    return folder / "input_list.txt"


def failure(path, inputs):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, inputs).check()
    assert caught.value.hint
    return caught.value.message


NAMED = "\n".join(f"a:=raw/a{i}.raw b:=raw/b{i}.raw" for i in range(3))
SWAPPED = "\n".join(f"b:=raw/b{i}.raw a:=raw/a{i}.raw" for i in range(3))
IN_ORDER = "\n".join(f"raw/a{i}.raw raw/b{i}.raw" for i in range(3))


@pytest.mark.parametrize("text", [NAMED, SWAPPED, IN_ORDER, f"\n{NAMED}\n\n"])
def test_files_are_fed_by_name_or_in_order(folder, text):
    fed = sorted(
        (f["a"].tolist(), f["b"].dtype.name, f["b"].tolist()) for f in open_dataset(listed(folder, text), [A, B])
    )
    assert fed == [([[i, i]], "int64", [list(range(i + 1))]) for i in range(3)]


def test_order_is_warned_of(folder):
    assert open_dataset(listed(folder, NAMED), [A, B]).warnings == ()
    assert "matched with the inputs by order: 'a', 'b'" in open_dataset(listed(folder, IN_ORDER), [A, B]).warnings[0]


@pytest.mark.parametrize("sign", ["#", "%"])
def test_a_line_that_names_outputs_is_noted(folder, sign):
    dataset = open_dataset(listed(folder, f"{sign}out1 out2\n{NAMED}"), [A, B])
    assert len(dataset) == 3
    assert "input_list.txt:1: outputs are named here" in dataset.warnings[0]


def test_paths_may_be_relative_to_the_current_folder(folder, monkeypatch):
    (folder / "lists").mkdir()
    monkeypatch.chdir(folder)
    assert len(open_dataset(listed(folder / "lists", NAMED), [A, B])) == 3


@pytest.mark.parametrize(
    ("dtype", "spec", "expected"),
    [
        ("float32", "uint8", [0, 7]),
        ("uint8", "uint8", [0, 7]),
        ("int64", "int64", [0, 7]),
        ("int32", "int32", [0, 7]),
        ("float32", "int32", [0, 7]),
        ("float32", "float16", [0, 7]),
        ("float16", "float16", [0, 7]),
    ],
)
def test_raw_files_are_float32_or_of_the_inputs_type(folder, dtype, spec, expected):
    np.array([0, 7], dtype).tofile(folder / "x.raw")
    (feed,) = open_dataset(listed(folder, "x.raw"), [InputSpec("x", np.dtype(spec), (1, 2))])
    assert feed["x"].dtype == spec
    assert feed["x"].tolist() == [expected]


@pytest.mark.parametrize(
    ("shape", "size", "found"),
    [
        (("n", 2, 3), 6, (1, 2, 3)),
        (("n", 2, 3), 12, (2, 2, 3)),
        ((1, 2, "w"), 8, (1, 2, 4)),
        (("n", 2, "w"), 8, (1, 2, 4)),
        ((), 1, ()),
    ],
)
def test_a_free_dimension_is_found_from_the_size(folder, shape, size, found):
    np.zeros(size, np.float32).tofile(folder / "x.raw")
    (feed,) = open_dataset(listed(folder, "x.raw"), [InputSpec("x", np.dtype("float32"), shape)])
    assert feed["x"].shape == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line with files, expected one for each sample"),
        ("# out", "no line with files"),
        ("raw/a0.raw", "input_list.txt:1: 1 files, expected 2, one for each of a, b"),
        ("a:=raw/a0.raw", "input_list.txt:1: input 'b' is missing"),
        ("a:=raw/a0.raw c:=raw/b0.raw", "'c' is not an input"),
        ("a:=raw/a0.raw a:=raw/b0.raw", "expected a file for each input, all by name or none"),
        ("a:=raw/a0.raw raw/b0.raw", "all by name or none"),
        ("a:=raw/nowhere.raw b:=raw/b0.raw", "nowhere.raw: cannot be read"),
        (
            "a:=raw/b1.raw b:=raw/a0.raw\na:=raw/b0.raw b:=raw/b0.raw",
            "4 bytes, expected float32 numbers of shape [n, 2]",
        ),
    ],
)
def test_a_wrong_line_is_named(folder, text, said):
    assert said in failure(listed(folder, text), [A, B])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (InputSpec("x", np.dtype("float32"), None), "an input of numbers with a known rank"),
        (InputSpec("x", np.dtype(object), (1,)), "an input of numbers"),
        (InputSpec("x", np.dtype("float32"), (1, 3)), "8 bytes, expected float32 numbers of shape [1, 3]: 12 bytes"),
        (InputSpec("x", np.dtype("float32"), ("n", 3)), "a multiple of 12 bytes"),
        (InputSpec("x", np.dtype("float32"), ("n", "h", "w")), "at most one free dimension beside the batch"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(folder, spec, said):
    assert said in failure(listed(folder, "raw/a0.raw"), [spec])


def test_halves_are_no_whole_numbers(folder):
    np.array([0.5, 1.5], np.float32).tofile(folder / "x.raw")
    assert "expected float32 numbers" in failure(listed(folder, "x.raw"), [InputSpec("x", np.dtype("uint8"), (1, 2))])
