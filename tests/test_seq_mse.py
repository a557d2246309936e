"""Clipping by output error: no row gets worse, what is wrong with a scale shows, and emitted models agree with it."""

from __future__ import annotations

from dataclasses import replace

import conversion
import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_adaround import layer
from test_gptq_pass import feeds_of, quiet, squares

from quantcli.passes.seq_mse import SeqMse
from quantcli.seq_mse import best_shares, by_gptq, by_nearest, output_error

SHARES = np.arange(20, 0, -1) / 20


def chosen(weight, scale, moments, rounded=by_nearest, *, together=False):
    return best_shares(weight, scale, moments, limits=(-7, 7), shares=SHARES, rounded=rounded, together=together)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([by_nearest, by_gptq]))
def test_no_row_has_more_error_than_with_its_whole_range(seed, rounded):
    weight, scale, moments = layer(seed)
    shares = chosen(weight, scale, moments, rounded)
    before, after = (
        output_error(weight, s, rounded(weight, s, moments, -7, 7), moments) for s in (scale, scale * shares)
    )
    assert np.all(after <= before)
    assert set(np.unique(shares)) <= set(SHARES)


def test_one_large_weight_that_hardly_counts_is_clipped():
    weight, moments = np.full((1, 1, 16), 0.1), np.eye(16)[None]
    weight[0, 0, 0], moments[0, 0, 0] = 1.0, 1e-4
    assert chosen(weight, np.asarray([[1.0 / 7]]), moments)[0, 0] < 0.8


def test_rows_of_one_scale_are_clipped_alike():
    weight, scale, moments = layer(1)
    assert np.unique(chosen(weight, np.full_like(scale, scale.max()), moments, together=True)).size == 1


def test_weights_that_are_exact_keep_their_range():
    weight = np.arange(-7, 8, dtype=float)[None, None] * 0.1
    assert chosen(weight, np.asarray([[0.1]]), np.eye(15)[None])[0, 0] == 1.0


def model(seed=0):
    return models.text(
        "(float[1,4,6,6] x) => (float[1,5,6,6] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv(r, v) }",
        w=models.weight(6, 4, 3, 3, seed=seed), b=models.weight(6), v=models.weight(5, 6, 1, 1, seed=seed + 1),
    )  # fmt: skip


FOUR = "scheme.weights.dtype=int4"
PLAIN = ("passes.equalize=off", FOUR)


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("form", conversion.FORMATS)
def test_the_first_layer_loses_less_with_clipped_weights(bench, form, granularity):
    """The emitted model is checked against its encodings in the conversion itself."""
    made = model()
    asked = (*PLAIN, f"scheme.weights.granularity={granularity}")
    plain, clipped = (
        bench.as_format(made, form, *asked, *more, feeds=feeds_of(made)).result.state
        for more in ((), ("passes.seq_mse=on",))
    )
    assert squares(clipped)[0].sum() < squares(plain)[0].sum()
    before, after = (s.encodings.edges for s in (plain, clipped))
    assert all(np.all(after[e].scale <= before[e].scale) for e in before)
    assert any(np.any(after[e].scale < before[e].scale) for e in before)


def test_what_is_written_says_the_clipped_scales(bench):
    made = bench.convert(model(), "int8-only", *PLAIN, "fallback=float", "passes.seq_mse=on")
    state = made.result.state
    for (node, _), params in state.encodings.edges.items():
        name = next(u.weight for u in state.plan.linear_units() if u.node == node)
        np.testing.assert_array_equal(state.quantized.params[name].scale, params.scale)


def test_a_wide_model_is_clipped_and_verified(bench):
    made = bench.convert(model(), "16x8", "passes.seq_mse=on")
    assert any("clipped by output error" in n for n in made.result.report["notes"])


def test_a_weight_that_two_operators_share_keeps_its_scale(bench):
    shared = models.text(
        "(float[4, 16] x) => (float[4, 16] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }",
        w=models.weight(16, 16),
    )
    plain, clipped = (
        bench.convert(shared, "full-integer", *PLAIN, *more).result.state for more in ((), ("passes.seq_mse=on",))
    )
    for edge, params in plain.encodings.edges.items():
        np.testing.assert_array_equal(clipped.encodings.edges[edge].scale, params.scale)


def test_a_bias_that_would_not_fit_holds_the_scale(bench):
    large = models.text(
        "(float[4, 16] x) => (float[4, 8] y) { y = Gemm(x, w, b) }",
        w=models.weight(16, 8), b=np.full(8, 3e7, np.float32),
    )  # fmt: skip
    plain, clipped = (
        bench.convert(large, "full-integer", *PLAIN, *more).result.state for more in ((), ("passes.seq_mse=on",))
    )
    (edge,) = plain.encodings.edges
    np.testing.assert_array_equal(clipped.encodings.edges[edge].scale, plain.encodings.edges[edge].scale)


def test_without_samples_nothing_happens(bench):
    state = bench.convert(model(), "full-integer", *PLAIN).result.state
    empty = replace(state, data=None)
    assert SeqMse()(empty, quiet) is empty
