"""Factors have the published form, are bounded, and are taken only where the noise of products falls."""

from __future__ import annotations

from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantcli import affine, dtypes
from quantcli.quant import PerAxis, QuantSpec
from quantcli.smoothing import (
    STEEPEST,
    Rounds,
    Trial,
    aware_factors,
    best_factors,
    factors_that_pay,
    smooth_factors,
    spread,
)

sizes = arrays(np.float64, 5, elements=st.floats(0, 1e6))
alphas = st.floats(0, 1)
ROWS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
LOUD = np.array([40, 1, 1, 1, 1, 1, 1, 1], np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(8, 5))


def grid(rows):
    return affine.choose_params(rows.min(), rows.max(), QuantSpec(dtypes.UINT8, symmetric=False))


INT8 = QuantSpec(dtypes.INT8, symmetric=True, granularity=PerAxis(1))
ROUNDED = Rounds(
    lambda rows: affine.fake_quantize(rows, grid(rows)),
    lambda w: affine.fake_quantize(w, affine.weight_params(w, INT8)),
)
EXACT = Rounds(lambda rows: rows, lambda w: w)


def test_half_the_unevenness_levels_both_sides():
    activation, weight = np.array([4.0, 1.0]), np.array([1.0, 4.0])
    s = smooth_factors(activation, weight, 0.5)
    np.testing.assert_allclose(s, [2.0, 0.5])
    np.testing.assert_allclose(activation / s, [2.0, 2.0])
    np.testing.assert_allclose(weight * s, [2.0, 2.0])


def test_all_of_it_levels_the_activation():
    activation = np.array([8.0, 2.0, 1.0])
    s = smooth_factors(activation, np.ones(3), 1.0)
    assert np.ptp(activation / s) < 1e-12


def test_none_of_it_levels_the_weight():
    weight = np.array([8.0, 2.0, 1.0])
    s = smooth_factors(np.ones(3), weight, 0.0)
    assert np.ptp(weight * s) < 1e-12


def test_awareness_is_a_power_of_the_loudness():
    s = aware_factors(np.array([16.0, 1.0]), 0.5)
    np.testing.assert_allclose(s, [2.0, 0.5])


@given(sizes, sizes, alphas)
def test_factors_are_positive_even_and_bounded(activation, weight, alpha):
    for s in (smooth_factors(activation, weight, alpha), aware_factors(activation, alpha)):
        assert np.isfinite(s).all()
        assert (s > 0).all()
        assert s.max() / s.min() <= STEEPEST * (1 + 1e-9)


@given(sizes, sizes, alphas)
def test_a_dead_channel_is_left_alone(activation, weight, alpha):
    activation[0] = weight[1] = 0.0
    s = smooth_factors(activation, weight, alpha)
    assert s[0] == s[1] == 1.0


@given(arrays(np.float64, 8, elements=st.floats(0.1, 10)))
def test_without_rounding_there_is_no_noise(factors):
    assert Trial(ROWS, [WEIGHT]).noise(factors, [EXACT]) < 1e-10


def test_the_noise_is_that_of_the_products():
    trial, ones = Trial(ROWS, [WEIGHT]), np.ones(8)
    exact = ROWS.astype(np.float64) @ WEIGHT
    found = ROUNDED.activation(ROWS).astype(np.float64) @ ROUNDED.weight(WEIGHT.astype(np.float32))
    expected = np.square(found - exact).sum() / np.square(exact).sum()
    np.testing.assert_allclose(trial.noise(ones, [ROUNDED]), expected, rtol=1e-3)


def test_every_reader_counts_alike_however_large():
    small, large = Trial(ROWS, [WEIGHT]), Trial(ROWS, [WEIGHT, WEIGHT * 2.0**10])
    ones = np.ones(8)
    np.testing.assert_allclose(large.noise(ones, [ROUNDED] * 2), small.noise(ones, [ROUNDED]), rtol=1e-4)


def test_a_loud_channel_is_smoothed():
    rows = ROWS * LOUD
    largest = np.abs(rows).max(axis=0).astype(np.float64)
    candidates = {a: smooth_factors(largest, np.abs(WEIGHT).max(axis=1), a) for a in (0.25, 0.5, 0.75)}
    choose, judge = (partial(Trial(part, [WEIGHT]).noise, rounds=[ROUNDED]) for part in (rows[::2], rows[1::2]))
    found = factors_that_pay(candidates, choose, judge, 0.05)
    assert found is not None
    assert judge(found) < 0.5 * judge(np.ones(8))


def test_what_helps_only_where_it_was_chosen_is_not_taken():
    candidates = {1.0: np.full(2, 2.0)}
    assert factors_that_pay(candidates, lambda f: 1.0 / f[0], lambda f: f[0], 0.0) is None


def test_what_gains_less_than_asked_is_not_taken():
    candidates = {1.0: np.full(2, 2.0)}
    meter = lambda f: 1.0 - 0.01 * (f[0] - 1.0)  # noqa: E731 - one line of arithmetic
    assert factors_that_pay(candidates, meter, meter, 0.05) is None
    assert factors_that_pay(candidates, meter, meter, 0.005) is not None


def test_leaving_all_alone_is_a_candidate():
    assert best_factors({0.5: np.full(2, 2.0)}, lambda f: float(f[0])) is None


def test_of_equals_the_first_is_the_best():
    best = best_factors({0.1: np.full(2, 2.0), 0.2: np.full(2, 3.0)}, lambda f: 0.5 if f[0] > 1 else 1.0)
    assert best is not None
    assert best[0] == 0.1


@given(st.integers(1, 40), st.integers(1, 50))
def test_outputs_are_spread(count, most):
    taken = spread(np.arange(count, dtype=np.float64)[None], most)[0]
    assert len(taken) == min(count, most)
    assert len(set(taken)) == len(taken)
