"""Calibrators: what two observers saw is what one would have seen; numbers that are not finite never make a range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli import plugins
from quantcli.calibrators.minmax import MinMax
from quantcli.dtypes import UINT8
from quantcli.quant import NOTHING_SEEN, QuantSpec, TensorStats
from quantcli.recipe import Recipe, Step

SPEC = QuantSpec(UINT8, symmetric=False)
anything = hnp.arrays(np.float32, hnp.array_shapes(min_side=0, max_dims=3, max_side=4), elements=st.floats(width=32))
samples = st.lists(anything, max_size=5)


def of(*numbers):
    return np.array(numbers, np.float32)


def seen(*arrays):
    observer = MinMax().observer(SPEC)
    for array in arrays:
        observer.observe(array)
    return observer.stats()


# ---- laws ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(samples, samples)
def test_merging_is_observing_the_concatenation(one, two):
    first, second = MinMax().observer(SPEC), MinMax().observer(SPEC)
    for array in one:
        first.observe(array)
    for array in two:
        second.observe(array)
    first.merge(second)
    assert first.stats() == seen(*one, *two)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_one_sample_after_the_other_is_all_at_once(many):
    assert seen(*many) == seen(np.concatenate([a.ravel() for a in many]) if many else of())


@settings(max_examples=60, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(many, random):
    assert seen(*random.sample(many, len(many))) == seen(*many)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_every_value_is_counted_once(many):
    stats = seen(*many)
    assert stats.count + stats.not_finite == sum(a.size for a in many)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_every_finite_value_is_inside_the_range(many):
    low, high = MinMax().range(seen(*many), SPEC)
    assert all(low <= x <= high for a in many for x in a.ravel()[np.isfinite(a.ravel())])


# ---- cases -----------------------------------------------------------------------------------------------------------


def test_the_range_is_the_smallest_and_the_largest_value():
    assert MinMax().range(seen(of(1, -2), of(0.5, 7)), SPEC) == (-2, 7)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_left_out(broken):
    assert seen(of(1, broken, 3)) == TensorStats(2, 1, 3, not_finite=1)


def test_a_sample_without_a_finite_value_makes_no_range():
    assert seen(of(math.nan, math.inf)) == TensorStats(0, math.inf, -math.inf, not_finite=2)


def test_a_broken_sample_does_not_hide_the_others():
    assert seen(of(1), of(math.nan), of(2)) == TensorStats(2, 1, 2, not_finite=1)


def test_empty_arrays_are_nothing():
    assert seen(np.empty((0, 3), np.float32)) == NOTHING_SEEN


def test_a_scalar_is_one_value():
    assert seen(np.float32(3)[()].reshape(())) == TensorStats(1, 3, 3)


def test_float16_is_seen_exactly():
    assert seen(np.array([0.1], np.float16)).min == float(np.float16(0.1))


def test_observers_share_nothing():
    first, second = MinMax().observer(SPEC), MinMax().observer(SPEC)
    first.observe(of(1))
    assert second.stats() == NOTHING_SEEN


@pytest.mark.parametrize("name", plugins.CALIBRATORS)
def test_every_calibrator_can_be_named_in_a_recipe(name):
    (made,) = plugins.passes_of(Recipe("r", passes=(Step("calibrate", {"calibrator": name}),)))
    assert made.run.calibrator.range(TensorStats(2, -1, 1), SPEC) == (-1, 1)
