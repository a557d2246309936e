"""The formula and the layouts, against numpy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.data import InputSpec, open_dataset
from quantcli.data.preprocess import Layout, Preprocess
from quantcli.errors import DatasetError

numbers = st.floats(-100, 100, width=32)
divisors = st.floats(0.015625, 100, width=32)
three = st.tuples(numbers, numbers, numbers)
pixels = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8))


@given(array=pixels, scale=divisors, mean=numbers | three, std=divisors | st.tuples(divisors, divisors, divisors))
def test_preprocess_is_the_formula_in_float32(array, scale, mean, std):
    result = Preprocess(scale, mean, std)(array)
    expected = (array.astype(np.float32) * np.float32(scale) - np.float32(mean)) / np.float32(std)
    np.testing.assert_array_equal(result, expected)


@given(array=pixels, mean=three)
def test_channels_follow_the_source_layout(array, mean):
    last = Preprocess(2.0, mean, 3.0, Layout.NHWC, Layout.NCHW)(array)
    first = Preprocess(2.0, mean, 3.0, Layout.NCHW, Layout.NCHW)(array.transpose(2, 0, 1))
    np.testing.assert_array_equal(last, first)


@given(array=pixels)
def test_layout_there_and_back_is_the_identity(array):
    there = Preprocess(source=Layout.NHWC, target=Layout.NCHW)(array)
    np.testing.assert_array_equal(Preprocess(source=Layout.NCHW, target=Layout.NHWC)(there), array)


@pytest.mark.parametrize("source", Layout)
@pytest.mark.parametrize("target", Layout)
@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 4, 5, 3)])
def test_announced_shape_is_that_of_the_result(source, target, shape):
    preprocess = Preprocess(source=source, target=target)
    assert preprocess.shape(shape, "") == preprocess(np.zeros(shape)).shape


def test_nothing_to_do_leaves_the_dtype():
    assert Preprocess()(np.zeros(3, np.int64)).dtype == np.int64


def stored(array, options, shape, dtype="float32"):
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "a.npz"), x=array)
        Path(folder, "a.yaml").write_text(f"inputs: {{x: {{npz: a.npz, {options}}}}}")
        return [feed["x"] for feed in open_dataset(Path(folder, "a.yaml"), [InputSpec("x", np.dtype(dtype), shape)])]


@given(array=pixels, mean=three)
def test_spec_equals_the_formula(array, mean):
    options = f"scale: 0.5, mean: {[float(m) for m in mean]}, std: 2, from_layout: NHWC, layout: NCHW"
    (result,) = stored(array[None], options, ("n", 3, 4, 5))
    expected = (array * np.float32(0.5) - np.float32(mean)) / np.float32(2)
    np.testing.assert_array_equal(result[0], expected.transpose(2, 0, 1))


def test_formula_allows_another_stored_dtype():
    (result,) = stored(np.ones((1, 2), np.uint8), "mean: 3", ("n", 2))
    np.testing.assert_array_equal(result, [[-2, -2]])


def test_layout_alone_does_not_allow_another_stored_dtype():
    with pytest.raises(DatasetError, match="dtype uint8, expected float32"):
        stored(np.ones((1, 4, 5, 3), np.uint8), "from_layout: NHWC, layout: NCHW", ("n", 3, 4, 5))


def test_one_layout_given_is_that_of_source_and_target():
    array = np.ones((1, 3, 4, 5), np.float32)
    (result,) = stored(array, "layout: NCHW, mean: [1, 2, 3]", ("n", 3, 4, 5))
    assert result[0, :, 0, 0].tolist() == [0, -1, -2]


def test_samples_with_a_batch_axis_change_layout_too():
    (result,) = stored(np.ones((1, 2, 4, 5, 3), np.float32), "from_layout: NHWC, layout: NCHW", (2, 3, 4, 5))
    assert result.shape == (2, 3, 4, 5)


def test_layout_needs_images():
    with pytest.raises(DatasetError, match=r"yaml:1: a sample of shape \[7\] has 1 axes, expected 3 or 4"):
        stored(np.ones((1, 7), np.float32), "from_layout: NHWC, layout: NCHW", ("n", 7))


def test_channels_that_come_first_must_be_said():
    with pytest.raises(DatasetError, match=r"mean has 3 values, expected 5, the size of axis -1 of NHWC") as caught:
        stored(np.ones((1, 3, 4, 5), np.float32), "mean: [1, 2, 3]", ("n", 3, 4, 5))
    assert "from_layout: NCHW" in str(caught.value.hint)


def test_channels_need_an_axis():
    with pytest.raises(DatasetError, match="mean has 3 values, expected none"):
        stored(np.ones(4, np.float32), "mean: [1, 2, 3]", ("n",))


def test_overflow_of_the_formula_is_reported():
    with pytest.raises(DatasetError, match=r"'x', sample 0 .*inf at \[0\].*expected finite"):
        stored(np.full((1, 2), 1e30, np.float32), "scale: 1e30", ("n", 2))
