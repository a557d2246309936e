"""What is fed, and in which order, is decided by the contents alone: not by names, order, batches or kind of source."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from quantcli.data import InputSpec, from_arrays, from_callable, open_dataset
from quantcli.errors import DatasetError, OutputError

X = InputSpec("x", np.dtype("float32"), ("n", 2))
IDS = InputSpec("ids", np.dtype("int64"), ("n", 3))
IMAGE = InputSpec("x", np.dtype("float32"), ("n", 3, 2, 2))
SLOW = settings(max_examples=25, deadline=None)


def stored(count, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.random((count, 2), np.float32), "ids": rng.integers(0, 9, (count, 3))}


def fed(dataset):
    """Everything that is fed, in its order."""
    return [{name: (array.dtype, array.shape, array.tobytes()) for name, array in feed.items()} for feed in dataset]


def batched(arrays, batch, order):
    shuffled = {name: array[order] for name, array in arrays.items()}
    count = len(order)
    return [{name: array[i : i + batch] for name, array in shuffled.items()} for i in range(0, count, batch)]


def through_arrays(feeds, folder):
    del folder
    return from_arrays(feeds, [X, IDS], independent=lambda _: True)


def through_function(feeds, folder):
    del folder
    return from_callable(lambda: iter(feeds), [X, IDS], independent=lambda _: True)


def through_feed_files(feeds, folder):
    for i, feed in enumerate(feeds):
        np.savez(folder / f"{i}.npz", **feed)
    return open_dataset(folder, [X, IDS], independent=lambda _: True)


def through_npz(feeds, folder):
    np.savez_compressed(folder / "a.npz", **{n: np.stack([feed[n] for feed in feeds]) for n in ("x", "ids")})
    return open_dataset(folder / "a.npz", [X, IDS], independent=lambda _: True)


SOURCES = (through_arrays, through_function, through_feed_files, through_npz)


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@SLOW
@given(
    source=st.sampled_from(SOURCES), batch=st.sampled_from([1, 4, 8]), order=st.permutations(range(16)), data=st.data()
)
def test_batches_and_order_change_nothing(source, batch, order, data):
    """Through every kind of source, the same samples are fed in the same order."""
    arrays = stored(16, seed=data.draw(st.integers(0, 3)))
    with folder() as one, folder() as other:
        expected = through_arrays(batched(arrays, 1, range(16)), one)
        dataset = source(batched(arrays, batch, order), other)
        assert fed(dataset) == fed(expected)
        assert fed(dataset.take(5)) == fed(expected.take(5))
        assert dataset.digest() == expected.digest()


def test_a_last_batch_may_be_smaller():
    arrays = stored(10)
    expected = through_arrays(batched(arrays, 1, range(10)), None)
    assert fed(through_arrays(batched(arrays, 4, range(10)), None)) == fed(expected)


@SLOW
@given(order=st.permutations(range(6)))
def test_names_of_images_change_nothing(order):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)) for _ in range(6)]
    with folder() as one, folder() as other:
        for place, names in ((one, range(6)), (other, order)):
            for name, picture in zip(names, pictures, strict=True):
                picture.save(place / f"{name}.png")
            (place / "calib.yaml").write_text("inputs: {x: {images: '*.png', layout: NCHW}}")
        first, second = (open_dataset(place / "calib.yaml", [IMAGE]) for place in (one, other))
        assert fed(first) == fed(second)
        assert first.digest() == second.digest()


@SLOW
@given(order=st.permutations(range(8)))
def test_labels_stay_with_their_samples(order):
    arrays = {"x": stored(8)["x"], "labels": np.arange(8)}
    arrays["x"][3] = arrays["x"][5]  # equal contents with two classes
    with folder() as place:
        np.savez(place / "a.npz", **{name: array[order] for name, array in arrays.items()})
        (place / "calib.yaml").write_text("inputs: {x: {npz: a.npz}}\nlabels: {npz: a.npz}")
        data = open_dataset(place / "calib.yaml", [X])
        classes = data.classes()
        assert sorted(classes) == list(range(8))
        for label, feed in zip(classes, data, strict=True):
            np.testing.assert_array_equal(feed["x"][0], arrays["x"][label])
        expected = [data.classes()[i * 8 // 3] for i in range(3)]
        assert data.take(3).classes() == expected
        assert classes.index(3) < classes.index(5)


def test_equal_contents_are_both_fed():
    assert len(from_arrays([{"x": np.ones((1, 2), np.float32)}] * 3, [X])) == 3


def test_changing_an_array_afterwards_changes_nothing():
    array = np.ones((1, 2), np.float32)
    dataset = from_arrays([{"x": array}], [X])
    before = fed(dataset)
    array[:] = 7
    next(iter(dataset))["x"][:] = 8
    assert fed(dataset) == before


@pytest.mark.parametrize(
    "inputs",
    [
        [InputSpec("x", np.dtype("float32"), (4, 2))],
        [InputSpec("x", np.dtype("float32"), (1, 2)), InputSpec("ids", np.dtype("int64"), ("n", 3))],
        [InputSpec("x", np.dtype("float32"), ("n", 2)), InputSpec("ids", np.dtype("int64"), ("m", 3))],
    ],
    ids=["fixed", "one fixed", "two symbols"],
)
def test_an_axis_that_is_no_free_batch_is_left_alone(inputs):
    sizes = {spec.name: spec.shape[0] if isinstance(spec.shape[0], int) else 4 for spec in inputs}
    feed = {spec.name: np.ones((sizes[spec.name], spec.shape[1]), spec.dtype) for spec in inputs}
    (sample,) = from_arrays([feed], inputs, independent=lambda _: True)
    assert {name: len(array) for name, array in sample.items()} == sizes


def test_a_batch_is_left_alone_without_a_model_to_ask():
    (sample,) = from_arrays([{"x": np.ones((4, 2), np.float32)}], [X])
    assert sample["x"].shape == (4, 2)


def test_a_model_that_mixes_the_batch_is_asked_once():
    asked = []

    def mixes(feed):
        asked.append(feed)
        return False

    feeds = [{"x": np.full((4, 2), i, np.float32)} for i in range(3)]
    assert [feed["x"].shape for feed in from_arrays(feeds, [X], independent=mixes)] == [(4, 2)] * 3
    assert len(asked) == 1


def test_inputs_of_different_lengths_are_no_batch():
    feed = {"x": np.ones((4, 2), np.float32), "ids": np.ones((2, 3), np.int64)}
    assert len(from_arrays([feed], [X, IDS], independent=lambda _: True)) == 1


def test_samples_count_the_items_of_the_source():
    feeds = batched(stored(16), 4, range(16))
    assert len(from_arrays(feeds, [X, IDS], samples=2, independent=lambda _: True)) == 8


def test_a_label_for_a_whole_batch_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 4, 2), np.float32), labels=np.arange(3))
    (tmp_path / "calib.yaml").write_text("inputs: {x: {npz: a.npz}}\nlabels: {npz: a.npz}")
    with pytest.raises(DatasetError, match="sample 0 is a batch of 4 with one label"):
        open_dataset(tmp_path / "calib.yaml", [X], independent=lambda _: True).check()


def test_no_room_for_the_samples_is_told(monkeypatch):
    class Full:
        def __getattr__(self, name):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("quantcli.data.staging.tempfile.TemporaryFile", lambda: Full().file)
    with pytest.raises(OutputError, match=r"cannot be kept in .* \(No space left on device\)") as caught:
        from_arrays([{"x": np.ones((1, 2), np.float32)}], [X]).check()
    assert "TMPDIR" in caught.value.hint
