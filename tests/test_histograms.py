"""Histograms: every value is in its bin, bins nest, and what a range cuts off is what values lose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli import histograms
from quantcli.quant import MOST_BINS, Histogram

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
values = hnp.arrays(np.float32, st.integers(1, 40), elements=numbers)
ordinary = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32))


@settings(max_examples=80)
@given(values)
def test_every_value_is_in_its_bin(array):
    found = histograms.of(array)
    expected = np.zeros_like(found.counts)
    for x in array.astype(np.float64):
        expected[int(np.floor(x * 2.0**-found.exponent)) - found.start] += 1
    assert np.array_equal(found.counts, expected)


@settings(max_examples=80)
@given(values)
def test_the_first_and_the_last_bin_hold_a_value(array):
    found = histograms.of(array)
    assert found.counts[0]
    assert found.counts[-1]
    assert found.counts.size <= MOST_BINS


@settings(max_examples=80)
@given(values, values)
def test_merging_is_the_histogram_of_both(a, b):
    assert histograms.of(a).merge(histograms.of(b)) == histograms.of(np.concatenate([a, b]))


@settings(max_examples=40)
@given(values, values, values)
def test_merging_is_associative_and_commutative(a, b, c):
    x, y, z = (histograms.of(v) for v in (a, b, c))
    assert x.merge(y).merge(z) == x.merge(y.merge(z)) == z.merge(y).merge(x)


@pytest.mark.parametrize("ends", [(0, 1), (-1, 3), (-0.001, 0.001), (1, 1.001), (-4096, 4095), (0, 1e30), (0, 2e-38)])
def test_a_range_has_at_least_half_of_the_bins(ends):
    found = histograms.of(np.linspace(*ends, 20000, dtype=np.float32))
    assert MOST_BINS / 2 <= found.counts.size <= MOST_BINS


def test_bins_are_not_narrower_than_what_float32_tells_apart():
    assert histograms.of(np.full(9, 1000, np.float32)) == Histogram(9 - 23, 1000 << 14, np.array([9]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=5), st.integers(1, 2**23))
def test_neighbours_merge_as_anything_else(steps, start):
    array = (np.float32(1) + np.float32(2.0**-23) * np.float32(start)) + np.float32(2.0**-22) * np.float32(steps)
    one_by_one = [histograms.of(x[None]) for x in array]
    merged = one_by_one[0]
    for other in one_by_one[1:]:
        merged = merged.merge(other)
    assert merged == histograms.of(array)


def test_coarser_bins_are_unions_of_finer_ones():
    fine = Histogram(0, -3, np.array([1, 2, 3, 4, 5]))  # -3 | -2 -1 | 0 1
    assert fine.coarsened(1) == Histogram(1, -2, np.array([1, 5, 9]))


@settings(max_examples=100, deadline=None)
@given(ordinary)
def test_magnitudes_are_the_histogram_of_absolute_values(array):
    found = histograms.magnitudes(histograms.of(array))
    width = 2.0**found.exponent
    bins = np.where(array < 0, np.ceil(-array / width) - 1, np.floor(array / width)).astype(int)
    assert np.array_equal(found.counts, np.bincount(bins, minlength=found.counts.size))
    assert found.start == 0


# ---- which positions are counted -------------------------------------------------------------------------------------


def test_small_arrays_are_counted_whole():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert histograms.spread(array) is array


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 3), st.integers(1, 60))
def test_a_batch_is_spread_as_its_samples_are(shape, batch, most):
    array = np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)
    found = histograms.spread(array, most)
    each = np.concatenate([histograms.spread(row[None], most).ravel() for row in array])
    assert np.array_equal(np.ravel(found), each)
    assert found.size <= batch * most


def test_positions_visit_every_index_of_every_axis():
    shape = (1, 16, 24, 32)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    chosen = histograms.spread(array, 1024).ravel().astype(int)
    for axis, length in enumerate(shape):
        assert set(np.unravel_index(chosen, shape)[axis]) == set(range(length))


def test_a_vector_is_counted_whole():
    assert histograms.spread(np.zeros(100, np.float32), 10).size == 100


# ---- what a range costs ----------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(ordinary, st.floats(-50, 0), st.floats(0, 50))
def test_what_is_cut_off_is_what_values_lose(array, low, high):
    spread = histograms.spread_of(histograms.of(array), float(array.min()), float(array.max()))
    centres = np.repeat(spread.centres, (spread.mass * array.size).round().astype(int))
    lost = np.square(centres - np.clip(centres, low, high)).mean()
    assert float(spread.cut_off(low, high)) == pytest.approx(lost, rel=1e-9, abs=1e-9)


def test_centres_stand_for_values():
    array = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    spread = histograms.spread_of(histograms.of(array), float(array.min()), float(array.max()))
    assert float(spread.cut_off(-1, 2)) == pytest.approx(np.square(array - array.clip(-1, 2)).mean(), rel=1e-3)
    assert float(spread.inside(-1, 2)) == pytest.approx(((array >= -1) & (array <= 2)).mean(), rel=1e-3)


def test_ends_of_many_ranges_are_taken_at_once():
    spread = histograms.spread_of(histograms.of(np.float32([-2, 0, 4])), -2, 4)
    each = [float(spread.cut_off(low, high)) for low, high in ((-1, 3), (-2, 1))]
    assert spread.cut_off([-1, -2], [3, 1]).tolist() == each
