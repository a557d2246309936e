"""The values of quantization: ranges follow the specification, statistics merge, grids compare by their numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.dtypes import INT4, INT8, UINT8
from quantcli.quant import NOTHING_SEEN, PerAxis, PerBlock, PerTensor, QuantParams, QuantSpec, TensorStats

U8 = QuantSpec(UINT8, symmetric=False)
PER_CHANNEL = QuantSpec(INT8, symmetric=True, granularity=PerAxis(1))

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
seen = st.builds(
    lambda count, ends, broken: TensorStats(count, min(ends), max(ends), broken),
    st.integers(1, 1000),
    st.tuples(finite, finite),
    st.integers(0, 9),
)


def params(scale, zero_point, spec=U8):
    return QuantParams(spec, np.float32(scale), np.asarray(zero_point, spec.dtype.storage))


# ---- specifications --------------------------------------------------------------------------------------------------


def test_a_spec_is_per_tensor_by_default():
    assert U8.granularity == PerTensor()


@pytest.mark.parametrize(("dtype", "low"), [(INT8, -127), (INT4, -7)])
def test_narrow_range_leaves_out_the_most_negative_integer(dtype, low):
    assert QuantSpec(dtype, symmetric=True, narrow_range=True).qmin == low


def test_narrow_range_keeps_the_largest_integer():
    assert QuantSpec(INT8, symmetric=True, narrow_range=True).qmax == 127


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        U8.symmetric = True  # type: ignore[misc]


# ---- statistics ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seen, seen)
def test_merging_is_commutative(a, b):
    assert a.merge(b) == b.merge(a)


@settings(max_examples=40, deadline=None)
@given(seen, seen, seen)
def test_merging_is_associative(a, b, c):
    assert a.merge(b).merge(c) == a.merge(b.merge(c))


@settings(max_examples=40, deadline=None)
@given(seen)
def test_nothing_seen_changes_nothing(stats):
    assert stats.merge(NOTHING_SEEN) == stats


def test_merging_counts_what_is_not_finite():
    assert TensorStats(1, 0, 1, 2).merge(TensorStats(1, 0, 1, 3)).not_finite == 5


def test_nothing_seen_has_an_empty_range():
    assert (NOTHING_SEEN.count, NOTHING_SEEN.min, NOTHING_SEEN.max) == (0, math.inf, -math.inf)


# ---- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granularity", "axis"), [(PerTensor(), None), (PerAxis(1), 1), (PerAxis(0), 0), (PerBlock(2, 32), 2)]
)
def test_axis_is_that_of_the_granularity(granularity, axis):
    spec = QuantSpec(INT8, symmetric=True, granularity=granularity)
    assert params([1.0, 2.0], [0, 0], spec).axis == axis


def test_low_and_high_are_the_ends_of_the_grid():
    grid = params(0.5, 2)
    assert (grid.low, grid.high) == (-1.0, 126.5)


def test_low_of_a_narrow_range_is_its_smallest_integer():
    assert params(0.5, 0, QuantSpec(INT8, symmetric=True, narrow_range=True)).low == -63.5


def test_equal_numbers_are_the_same_grid():
    assert params(0.5, 2).same_as(params(0.5, 2))


@pytest.mark.parametrize(
    "other",
    [
        params(0.25, 2),
        params(0.5, 3),
        params(0.5, 2, QuantSpec(INT8, symmetric=False)),
        params([0.5], [2], QuantSpec(UINT8, symmetric=False, granularity=PerAxis(0))),
    ],
    ids=["scale", "zero-point", "type", "axis"],
)
def test_any_difference_is_another_grid(other):
    assert not params(0.5, 2).same_as(other)


def test_per_axis_grids_of_other_axes_differ():
    other = QuantSpec(INT8, symmetric=True, granularity=PerAxis(0))
    assert not params([0.5, 1.0], [0, 0], PER_CHANNEL).same_as(params([0.5, 1.0], [0, 0], other))


def test_narrow_range_does_not_change_what_an_integer_means():
    narrow = QuantSpec(INT8, symmetric=True, narrow_range=True)
    assert params(0.5, 0, narrow).same_as(params(0.5, 0, QuantSpec(INT8, symmetric=True)))
