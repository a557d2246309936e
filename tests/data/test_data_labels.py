"""Labels are one class index for each sample of the source, checked as strictly as the samples."""

from __future__ import annotations

import numpy as np
import pytest

from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

X = InputSpec("x", np.dtype("float32"), ("n", 3))
INPUTS = "inputs: {x: {npz: a.npz}}"
LABELS = "labels: {npz: a.npz, array: classes}"


@pytest.fixture
def folder(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        x=np.arange(30, dtype=np.float32).reshape(10, 3),
        classes=np.arange(10),
        labels=np.arange(10, 20, dtype=np.uint8),
        short=np.arange(9),
        real=np.linspace(0, 1, 10),
        matrix=np.zeros((10, 1), np.int64),
        negative=np.arange(10) - 3,
        text=np.array(["a"] * 10),
    )
    return tmp_path


def opened(folder, text, **options):
    (folder / "calib.yaml").write_text(text)
    return open_dataset(folder / "calib.yaml", [X], **options)


def test_a_dataset_without_labels_has_no_classes(folder):
    assert opened(folder, INPUTS).classes() == []


def test_labels_are_those_of_the_samples(folder):
    data = opened(folder, f"{INPUTS}\n{LABELS}")
    assert data.classes() == [int(feed["x"][0, 0]) // 3 for feed in data]
    assert sorted(data.classes()) == list(range(10))


def test_the_array_is_called_labels_unless_it_is_named(folder):
    assert sorted(opened(folder, f"{INPUTS}\nlabels: {{npz: a.npz}}").classes()) == list(range(10, 20))


@pytest.mark.parametrize("selection", ["samples: 4", "samples: 4\nseed: 3"])
def test_labels_follow_the_selection(folder, selection):
    data = opened(folder, f"{selection}\n{INPUTS}\n{LABELS}")
    assert data.classes() == [int(feed["x"][0, 0]) // 3 for feed in data]


def test_labels_follow_what_is_taken(folder):
    data = opened(folder, f"{INPUTS}\n{LABELS}", samples=8).take(3)
    assert data.classes() == [int(feed["x"][0, 0]) // 3 for feed in data]


def test_labels_of_feed_files(folder):
    for i in range(10):
        np.savez(folder / f"feed{i}.npz", x=np.full((1, 3), i, np.float32))
    data = opened(folder, f"feeds: feed*.npz\n{LABELS}")
    assert data.classes() == [int(feed["x"][0, 0]) for feed in data]


def test_labels_decide_nothing(folder):
    assert opened(folder, f"{INPUTS}\n{LABELS}").digest() == opened(folder, INPUTS).digest()


@pytest.mark.parametrize(
    ("labels", "got", "expected"),
    [
        ("{npz: a.npz, array: short}", "9 labels", "expected 10, one for each sample"),
        ("{npz: a.npz, array: real}", "float64 of rank 1", "one integer for each sample"),
        ("{npz: a.npz, array: text}", "of rank 1", "one integer for each sample"),
        ("{npz: a.npz, array: matrix}", "int64 of rank 2", "one integer for each sample"),
        ("{npz: a.npz, array: negative}", "label 0 is -3", "expected 0 or more"),
        ("{npz: a.npz, array: clases}", "no array 'clases'", "did you mean 'classes'"),
        ("{npz: b.npz, array: classes}", "b.npz: cannot be read", "an npz file"),
        ("{array: classes}", "labels has no 'npz'", "an .npz file"),
        ("{npz: a.npz, arrray: classes}", "unknown key 'arrray' in labels", "did you mean 'array'"),
        ("a.npz", "labels is 'a.npz'", "expected a mapping"),
        ("[1, 2]", "labels is a list", "expected a mapping"),
    ],
)
def test_wrong_labels_are_named(folder, labels, got, expected):
    with pytest.raises(DatasetError) as caught:
        opened(folder, f"{INPUTS}\nlabels: {labels}")
    assert got in caught.value.message
    assert expected in caught.value.message
    assert caught.value.hint
