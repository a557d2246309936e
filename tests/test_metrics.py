"""How far two arrays are apart: values against their definitions, what happens at the edges, sums in any order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli.metrics import Comparison, cosine, sqnr_db

values = hnp.arrays(np.float32, st.integers(0, 8), elements=st.floats(-100, 100, width=32))
pairs = values.flatmap(
    lambda a: st.tuples(st.just(a), hnp.arrays(np.float32, a.shape, elements=st.floats(-9, 9, width=32)))
)


def of(*numbers):
    return np.array(numbers, np.float64)


def compared(*pairs_of_arrays):
    total = Comparison()
    for reference, other in pairs_of_arrays:
        total = total.add(reference, other)
    return total


def sums(comparison):
    c = comparison
    return pytest.approx((c.signal, c.noise, c.other, c.product, c.largest, c.count), rel=1e-9, abs=1e-9)


def numbers_of(comparison):
    c = comparison
    return (c.signal, c.noise, c.other, c.product, c.largest, c.count)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "decibel"), [(1.0, 20.0), (10.0, 0.0), (0.1, 40.0), (100.0, -20.0)])
def test_sqnr_is_in_decibel(error, decibel):
    assert sqnr_db(of(10, 0), of(10, error)) == pytest.approx(decibel)


def test_sqnr_of_eight_bit_steps_is_six_decibel_per_bit():
    real = np.random.default_rng(0).uniform(-1, 1, 100_000)
    assert sqnr_db(real, np.rint(real * 127) / 127) == pytest.approx(6.02 * 8, abs=0.2)


def test_sqnr_of_equal_arrays_is_infinite():
    assert sqnr_db(of(1, 2), of(1, 2)) == math.inf


def test_sqnr_of_noise_without_signal_is_minus_infinite():
    assert sqnr_db(of(0, 0), of(0, 1)) == -math.inf


@pytest.mark.parametrize(
    ("other", "expected"), [((2, 0), 1.0), ((0, 1), 0.0), ((-3, 0), -1.0), ((1, 1), math.sqrt(0.5))]
)
def test_cosine_is_that_of_the_angle(other, expected):
    assert cosine(of(1, 0), of(*other)) == pytest.approx(expected)


def test_cosine_of_two_zeros_is_one():
    assert cosine(of(0, 0), of(0, 0)) == 1


@pytest.mark.parametrize(("a", "b"), [((0, 0), (1, 0)), ((1, 0), (0, 0))])
def test_cosine_with_one_zero_is_zero(a, b):
    assert cosine(of(*a), of(*b)) == 0


@pytest.mark.parametrize("tiny", [1e-30, 1e-45, 1e-100, 1e-120])
def test_cosine_of_tiny_numbers_is_that_of_the_angle(tiny):
    assert cosine(of(tiny), of(tiny)) == pytest.approx(1)


def test_mse_is_the_mean_of_the_squares():
    assert Comparison().add(of(1, 2), of(1, 4)).mse == 2


def test_largest_is_the_largest_difference():
    assert compared((of(1, 2), of(0, 2)), (of(5), of(8))).largest == 3


def test_integers_do_not_wrap_around():
    assert Comparison().add(np.array([0], np.uint8), np.array([255], np.uint8)).largest == 255


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_nothing_compared_is_no_difference():
    assert (Comparison().sqnr_db, Comparison().cosine, Comparison().mse) == (math.inf, 1, 0)


def test_an_empty_pair_changes_nothing():
    assert Comparison().add(of(), of()) == Comparison()


@pytest.mark.parametrize("same", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_in_both_alike_is_left_out(same):
    assert Comparison().add(of(1, same), of(1, same)) == Comparison().add(of(1), of(1))


@pytest.mark.parametrize(
    ("reference", "other"),
    [(math.inf, -math.inf), (math.inf, math.nan), (1.0, math.nan), (math.nan, 1.0), (1.0, math.inf)],
)
def test_what_is_not_finite_in_one_alone_is_the_worst(reference, other):
    found = Comparison().add(of(1, reference), of(1, other))
    assert (found.sqnr_db, found.largest) == (-math.inf, math.inf)


def test_a_broken_pair_stays_broken():
    assert compared((of(math.nan), of(1)), (of(1, 2), of(1, 2))).sqnr_db == -math.inf


# ---- sums ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(pairs, pairs)
def test_adding_pairs_is_comparing_their_concatenation(one, two):
    joined = tuple(np.concatenate(parts) for parts in zip(one, two, strict=True))
    assert numbers_of(compared(one, two)) == sums(compared(joined))


@settings(max_examples=60, deadline=None)
@given(st.lists(pairs, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_does_not_matter(many, random):
    shuffled = random.sample(many, len(many))
    assert numbers_of(compared(*shuffled)) == sums(compared(*many))


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_cosine_is_at_most_one(pair):
    assert abs(cosine(*pair)) <= 1 + 1e-12
