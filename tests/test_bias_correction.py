"""Bias correction: the mean error of every channel goes, and no channel is ever worse for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import conversion
import models
import numpy as np
import pytest

from quantcli import graph, proof, reconstruction
from quantcli.passes.bias_correction import BiasCorrection

if TYPE_CHECKING:
    import onnx

    from quantcli.state import State

PLAIN = "passes.equalize=off"
LAYER = "(float[4, 16] x) => (float[4, 6] y) { y = Gemm(x, w, b) }"
CLIPPED = "(float[4, 16] x) => (float[4, 6] y) { a = Gemm(x, w, b)  y = Relu(a) }"
CONVOLVED = "(float[1, 3, 6, 6] x) => (float[1, 6, 6, 6] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w, b)  y = Relu(a) }"
TREE = """(float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
  a = Conv<pads = [1, 1, 1, 1]>(x, w1)  r = Relu(a)  b = Conv(r, w2)  c = Conv<pads = [1, 1, 1, 1]>(r, w3)
  d = Add(b, c)  e = Add(d, r)  y = Conv(e, w4)
}"""
BRANCHES = {
    "w1": models.weight(4, 4, 3, 3),
    "w2": models.weight(4, 4, 1, 1),
    "w3": models.weight(4, 4, 3, 3, seed=1),
    "w4": models.weight(4, 4, 1, 1, seed=2),
}


def quiet(_done: int, _total: int) -> None:
    """Take no note of the progress."""


def gemm(source: str = LAYER) -> onnx.ModelProto:
    return models.text(source, w=models.weight(16, 6), b=models.weight(6))


def positive(model: onnx.ModelProto, count: int = 16) -> list[dict[str, np.ndarray]]:
    """Return samples with a mean: then the rounding of weights shifts the outputs."""
    return [{n: np.abs(x) + 1 for n, x in f.items()} for f in models.samples(model, count)]


def emitted(bench: conversion.Bench, model: onnx.ModelProto, form: str = "integer", **options: object) -> State:
    options.setdefault("feeds", positive(model))
    return bench.as_format(model, form, PLAIN, **options).result.state


def errors(state: State) -> list[reconstruction.Errors]:
    return [layer.errors() for layer in reconstruction.reconstruct(state, state.quantized, 16, quiet)]


def bias_of(state: State, index: int = 0) -> np.ndarray:
    name = list(state.quantized.biases.values())[index]
    return graph.constant(state.quantized.model.graph.initializers[name])


def initializers(state: State) -> dict[str, np.ndarray]:
    return {n: graph.constant(v).copy() for n, v in state.quantized.model.graph.initializers.items()}


@pytest.mark.parametrize("form", conversion.FORMATS)
@pytest.mark.parametrize("source", [LAYER, CLIPPED], ids=["open", "clipped"])
def test_no_channel_gets_worse_and_the_layer_gets_better(bench, source, form):
    before = emitted(bench, gemm(source), form)
    (old,), (new,) = errors(before), errors(BiasCorrection()(before, quiet))
    assert np.all(new.square <= old.square)
    assert new.square.sum() < old.square.sum()


def test_the_mean_error_of_a_convolution_behind_a_relu_falls(bench):
    model = models.text(CONVOLVED, w=models.weight(6, 3, 3, 3), b=models.weight(6))
    before = emitted(bench, model)
    (old,), (new,) = errors(before), errors(BiasCorrection()(before, quiet))
    assert np.abs(new.mean).max() < 0.5 * np.abs(old.mean).max()


def test_what_remains_of_the_mean_error_is_a_fraction_of_an_output_step(bench):
    state = BiasCorrection()(emitted(bench, gemm()), quiet)
    (left,) = errors(state)
    assert np.abs(left.mean).max() < 0.25 * float(state.encodings.tensors["y"].scale)


def test_only_biases_change(bench):
    before = emitted(bench, gemm())
    old = initializers(before)
    new = initializers(BiasCorrection()(before, quiet))
    changed = {n for n in old if not np.array_equal(old[n], new[n])}
    assert changed == set(before.quantized.biases.values())


def test_the_state_before_keeps_its_model(bench):
    before = emitted(bench, gemm())
    old = bias_of(before).copy()
    BiasCorrection()(before, quiet)
    np.testing.assert_array_equal(bias_of(before), old)


def test_a_deliberate_shift_is_found_and_taken_off(bench):
    """A bias that is wrong by a known amount comes back to within a step of the output."""
    before = emitted(bench, gemm())
    right = bias_of(before).copy()
    shift = np.array([4000, -4000, 0, 2500, 0, -1], np.int32)
    made = proof.copied(before.quantized)
    (name,) = made.biases.values()
    graph.set_initializer(made.model.graph.initializers[name], right + shift)
    after = BiasCorrection()(replace(before, quantized=made), quiet)
    scale = before.encodings.edges[("Gemm_0", 1)].scale * float(before.encodings.tensors["x"].scale)
    moved = np.abs(bias_of(after).astype(np.int64) - right) * scale
    assert np.all(moved < float(before.encodings.tensors["y"].scale))


def test_a_correction_can_be_corrected_again_and_hardly_moves(bench):
    once = BiasCorrection()(emitted(bench, gemm()), quiet)
    twice = BiasCorrection()(once, quiet)
    (a,), (b,) = errors(once), errors(twice)
    assert np.all(b.square <= a.square)
    assert b.square.sum() > 0.8 * a.square.sum()


def test_a_layer_without_bias_gets_one_where_it_helps(bench):
    model = models.text("(float[4, 16] x) => (float[4, 6] y) { y = MatMul(x, w) }", w=models.weight(16, 6))
    before = emitted(bench, model)
    assert not bias_of(before).any()
    assert bias_of(BiasCorrection()(before, quiet)).any()


def test_a_bias_that_the_user_does_not_have_is_not_in_the_encodings(bench):
    model = models.text("(float[4, 16] x) => (float[4, 6] y) { y = MatMul(x, w) }", w=models.weight(16, 6))
    made = bench.convert(model, "int8-only", PLAIN, "passes.bias_correction=on", feeds=positive(model))
    assert set(made.grids) == {"x", "w", "y"}


def test_biases_stay_within_int32(bench):
    """Weights so small that the bias is near the end of its range: a correction must not wrap around."""
    model = models.text(LAYER, w=models.weight(16, 6, spread=1e-9), b=np.full(6, 3.0, np.float32))
    state = BiasCorrection()(emitted(bench, model), quiet)
    assert np.all(np.abs(bias_of(state).astype(np.int64)) < 2**31)
    assert np.all(bias_of(state) > 0)


def test_a_dead_relu_breaks_nothing(bench):
    """A channel that is never positive: its error is zero, and stays zero."""
    model = models.text(CLIPPED, w=models.weight(16, 6), b=np.array([-1e4, 0, 0, 0, 0, 0], np.float32))
    before = emitted(bench, model)
    (old,), (new,) = errors(before), errors(BiasCorrection()(before, quiet))
    assert old.square[0] == new.square[0] == 0
    assert np.all(new.square <= old.square)


@pytest.mark.parametrize("form", conversion.FORMATS)
def test_branches_and_residuals_are_corrected_in_order(bench, form):
    model = models.text(TREE, **BRANCHES)
    before = emitted(bench, model, form)
    told: list[tuple[int, int]] = []
    after = BiasCorrection()(before, lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    old, new = (sum(e.square.sum() for e in errors(s)) for s in (before, after))
    assert new < old


def test_a_later_layer_is_corrected_on_what_the_corrected_ones_before_it_give(bench):
    """With every layer corrected, the output's mean error is gone too: corrections do not add up to a new shift."""
    model = models.text(TREE, **BRANCHES)
    before = emitted(bench, model)
    old, new = (errors(s)[-1] for s in (before, BiasCorrection()(before, quiet)))
    assert np.abs(new.mean).max() <= np.abs(old.mean).max()
    assert np.abs(new.mean).max() < 0.25 * float(before.encodings.tensors["y"].scale)


def test_a_large_model_is_walked_with_the_asked_number_of_samples(bench, monkeypatch):
    monkeypatch.setattr(reconstruction, "_AFFORDABLE", 1)
    state = BiasCorrection(samples=3)(emitted(bench, gemm()), quiet)
    assert state.report.notes[-1] == "bias correction on 3 samples, kept on 1 of 1 layers"


def test_a_small_model_is_walked_with_all_samples(bench):
    state = BiasCorrection(samples=3)(emitted(bench, gemm()), quiet)
    assert "on 16 samples" in state.report.notes[-1]


def test_the_note_never_says_more_samples_than_there_are(bench):
    state = BiasCorrection(samples=300)(emitted(bench, gemm()), quiet)
    assert "on 16 samples" in state.report.notes[-1]


def test_no_rounds_change_nothing(bench):
    before = emitted(bench, gemm())
    after = BiasCorrection(rounds=0)(before, quiet)
    np.testing.assert_array_equal(bias_of(after), bias_of(before))
    assert "kept on 0 of 1 layers" in after.report.notes[-1]


def test_more_rounds_are_never_worse(bench):
    before = emitted(bench, gemm(CLIPPED))
    totals = [errors(BiasCorrection(rounds=r)(before, quiet))[0].square.sum() for r in (0, 1, 3, 8)]
    assert totals == sorted(totals, reverse=True)


def test_an_integer_boundary_is_crossed_with_the_numbers_of_the_file(bench):
    before = emitted(bench, gemm(), input_type="uint8", output_type="uint8")
    (old,), (new,) = errors(before), errors(BiasCorrection()(before, quiet))
    assert new.square.sum() < old.square.sum()


@pytest.mark.parametrize("missing", ["data", "quantized"])
def test_without_data_or_model_nothing_happens(bench, missing):
    state = replace(emitted(bench, gemm()), **{missing: None})
    assert BiasCorrection()(state, quiet) is state
