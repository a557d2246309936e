"""Numbers of what is fed: as numpy computes them over all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli.feed_statistics import Gathering, layout_of


def summary(*arrays):
    gathering = Gathering("x")
    for array in arrays:
        gathering.add(array)
    return gathering.summary()


def same(values, array):
    array = array.astype(np.float64)
    found = (values.minimum, values.maximum, values.mean, values.std)
    np.testing.assert_allclose(found, (array.min(), array.max(), array.mean(), array.std()), rtol=1e-9, atol=1e-9)


@given(
    arrays=st.lists(
        hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(3), st.just(4), st.integers(4, 6)),
                   elements=st.floats(-1e3, 1e3, width=32)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_values_are_those_of_all_samples_together(arrays):
    found = summary(*arrays)
    same(found.values, np.concatenate([a.ravel() for a in arrays]))
    for channel, values in enumerate(found.channels):
        same(values, np.concatenate([a[:, channel].ravel() for a in arrays]))


def test_a_large_mean_costs_no_digits():
    rng = np.random.default_rng(0)
    arrays = [1e6 + rng.standard_normal((1, 3, 8, 8)) for _ in range(3)]
    same(summary(*arrays).values, np.concatenate(arrays))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 3, 8, 8), "NCHW"),
        ((2, 1, 8, 8), "NCHW"),
        ((1, 8, 8, 3), "NHWC"),
        ((1, 8, 8, 1), "NHWC"),
        ((1, 16, 8, 8), ""),
        ((3, 8, 8), ""),
        ((1, 3, 3, 3), ""),
        ((1, 1, 1, 80), ""),
    ],
)
def test_images_are_told_by_their_shape(shape, layout):
    assert layout_of(shape) == layout
    assert len(summary(np.zeros(shape, np.float32)).channels) == (0 if not layout else (1 if 1 in shape[1:] else 3))


def test_shapes_are_counted():
    found = summary(np.zeros((1, 5)), np.zeros((1, 7)), np.zeros((1, 7)))
    assert found.shapes == (((1, 7), 2), ((1, 5), 1))


def test_equal_samples_are_told():
    assert summary(np.ones(3), np.ones(3)).identical
    assert not summary(np.ones(3), np.zeros(3)).identical
    assert not summary(np.ones(3)).identical


def test_text_and_empty_arrays_have_no_values():
    assert summary(np.array(["a", "b"], object)).values is None
    empty = summary(np.zeros((1, 0), np.float32), np.zeros((1, 0), np.float32))
    assert (empty.values, empty.is_empty) == (None, True)


def smooth(layout):
    y, x = np.mgrid[0:24, 0:32] / 10
    image = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x)], -1)[None].astype(np.float32)
    return image if layout == "NHWC" else np.ascontiguousarray(image.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_reshaping_instead_of_transposing_roughens_an_image(layout):
    right = smooth(layout)
    other = smooth("NCHW" if layout == "NHWC" else "NHWC")
    wrong = other.reshape(right.shape)
    stated, elsewhere = summary(right).roughness
    assert stated < elsewhere / 2
    stated, elsewhere = summary(wrong).roughness
    assert elsewhere < stated / 2
