"""Rounding with GPTQ: never worse on the calibration data, channel by channel, for every linear operator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import conversion
import models
import numpy as np
import pytest

from quantcli import graph, reconstruction
from quantcli.passes.adaround import Adaround
from quantcli.passes.gptq import Gptq

if TYPE_CHECKING:
    from quantcli.state import State

PLAIN = "passes.equalize=off"

OPERATORS = {
    "conv": (
        "(float[1, 4, 6, 6] x) => (float[1, 6, 6, 6] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }",
        {"w": models.weight(6, 4, 3, 3), "b": models.weight(6)},
    ),
    "grouped": (
        "(float[1, 4, 6, 6] x) => (float[1, 6, 6, 6] y) { y = Conv<pads = [1, 1, 1, 1], group = 2>(x, w) }",
        {"w": models.weight(6, 2, 3, 3)},
    ),
    "depthwise": (
        "(float[1, 6, 6, 6] x) => (float[1, 6, 6, 6] y) { y = Conv<pads = [1, 1, 1, 1], group = 6>(x, w) }",
        {"w": models.weight(6, 1, 3, 3)},
    ),
    "strided": (
        """(float[1, 4, 9, 9] x) => (float[1, 6, H, W] y) {
             y = Conv<strides = [2, 2], dilations = [2, 2], pads = [1, 0, 2, 1]>(x, w)
           }""",
        {"w": models.weight(6, 4, 3, 3)},
    ),
    "same upper": (
        """(float[1, 4, 7, 7] x) => (float[1, 6, H, W] y) {
             y = Conv<strides = [2, 2], kernel_shape = [3, 3], auto_pad = "SAME_UPPER">(x, w)
           }""",
        {"w": models.weight(6, 4, 3, 3)},
    ),
    "one axis": (
        "(float[1, 4, 20] x) => (float[1, 6, 20] y) { y = Conv<pads = [1, 1]>(x, w) }",
        {"w": models.weight(6, 4, 3)},
    ),
    "three axes": (
        "(float[1, 2, 4, 4, 4] x) => (float[1, 6, D, H, W] y) { y = Conv(x, w) }",
        {"w": models.weight(6, 2, 2, 2, 2)},
    ),
    "gemm": (
        "(float[4, 16] x) => (float[4, 6] y) { y = Gemm(x, w, b) }",
        {"w": models.weight(16, 6), "b": models.weight(6)},
    ),
    "transposed gemm": (
        "(float[4, 16] x) => (float[4, 6] y) { y = Gemm<transB = 1>(x, w) }",
        {"w": models.weight(6, 16)},
    ),
    "matmul": ("(float[4, 16] x) => (float[4, 6] y) { y = MatMul(x, w) }", {"w": models.weight(16, 6)}),
    "matmul of rank 3": ("(float[2, 4, 16] x) => (float[2, 4, 6] y) { y = MatMul(x, w) }", {"w": models.weight(16, 6)}),
}


def quiet(_done: int, _total: int) -> None:
    """Take no note of the progress."""


def feeds_of(model: object, count: int = 16) -> list[dict[str, np.ndarray]]:
    """Return samples whose values go together, as those of real data do: GPTQ lives on it."""
    rng = np.random.default_rng(3)
    found = []
    for feed in models.samples(model, count):
        mixed = {n: x + 2 * rng.normal(size=(*x.shape[:-1], 1)).astype(np.float32) + 0.5 for n, x in feed.items()}
        found.append(mixed)
    return found


def emitted(bench: conversion.Bench, name: str, form: str = "integer") -> State:
    source, arrays = OPERATORS[name]
    model = models.text(source, **arrays)
    return bench.as_format(model, form, PLAIN, feeds=feeds_of(model)).result.state


def layers(state: State) -> list[reconstruction.Layer]:
    return list(reconstruction.reconstruct(state, state.quantized, 16, quiet))


def squares(state: State) -> list[np.ndarray]:
    return [layer.errors().square for layer in reconstruction.reconstruct(state, state.quantized, 16, quiet)]


def weight_of(state: State, index: int = 0) -> np.ndarray:
    name = list(state.quantized.weights.values())[index]
    return graph.constant(state.quantized.model.graph.initializers[name])


@pytest.mark.parametrize("rounding", [Gptq(), Adaround(iterations=50)], ids=["gptq", "adaround"])
@pytest.mark.parametrize("form", conversion.FORMATS)
@pytest.mark.parametrize("name", OPERATORS)
def test_no_channel_gets_worse_and_the_layer_gets_better(bench, name, form, rounding):
    before = emitted(bench, name, form)
    after = rounding(before, quiet)
    (old,), (new,) = squares(before), squares(after)
    assert np.all(new <= old)
    assert new.sum() < old.sum()


@pytest.mark.parametrize("name", ["conv", "grouped", "transposed gemm", "matmul"])
def test_integers_stay_in_the_narrow_range(bench, name):
    found = weight_of(Gptq()(emitted(bench, name), quiet)).astype(int)
    assert found.min() >= -127
    assert found.max() <= 127


def test_scales_are_left_as_they_are(bench):
    before = emitted(bench, "conv")
    after = Gptq()(before, quiet)
    assert after.encodings is before.encodings
    assert after.quantized.params == before.quantized.params


def test_the_state_before_keeps_its_model(bench):
    before = emitted(bench, "conv")
    weight = weight_of(before).copy()
    after = Gptq()(before, quiet)
    np.testing.assert_array_equal(weight_of(before), weight)
    assert not np.array_equal(weight_of(after), weight)


def test_the_same_data_give_the_same_weights(bench):
    before = emitted(bench, "conv")
    np.testing.assert_array_equal(weight_of(Gptq()(before, quiet)), weight_of(Gptq()(before, quiet)))


def test_a_layer_with_too_many_inputs_keeps_nearest_rounding(bench):
    before = emitted(bench, "conv")
    after = Gptq(largest=4 * 9 - 1)(before, quiet)
    np.testing.assert_array_equal(weight_of(after), weight_of(before))
    assert "kept on 0 of 1 layers" in after.report.notes[-1]


def test_a_layer_of_exactly_the_largest_size_is_rounded(bench):
    before = emitted(bench, "conv")
    assert not np.array_equal(weight_of(Gptq(largest=4 * 9)(before, quiet)), weight_of(before))


def test_the_note_says_how_many_samples_and_layers(bench, monkeypatch):
    monkeypatch.setattr(reconstruction, "_AFFORDABLE", 1)
    state = Gptq(samples=5)(emitted(bench, "conv"), quiet)
    assert state.report.notes[-1] == "gptq rounding on 5 samples, kept on 1 of 1 layers"
    state = Gptq(samples=500)(emitted(bench, "conv"), quiet)
    assert state.report.notes[-1] == "gptq rounding on 16 samples, kept on 1 of 1 layers"


def test_few_rows_are_enough(bench):
    before = emitted(bench, "conv")
    (old,), (new,) = squares(before), squares(Gptq(rows=1)(before, quiet))
    assert np.all(new <= old)


def test_a_dead_input_breaks_nothing(bench):
    source, arrays = OPERATORS["matmul"]
    model = models.text(source, **arrays)
    feeds = feeds_of(model)
    for feed in feeds:
        feed["x"][:, 3] = 0
    before = bench.as_format(model, "integer", PLAIN, feeds=feeds).result.state
    (old,), (new,) = squares(before), squares(Gptq()(before, quiet))
    assert np.all(new <= old)


def test_inputs_that_are_all_the_same_break_nothing(bench):
    source, arrays = OPERATORS["matmul"]
    model = models.text(source, **arrays)
    feeds = [{"x": np.full((4, 16), 0.7, np.float32)}] * 4
    before = bench.as_format(model, "integer", PLAIN, feeds=feeds).result.state
    (old,), (new,) = squares(before), squares(Gptq()(before, quiet))
    assert np.all(new <= old)


def test_later_layers_are_rounded_for_what_the_earlier_ones_give(bench):
    """Branches and a residual: every layer sees the inputs that the already rounded layers make."""
    model = models.text(
        """(float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) {
             a = Conv<pads = [1, 1, 1, 1]>(x, w1)  r = Relu(a)  b = Conv(r, w2)  c = Conv<pads = [1, 1, 1, 1]>(r, w3)
             d = Add(b, c)  e = Add(d, r)  y = Conv(e, w4)
           }""",
        w1=models.weight(4, 4, 3, 3), w2=models.weight(4, 4, 1, 1), w3=models.weight(4, 4, 3, 3, seed=1),
        w4=models.weight(4, 4, 1, 1, seed=2),
    )  # fmt: skip
    before = bench.as_format(model, "integer", PLAIN, feeds=feeds_of(model)).result.state
    told: list[tuple[int, int]] = []
    after = Gptq()(before, lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sum(s.sum() for s in squares(after)) < sum(s.sum() for s in squares(before))
    assert squares(after)[0].sum() < squares(before)[0].sum()


def test_samples_of_different_lengths_are_used_together(bench):
    model = models.text("(float[1, 4, n] x) => (float[1, 6, m] y) { y = Conv(x, w) }", w=models.weight(6, 4, 3))
    feeds = [f for n in (7, 33, 128) for f in models.samples(model, 3, n=n)]
    before = bench.as_format(model, "integer", PLAIN, feeds=feeds).result.state
    (old,), (new,) = squares(before), squares(Gptq()(before, quiet))
    assert np.all(new <= old)


def test_two_layers_that_share_a_weight_are_both_no_worse(bench):
    """The inputs of the first layer are the same before and after: rounding its twin must not undo it."""
    model = models.text(
        "(float[4, 16] x) => (float[4, 16] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }",
        w=models.weight(16, 16),
    )
    before = bench.as_format(model, "integer", PLAIN, feeds=feeds_of(model)).result.state
    assert np.all(squares(Gptq()(before, quiet))[0] <= squares(before)[0])


@pytest.mark.parametrize("missing", ["data", "quantized"])
def test_without_data_or_model_nothing_happens(bench, missing):
    state = replace(emitted(bench, "matmul"), **{missing: None})
    assert Gptq()(state, quiet) is state
