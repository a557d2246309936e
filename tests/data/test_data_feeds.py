"""Feed files: one npz file per sample, named after the inputs."""

from __future__ import annotations

import numpy as np
import pytest

from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

IDS = InputSpec("ids", np.dtype("int64"), ("batch", "seq"))
PAST = InputSpec("past", np.dtype("float32"), ("batch", "past", 2))


@pytest.fixture
def calib(tmp_path):
    folder = tmp_path / "calib"
    folder.mkdir()
    for length in (3, 1, 2):
        ids = np.full((1, length), length)
        np.savez(folder / f"{length}.npz", ids=ids, past=np.zeros((1, 0, 2), np.float32))
    return folder


def failure(path, inputs=(IDS, PAST)):
    with pytest.raises(DatasetError) as caught:
        open_dataset(path, inputs).check()
    assert caught.value.hint
    return caught.value.message


def test_each_file_is_a_sample(calib):
    assert sorted(feed["ids"].tolist() for feed in open_dataset(calib, [IDS, PAST])) == [[[1]], [[2, 2]], [[3, 3, 3]]]


def test_the_first_files_are_those_whose_names_come_first(calib):
    assert [feed["ids"].tolist() for feed in open_dataset(calib, [IDS, PAST], samples=1)] == [[[1]]]


def test_spec_with_feeds_equals_the_folder(calib, write_spec):
    spec = open_dataset(write_spec("feeds: calib/*.npz"), [IDS, PAST])
    assert len(spec) == 3
    assert spec.digest() == open_dataset(calib, [IDS, PAST]).digest()


def test_batch_axis_is_added_to_a_feed(calib):
    np.savez(calib / "1.npz", ids=np.arange(5), past=np.zeros((0, 2), np.float32))
    feed = next(iter(open_dataset(calib, [IDS, PAST])))
    assert (feed["ids"].shape, feed["past"].shape) == ((1, 5), (1, 0, 2))


def test_fortran_order_is_kept_out_of_the_values(calib):
    ids = np.asfortranarray(np.arange(6).reshape(2, 3))
    np.savez(calib / "1.npz", ids=ids, past=np.zeros((1, 0, 2), np.float32))
    np.testing.assert_array_equal(next(iter(open_dataset(calib, [IDS, PAST])))["ids"], ids)


@pytest.mark.parametrize(
    ("arrays", "got", "expected"),
    [
        ({"ids": np.ones((1, 2), np.int64)}, "input 'past' is missing, expected 'ids', 'past', got 'ids'", "2.npz"),
        ({"idz": np.ones((1, 2), np.int64)}, "'idz' is not an input", "did you mean 'ids'?"),
        ({"ids": np.ones((1, 2)), "past": np.zeros((1, 0, 2), np.float32)}, "dtype float64", "expected int64"),
        ({"ids": np.ones((1, 2), int), "past": np.zeros((1, 0, 3), np.float32)}, "[1, 0, 3]", "fixed at 2"),
        ({"ids": np.ones((1, 2), int), "past": np.full((1, 1, 2), np.nan, np.float32)}, "nan at", "'past', sample 1"),
        ({"ids": np.array([{}]), "past": np.zeros((1, 0, 2), np.float32)}, "pickled objects", "expected numbers"),
    ],
)
def test_feed_that_does_not_fit_is_named(calib, arrays, got, expected):
    np.savez(calib / "2.npz", **arrays)
    message = failure(calib)
    assert "2.npz" in message
    assert got in message
    assert expected in message


def test_damaged_feed_is_named(calib):
    (calib / "2.npz").write_bytes(b"PK")
    assert "2.npz: cannot be read (File is not a zip file), expected an npz file" in failure(calib)


def test_folder_without_feeds_is_refused(tmp_path):
    message = failure(tmp_path)
    assert "no file matches, expected .npz feeds" in message
