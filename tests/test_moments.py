"""Moments say what samples would: of the rows that a weight multiplies, and of what they lack of the float ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli import affine, moments
from quantcli.dtypes import UINT8
from quantcli.moments import Moments, following, moments_of
from quantcli.quant import QuantSpec

PARAMS = affine.choose_params(-2.0, 3.0, QuantSpec(UINT8, symmetric=False))
MATMUL = ir.Node("", "MatMul", [])


def rows(seed, samples=6, count=40, columns=5):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(2, columns)) * 0.4
    return [(rng.normal(size=(count, 2)) @ mixed + 0.3).astype(np.float32) for _ in range(samples)]


def seen(floats, lost=0.0):
    """Moments of quantized rows, of which the float ones differ by more than their rounding."""
    integers = [affine.quantize(f - np.float32(lost) * f, PARAMS) for f in floats]
    return integers, moments_of(integers, floats, PARAMS, MATMUL, (), 1000)


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(moments, "_SHRINKAGE", 0.0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_they_are_those_of_all_rows_together(seed):
    floats = rows(seed)
    integers, (whole, _, _) = seen(floats, 0.1)
    x = affine.dequantize(np.concatenate(integers), PARAMS).astype(np.float64)
    lost = np.concatenate(floats) - x
    count, inputs = x.shape
    np.testing.assert_allclose(whole.mean[0], x.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(whole.missing_mean[0], lost.mean(axis=0), atol=1e-4)
    centred = x - x.mean(axis=0)
    np.testing.assert_allclose(whole.missing[0], (lost - lost.mean(axis=0)).T @ centred / count, atol=1e-4)
    covariance = centred.T @ centred / count
    raised = covariance + 0.1 * inputs / count * np.trace(covariance) / inputs * np.eye(inputs)
    np.testing.assert_allclose(whole.covariance[0], raised, atol=1e-4)


def test_the_halves_are_every_other_sample(exact):
    floats = rows(1)
    _, (_, even, odd) = seen(floats)
    _, (first, _, _) = seen(floats[::2])
    _, (second, _, _) = seen(floats[1::2])
    np.testing.assert_allclose(even.covariance, first.covariance, atol=1e-6)
    np.testing.assert_allclose(odd.mean, second.mean, atol=1e-6)


def test_the_second_moment_is_covariance_and_mean(exact):
    floats = rows(2)
    integers, (whole, _, _) = seen(floats)
    x = affine.dequantize(np.concatenate(integers), PARAMS).astype(np.float64)
    np.testing.assert_allclose(whole.second()[0], x.T @ x / len(x), atol=1e-5)


def test_few_rows_raise_the_diagonal_more():
    few, many = (moments_of(*_pair(rows(3, samples=1, count=n)), PARAMS, MATMUL, (), 1000)[0] for n in (4, 400))
    ratio = [np.diag(m.covariance[0]).min() / np.diag(m.covariance[0]).max() for m in (few, many)]
    assert np.linalg.cond(few.covariance[0]) < np.linalg.cond(many.covariance[0])
    assert all(r > 0 for r in ratio)


def _pair(floats):
    return [affine.quantize(f, PARAMS) for f in floats], floats


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="no samples"):
        moments_of([], [], PARAMS, MATMUL, (), 10)


# ---- making up for what was lost -------------------------------------------------------------------------------------


def test_what_inputs_lost_alike_is_given_back_by_the_weight():
    """Inputs of four fifths their size want a weight of five fourths, but for the ridge."""
    weight = np.random.default_rng(0).normal(size=(1, 3, 5))
    _, (whole, even, odd) = seen(rows(4, count=400), 0.2)
    made = following(weight, whole, (even, odd))
    inputs = affine.dequantize(np.concatenate(seen(rows(4, count=400), 0.2)[0]), PARAMS)
    wanted = np.concatenate(rows(4, count=400)) @ weight[0].T
    before, after = (np.var(wanted - inputs @ w[0].T) for w in (weight, made))
    assert after < 0.7 * before


def test_what_was_lost_at_random_changes_nothing():
    weight = np.random.default_rng(0).normal(size=(1, 3, 5))
    _, (whole, even, odd) = seen(rows(6), 0.0)
    opposite = Moments(odd.mean, odd.covariance, odd.missing_mean, -even.missing)
    assert following(weight, whole, (even, opposite)) is weight
