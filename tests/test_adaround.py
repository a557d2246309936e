"""AdaRound: the vectors of its definition, and roundings that are no worse than where they began."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.adaround import adaround, beta_at, descended, rectified_sigmoid, start
from quantcli.gptq import gptq
from quantcli.seq_mse import output_error

seeds = st.integers(0, 10_000)


def layer(seed, groups=2, rows=6, columns=12):
    """Weights, their steps and second moments of inputs that go together."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 0.1, (groups, rows, columns))
    inputs = rng.normal(size=(groups, 300, 3)) @ rng.normal(size=(groups, 3, columns))
    inputs = inputs + 0.1 * rng.normal(size=(groups, 300, columns))
    return weight, np.abs(weight).max(axis=2) / 7, np.matmul(inputs.transpose(0, 2, 1), inputs) / 300


def nearest(weight, scale):
    return np.clip(np.rint(weight / scale[:, :, None]), -7, 7).astype(int)


def test_nothing_is_rounded_at_the_start():
    """A fraction of 0.3 begins at V = -0.693147, where h(V) is 0.3 again."""
    v = start(np.asarray(0.3))
    assert v == pytest.approx(-0.693147, abs=1e-6)
    assert rectified_sigmoid(v) == pytest.approx(0.3)


@given(st.floats(0.0, 1.0))
def test_the_start_gives_every_fraction_back(fraction):
    assert rectified_sigmoid(start(np.asarray(fraction))) == pytest.approx(fraction, abs=1e-9)


@pytest.mark.parametrize(
    ("iteration", "beta"), [(2000, 20.0), (4000, 17.364), (6000, 11.0), (8000, 4.636), (10000, 2.0)]
)
def test_beta_falls_along_a_cosine_after_the_warm_start(iteration, beta):
    assert beta_at(iteration, 10000) == pytest.approx(beta, abs=1e-3)


def test_learned_rounding_beats_the_nearest_where_inputs_go_together():
    weight, scale, moments = layer(0, rows=40, columns=24)
    learned = adaround(weight, scale, moments, qmin=-7, qmax=7, iterations=300)
    before = output_error(weight, scale, nearest(weight, scale), moments).sum()
    assert output_error(weight, scale, learned, moments).sum() < 0.5 * before


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_every_weight_is_rounded_down_or_up(seed):
    weight, scale, moments = layer(seed)
    found = adaround(weight, scale, moments, qmin=-7, qmax=7, iterations=30)
    steps = weight / scale[:, :, None]
    assert np.all((found == np.floor(steps)) | (found == np.ceil(steps)) | (np.abs(found) == 7))
    assert np.abs(found).max() <= 7


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_near_other_integers_each_weight_keeps_its_own_or_the_next_one(seed):
    weight, scale, moments = layer(seed)
    begun = gptq(weight, scale, moments, qmin=-7, qmax=7)
    found = adaround(weight, scale, moments, qmin=-7, qmax=7, iterations=30, near=begun)
    assert np.abs(found - begun).max() <= 1
    assert np.abs(found).max() <= 7


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_descent_never_makes_a_row_worse(seed):
    weight, scale, moments = layer(seed)
    begun = nearest(weight, scale)
    found = descended(weight, scale, moments, begun, qmin=-7, qmax=7)
    before, after = (output_error(weight, scale, q, moments) for q in (begun, found))
    assert np.all(after <= before * (1 + 1e-9))
    assert np.abs(found).max() <= 7


def test_inputs_that_are_always_zero_leave_descent_where_it_began():
    weight, scale, moments = layer(3)
    begun = nearest(weight, scale)
    np.testing.assert_array_equal(descended(weight, scale, 0 * moments, begun, qmin=-7, qmax=7), begun)


def test_the_same_moments_give_the_same_integers():
    weight, scale, moments = layer(5)
    first, second = (adaround(weight, scale, moments, qmin=-7, qmax=7, iterations=40) for _ in range(2))
    np.testing.assert_array_equal(first, second)
