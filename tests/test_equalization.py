"""Factors of channels: they widen no range, meet no Clip, and are chosen where they lower the expected noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantcli.equalization import HEADROOM, LARGEST, ChannelStats, Reading, best_factors, limits, noise

HIGH = np.array([1.0, 2.0, 8.0])


def stats(high: np.ndarray = HIGH, low: float = 0.0) -> ChannelStats:
    return ChannelStats(np.full(high.shape, low), high, np.square(high) / 9)


def depthwise(seen: ChannelStats) -> Reading:
    return Reading(seen, np.ones((len(seen.high), 1, 1, 9)))


def test_no_factor_widens_the_range_of_a_tensor():
    most = limits([stats()], None)
    np.testing.assert_allclose(most, [8.0, 4.0, 1.0])
    assert (HIGH * most).max() == HIGH.max()


def test_both_ends_of_the_range_count():
    low = np.array([-4.0, -1.0, -0.5])
    most = limits([ChannelStats(low, HIGH, HIGH)], None)
    assert np.all(low * most >= low.min() - 1e-12)


@pytest.mark.parametrize("quiet", [0.0, 1e-30])
def test_a_dead_channel_is_not_blown_up(quiet):
    assert limits([stats(np.array([quiet, 1.0]))], None)[0] == LARGEST


def test_a_clipped_channel_keeps_headroom_below_the_clip():
    most = limits([stats(np.array([2.0, 6.0]))], 6.0)
    assert most[0] == pytest.approx(6.0 / (2.0 * HEADROOM))
    assert most[1] == 1.0


def test_like_channels_are_left_alone():
    seen = stats(np.ones(4))
    assert best_factors(limits([seen], None), [depthwise(seen)]) is None


def test_unlike_channels_before_a_depthwise_reader_are_brought_closer():
    seen = stats()
    factors = best_factors(limits([seen], None), [depthwise(seen)])
    assert factors is not None
    assert np.ptp(HIGH * factors) < np.ptp(HIGH)
    assert noise(depthwise(seen), factors) < noise(depthwise(seen), np.ones(3))


def test_chosen_factors_never_raise_the_expected_noise():
    rng = np.random.default_rng(0)
    for _ in range(50):
        seen = stats(rng.lognormal(0, 1.5, 8))
        reading = Reading(seen, rng.normal(size=(1, 5, 8, 1)))
        factors = best_factors(limits([seen], None), [reading])
        if factors is not None:
            assert noise(reading, factors) < noise(reading, np.ones(8))


def test_channels_that_nothing_linear_reads_take_all_that_is_free():
    seen = stats()
    most = limits([seen], None)
    np.testing.assert_array_equal(best_factors(most, []), most)
    assert best_factors(np.ones(3), []) is None


@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(1.0, LARGEST)))
def test_the_whole_of_the_factors_levels_all_channels(high):
    most = limits([stats(high)], None)
    np.testing.assert_allclose(high * most, high.max())


@given(arrays(np.float64, (4, 6), elements=st.floats(0.0, 1e6)), st.sampled_from([None, 6.0, 1e5]))
def test_factors_never_shrink_a_channel_nor_move_it_over_a_clip(high, bound):
    tensors = [stats(row) for row in high]
    most = limits(tensors, bound)
    assert np.all((most >= 1.0 - 1e-12) & (most <= LARGEST))
    for row in high:
        assert np.all(row * most <= max(row.max(), 1e-300) * (1 + 1e-12))
    if bound is not None:
        assert np.all((most == 1.0) | (high[0] * most <= bound))
