"""Balanced rounding: kernels and channels keep their sums, and no value moves by more than a step."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli import affine
from quantcli.balance import balanced
from quantcli.dtypes import INT4, INT8, UINT8
from quantcli.quant import PerAxis, PerTensor, QuantSpec

SPEC = QuantSpec(INT8, symmetric=True, granularity=PerAxis(0), narrow_range=True)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
weights = shapes.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.floats(-2, 2, width=32)))


def errors(weight, spec=SPEC):
    """Return rounding errors in steps."""
    params = affine.weight_params(weight, spec)
    shape = (-1, 1, 1, 1)
    exact = weight / params.scale.astype(np.float64).reshape(shape) + params.zero_point.reshape(shape)
    return balanced(weight, params).astype(np.float64) - exact


@settings(max_examples=80, deadline=None)
@given(weights)
def test_no_value_moves_by_more_than_a_step(weight):
    assert np.abs(errors(weight)).max() <= 1.5 + 1e-6  # a kernel's turn, then the channel's


@settings(max_examples=80, deadline=None)
@given(weights)
def test_integers_stay_in_range(weight):
    params = affine.weight_params(weight, SPEC)
    found = balanced(weight, params)
    assert found.dtype == np.int8
    assert found.min() >= -127


@pytest.mark.parametrize("spec", [SPEC, QuantSpec(INT4, symmetric=True, granularity=PerAxis(0))])
def test_sums_of_channels_are_kept(spec):
    weight = np.random.default_rng(0).normal(size=(16, 8, 3, 3)).astype(np.float32)
    assert np.abs(errors(weight, spec).sum(axis=(1, 2, 3))).max() <= 0.5 + 1e-6


def test_sums_of_kernels_are_nearly_kept():
    weight = np.random.default_rng(1).normal(size=(16, 8, 3, 3)).astype(np.float32)
    kernels = np.abs(errors(weight).sum(axis=(2, 3)))
    assert kernels.max() <= 1.5
    assert (kernels <= 0.5 + 1e-6).mean() > 0.8


def test_a_flat_input_sees_almost_no_error():
    weight = np.random.default_rng(2).normal(size=(8, 16, 3, 3)).astype(np.float32)
    params = affine.weight_params(weight, SPEC)
    nearest = affine.quantize(weight, params)
    real = weight.sum(axis=(1, 2, 3)) / params.scale
    assert np.abs(balanced(weight, params).sum(axis=(1, 2, 3), dtype=np.int64) - real).max() <= 0.51
    assert np.abs(nearest.sum(axis=(1, 2, 3), dtype=np.int64) - real).max() > 1


def test_zero_points_are_counted():
    weight = np.random.default_rng(3).uniform(0, 1, (4, 3, 3, 3)).astype(np.float32)
    spec = QuantSpec(UINT8, symmetric=False, granularity=PerAxis(0))
    assert np.abs(errors(weight, spec).sum(axis=(1, 2, 3))).max() <= 0.5 + 1e-6


def test_what_is_exact_stays():
    weight = np.arange(-127, 128, dtype=np.float32)[: 5 * 3 * 17].reshape(5, 3, 17, 1)
    params = affine.weight_params(weight, QuantSpec(INT8, symmetric=True, granularity=PerAxis(0), narrow_range=True))
    exact = weight / params.scale.reshape(-1, 1, 1, 1)
    whole = np.isclose(exact, np.rint(exact)).all(axis=(1, 2, 3))
    assert np.array_equal(balanced(weight, params)[whole], np.rint(exact).astype(np.int8)[whole])


def test_one_scale_for_all_is_refused():
    weight = np.ones((2, 2, 3, 3), np.float32)
    with pytest.raises(ValueError, match="per output channel"):
        balanced(weight, affine.weight_params(weight, QuantSpec(INT8, symmetric=True, granularity=PerTensor())))
