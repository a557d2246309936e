"""Factors of cross-layer equalization: all ranges of a set become their geometric mean, channel by channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantcli.cross_layer import DEAD, pair_factors, triplet_factors


def ranges(channels: int = 4) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, channels, elements=st.floats(0.05, 100.0))


def test_the_published_pair():
    first, second = np.array([4.0, 1.0]), np.array([1.0, 16.0])
    factors = pair_factors(first, second)
    np.testing.assert_allclose(factors, [2.0, 0.25], rtol=1e-12)
    np.testing.assert_allclose(first / factors, [2.0, 4.0], rtol=1e-12)
    np.testing.assert_allclose(second * factors, [2.0, 4.0], rtol=1e-12)


def test_the_published_triplet():
    first, middle, last = (np.array([r]) for r in (8.0, 1.0, 27.0))
    s12, s23 = triplet_factors(first, middle, last)
    np.testing.assert_allclose([s12[0], s23[0]], [4 / 3, 2 / 9], rtol=1e-12)
    np.testing.assert_allclose([first / s12, middle * s12 / s23, last * s23], np.full((3, 1), 6.0), rtol=1e-12)


@given(ranges(), ranges())
def test_both_ranges_of_a_pair_become_their_geometric_mean(first, second):
    factors = pair_factors(first, second)
    np.testing.assert_allclose(first / factors, np.sqrt(first * second), rtol=1e-9)
    np.testing.assert_allclose(second * factors, np.sqrt(first * second), rtol=1e-9)


@given(ranges(), ranges(), ranges())
def test_all_ranges_of_a_triplet_become_one(first, middle, last):
    s12, s23 = triplet_factors(first, middle, last)
    np.testing.assert_allclose(first / s12, last * s23, rtol=1e-9)
    np.testing.assert_allclose(middle * s12 / s23, last * s23, rtol=1e-9)


@given(ranges(), ranges())
def test_levelled_ranges_need_no_more_factors(first, second):
    factors = pair_factors(first, second)
    np.testing.assert_allclose(pair_factors(first / factors, second * factors), 1.0, rtol=1e-9)


@pytest.mark.parametrize("dead", [0.0, np.inf, np.nan, DEAD / 2])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_channel_without_a_usable_range_keeps_its_size(dead, which):
    found = [np.ones(2), np.array([2.0, 1.0]), np.array([4.0, 1.0])]
    found[which] = np.array([dead, 1.0])
    assert all(factors[0] == 1.0 for factors in triplet_factors(*found))
    first, second = found[which], found[which - 1]
    assert pair_factors(first, second)[0] == pair_factors(second, first)[0] == 1.0
