"""GPTQ spreads rounding errors so that the output suffers less, and falls back to nearest where nothing correlates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.gptq import BLOCK, DAMP, gptq

seeds = st.integers(0, 10_000)


def correlated(columns, *, seed, samples=400):
    """Return second moments of inputs that are mixtures of a few common causes."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(samples, max(columns // 4, 1))) @ rng.normal(size=(max(columns // 4, 1), columns))
    inputs = causes + 0.1 * rng.normal(size=(samples, columns))
    return inputs.T @ inputs / samples


def weights(rows, columns, *, seed):
    return np.random.default_rng([seed, 1]).normal(0, 0.1, (rows, columns))


def scales(weight, steps=7):
    return np.abs(weight).max(axis=-1) / steps


def rounded(weight, hessian, *, low=-7, high=7, scale=None):
    """Round one group."""
    scale = scales(weight) if scale is None else scale
    return gptq(weight[None], scale[None], hessian[None], qmin=low, qmax=high)[0]


def nearest(weight, scale=None):
    scale = scales(weight) if scale is None else scale
    return np.clip(np.rint(weight / scale[:, None]), -7, 7).astype(int)


def loss(weight, integers, hessian):
    error = weight - scales(weight)[:, None] * integers
    return float(np.einsum("rk,kl,rl->", error, hessian, error))


# ---- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("columns", [4, 32, 150])
def test_output_error_is_at_most_that_of_nearest_rounding(columns, seed):
    weight, hessian = weights(24, columns, seed=seed), correlated(columns, seed=seed)
    assert loss(weight, rounded(weight, hessian), hessian) <= loss(weight, nearest(weight), hessian)


def test_output_error_of_correlated_inputs_is_less_than_half():
    weight, hessian = weights(32, 64, seed=0), correlated(64, seed=0)
    assert loss(weight, rounded(weight, hessian), hessian) < 0.5 * loss(weight, nearest(weight), hessian)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 140))
def test_uncorrelated_inputs_are_rounded_to_nearest(seed, columns):
    weight = weights(3, columns, seed=seed)
    hessian = np.diag(np.random.default_rng(seed).uniform(0.1, 9, columns))
    assert np.array_equal(rounded(weight, hessian), nearest(weight))


def test_two_columns_are_rounded_as_the_paper_says():
    # w1 = 0.4 is rounded to 0 first; its error moves w2 by -e H^-1_12 / H^-1_11
    hessian = np.array([[2.0, 1.0], [1.0, 1.0]])
    damped = hessian + DAMP * 1.5 * np.eye(2)
    moved = 0.4 + 0.4 * damped[0, 1] / damped[1, 1]
    found = rounded(np.array([[0.4, 0.4]]), hessian, scale=np.ones(1))
    assert found.tolist() == [[0, round(moved)]]


def test_blocks_are_only_a_matter_of_speed():
    columns = BLOCK + 40
    weight, hessian = weights(4, columns, seed=3), correlated(columns, seed=3)
    assert np.array_equal(rounded(weight, hessian), plainly(weight, hessian))


def plainly(weight, hessian):
    """GPTQ as in section 3 of the paper: after each column, the inverse of what remains."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    damped = hessian + DAMP * np.diag(hessian).mean() * np.eye(len(hessian))
    w = weight / scales(weight)[:, None]
    integers = np.zeros(weight.shape, int)
    for position, column in enumerate(order):
        rest = order[position:]
        inverse = np.linalg.inv(damped[np.ix_(rest, rest)])
        integers[:, column] = np.clip(np.rint(w[:, column]), -7, 7)
        w[:, rest] -= np.outer((w[:, column] - integers[:, column]) / inverse[0, 0], inverse[0])
    return integers


# ---- range -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 40), st.floats(0.01, 1))
def test_integers_stay_inside_the_range(seed, columns, shrunk):
    weight, hessian = weights(5, columns, seed=seed), correlated(columns, seed=seed)
    found = rounded(weight, hessian, low=-8, high=7, scale=scales(weight) * shrunk)
    assert found.min() >= -8
    assert found.max() <= 7


def test_integers_are_integers():
    assert rounded(weights(2, 3, seed=0), correlated(3, seed=0)).dtype.kind == "i"


# ---- symmetries ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(2, 40))
def test_rows_do_not_influence_each_other(seed, columns):
    weight, hessian = weights(4, columns, seed=seed), correlated(columns, seed=seed)
    alone = [rounded(row[None], hessian)[0] for row in weight]
    assert np.array_equal(rounded(weight, hessian), np.stack(alone))


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(2, 40))
def test_the_order_of_inputs_does_not_matter(seed, columns):
    weight, hessian = weights(4, columns, seed=seed), correlated(columns, seed=seed)
    order = np.random.default_rng(seed).permutation(columns)
    shuffled = rounded(weight[:, order], hessian[np.ix_(order, order)])
    assert np.array_equal(shuffled, rounded(weight, hessian)[:, order])


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(-30, 30))
def test_the_unit_of_the_inputs_does_not_matter(seed, exponent):
    weight, hessian = weights(4, 12, seed=seed), correlated(12, seed=seed)
    assert np.array_equal(rounded(weight, hessian * 2.0**exponent), rounded(weight, hessian))


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 4))
def test_groups_do_not_influence_each_other(seed, groups):
    weight = np.stack([weights(3, 10, seed=seed + g) for g in range(groups)])
    hessian = np.stack([correlated(10, seed=seed + g) for g in range(groups)])
    whole = gptq(weight, scales(weight), hessian, qmin=-7, qmax=7)
    assert np.array_equal(whole, np.stack([rounded(w, h) for w, h in zip(weight, hessian, strict=True)]))


def test_what_is_given_is_left_alone():
    weight, hessian = weights(2, 5, seed=0), correlated(5, seed=0)
    kept = weight.copy(), hessian.copy()
    rounded(weight, hessian)
    assert np.array_equal(weight, kept[0])
    assert np.array_equal(hessian, kept[1])


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_inputs_that_are_always_zero_are_rounded_to_nearest():
    weight, hessian = weights(4, 10, seed=0), correlated(10, seed=0)
    hessian[[2, 7]] = hessian[:, [2, 7]] = 0
    assert np.array_equal(rounded(weight, hessian)[:, [2, 7]], nearest(weight)[:, [2, 7]])


def test_inputs_that_are_always_zero_do_not_touch_the_others():
    weight, hessian = weights(4, 10, seed=0), correlated(10, seed=0)
    hessian[[2, 7]] = hessian[:, [2, 7]] = 0
    alive = np.setdiff1d(np.arange(10), [2, 7])
    expected = rounded(weight[:, alive], hessian[np.ix_(alive, alive)], scale=scales(weight))
    assert np.array_equal(rounded(weight, hessian)[:, alive], expected)


def test_nothing_ever_fed_is_rounded_to_nearest():
    weight = weights(4, 10, seed=0)
    assert np.array_equal(rounded(weight, np.zeros((10, 10))), nearest(weight))


@pytest.mark.parametrize("magnitude", [1e-300, 1e-40, 1e40])
def test_moments_of_any_magnitude_give_integers_inside_the_range(magnitude):
    weight = weights(4, 10, seed=0)
    assert np.abs(rounded(weight, correlated(10, seed=0) * magnitude)).max() <= 7


def test_fully_dependent_inputs_give_integers_inside_the_range():
    weight = weights(4, 10, seed=0)
    assert np.abs(rounded(weight, np.ones((10, 10)))).max() <= 7


def test_rounding_noise_in_place_of_moments_is_survived():
    # what is left of inputs that never change: E[x x] - E[x] E[x] of float32 sums has entries of either sign
    noise = np.random.default_rng(0).uniform(-1e-6, 1e-6, (64, 64))
    weight = weights(4, 64, seed=0)
    assert np.abs(rounded(weight, noise + noise.T)).max() <= 7
