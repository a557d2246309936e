"""Observers: what two of them saw is what one would have seen, in any order; what is not finite never makes a range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli import histograms, observers
from quantcli.errors import InternalError
from quantcli.observers import ExtremesObserver, HistogramObserver
from quantcli.quant import NOTHING_SEEN, SUM_UNIT, TensorStats

anything = hnp.arrays(np.float32, hnp.array_shapes(min_side=0, max_dims=3, max_side=4), elements=st.floats(width=32))
samples = st.lists(anything, max_size=5)
KINDS = {
    observers.EXTREMES: ExtremesObserver,
    observers.SAMPLE_EXTREMES: lambda: ExtremesObserver(each_sample=True),
    observers.HISTOGRAM: HistogramObserver,
}
by_every_observer = pytest.mark.parametrize("kind", KINDS)


def of(*numbers):
    return np.array(numbers, np.float32)


def seen(kind, *arrays):
    observer = KINDS[kind]()
    for array in arrays:
        observer.observe(array)
    return observer.stats()


# ---- laws ------------------------------------------------------------------------------------------------------------


@by_every_observer
@settings(max_examples=60, deadline=None)
@given(one=samples, two=samples)
def test_merging_is_observing_the_concatenation(kind, one, two):
    first, second = KINDS[kind](), KINDS[kind]()
    for array in one:
        first.observe(array)
    for array in two:
        second.observe(array)
    first.merge(second)
    assert first.stats() == seen(kind, *one, *two)


@by_every_observer
@settings(max_examples=60, deadline=None)
@given(one=samples, two=samples)
def test_merging_statistics_is_merging_observers(kind, one, two):
    assert seen(kind, *one).merge(seen(kind, *two)) == seen(kind, *one, *two)


@by_every_observer
@settings(max_examples=60, deadline=None)
@given(many=samples, random=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(kind, many, random):
    assert seen(kind, *random.sample(many, len(many))) == seen(kind, *many)


@by_every_observer
@settings(max_examples=60, deadline=None)
@given(many=samples)
def test_every_value_is_counted_once(kind, many):
    stats = seen(kind, *many)
    assert stats.count + stats.not_finite == sum(a.size for a in many)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_extremes_do_not_know_what_a_sample_is(many):
    whole = np.concatenate([a.ravel() for a in many]) if many else of()
    assert seen(observers.EXTREMES, *many) == seen(observers.EXTREMES, whole)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_a_histogram_counts_every_finite_value_of_small_samples(many):
    stats = seen(observers.HISTOGRAM, *many)
    finite = np.concatenate([a.ravel()[np.isfinite(a.ravel())] for a in many]) if many else of()
    assert stats.histogram == (histograms.of(finite) if finite.size else None)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_sums_of_extremes_are_exact(many):
    stats = seen(observers.SAMPLE_EXTREMES, *many)
    kept = [k for a in many if (k := a.ravel()[np.isfinite(a.ravel())].astype(np.float64)).size]
    assert stats.samples == len(kept)
    assert stats.low_sum == sum(int(k.min() * 2.0**SUM_UNIT) for k in kept)
    assert stats.high_sum == sum(int(k.max() * 2.0**SUM_UNIT) for k in kept)


# ---- cases -----------------------------------------------------------------------------------------------------------


@by_every_observer
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_left_out(kind, broken):
    stats = seen(kind, of(1, broken, 3))
    assert (stats.count, stats.min, stats.max, stats.not_finite) == (2, 1, 3, 1)


@by_every_observer
def test_a_sample_without_a_finite_value_makes_no_range(kind):
    assert seen(kind, of(math.nan, math.inf)) == TensorStats(0, math.inf, -math.inf, not_finite=2)


@by_every_observer
def test_a_broken_sample_does_not_hide_the_others(kind):
    stats = seen(kind, of(1), of(math.nan), of(2))
    assert (stats.count, stats.min, stats.max, stats.not_finite) == (2, 1, 2, 1)


@by_every_observer
def test_empty_arrays_are_nothing(kind):
    assert seen(kind, np.empty((0, 3), np.float32)) == NOTHING_SEEN


@by_every_observer
def test_a_scalar_is_one_value(kind):
    stats = seen(kind, np.float32(3)[()].reshape(()))
    assert (stats.count, stats.min, stats.max) == (1, 3, 3)


@by_every_observer
def test_float16_is_seen_exactly(kind):
    assert seen(kind, np.array([0.1], np.float16)).min == float(np.float16(0.1))


@by_every_observer
def test_there_is_one_zero(kind):
    assert math.copysign(1, seen(kind, of(-0.0)).min) == 1


@by_every_observer
def test_observers_share_nothing(kind):
    first, second = KINDS[kind](), KINDS[kind]()
    first.observe(of(1))
    assert second.stats() == NOTHING_SEEN


@by_every_observer
def test_an_observer_says_what_it_keeps(kind):
    assert KINDS[kind]().kind == kind


def test_what_was_given_out_does_not_change_any_more():
    observer = HistogramObserver()
    observer.observe(of(1, 2))
    before = observer.stats()
    observer.observe(of(1, 2))
    assert before.histogram.counts.sum() == 2
    with pytest.raises(ValueError, match="read-only"):
        before.histogram.counts[0] = 9


def test_of_a_large_tensor_some_positions_are_counted_and_all_values_are_seen():
    array = np.random.default_rng(0).normal(size=(2, 400, 401)).astype(np.float32)
    array[1, 7, 7] = 99
    stats = seen(observers.HISTOGRAM, array)
    assert (stats.count, stats.max) == (array.size, 99)
    assert stats.histogram.counts.sum() <= 2 * histograms.MOST_POSITIONS
    assert stats == seen(observers.HISTOGRAM, array[:1], array[1:]).merge(NOTHING_SEEN) or stats.samples == 1
    apart = seen(observers.HISTOGRAM, array[:1], array[1:])
    assert apart.histogram == stats.histogram


def test_what_holds_more_serves_for_less():
    histogram = seen(observers.HISTOGRAM, of(1, 2), of(5))
    for kind, others in observers.INSTEAD.items():
        assert observers.HISTOGRAM in others
        less = seen(kind, of(1, 2), of(5))
        assert (less.min, less.max, less.count) == (histogram.min, histogram.max, histogram.count)
        assert less.samples in {0, histogram.samples}


def test_statistics_without_what_is_needed_are_refused():
    with pytest.raises(InternalError, match="without a histogram"):
        observers.require_histogram(TensorStats(2, -1, 1))
    with pytest.raises(InternalError, match="extremes of each sample"):
        observers.require_sums(TensorStats(2, -1, 1))
