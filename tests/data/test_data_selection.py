"""Which samples are fed: samples, seed, take; and the digest of what feeds them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.data import InputSpec, from_arrays, open_dataset
from quantcli.data.selection import Selection
from quantcli.errors import DatasetError

X = InputSpec("x", np.dtype("float32"), ("n", 1))
SCALAR = InputSpec("x", np.dtype("float32"), ())

counts = st.integers(1, 200)


@pytest.fixture
def hundred(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(100, dtype=np.float32)[:, None])
    return tmp_path


def numbers(dataset):
    """Which samples are fed; their order is that of their contents."""
    return sorted(int(feed["x"].item()) for feed in dataset)


def in_memory(count):
    return from_arrays([{"x": np.float32(i)} for i in range(count)], [SCALAR])


def test_all_samples_are_fed_by_default(hundred):
    assert numbers(open_dataset(hundred / "a.npz", [X])) == list(range(100))


def test_first_samples_are_fed_without_a_seed(hundred, write_spec):
    dataset = open_dataset(write_spec("samples: 5\ninputs: {x: {npz: a.npz}}"), [X])
    assert numbers(dataset) == [0, 1, 2, 3, 4]
    assert len(dataset) == 5


def test_seed_draws_the_same_samples(hundred, write_spec):
    path = write_spec("samples: 20\nseed: 3\ninputs: {x: {npz: a.npz}}")
    expected = sorted(np.random.default_rng(3).choice(100, 20, replace=False).tolist())
    assert numbers(open_dataset(path, [X])) == expected


def test_argument_overrides_the_spec(hundred, write_spec):
    path = write_spec("samples: 20\ninputs: {x: {npz: a.npz}}")
    assert len(open_dataset(path, [X], samples=30)) == 30


def test_more_samples_than_there_are_means_all(hundred):
    assert len(open_dataset(hundred / "a.npz", [X], samples=1000)) == 100


@pytest.mark.parametrize("samples", [0, -1])
def test_fewer_samples_than_one_are_refused(hundred, samples):
    with pytest.raises(DatasetError, match=rf"samples: {samples} samples asked for, expected at least 1"):
        open_dataset(hundred / "a.npz", [X], samples=samples)


def test_take_of_nothing_is_refused(hundred):
    with pytest.raises(DatasetError, match="take: 0 samples asked for, expected at least 1"):
        open_dataset(hundred / "a.npz", [X]).take(0)


def test_second_iteration_equals_the_first(hundred):
    dataset = open_dataset(hundred / "a.npz", [X])
    assert [feed["x"].item() for feed in dataset] == [feed["x"].item() for feed in dataset]


def test_iterations_may_overlap(hundred):
    dataset = open_dataset(hundred / "a.npz", [X])
    assert [int(a["x"].item() - b["x"].item()) for a, b in zip(dataset, dataset, strict=True)] == [0] * 100


@given(count=counts, n=counts)
def test_take_is_a_part_of_the_samples_in_their_order(count, n):
    order = [feed["x"].item() for feed in in_memory(count)]
    places = [order.index(feed["x"].item()) for feed in in_memory(count).take(n)]
    assert places == sorted(set(places))
    assert len(places) == min(n, count)


@given(count=counts, n=counts)
def test_take_is_evenly_spread(count, n):
    order = [feed["x"].item() for feed in in_memory(count)]
    gaps = np.diff([*(order.index(feed["x"].item()) for feed in in_memory(count).take(n)), count])
    assert gaps.max() - gaps.min() <= 1


@given(count=counts, samples=counts, seed=st.integers(0, 9))
def test_what_is_drawn_is_a_part_without_repetition(count, samples, seed):
    drawn = list(Selection(samples, seed).of(count))
    assert drawn == sorted(set(drawn) & set(range(count)))
    assert len(drawn) == min(samples, count)


def test_take_of_all_changes_nothing(hundred):
    dataset = open_dataset(hundred / "a.npz", [X])
    assert dataset.take(100) is dataset


def test_take_says_so_in_its_description(hundred):
    taken = open_dataset(hundred / "a.npz", [X]).take(8)
    assert (taken.description, len(taken)) == ("8 samples of a.npz", 8)


def test_take_of_a_take_is_a_part_of_it(hundred):
    once = open_dataset(hundred / "a.npz", [X]).take(10)
    assert set(numbers(once.take(3))) <= set(numbers(once))


IMAGES = "inputs: {x: {images: '*.png', mean: 1}}"
IMAGE = InputSpec("x", np.dtype("float32"), None)


def test_digest_does_not_depend_on_the_folder(hundred, write_image, write_spec, tmp_path):
    write_image("a.png")
    paths = [write_spec(IMAGES)]
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    paths.append(tmp_path / "elsewhere/calib.yaml")
    assert len({open_dataset(path, [IMAGE]).digest() for path in paths}) == 1


def test_digest_depends_on_the_options(write_image, write_spec):
    write_image("a.png")
    options = ["", "scale: 2", "mean: 2", "std: 2", "color: BGR", "resize: [2, 2]", "layout: NCHW"]
    texts = [f"inputs: {{x: {{images: '*.png', {option}}}}}" for option in options]
    assert len({open_dataset(write_spec(text), [IMAGE]).digest() for text in texts}) == len(texts)


def test_digest_depends_on_the_content_of_the_files(write_image, write_spec):
    path = write_spec(IMAGES)
    digests = set()
    for seed in range(3):
        write_image("a.png", seed=seed)
        digests.add(open_dataset(path, [IMAGE]).digest())
    assert len(digests) == 3


def test_digest_depends_on_the_selection(hundred, write_spec):
    texts = ["", "samples: 5", "samples: 5\nseed: 0", "samples: 5\nseed: 1"]
    digests = {open_dataset(write_spec(f"{text}\ninputs: {{x: {{npz: a.npz}}}}"), [X]).digest() for text in texts}
    assert len(digests) == 4


def test_digest_of_files_that_are_not_fed_is_left_out(write_image, write_spec):
    write_image("a.png")
    path = write_spec(IMAGES)
    before = open_dataset(path, [IMAGE]).digest()
    write_image("b.png")
    assert open_dataset(path, [IMAGE], samples=1).digest() == before


def test_digest_of_what_is_read_needs_no_file(write_image, write_spec, tmp_path):
    write_image("a.png")
    dataset = open_dataset(write_spec(IMAGES), [IMAGE])
    before = dataset.digest()
    (tmp_path / "a.png").unlink()
    assert dataset.digest() == before


def test_digest_of_a_file_that_is_gone_is_a_dataset_error(write_image, write_spec, tmp_path):
    write_image("a.png")
    dataset = open_dataset(write_spec(IMAGES), [IMAGE])
    (tmp_path / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"a\.png: cannot be read \(No such file.*expected an image"):
        dataset.digest()
