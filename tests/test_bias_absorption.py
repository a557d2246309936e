"""Shifts of channels: the formula of the paper, and what makes a range as narrow as it can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantcli.bias_absorption import ChannelNormal, free_shifts, high_bias, rectified_shifts

NUMBERS = st.floats(-100, 100, width=32)
PAIRS = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(2)), elements=NUMBERS).map(lambda a: np.sort(a, axis=1))


def width(low: np.ndarray, high: np.ndarray) -> float:
    return max(float(high.max()), 0.0) - min(float(low.min()), 0.0)


@pytest.mark.parametrize(("beta", "gamma", "expected"), [(5, 1, 2), (5, 2, 0), (-5, 1, 0), (3, 0, 3), (6, -1, 3)])
def test_the_bias_above_three_deviations_is_high(beta, gamma, expected):
    normal = ChannelNormal(np.array([float(beta)]), np.abs(np.array([float(gamma)])))
    assert high_bias(normal)[0] == expected


def test_scaling_and_shifting_change_mean_and_deviation():
    found = ChannelNormal(np.array([4.0, 1.0]), np.array([2.0, 3.0])).scaled(np.array([-0.5, 2.0]), np.array([1.0, 0]))
    np.testing.assert_allclose(found.mean, [-1.0, 2.0])
    np.testing.assert_allclose(found.deviation, [1.0, 6.0])


def test_only_the_channels_that_reach_highest_are_shifted():
    shifts = rectified_shifts(np.array([10.0, 4.0, 3.0]), np.array([8.0, 0.0, 2.0]))
    np.testing.assert_allclose(shifts, [6.0, 0.0, 0.0])  # the second cannot be, so that the range ends at 4


def test_nothing_is_shifted_where_the_widest_channel_cannot_be():
    assert rectified_shifts(np.array([10.0, 10.0]), np.array([8.0, 0.0])) is None


@given(PAIRS)
def test_a_rectified_channel_is_never_cut_off_and_the_range_is_the_narrowest(pairs):
    low, high = np.maximum(pairs, 0.0).T
    shifts = rectified_shifts(high, low)
    if shifts is not None:
        assert np.all((shifts >= 0) & (shifts <= low))
        assert width(low - shifts, high - shifts) == pytest.approx(width(0 * low, high - low), abs=1e-9)


@given(PAIRS)
def test_free_channels_fit_the_widest_of_them(pairs):
    low, high = pairs.T
    shifts = free_shifts(low, high)
    if shifts is None:
        assert (high - low).max() >= 0.98 * width(low, high)
    else:
        assert width(low - shifts, high - shifts) <= (high - low).max() * (1 + 1e-9)


def test_channels_inside_the_range_stay():
    shifts = free_shifts(np.array([-1.0, -0.5, 9.0]), np.array([1.0, 0.5, 10.0]))
    np.testing.assert_allclose(shifts, [0.0, 0.0, 9.0])
