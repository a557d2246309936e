"""What is counted of a model: work, weights, and what it looks like from outside."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest
from models import ints, weight

from quantcli import facts, graph, runtime, workload


def looked_at(model, feed=None):
    made = ir.from_proto(model)
    graph.name_everything(made)
    runtime.annotate(made)
    return facts.gather(made, facts.sizes(made, feed), 1000)


def load_of(model, kind, feed=None):
    return looked_at(model, feed).loads[kind]


@pytest.mark.parametrize(
    ("model", "kind", "macs", "weights"),
    [
        (
            models.text("(float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, w) }", w=weight(4, 3, 3, 3)),
            workload.CONVOLUTION, 4 * 6 * 6 * 3 * 9, 4 * 3 * 9,
        ),
        (
            models.text("(float[1,4,8,8] x) => (float[1,4,6,6] y) { y = Conv<group = 4>(x, w) }", w=weight(4, 1, 3, 3)),
            workload.DEPTHWISE, 4 * 6 * 6 * 9, 4 * 9,
        ),
        (
            models.text("(float[1,4,8,8] x) => (float[1,6,6,6] y) { y = Conv<group = 2>(x, w) }", w=weight(6, 2, 3, 3)),
            workload.CONVOLUTION, 6 * 6 * 6 * 2 * 9, 6 * 2 * 9,
        ),
        (
            models.text("(float[1,3,4,4] x) => (float[1,5,8,8] y) { y = ConvTranspose<strides = [2, 2]>(x, w) }",
                        w=weight(3, 5, 2, 2)),
            workload.CONVOLUTION, 3 * 4 * 4 * 5 * 4, 3 * 5 * 4,
        ),
        (
            models.text("(float[2,7,8] x) => (float[2,7,5] y) { y = MatMul(x, w) }", w=weight(8, 5)),
            workload.PRODUCT, 2 * 7 * 8 * 5, 40,
        ),
        (
            models.text("(float[3,8] x) => (float[3,5] y) { y = Gemm<transB = 1>(x, w, b) }",
                        w=weight(5, 8), b=weight(5)),
            workload.PRODUCT, 3 * 8 * 5, 45,
        ),
        (
            models.text("(float[1,6,8] x, float[1,8,4] z) => (float[1,6,4] y) { y = MatMul(x, z) }"),
            workload.ATTENTION, 6 * 8 * 4, 0,
        ),
        (
            models.text("(float[10,1,8] x) => (float[10,1,1,16] y) { y = LSTM<hidden_size = 16>(x, w, r) }",
                        w=weight(1, 64, 8), r=weight(1, 64, 16)),
            workload.RECURRENT, 10 * (64 * 8 + 64 * 16), 64 * 24,
        ),
        (
            models.text("(int64[1,4] x) => (float[1,4,8] y) { y = Gather(t, x) }", t=weight(50, 8)),
            workload.EMBEDDING, 0, 400,
        ),
    ],
    ids=["conv", "depthwise", "grouped", "transposed", "matmul", "gemm", "activations", "lstm", "embedding"],
)  # fmt: skip
def test_work_and_weights(model, kind, macs, weights):
    found = load_of(model, kind)
    assert (found.operators, found.macs, found.weights, found.weight_bytes) == (1, macs, weights, 4 * weights)


def test_a_shared_weight_counts_once():
    model = models.text("(float[1,8] x) => (float[1,8] y) { h = MatMul(x, w)  y = MatMul(h, w) }", w=weight(8, 8))
    assert load_of(model, workload.PRODUCT).weights == 64


def test_free_dimensions_have_the_sizes_of_the_sample():
    model = models.text("(float[N,L,8] x) => (float[N,L,5] y) { y = MatMul(x, w) }", w=weight(8, 5))
    assert load_of(model, workload.PRODUCT, {"x": np.zeros((1, 6, 8), np.float32)}).macs == 6 * 8 * 5
    assert load_of(model, workload.PRODUCT).macs == 8 * 5
    assert looked_at(model).free == ("L",)


def test_known_shapes_are_not_found_again(monkeypatch):
    model = ir.from_proto(models.text("(float[N,L,8] x) => (float[N,L,5] y) { y = MatMul(x, w) }", w=weight(8, 5)))
    runtime.annotate(model)
    feed = {"x": np.zeros((1, 6, 8), np.float32)}
    known = facts.sizes(model, feed)
    monkeypatch.setattr(runtime, "load", None)
    assert facts.sizes(model, feed, known) == known


def test_half_precision_is_told():
    model = models.text("(float16[1,8] x) => (float16[1,5] y) { y = MatMul(x, w) }", w=weight(8, 5).astype(np.float16))
    found = looked_at(model)
    assert (found.half_bytes, found.float_bytes) == (80, 80)


@pytest.mark.parametrize(
    ("source", "arrays", "output"),
    [
        ("(float[1,64] x) => (float[1,10] y) { y = MatMul(x, w) }", {"w": weight(64, 10)}, facts.SCORES),
        ("(float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }", {"w": weight(64, 64)}, facts.DENSE),
        ("(float[1,4,8,8] x) => (float[1,1,16,16] y) { y = DepthToSpace<blocksize = 2>(x) }", {}, facts.DENSE),
        ("(float[1,100,4] x) => (float[1,5,4] y) { y = Slice(x, a, b, c) }",
         {"a": ints(0), "b": ints(5), "c": ints(1)}, facts.VALUES),
        ("(float[1,64] x) => (float[1,1] y) { y = MatMul(x, w) }", {"w": weight(64, 1)}, facts.VALUES),
    ],
    ids=["scores", "autoencoder", "picture", "boxes", "number"],
)  # fmt: skip
def test_what_the_output_is(source, arrays, output):
    assert looked_at(models.text(source, **arrays)).output == output


def test_states_are_outputs_shaped_like_a_later_input():
    model = models.text(
        "(float[1,16] x, float[1,8] h) => (float[1,8] n, float[1,3] y)"
        "{ a = MatMul(x, w)  n = Add(a, h)  y = MatMul(n, v) }",
        w=weight(16, 8), v=weight(8, 3),
    )  # fmt: skip
    found = looked_at(model)
    assert (found.states, found.output) == (1, facts.SCORES)


def test_control_flow_is_named():
    inner = "then_branch = t () => (float[1] a) { a = Constant<value = float[1] {1.0}>() }"
    other = "else_branch = e () => (float[1] b) { b = Constant<value = float[1] {2.0}>() }"
    model = models.text(f"(bool c) => (float[1] y) {{ y = If<{inner}, {other}>(c) }}")
    assert looked_at(model).control == ("If",)
