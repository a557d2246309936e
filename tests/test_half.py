"""What float16 can hold: a stated rule per constant, and a rounding that keeps the sums of a layer's channels."""

from __future__ import annotations

import models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli import half, metrics

F32 = np.float32


def vector(*values: float) -> np.ndarray:
    return np.asarray(values, F32)


# ---- which constants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (vector(np.nan, 1.0), "1 of its values are NaN or infinite"),
        (vector(np.inf), "1 of its values are NaN or infinite"),
        (vector(-np.inf, np.nan), "2 of its values are NaN or infinite"),
        (vector(65505.0), "beyond float16's 65504"),
        (vector(65510.5, 1.5), "beyond float16's 65504"),
        (vector(-3.4e38), "it reaches -3.4e+38"),
        (vector(1e-5), "its value 1e-05 would become 1.001e-05"),
        (vector(1e-12), "its value 1e-12 would become 0"),
        (vector(1.5, 1e-7), "its value 1e-07 would become 1.192e-07"),
        (vector(2049.0), "whole numbers up to 2049"),
        (np.arange(4096, dtype=F32), "whole numbers up to 4095"),
        (models.weight(40, 40, spread=1e-7), "too small for float16"),
        (models.weight(40, 40, spread=1e-30), "too small for float16"),
    ],
)
def test_what_float16_cannot_hold_is_refused_with_the_reason(array, reason):
    assert reason in half.refusal(array)


@pytest.mark.parametrize(
    "array",
    [
        vector(),
        vector(0.0, -0.0),
        vector(65504.0, -65504.0),
        vector(1e-3, 0.1, -7.3),
        vector(2.0**-24),
        vector(4096.0),
        models.weight(64, 32),
        models.weight(8, 3, 3, 3, scaled=0),
        np.zeros((0, 4), F32),
    ],
    ids=["none", "zeros", "the ends", "normal", "smallest", "a power of two", "a weight", "uneven channels", "empty"],
)
def test_what_float16_holds_is_not_refused(array):
    assert half.refusal(array) == ""


def test_a_channel_that_would_vanish_is_refused():
    array = models.weight(16, 20, spread=0.01)
    array[3] = 2e-8
    assert half.refusal(array) == "1 of its 16 slices along axis 0 would become zero"


def test_a_dead_channel_below_the_resolution_of_float32_may_vanish():
    array = models.weight(16, 20)
    array[3] *= 1e-30
    assert half.refusal(array) == ""


def test_the_reason_of_an_overflow_comes_without_a_warning():
    assert np.isinf(half.halved(vector(1e6))).all()


@given(hnp.arrays(F32, st.integers(1, half.FEW), elements=st.floats(-1e6, 1e6, width=32)))
def test_few_values_that_are_not_refused_keep_their_digits(array):
    if not half.refusal(array):
        error = np.abs(half.halved(array).astype(np.float64) - array)
        assert np.all(error <= half.MOST_RELATIVE * np.abs(array.astype(np.float64)))


@given(hnp.arrays(F32, st.tuples(st.integers(1, 6), st.integers(4, 9)), elements=st.floats(-1e6, 1e6, width=32)))
def test_many_values_that_are_not_refused_keep_60_db_and_stay_finite(array):
    if array.size > half.FEW and not half.refusal(array):
        assert np.isfinite(half.halved(array)).all()
        assert metrics.sqnr_db(array, half.halved(array).astype(F32)) >= half.ENOUGH_DB


# ---- rounding --------------------------------------------------------------------------------------------------------


def row_errors(array: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    return np.abs((rounded.astype(np.float64) - array).sum(axis=1))


@given(hnp.arrays(F32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-100, 100, width=32)))
def test_each_value_becomes_one_of_its_two_neighbours(array):
    rounded, nearest = half.balanced(array), half.halved(array)
    other = np.nextafter(nearest, np.where(nearest > array, -np.inf, np.inf).astype(np.float16))
    assert np.all((rounded == nearest) | ((rounded == other) & (nearest != array)))


@given(hnp.arrays(F32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-100, 100, width=32)))
def test_no_sum_of_a_row_is_worse_than_of_the_nearest(array):
    assert np.all(row_errors(array, half.balanced(array)) <= row_errors(array, half.halved(array)) + 1e-12)


def test_the_sums_of_rows_are_kept():
    array = models.weight(32, 144)
    assert row_errors(array, half.balanced(array)).mean() < 0.1 * row_errors(array, half.halved(array)).mean()


def test_what_float16_holds_exactly_and_zeros_stay():
    array = models.weight(8, 64)
    array[:, ::3] = half.halved(array[:, ::3])
    array[:, 1::3] = 0
    rounded = half.balanced(array)
    np.testing.assert_array_equal(rounded[:, ::3], array[:, ::3])
    np.testing.assert_array_equal(rounded[:, 1::3], 0)


def test_values_that_vanish_stay_zero():
    array = models.weight(4, 64)
    array[:, ::2] *= 1e-30
    assert not half.balanced(array)[:, ::2].any()


def test_a_large_weight_is_rounded_in_blocks(monkeypatch):
    array = models.weight(24, 50)
    whole = half.balanced(array)
    monkeypatch.setattr(half, "BLOCK", 120)
    np.testing.assert_array_equal(half.balanced(array), whole)
    assert half.refusal(array) == ""


def test_balanced_rounding_costs_little():
    array = models.weight(64, 288)
    nearest, balanced = (metrics.sqnr_db(array, a.astype(F32)) for a in (half.halved(array), half.balanced(array)))
    assert balanced > nearest - 1


# ---- bytes -----------------------------------------------------------------------------------------------------------


def test_seventeen_values_are_not_worth_a_cast():
    assert half.saving(17) < 0 < half.saving(18)


def test_the_smallest_are_spared_while_they_cost_little():
    sizes = [1000, 50, 40_000, 60]
    total = sum(sizes)
    spared = half.spared(sizes, total)
    assert spared == {1, 3}
    assert sum(half.saving(sizes[i]) for i in spared) <= 4 * total / 256


def test_nothing_is_spared_where_all_are_small():
    assert half.spared([64, 64, 64], 192) == set()
