"""The laws of quantization by blocks, and of scales that are searched: pure numpy."""

from __future__ import annotations

from dataclasses import replace

import models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli import affine, dtypes
from quantcli.quant import PerAxis, PerBlock, PerTensor, QuantSpec

TYPES = ("int4", "int8", "uint4", "uint8")
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 9))


def spec(name: str, granularity, **other) -> QuantSpec:
    return QuantSpec(dtypes.BY_NAME[name], name.startswith("int"), granularity, **other)


def step_of(params, shape) -> np.ndarray:
    """Return the step of every element."""
    grouping = params.spec.granularity
    index = np.arange(shape[grouping.axis]) // grouping.size
    return np.take(params.scale, index, grouping.axis)


@given(st.sampled_from(TYPES), SHAPES, st.sampled_from([16, 32, 64]), st.integers(0, 1), st.integers(0, 99))
def test_rounding_by_blocks_stays_within_half_a_step(name, shape, size, axis, seed):
    real = models.weight(*shape, seed=seed)
    params = affine.weight_params(real, spec(name, PerBlock(axis, size)))
    error = np.abs(affine.fake_quantize(real, params) - real)
    assert np.all(error <= step_of(params, shape) * 0.5 * (1 + 1e-4) + 1e-7)


@given(st.sampled_from(TYPES), SHAPES, st.sampled_from([16, 32]), st.integers(0, 99))
def test_what_is_on_the_grid_survives_the_round_trip(name, shape, size, seed):
    params = affine.weight_params(models.weight(*shape, seed=seed), spec(name, PerBlock(0, size)))
    low, high = params.spec.qmin, params.spec.qmax
    integers = np.random.default_rng(seed).integers(low, high + 1, shape).astype(params.spec.dtype.storage)
    np.testing.assert_array_equal(affine.quantize(affine.dequantize(integers, params), params), integers)


@given(SHAPES, st.sampled_from([16, 32]), st.integers(0, 99))
def test_a_block_has_the_parameters_of_a_tensor_of_its_own(shape, size, seed):
    real = models.weight(*shape, seed=seed)
    params = affine.weight_params(real, spec("int8", PerBlock(0, size)))
    for block in range(params.scale.shape[0]):
        for column in range(shape[1]):
            alone = affine.weight_params(real[block * size : (block + 1) * size, column], spec("int8", PerTensor()))
            assert params.scale[block, column] == alone.scale


def test_the_scales_have_one_entry_per_block_the_last_one_shorter():
    params = affine.weight_params(models.weight(70, 5), spec("int4", PerBlock(0, 32)))
    assert params.scale.shape == (3, 5)


def test_the_filling_of_the_last_block_changes_nothing():
    real = models.weight(40, 3)
    params = affine.weight_params(real, spec("uint4", PerBlock(0, 32)))
    alone = affine.weight_params(real[32:], spec("uint4", PerBlock(0, 32)))
    np.testing.assert_array_equal(params.scale[1:], alone.scale)
    np.testing.assert_array_equal(params.zero_point[1:], alone.zero_point)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(1), PerBlock(0, 16)], ids=str)
def test_searched_scales_are_never_worse_than_the_extremes(name, granularity):
    real = models.weight(64, 8, scaled=1)
    wanted = spec(name, granularity)
    errors = [
        np.square(affine.fake_quantize(real, params) - real, dtype=np.float64).sum()
        for params in (affine.searched_params(real, wanted), affine.weight_params(real, wanted))
    ]
    assert errors[0] <= errors[1]


def test_four_bits_gain_by_cutting_extremes_off():
    real = models.weight(256, 8)
    wanted = spec("int4", PerBlock(0, 32))
    searched, extremes = affine.searched_params(real, wanted), affine.weight_params(real, wanted)
    errors = [np.square(affine.fake_quantize(real, p) - real).sum() for p in (searched, extremes)]
    assert errors[0] < 0.95 * errors[1]


def test_rounding_errors_cancel_where_the_inputs_have_a_mean():
    real = models.weight(256, 16)
    wanted = spec("int8", PerAxis(1), narrow_range=True)
    sums = [
        np.abs((affine.fake_quantize(real, affine.searched_params(real, wanted, mean=m)) - real).sum(axis=0)).mean()
        for m in (0.5, 0.0)
    ]
    assert sums[0] < 0.5 * sums[1]


def test_the_search_is_deterministic():
    real, wanted = models.weight(64, 64), spec("int4", PerBlock(0, 16))
    assert affine.searched_params(real, wanted).same_as(affine.searched_params(real, wanted))


@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0), PerBlock(1, 16)], ids=str)
def test_a_transpose_has_the_transposed_parameters(granularity):
    real = models.weight(8, 40)
    params = affine.weight_params(real, spec("int8", granularity))
    turned = affine.transposed(params)
    np.testing.assert_array_equal(affine.quantize(real.T, turned), affine.quantize(real, params).T)
    assert affine.transposed_spec(turned.spec) == params.spec


def test_an_empty_weight_has_parameters():
    params = affine.weight_params(np.zeros((0, 4), np.float32), spec("int8", PerAxis(1)))
    np.testing.assert_array_equal(params.scale, np.ones(4, np.float32))


def test_a_dead_block_has_the_smallest_scale_and_zeros():
    """Not one: what MatMulNBits loses in float32 as it takes off the zero point is multiplied by the scale."""
    params = affine.searched_params(np.zeros((32, 2), np.float32), spec("int4", PerBlock(0, 16)))
    np.testing.assert_array_equal(params.scale, affine.SMALLEST_SCALE)
    assert not affine.quantize(np.zeros((32, 2), np.float32), params).any()


def test_a_narrow_spec_leaves_the_most_negative_integer_out():
    real = models.weight(64, 4)
    wanted = spec("int8", PerAxis(1), narrow_range=True)
    assert affine.quantize(real, affine.searched_params(real, wanted)).min() >= -127
    assert replace(wanted, narrow_range=False).qmin == -128
