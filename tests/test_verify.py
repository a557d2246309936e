"""Nothing is written that was not loaded, run and compared: a broken model is caught, and the operator named."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import conversion
import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli import errors, graph, runtime
from quantcli.data import InputSpec, from_arrays
from quantcli.passes.emit import Emit
from quantcli.passes.verify import Verify

if TYPE_CHECKING:
    from quantcli.state import State

PLAIN = "passes.equalize=off"
Damage = Callable[[ir.Model], None]


def quiet(_done: int, _total: int) -> None:
    """Take no note of the progress."""


def network() -> models.ModelProto:
    model = models.text(
        """(float[1, 2, 6, 6] x) => (float[1, 5] y) {
             a = Conv<pads = [1, 1, 1, 1]>(x, w, b)  r = Relu(a)  f = Flatten(r)  y = Gemm(f, v, c)
           }""",
        w=models.weight(3, 2, 3, 3), b=models.weight(3), v=models.weight(108, 5), c=models.weight(5),
    )  # fmt: skip
    for node, name in zip(model.graph.node, ("the conv", "the relu", "the flatten", "the gemm"), strict=True):
        node.name = name
    return model


def state_of(bench: conversion.Bench, form: str = "integer", model: object = None, **options: object) -> State:
    return bench.as_format(network() if model is None else model, form, PLAIN, **options).result.state


def node_of(model: ir.Model, op_type: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == op_type)


def scaled(op_type: str, index: int, factor: float) -> Damage:
    """Return the damage of one operator that reads (or writes) one operand at another scale."""

    def damage(model: ir.Model) -> None:
        node = node_of(model, op_type)
        array = graph.constant(node.inputs[index])
        wrong = graph.add_initializer(model.graph, "a_wrong_scale", (array * factor).astype(np.float32))
        node.replace_input_with(index, wrong)

    return damage


def bias_scaled(model: ir.Model) -> None:
    """The int32 bias of a fused Conv is at s_in * s_w; onnxruntime runs the Conv in float where it is not."""
    pair = node_of(model, "Conv").inputs[2].producer()
    array = graph.constant(pair.inputs[1])
    pair.replace_input_with(1, graph.add_initializer(model.graph, "a_wrong_scale", array * np.float32(16)))


def read_scaled(op_type: str, factor: float) -> Damage:
    """Return the damage of one DequantizeLinear before an operator at another scale."""

    def damage(model: ir.Model) -> None:
        pair = node_of(model, op_type).inputs[0].producer()
        array = graph.constant(pair.inputs[1])
        wrong = graph.add_initializer(model.graph, "a_wrong_scale", np.asarray(array * factor, np.float32))
        pair.replace_input_with(1, wrong)

    return damage


def unloadable(model: ir.Model) -> None:
    node_of(model, "QLinearConv").op_type = "QLinearConf"


def mistyped(model: ir.Model) -> None:
    node = node_of(model, "QLinearConv")
    node.replace_input_with(2, graph.add_initializer(model.graph, "a_wrong_zero", np.asarray(0, np.int8)))


@contextlib.contextmanager
def emitting(monkeypatch: pytest.MonkeyPatch, damage: Damage):
    """Let the emitter write a damaged model."""
    real = Emit.__call__

    def emit(self: Emit, state: State, tick: object) -> State:
        state = real(self, state, tick)
        model = state.quantized.model.clone()
        damage(model)
        return replace(state, quantized=replace(state.quantized, model=model))

    monkeypatch.setattr(Emit, "__call__", emit)
    yield


BROKEN = {  # what is wrong: format, damage, and the operator or tensor of which one must be named
    "an operator that does not exist": ("integer", unloadable, ("QLinearConf",)),
    "a zero point of another type": ("integer", mistyped, ("the conv",)),
    "a bias at another scale": ("qdq", bias_scaled, ("the conv", "'b'")),
    "an input read at another scale": ("qdq", read_scaled("Gemm", 4.0), ("the gemm", "'f'", "'y'")),
    "an integer input read at another scale": ("integer", scaled("QGemm", 1, 4.0), ("the gemm", "'f'")),
    "an integer output written at another scale": ("integer", scaled("QLinearConv", 6, 0.25), ("the conv", "'r'")),
    "an integer weight at another scale": ("integer", scaled("QGemm", 4, 3.0), ("the gemm", "'v'")),
}


@pytest.mark.parametrize(("form", "damage", "named"), BROKEN.values(), ids=BROKEN)
def test_a_broken_model_is_never_written(bench, monkeypatch, form, damage, named):
    with emitting(monkeypatch, damage), pytest.raises(errors.InternalError) as caught:
        state_of(bench, form)
    assert sorted(p.name for p in bench.folder.iterdir()) == ["float.onnx"]
    assert any(name in f"{caught.value.message} {caught.value.hint}" for name in named)


# ---- what is measured --------------------------------------------------------------------------------------------


@pytest.fixture(params=conversion.FORMATS)
def verified(request, bench) -> State:
    return state_of(bench, request.param)


def test_a_good_model_is_compared_with_the_float_one(verified):
    seen = verified.report.verification
    (quality,) = seen.outputs.values()
    assert quality.sqnr_db > 25
    assert quality.cosine > 0.99
    assert 0 < quality.max_error < 1
    assert seen.optimized_rms_steps <= 1


def test_it_is_the_users_model_that_is_compared_with(bench):
    """Not the prepared one: an error of the preparation counts too."""
    state = state_of(bench)
    other = ir.from_proto(models.text("(float[1, 2, 6, 6] x) => (float[1, 5] y) { f = Flatten(x)  y = MatMul(f, u) }",
                                      u=models.weight(72, 5)))  # fmt: skip
    seen = Verify()(replace(state, original=other), quiet).report.verification
    assert seen.outputs["y"].sqnr_db < 3


def test_no_more_samples_are_run_than_asked_for(bench):
    state = state_of(bench)
    told: list[tuple[int, int]] = []
    seen = Verify(samples=4)(state, lambda done, total: told.append((done, total))).report.verification
    assert seen.samples == 4
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_all_samples_are_run_where_there_are_fewer(bench):
    assert Verify(samples=1000)(state_of(bench), quiet).report.verification.samples == 12


def test_the_kernels_are_those_after_the_optimizations(bench):
    kernels = state_of(bench, "qdq").report.verification.kernels
    assert {"QLinearConv", "QGemm"} <= kernels.keys()
    assert not {"Conv", "Gemm"} & kernels.keys()


def test_the_quantized_model_is_left_alone(bench):
    state = state_of(bench)
    assert Verify()(state, quiet).quantized is state.quantized


def test_two_classifiers_agree_where_their_largest_scores_are_the_same(bench):
    assert state_of(bench).report.verification.outputs["y"].top1_agreement >= 0.9


def test_every_row_of_a_batch_is_a_sample_of_its_own(bench):
    model = models.text("(float[8, 4] x) => (float[8, 3] y) { y = MatMul(x, w) }", w=models.weight(4, 3))
    agreement = state_of(bench, model=model).report.verification.outputs["y"].top1_agreement
    assert 0.8 <= agreement <= 1
    assert agreement * 8 * 12 == pytest.approx(round(agreement * 8 * 12))


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (48, 1), (48,)], ids=["image", "single scores", "no batch"])
def test_what_is_no_list_of_classes_has_no_top1(bench, shape):
    model = models.text(
        f"(float[1, 8] x) => (float{list(shape)} y) {{ a = MatMul(x, w)  y = Reshape(a, target) }}",
        w=models.weight(8, 48), target=models.ints(*shape),
    )  # fmt: skip
    assert state_of(bench, model=model).report.verification.outputs["y"].top1_agreement is None


def test_an_integer_output_of_the_user_is_not_compared_as_a_signal(bench):
    model = models.text(
        """(float[1, 4] x) => (float[1, 6] scores, int64[1] best) {
             scores = MatMul(x, w)  best = ArgMax<axis = 1, keepdims = 0>(scores)
           }""",
        w=models.weight(4, 6),
    )  # fmt: skip
    assert state_of(bench, model=model).report.verification.outputs.keys() == {"scores"}


# ---- what is warned of -------------------------------------------------------------------------------------------


def test_a_coarse_output_is_warned_of_with_its_step_and_what_to_do(bench):
    """One sample blew the range up: 8 bits are coarse for all others, which are what is run here."""
    model = models.text("(float[1, 2] x) => (float[1, 2] y) { y = MatMul(x, w) }", w=np.eye(2, dtype=np.float32))
    feeds = [{"x": np.asarray([[v, -v]], np.float32)} for v in (0.5, 0.3, -0.2, 0.1, 0.4, 0.2, -0.1, 1e3)]
    state = state_of(bench, model=model, feeds=feeds)
    assert state.report.warnings == ()
    usual = replace(state, data=from_arrays(feeds[:7], [InputSpec("x", np.dtype(np.float32), (1, 2))]))
    (warning,) = Verify()(usual, quiet).report.warnings
    assert warning.startswith("output 'y': 8 bits are coarse for it (step ")
    assert "--float tensor:y" in warning


def bad_tail(tail: str) -> object:
    """Return a network whose last, float operator is fed by a quantized one that has lost its signal."""
    return models.text(
        f"(float[1, 2] x) => (float[1, 2] y) {{ a = MatMul(x, w)  b = MatMul(a, v)  y = {tail} }}",
        w=np.array([[1.0, 1e4], [1.0, -1e4]], np.float32), v=np.array([[1.0, 2.0], [1e-5, 1e-5]], np.float32), s=1.0,
    )  # fmt: skip


def test_a_float_output_that_lost_its_signal_is_warned_of_too(bench):
    """Which type an output has does not make its noise less of a problem."""
    feeds = [{"x": np.asarray([[v, 0.9 * v]], np.float32)} for v in (0.5, 0.3, -0.2, 0.1, 0.4, 0.2)]
    state = state_of(bench, "qdq", bad_tail("Softmax(b)"), feeds=feeds, keep_float=("op:Softmax",))
    quality = state.report.verification.outputs["y"]
    assert quality.sqnr_db > 20 or any("'y'" in w for w in state.report.warnings), quality


def test_an_output_that_is_not_finite_where_float_is_is_never_silent(bench):
    """Rounded to zero, the logarithm of a small number is minus infinity."""
    model = models.text(
        "(float[1, 2] x) => (float[1, 2] y) { a = MatMul(x, w)  b = MatMul(a, v)  y = Log(b) }",
        w=np.eye(2, dtype=np.float32), v=np.array([[1.0, 1e-4], [0.0, 0.0]], np.float32),
    )  # fmt: skip
    feeds = [{"x": np.asarray([[v, v]], np.float32)} for v in (0.5, 3.0, 20.0, 100.0)]
    with contextlib.suppress(errors.QuantError):
        state = state_of(bench, "qdq", model, feeds=feeds, keep_float=("op:Log",))
        found = state.report.verification.outputs["y"]
        assert math.isfinite(found.sqnr_db) or any("'y'" in w for w in state.report.warnings), found


# ---- doors -------------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_run_is_an_error_of_ours(bench, monkeypatch):
    state = state_of(bench)

    def fail(*_: object) -> None:
        raise errors.ModelError("onnxruntime could not run the model")

    monkeypatch.setattr(runtime.Session, "run", fail)
    with pytest.raises(errors.QuantError):
        Verify()(state, quiet)


@pytest.mark.parametrize("missing", ["data", "quantized"])
def test_without_data_or_model_nothing_is_claimed(bench, missing):
    state = replace(state_of(bench), **{missing: None})
    assert Verify()(state, quiet) is state
