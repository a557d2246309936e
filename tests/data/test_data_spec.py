"""The YAML spec is read strictly: each mistake is named with its line and what was expected."""

from __future__ import annotations

import re

import numpy as np
import pytest

from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

X = InputSpec("x", np.dtype("float32"), ("n", 3))
NPZ = "inputs: {x: {npz: a.npz}}"


@pytest.fixture
def folder(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(30, dtype=np.float32).reshape(10, 3))
    return tmp_path


def failure(path, inputs=(X,)):
    with pytest.raises(DatasetError) as caught:
        list(open_dataset(path, inputs))
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "got", "expected"),
    [
        (f"samples: ten\n{NPZ}", "yaml:1: samples is 'ten'", "a whole number, at least 1"),
        (f"{NPZ}\nsamples: -3", "yaml:2: samples is '-3'", "a whole number, at least 1"),
        (f"{NPZ}\nsamples: 0", "yaml:2: samples is '0'", "a whole number, at least 1"),
        (f"{NPZ}\nsamples: '10'", "yaml:2: samples is '10'", "a whole number"),
        (f"{NPZ}\nsamples: true", "yaml:2: samples is 'true'", "a whole number"),
        (f"{NPZ}\nsamples: 1.5", "yaml:2: samples is '1.5'", "a whole number"),
        (f"{NPZ}\nsamples: [1]", "yaml:2: samples is a list", "a whole number"),
        (f"{NPZ}\nsamples:", "yaml:2: samples is empty", "a whole number"),
        (f"{NPZ}\nseed: -1", "yaml:2: seed is '-1'", "a whole number, at least 0"),
        (f"\n\nsampels: 3\n{NPZ}", "yaml:3: unknown key 'sampels'", "did you mean 'samples'"),
        ("inputs:\n  x:\n    npz: a.npz\n    arrray: x", "yaml:4: unknown key 'arrray' in inputs.x", "'array'"),
        ("inputs: {x: {npz: a.npz, color: RGB}}", "unknown key 'color' in inputs.x", "expected one of npz, array"),
        (
            "inputs: {x: {images: '*.png', dtype: float32}}",
            "unknown key 'dtype'",
            "expected one of images, preset, color",
        ),
        (f"{NPZ}\nsamples: 1\nsamples: 2", "yaml:3: key 'samples' is given twice, expected once", "calib.yaml:2"),
        ("inputs:\n  x: {npz: a.npz}\n  x: {npz: b.npz}", "yaml:3: key 'x' is given twice", "calib.yaml:2"),
        (f"{NPZ}\nfeeds: '*.npz'", "'inputs' and 'feeds', ", "expected exactly one of 'inputs', 'feeds', 'source'"),
        ("samples: 3", "none of them, ", "expected exactly one of 'inputs', 'feeds', 'source'"),
        ("inputs: {x: {npz: a.npz, images: b}}", "inputs.x has 'images' and 'npz', ", "expected exactly one"),
        ("inputs: {x: {array: b}}", "inputs.x has none of them", "exactly one of 'images', 'npz'"),
        ("inputs: {x: a.npz}", "inputs.x is 'a.npz'", "expected a mapping"),
        ("inputs: [x]", "inputs is a list", "expected a mapping"),
        ("- x", "yaml:1: a list", "expected a mapping"),
        ("feeds: [a.npz]", "feeds is a list", "expected text"),
        ("feeds:", "feeds is empty", "expected text"),
        ("feeds: nowhere/*.npz", "no file matches 'nowhere/*.npz'", "expected at least one file"),
        ("inputs: {x: {images: '*.jpg'}}", "no file matches '*.jpg'", "expected at least one file"),
        ("inputs: {x: {npz: a.npz, layout: HWC}}", "inputs.x.layout is 'HWC'", "one of NHWC, NCHW"),
        ("inputs: {x: {npz: a.npz, scale: big}}", "inputs.x.scale is 'big'", "a finite number"),
        ("inputs: {x: {npz: a.npz, scale: .nan}}", "inputs.x.scale is '.nan'", "a finite number"),
        ("inputs: {x: {npz: a.npz, scale: 1e99}}", "inputs.x.scale is '1e99'", "a finite number"),
        ("inputs: {x: {npz: a.npz, mean: [1, a, 3]}}", "inputs.x.mean is 'a'", "a finite number"),
        ("inputs: {x: {npz: a.npz, mean: {r: 1}}}", "inputs.x.mean is a mapping", "a finite number"),
        ("inputs: {x: {npz: a.npz, std: 0}}", "inputs.x.std is '0'", "other than 0"),
        ("inputs: {x: {npz: a.npz, std: [1, 1e-99, 1]}}", "inputs.x.std is '1e-99'", "other than 0"),
        ("inputs: {x: {npz: a.npz, mean: [1, 2]}}", "mean has 2 values", "expected 3"),
        ("inputs: {x: {npz: a.npz, dtype: float16}}", "dtype 'float16'", "expected 'float32'"),
        ("inputs: {x: {npz: a.npz, array: [x]}}", "inputs.x.array is a list", "expected text"),
        ("inputs: {x: {images: '*', color: rgb}}", "inputs.x.color is 'rgb'", "did you mean 'RGB'"),
        ("inputs: {x: {images: '*', resize: 224}}", "inputs.x.resize is '224'", "expected a list"),
        ("inputs: {x: {images: '*', resize: [224]}}", "resize has 1 numbers", "expected two"),
        ("inputs: {x: {images: '*', resize: [0, 4]}}", "inputs.x.resize is '0'", "at least 1"),
        ("inputs: {x: {images: '*', mean: [1, 2]}}", "mean has 2 values", "expected 3"),
        ("inputs: {x: {images: '*', color: GRAY, std: [1, 2, 3]}}", "std has 3 values", "expected 1"),
        ("a: [1", "yaml:1: cannot be read", "expected a YAML dataset spec"),
        ("a: 1\nb: 'x", "yaml:2: cannot be read", "expected a YAML dataset spec"),
        ("", "calib.yaml: empty", "expected a YAML dataset spec"),
        ("--- {}\n--- {}", "cannot be read", "expected a YAML dataset spec"),
        ("[" * 5000, "cannot be read", "expected a YAML dataset spec"),
        (f"{NPZ}\n? [a]\n: b", "yaml:2: a list", "expected text"),
        ("inputs: &a {x: *a}", "unknown key 'x'", "expected one of images"),
    ],
)
def test_mistake_in_a_spec_is_named_with_line_and_expectation(folder, write_spec, text, got, expected):
    message = failure(write_spec(text))
    assert got in message
    assert expected in message


def test_missing_spec_is_an_error(tmp_path):
    assert re.search(r"gone\.yaml: cannot be read \(No such file.*expected a YAML", failure(tmp_path / "gone.yaml"))


def test_binary_file_is_not_a_spec(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x89\xff\x00")
    assert re.search(r"a\.onnx: cannot be read \(.*utf-8.*expected a YAML", failure(tmp_path / "a.onnx"))


def test_control_characters_are_not_yaml(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \x00")
    assert re.search(r"a\.yaml: cannot be read \(.*expected a YAML", failure(tmp_path / "a.yaml"))


def test_pattern_without_files_names_the_resolved_path(folder, write_spec):
    assert str(folder / "no/*.jpg") in failure(write_spec("inputs: {x: {images: no/*.jpg}}"))


def test_pattern_that_is_a_folder_says_how_to_name_its_files(folder, write_spec):
    (folder / "images").mkdir()
    with pytest.raises(DatasetError, match="no file matches 'images'") as caught:
        open_dataset(write_spec("inputs: {x: {images: images}}"), [X])
    assert "images/*" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "got", "expected"),
    [
        ("inputs: {X: {npz: a.npz}}", "yaml:1: 'X' is not an input", "expected 'x'"),
        ("inputs:\n  x: {npz: a.npz}\n  y: {npz: a.npz}", "yaml:3: 'y' is not an input", "expected 'x'"),
        ("samples: 3\ninputs: {}", "yaml:2: input 'x' is missing", "expected 'x', got nothing"),
    ],
)
def test_inputs_are_those_of_the_model(folder, write_spec, text, got, expected):
    message = failure(write_spec(text))
    assert got in message
    assert expected in message


def test_nearest_input_that_is_not_given_is_proposed(folder, write_spec, floats):
    text = "inputs: {image_1: {npz: a.npz}, image_3: {npz: a.npz}}"
    message = failure(write_spec(text), [floats("n", 3, name="image_1"), floats("n", 3, name="image_2")])
    assert message.endswith("did you mean 'image_2'?")


@pytest.mark.parametrize("name", ["1", "on", "null_1", "input.1", "Iterator:0", "2024-13-99", "0x1F"])
def test_input_name_is_taken_as_it_is_written(tmp_path, write_spec, floats, name):
    np.savez(tmp_path / "a.npz", **{name: np.ones((2, 3), np.float32)})
    dataset = open_dataset(write_spec(f"inputs:\n  {name}: {{npz: a.npz, array: {name}}}"), [floats("n", 3, name=name)])
    assert [list(feed) for feed in dataset] == [[name], [name]]


@pytest.mark.parametrize("scale", ["1e-3", "0.001", ".001", "+1.0E-3"])
def test_number_may_be_written_in_any_usual_way(folder, write_spec, scale):
    dataset = open_dataset(write_spec(f"inputs: {{x: {{npz: a.npz, scale: {scale}}}}}"), [X])
    least = min((feed["x"] for feed in dataset), key=np.max)
    np.testing.assert_array_equal(least, np.arange(3, dtype=np.float32)[None] * np.float32(0.001))


def test_byte_order_mark_is_no_part_of_the_spec(folder):
    (folder / "calib.yaml").write_bytes(b"\xef\xbb\xbf" + NPZ.encode())
    assert len(open_dataset(folder / "calib.yaml", [X])) == 10


def test_dataset_is_described_by_its_file_name(folder, write_spec):
    dataset = open_dataset(write_spec(NPZ), [X])
    assert (dataset.description, dataset.synthetic, dataset.warnings) == ("calib.yaml", False, ())


def test_numbers_are_no_text(folder, write_spec):
    message = failure(write_spec(NPZ), [InputSpec("x", np.dtype(object), ("n",))])
    assert "expected strings" in message


@pytest.mark.parametrize("key", ["scale: 2", "mean: 1", "from_layout: NCHW"])
def test_text_cannot_be_preprocessed(folder, write_spec, key):
    np.savez(folder / "words.npz", x=np.array([["a"], ["b"]]))
    spec = write_spec(f"inputs: {{x: {{npz: words.npz, {key}}}}}")
    assert "takes strings" in failure(spec, [InputSpec("x", np.dtype(object), ("n",))])


def test_images_are_no_text(folder, write_spec):
    (folder / "a.png").touch()
    assert "images, expected text" in failure(
        write_spec("inputs: {x: {images: '*.png'}}"), [InputSpec("x", np.dtype(object), ("n",))]
    )


def test_text_is_read_from_an_npz_file(folder, write_spec):
    np.savez(folder / "words.npz", x=np.array([["a", "bc"], ["", "grün"]]))
    dataset = open_dataset(write_spec("inputs: {x: {npz: words.npz}}"), [InputSpec("x", np.dtype(object), (2,))])
    assert [sample["x"].tolist() for sample in dataset] == [["a", "bc"], ["", "grün"]]
