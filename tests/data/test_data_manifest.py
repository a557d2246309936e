"""Tables of samples: CSV and JSON lines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

F32 = np.dtype("float32")
X = InputSpec("x", F32, ("n", 2))
PICTURE = InputSpec("pixels", F32, ("n", 3, 2, 2))
WORDS = InputSpec("words", np.dtype(object), ("n",))
K = InputSpec("k", np.dtype("int64"), ("n", 1))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files").mkdir()
    for i in range(3):
        array = np.full((1, 2), i, np.float32)
        np.save(tmp_path / f"files/{i}.npy", array)
        np.savez(tmp_path / f"files/{i}.npz", array)
        array.tofile(tmp_path / f"files/{i}.bin")
        Image.fromarray(np.full((2, 2, 3), 10 * i, np.uint8)).save(tmp_path / f"files/{i}.png")
    return tmp_path


def table(folder, text, name="samples.csv"):
    (folder / name).write_text(text)
    return folder / name


def lines(folder, *objects):
    return table(folder, "\n".join(json.dumps(o) for o in objects), "samples.jsonl")


def failure(path, inputs, **options):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, inputs, **options).check()
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("suffix", ["npy", "npz", "bin"])
def test_cells_are_files_beside_the_table(folder, monkeypatch, suffix):
    monkeypatch.chdir("/")
    rows = [f"files/{i}.{suffix}" for i in range(3)]
    csv = table(folder, "\n".join(["x", *rows, ""]))
    jsonl = lines(folder, *({"x": row} for row in rows))
    for path in (csv, jsonl):
        assert sorted(f["x"].tolist() for f in open_dataset(path, [X])) == [[[i, i]] for i in range(3)]
    assert open_dataset(csv, [X]).digest() == open_dataset(jsonl, [X]).digest()


@pytest.mark.parametrize("column", ["image", "pixels"])
def test_images_with_labels(folder, column):
    path = table(folder, f"label, {column}\n" + "".join(f"{9 - i}, files/{i}.png\n" for i in range(3)))
    data = open_dataset(path, [PICTURE], preset="unit")
    fed = {label: round(float(f["pixels"].max() * 255)) for label, f in zip(data.classes(), data, strict=True)}
    assert fed == {9: 0, 8: 10, 7: 20}
    assert not data.implied


def test_an_input_may_be_called_image_or_label(folder):
    inputs = [InputSpec("image", F32, ("n", 2)), InputSpec("label", np.dtype("int64"), ("n",))]
    (feed,) = open_dataset(table(folder, "image,label\nfiles/1.npy,3"), inputs)
    assert (feed["image"].tolist(), feed["label"].tolist()) == ([[1, 1]], [3])


def test_numbers_and_text_may_stand_in_the_table(folder):
    inputs = [X, K, WORDS]
    (feed,) = open_dataset(lines(folder, {"x": [0.5, 2], "k": 7, "words": "a.png"}), inputs)
    assert feed["x"].tolist() == [[0.5, 2]]
    assert feed["k"].tolist() == [[7]]
    assert feed["words"].tolist() == ["a.png"]
    (feed,) = open_dataset(table(folder, "words,k,x\nhi there,-7,files/1.npy"), inputs)
    assert (feed["k"].tolist(), feed["words"].tolist()) == ([[-7]], ["hi there"])


def test_a_table_may_be_drawn_from_in_balance(folder):
    table(folder, "x,label\n" + "".join(f"files/{i % 3}.npy,{min(i, 1)}\n" for i in range(12)))
    (folder / "calib.yaml").write_text("source: samples.csv\nbalanced: true\nsamples: 2")
    assert sorted(open_dataset(folder / "calib.yaml", [X]).classes()) == [0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 samples, expected at least 1"),
        ("x", "0 samples"),
        ("y\nfiles/0.npy", "samples.csv:2: 'y' is not an input"),
        ("x,x\na,b", "columns ['x', 'x'], expected different names"),
        ("x,\na,b", "expected different names"),
        ("x\nfiles/0.npy,3", "samples.csv:2: 2 cells, expected 1"),
        ("x\nfiles/9.npy", "9.npy: cannot be read (No such file"),
        ("x\nfiles/0.xyz", "'files/0.xyz', expected numbers, or a file: .npy"),
        ("x\nfiles/0.png", "images say nothing of how input 'x' is fed"),
        ("x,label\nfiles/0.npy,cat", "samples.csv:2: label 'cat', expected a class index"),
        ("x,label\nfiles/0.npy,-1", "label '-1'"),
        ("label\n3", "input 'x' is missing"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(folder, text, said):
    assert said in failure(table(folder, text), [X])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "samples.jsonl:1: a list, expected a JSON object"),
        ('{"x": [1, 2]}\n\n{"x"', "samples.jsonl:3: "),
        ('{"x": [[1], [1, 2]]}', "expected numbers, or a file"),
        ('{"x": null}', "None, expected numbers"),
        ('{"x": [1, 2], "label": true}', "label True, expected a class index"),
        ('{"x": [1, 2], "label": 1}\n{"x": [1, 2]}', "samples.jsonl:2: label None"),
        ('{"x": [1, 2]}\n{"z": [1, 2]}', "samples.jsonl:2: 'z' is not an input"),
        ('{"x": [1, 2, 3]}', "samples.jsonl:1: shape [1, 3], expected [n, 2]"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(folder, text, said):
    assert said in failure(table(folder, text, "samples.jsonl"), [X])


def test_a_fraction_is_no_integer_input(folder):
    assert "samples.jsonl:1" in failure(lines(folder, {"k": "seven"}), [K])
