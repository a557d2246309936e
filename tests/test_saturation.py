"""Which weights make sums of two products leave 16 bits: the bound, the scale that keeps to it, and the room left."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from saturating import exact_sums, saturating_sums

from quantcli import affine, saturation
from quantcli.dtypes import INT8, UINT8
from quantcli.quant import PerAxis, PerBlock, PerTensor, QuantSpec

BYTES = st.integers(-128, 127)
BY_CHANNEL = QuantSpec(INT8, symmetric=True, granularity=PerAxis(0), narrow_range=True)


def channels(smallest=1, largest=6):
    return arrays.arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(smallest, largest)), elements=BYTES)


def every_pair(row, low, high):
    """The smallest and the largest sum of two products, and of one, by trying all activations at their ends."""
    ends = [[int(w) * x for x in (low, 0, high)] for w in row]
    sums = [a + b for first, second in itertools.combinations(ends, 2) for a in first for b in second]
    sums += [a for first in ends for a in first]
    return min(sums), max(sums)


@given(channels(), st.sampled_from([(0, 255), (-128, 127)]))
def test_the_bound_is_the_largest_sum_of_two_products(rows, ends):
    lowest, highest = saturation.pair_sums(rows, *ends)
    assert list(zip(lowest, highest, strict=True)) == [every_pair(row, *ends) for row in rows]


@settings(max_examples=60, deadline=None)
@given(channels(2, 5))
def test_exact_is_exact_in_every_order_of_packing_and_only_then(rows):
    exact = saturation.is_exact(saturation.pair_sums(rows, 0, 255))
    for row, said in zip(rows, exact, strict=True):
        x = np.stack([np.where(row > 0, 255, 0), np.where(row < 0, 255, 0)]).astype(np.uint8)  # the worst of each sign
        orders = itertools.permutations(range(len(row)))
        same = [
            np.array_equal(saturating_sums(x[:, order], row[list(order), None]), exact_sums(x, row[:, None]))
            for order in map(list, orders)
        ]
        assert all(same) == said


def test_the_sums_of_a_published_case_saturate():
    w = np.array([[-127, -127, -127], [-81, -81, -80], [-80, 127, 127]], np.int8)
    lowest, highest = saturation.pair_sums(w, 0, 255)
    assert lowest.tolist() == [-64770, -41310, -20400]
    assert highest.tolist() == [0, 0, 64770]
    assert saturation.is_exact((lowest, highest)).tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("weights", "exact"),
    [
        ((64, 64), True),
        ((127, 1), True),
        ((127, 2), False),
        ((-64, -64), True),
        ((-128, -1), False),
        ((127, -128), True),
    ],
)
def test_two_weights_of_one_sign_may_sum_to_128(weights, exact):
    rows = np.array([weights], np.int8)
    assert saturation.is_exact(saturation.pair_sums(rows, 0, 255)).tolist() == [exact]


def test_a_channel_without_weights_sums_to_nothing():
    lowest, highest = saturation.pair_sums(np.zeros((2, 0), np.int8), 0, 255)
    assert [*lowest, *highest] == [0, 0, 0, 0]


# ---- scales ----------------------------------------------------------------------------------------------------------

REAL = st.floats(-100, 100, width=32)
SPECS = {
    "per tensor": QuantSpec(INT8, symmetric=True, granularity=PerTensor(), narrow_range=True),
    "per channel": BY_CHANNEL,
    "per column": QuantSpec(INT8, symmetric=True, granularity=PerAxis(1), narrow_range=True),
    "in blocks": QuantSpec(INT8, symmetric=True, granularity=PerBlock(1, 3)),
}


def is_exact(integers, spec):
    """Judge by the weights that share a scale, as ``exact_scale`` does."""
    if isinstance(spec.granularity, PerBlock):
        rows = affine.blocks_of(integers, spec.granularity).reshape(-1, spec.granularity.size)
    elif isinstance(spec.granularity, PerAxis):
        rows = np.moveaxis(integers, spec.granularity.axis, 0)
    else:
        rows = integers.reshape(1, -1)
    return saturation.is_exact(saturation.pair_sums(rows, 0, 255)).all()


@pytest.mark.parametrize("name", SPECS)
@given(weight=arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=REAL))
def test_weights_at_the_exact_scale_never_saturate(name, weight):
    spec = SPECS[name]
    params = affine.weight_params(weight, spec, smallest_scale=saturation.exact_scale(weight, spec))
    assert params.scale.shape == saturation.exact_scale(weight, spec).shape
    assert is_exact(affine.quantize(weight, params), spec)


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=30, deadline=None)
@given(weight=arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=REAL))
def test_nor_do_they_at_a_scale_that_was_searched_from_there(name, weight):
    spec = SPECS[name]
    params = affine.searched_params(weight, spec, mean=0.5, floor=saturation.exact_scale)
    assert is_exact(affine.quantize(weight, params), spec)


@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(0.015625, 100, width=32)))
def test_the_exact_scale_wastes_less_than_two_steps(weight):
    params = affine.weight_params(weight, BY_CHANNEL, smallest_scale=saturation.exact_scale(weight, BY_CHANNEL))
    two = np.sort(affine.quantize(weight, params).astype(int), axis=1)[:, -2:].sum(axis=1)
    assert (two >= saturation.PAIR - 2).all()


def test_a_lone_large_weight_costs_nothing():
    weight = np.array([[1.0, 0.001, -0.7]], np.float32)
    asked = saturation.exact_scale(weight, BY_CHANNEL)
    assert affine.weight_params(weight, BY_CHANNEL).scale == pytest.approx(asked, rel=0.002)


def test_unsigned_weights_may_have_any_scale():
    spec = QuantSpec(UINT8, symmetric=False, granularity=PerAxis(0))
    assert saturation.exact_scale(np.ones((2, 4), np.float32), spec).tolist() == [0, 0]


def test_a_search_without_a_floor_is_as_before():
    weight = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    nothing = lambda real, _spec: np.zeros(len(real), np.float32)  # noqa: E731
    found = affine.searched_params(weight, BY_CHANNEL, floor=nothing)
    assert found.same_as(affine.searched_params(weight, BY_CHANNEL))


# ---- room ------------------------------------------------------------------------------------------------------------


@given(channels(1, 6), st.randoms(use_true_random=False))
def test_weights_that_move_within_their_limits_stay_exact(rows, random):
    assume(saturation.is_exact(saturation.pair_sums(rows, 0, 255)).all())
    low, high = saturation.limits(rows)
    assert ((low <= rows) & (rows <= high)).all()
    moved = [
        [random.randint(int(a), int(b)) for a, b in zip(*ends, strict=True)] for ends in zip(low, high, strict=True)
    ]
    for found in (low, high, np.array(moved)):
        assert saturation.is_exact(saturation.pair_sums(found, 0, 255)).all()


def test_limits_leave_room_where_no_weight_is_large():
    low, high = saturation.limits(np.array([[3, -5, 60]], np.int8))
    assert (low.tolist(), high.tolist()) == ([[-64] * 3], [[64] * 3])


def test_the_others_share_what_the_largest_leaves():
    low, high = saturation.limits(np.array([[100, 20, -1]], np.int8))
    assert (low.tolist(), high.tolist()) == ([[-64] * 3], [[100, 28, 28]])
