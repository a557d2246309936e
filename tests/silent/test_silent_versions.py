"""Opsets, models that are quantized already, operators that quietly stop being integer."""

from __future__ import annotations

import re

import models
import numpy as np
import pytest
from conversion import computed_in_float, optimized
from integer_reference import F32
from laws import (
    LEAST_DB,
    ROWS,
    TALL,
    WIDE,
    as_form,
    in_all_forms,
    in_both_formats,
    in_every_form,
    large,
    loads_and_is_faithful,
    where_weights_are_stored,
)
from models import weight
from onnx import checker

from quantcli.errors import ModelError

OLD = {
    "upsample-9": (9, '(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Upsample<mode = "nearest">(a, s) }'),
    "upsample-linear-9": (9, '(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Upsample<mode = "linear">(a, s) }'),
    "resize-10": (10, "(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Resize(a, s) }"),
    "conv-12": (12, "(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Mul(a, s2) }"),
    "relu-7": (7, "(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Clip<min = 0.0, max = 6.0>(a) }"),
}


@in_both_formats
@pytest.mark.parametrize("case", OLD)
def test_s20_old_opsets_are_converted_not_renumbered(bench, case, output_format):
    opset, source = OLD[case]
    arrays = {"w": weight(3, 3, 1, 1), "s": np.asarray([1, 1, 2, 2], F32), "s2": np.asarray(3, F32)}
    used = {n: a for n, a in arrays.items() if f" {n})" in source}
    converted = bench.as_format(models.text(source, opset=opset, **used), output_format)
    if output_format == "qdq":
        checker.check_model(converted.model, full_check=True)
    loads_and_is_faithful(converted)


@in_both_formats
def test_s43_a_quantized_model_is_not_quantized_again(bench, output_format):
    converted = bench.as_format(models.text(ROWS + "{ y = MatMul(x, w) }", w=weight(6, 6)), output_format)
    with pytest.raises(ModelError, match="already quantized"):
        bench.convert(converted.model, feeds=converted.feeds)


OLDER = {
    "upsample-9": (9, '{ u = Upsample<mode = "nearest">(x, s) a = Conv(u, w) y = MatMul(a, v) }'),
    "clip-7": (7, "{ a = Conv(x, w) c = Clip<min = -1.0, max = 6.0>(a) y = MatMul(c, v) }"),
    "squeeze-12": (12, "{ a = Conv(x, w) b = Unsqueeze<axes = [0]>(a) c = Squeeze<axes = [0]>(b) y = MatMul(c, v) }"),
    "mean-17": (17, "{ a = Conv(x, w) m = ReduceMean<axes = [2], keepdims = 1>(a) d = Sub(a, m) y = MatMul(d, v) }"),
}


@in_every_form
@pytest.mark.parametrize("case", OLDER)
def test_s20_old_opsets_are_converted_not_renumbered_in_any_mode(bench, form, case):
    opset, body = OLDER[case]
    size = 20 if "Upsample" in body else 40
    arrays = {"w": weight(32, 3, 1, 1), "v": weight(40, 64, spread=0.2), "s": np.asarray([1, 1, 2, 2], F32)}
    used = {n: a for n, a in arrays.items() if n != "s" or "Upsample" in body}
    model = models.text(f"(float[1,3,{size},{size}] x) => (float y) {body}", opset=opset, **used)
    made = as_form(bench, model, form, "fallback=float") if form in WIDE else as_form(bench, model, form)
    (version,) = [o.version for o in made.model.opset_import if o.domain == ""]
    assert version >= opset
    assert made.model.ir_version >= model.ir_version


@where_weights_are_stored
def test_s43_what_we_wrote_is_not_quantized_again(bench, form):
    model = models.text(TALL + "{ a = MatMul(x, w) y = MatMul(a, v) }", w=large(), v=large(1))
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    if form.startswith("float16"):
        return  # its Casts are constants like any other
    with pytest.raises(ModelError, match="already quantized"):
        bench.convert(made.model, "full-integer", feeds=made.feeds)


RESIDUAL = (
    "(float[1,16,6,6] x) => (float y)"
    " { a = Conv(x, w) r = Relu(a) b = Conv(r, w) s = Add(b, x) t = Relu(s) y = GlobalAveragePool(t) }"
)
MOBILE = (
    "(float[1,16,6,6] x) => (float y) { a = Conv(x, w) c = Clip(a, zero, six)"
    " d = Conv<group = 16, pads = [1, 1, 1, 1]>(c, k) e = Clip(d, zero, six) y = Conv(e, w) }"
)
SQUEEZE = (
    "(float[1,16,6,6] x) => (float y)"
    " { a = Conv(x, w) g = GlobalAveragePool(a) b = Conv(g, w) s = Sigmoid(b) y = Mul(a, s) }"
)
ATTENTION = (
    "(float[16,96] x) => (float y) { q = MatMul(x, w) k = MatMul(x, v) t = Transpose(k) p = MatMul(q, t)"
    " s = Softmax(p) u = MatMul(x, w) y = MatMul(s, u) }"
)
HEAD = (
    "(float[1,16,6,6] x) => (float y) { a = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) b = Conv(a, w)"
    " f = Flatten(b) y = Gemm<transB = 1>(f, g, h) }"
)
FILTERS = weight(16, 16, 1, 1)
PARTS = {  # what networks are made of
    "residual": (RESIDUAL, {"w": FILTERS}),
    "mobile": (MOBILE, {"w": FILTERS, "k": weight(16, 1, 3, 3), "zero": 0.0, "six": 6.0}),
    "squeeze": (SQUEEZE, {"w": FILTERS}),
    "attention": (ATTENTION, {"w": large(), "v": large(1)}),
    "head": (HEAD, {"w": FILTERS, "g": weight(10, 144, spread=0.1), "h": weight(10)}),
}
LINEAR = ("Conv", "Gemm", "MatMul")
FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


@pytest.mark.parametrize("mode", ["full-integer", "int8-only", "16x8"])
@pytest.mark.parametrize("part", PARTS)
def test_s11_no_layer_quietly_stops_being_integer(bench, mode, part):
    source, arrays = PARTS[part]
    converted = bench.convert(models.text(source, **arrays), mode)
    assert converted.fates(*LINEAR) == {"integer"}
    assert mode == "full-integer" or converted.floats() == {}


@pytest.mark.parametrize("mode", ["full-integer", "int8-only"])
@pytest.mark.parametrize("part", PARTS)
def test_s11_this_runtime_computes_in_integers_whatever_we_say_is_integer(bench, mode, part):
    source, arrays = PARTS[part]
    converted = bench.convert(models.text(source, **arrays), mode)
    real = computed_in_float(optimized(converted.model, bench.folder))
    assert not FLOAT_KERNELS & set(real)
    assert mode == "full-integer" or real == []


def test_s20_16_bit_activations_between_q_and_dq_stand_in_an_opset_that_has_them(bench):
    model = models.text(TALL + "{ a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }", opset=17, w=large(), v=large(1))
    made = as_form(bench, model, "16x8-as-qdq")
    (version,) = [o.version for o in made.model.opset_import if o.domain == ""]
    assert version >= 21
    pairs = [*made.nodes("QuantizeLinear"), *made.nodes("DequantizeLinear")]
    assert pairs
    assert {n.domain for n in pairs} == {""}
    checker.check_model(made.model, full_check=True)


QUARTER = np.asarray(0.25, F32)
BYTES = np.random.default_rng(0).integers(0, 255, (6, 6)).astype(np.uint8)
FOREIGN = {  # what other tools write
    "qdq": "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }",
    "stored-weight": "{ d = DequantizeLinear(b, s, z) y = MatMul(x, d) }",
    "dynamic": "{ q, t, u = DynamicQuantizeLinear(x) p = MatMulInteger(q, b, u, z) y = Cast<to = 1>(p) }",
    "operators": "{ q = QuantizeLinear(x, s, z) p = QLinearMatMul(q, s, z, b, s, z, s, z)"
                 " y = DequantizeLinear(p, s, z) }",
    "contrib-pair": "{ q = com.microsoft.QuantizeLinear(x, s, z) y = com.microsoft.DequantizeLinear(q, s, z) }",
    "contrib-dynamic": "{ y = com.microsoft.DynamicQuantizeMatMul(x, b, s, z) }",
    "in-a-branch": "{ k = ReduceMax(x) h = Greater(k, s) v = Squeeze(h) y = If(v) <then_branch = t () => (float[4,6] p)"
                   " { q = QuantizeLinear(x, s, z) p = DequantizeLinear(q, s, z) }, else_branch = e () =>"
                   " (float[4,6] r) { r = Relu(x) }> }",
}  # fmt: skip


@in_all_forms
@pytest.mark.parametrize("case", FOREIGN)
def test_s43_what_another_tool_quantized_is_not_quantized_again(bench, form, case):
    arrays = {"s": QUARTER, "z": np.asarray(128, np.uint8), "b": BYTES, "w": weight(6, 6)}
    used = {n: a for n, a in arrays.items() if re.search(rf"[(, ]{n}[,)]", FOREIGN[case])}
    model = models.text("(float[4,6] x) => (float[4,6] y) " + FOREIGN[case], domains=["com.microsoft"], **used)
    with pytest.raises(ModelError, match="already quantized") as refusal:
        as_form(bench, model, form)
    assert refusal.value.hint
    assert not (bench.folder / "quantized.onnx").exists()
