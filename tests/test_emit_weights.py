"""Models with stored weights: each form loads, runs, is fused, and computes with the numbers of its encodings."""

from __future__ import annotations

from collections import Counter

import conversion
import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcli import dtypes, runtime

MODES = ("dynamic-range", "weight-only-int8", "weight-only-int4")
INTEGERS = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
ROUNDED = {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "DynamicQuantizeLSTM"}  # activations are


def convert(bench, model, mode="dynamic-range", *settings, **options) -> conversion.Converted:
    """Convert with samples of which free dimensions are 4."""
    feeds = options.pop("feeds", None) or models.samples(model, 6, M=4)
    return bench.convert(model, mode, *settings, nearest=False, feeds=feeds, **options)


def optimized(made) -> Counter:
    """Return the operators that onnxruntime makes of the model."""
    return runtime.optimized_operators(ir.from_proto(made.model))


def entry(made, name) -> dict:
    return next(e for e in made.result.encodings["encodings"] if e["name"] == name)


def stored(made, name) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return integers, zero point and step of every element of a stored weight, as file and encodings say them."""
    said = entry(made, name)
    scale, zero = np.asarray(said["y_scale"], np.float32), np.asarray(said["y_zero_point"])
    integers = numpy_helper.to_array(next(t for t in made.model.graph.initializer if t.name == name)).astype(np.int32)
    if "block_size" in said:
        index = np.arange(integers.shape[said["axis"]]) // said["block_size"]
        scale, zero = np.take(scale, index, said["axis"]), np.take(zero, index, said["axis"])
    elif scale.ndim:
        shape = [-1 if a == said["axis"] else 1 for a in range(integers.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return integers, zero, scale


def dequantized(made, name) -> np.ndarray:
    """Return the real numbers that file and encodings say a stored weight has."""
    integers, zero, scale = stored(made, name)
    return ((integers - zero).astype(np.float32) * scale).astype(np.float32)


def with_stored_weights(made) -> onnx.ModelProto:
    """Return the float model with the weights of the encodings: what the stored model computes but for activations."""
    model = onnx.ModelProto()
    model.CopyFrom(made.prepared)
    for tensor in model.graph.initializer:
        if any(e["name"] == tensor.name for e in made.result.encodings["encodings"]):
            tensor.CopyFrom(numpy_helper.from_array(dequantized(made, tensor.name), tensor.name))
    return model


def check_computes(made, rounding: float = 0.02) -> None:
    """Check that the model computes with the numbers of its encodings; where activations are rounded, nearly."""
    expected_of = with_stored_weights(made)
    rounded = bool(ROUNDED & set(optimized(made)))
    for feed in made.feeds:
        expected, found = conversion.run(expected_of, feed), made.run(feed)
        for name, real in expected.items():
            limit = (rounding if rounded else 1e-5) * max(float(np.abs(real).max()), 1e-6)
            assert np.abs(found[name] - real).max() <= limit


def check_half_steps(made) -> None:
    """Check that every stored weight is within half a step, unless it saturates because its block was cut off.

    Kernels of convolutions are balanced: a value may have moved for the sum of its kernel, and of its channel.
    """
    names = {e["name"]: e["output_dtype"] for e in made.result.encodings["encodings"]}
    for tensor in made.prepared.graph.initializer:
        if tensor.name not in names:
            continue
        integers, _, step = stored(made, tensor.name)
        dtype = dtypes.BY_NAME[names[tensor.name]]
        error = np.abs(dequantized(made, tensor.name) - numpy_helper.to_array(tensor))
        inside = (integers > dtype.qmin + 1) & (integers < dtype.qmax)
        most = 1.5001 if error.ndim > 2 and error[0, 0].size > 1 and step.size == len(step) > 1 else 0.5001
        assert np.all((error <= most * step) | ~inside)
        assert inside.mean() > 0.7


def products() -> dict[str, onnx.ModelProto]:
    """Return every spelling of a product with a constant."""
    gemm = {"transB": 1}
    return {
        "matmul": models.operator("MatMul", [("M", 256), models.weight(256, 192)]),
        "three axes": models.operator("MatMul", [(2, "M", 256), models.weight(256, 192)]),
        "gemm": models.operator("Gemm", [("M", 256), models.weight(256, 192), models.weight(192)]),
        "turned gemm": models.operator("Gemm", [("M", 256), models.weight(192, 256), models.weight(192)], gemm),
        "scaled gemm": models.operator(
            "Gemm", [("M", 256), models.weight(192, 256), models.weight(1, 192)], {**gemm, "alpha": 0.5, "beta": 2.0}
        ),
        "computed bias": models.operator("Gemm", [("M", 256), models.weight(192, 256), (1, 192)], gemm),
        "matmul, add, relu": models.text(
            "(float[M, 256] x) => (float[M, 192] y) { p = MatMul(x, w)  a = Add(p, b)  y = Relu(a) }",
            w=models.weight(256, 192), b=models.weight(192),
        ),
        "odd depth": models.operator("MatMul", [("M", 300), models.weight(300, 128)]),
    }  # fmt: skip


def folded() -> dict[str, tuple[onnx.ModelProto, str]]:
    """Return what is stored in integers and computed in float, with the operator that onnxruntime leaves alone."""
    gru = [models.weight(2, 3 * 32, n) for n in (48, 32)]
    image = (1, 32, 6, 6)
    return {
        "conv": (models.operator("Conv", [image, models.weight(64, 32, 3, 3), models.weight(64)]), "Conv"),
        "depthwise": (
            models.operator("Conv", [(1, 256, 6, 6), models.weight(256, 1, 3, 3)], {"group": 256}),
            "Conv",
        ),
        "transposed conv": (models.operator("ConvTranspose", [image, models.weight(32, 16, 3, 3)]), "ConvTranspose"),
        "gru": (
            models.operator("GRU", [(5, 1, 48), *gru], {"hidden_size": 32, "direction": "bidirectional"}),
            "GRU",
        ),
        "embedding": (models.operator("Gather", [models.weight(64, 48), models.Fed((7,), 0, 64, "int64")]), "Gather"),
        "left": (models.operator("MatMul", [models.weight(64, 48), (48, 5)]), "MatMul"),
        "batch": (models.operator("MatMul", [(3, 5, 32), models.weight(3, 32, 24)]), "MatMul"),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", products())
def test_a_product_is_fused_and_computes_with_its_encodings(bench, name, mode):
    made = convert(bench, products()[name], mode)
    kinds = optimized(made)
    assert kinds["DynamicQuantizeMatMul" if mode == "dynamic-range" else "MatMulNBits"] == 1
    assert not {"MatMul", "Gemm", "FusedGemm", "DequantizeLinear", "Transpose", "Cast"} & set(kinds)
    check_computes(made)
    check_half_steps(made)


@pytest.mark.parametrize("name", folded())
def test_what_is_folded_leaves_no_trace_after_loading(bench, name):
    model, left = folded()[name]
    made = convert(bench, model)
    assert {t.data_type for t in made.model.graph.initializer} & INTEGERS
    kinds = optimized(made)
    assert kinds[left] == 1
    assert not {"Cast", "Mul", "DequantizeLinear", "ConvInteger", "MatMulInteger"} & set(kinds)
    check_computes(made)
    check_half_steps(made)


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize(("dtype", "symmetric"), [("", ""), ("uint8", "false"), ("uint4", "false")])
@pytest.mark.parametrize("name", ["embedding", "left", "batch"])
def test_blocks_are_folded_too(bench, mode, dtype, symmetric, name):
    asked = (f"scheme.weights.dtype={dtype}", f"scheme.weights.symmetric={symmetric}") if dtype else ()
    options = ("passes.plan_weights.eight_bit_tables=false", "passes.plan_weights.eight_bit_below=0")
    made = convert(bench, folded()[name][0], mode, *asked, *(options if mode.endswith("4") else ()))
    assert sum(optimized(made).values()) == 1
    check_computes(made)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize(
    ("dtype", "symmetric"), [("int4", "true"), ("uint4", "false"), ("int8", "true"), ("uint8", "false")]
)
def test_every_block_size_reaches_the_kernel(bench, size, dtype, symmetric):
    asked = (f"scheme.weights.{k}={v}" for k, v in (("dtype", dtype), ("symmetric", symmetric), ("block_size", size)))
    made = convert(bench, products()["turned gemm"], "weight-only-int8", *asked)
    assert optimized(made)["MatMulNBits"] == 1
    assert entry(made, "c1")["block_size"] == size
    check_computes(made)


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("name", ["matmul", "turned gemm"])
def test_other_granularities_reach_the_kernel(bench, granularity, name):
    made = convert(bench, products()[name], "weight-only-int8", f"scheme.weights.granularity={granularity}")
    assert optimized(made)["MatMulNBits"] == 1
    check_computes(made)


@pytest.mark.parametrize("mode", MODES)
def test_the_unoptimized_model_computes_the_same(bench, mode):
    made = convert(bench, products()["turned gemm"], mode)
    for feed in made.feeds:
        plain, fused = made.run(feed, optimize=False)["y"], made.run(feed)["y"]
        np.testing.assert_allclose(fused, plain, atol=0.02 * np.abs(plain).max())


@pytest.mark.parametrize("mode", MODES)
def test_the_same_conversion_gives_the_same_bytes(bench, mode):
    first, second = (convert(bench, products()["odd depth"], mode).model.SerializeToString() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("mode", MODES)
def test_the_model_is_valid(bench, mode):
    onnx.checker.check_model(convert(bench, products()["turned gemm"], mode).model)


def lstm(directions=1, *, operands=(), **attributes) -> onnx.ModelProto:
    arrays = [models.weight(directions, 512, n, spread=0.1) for n in (100, 128)]
    direction = {1: "forward", 2: "bidirectional"}[directions]
    attributes = {"hidden_size": 128, "direction": direction, **attributes}
    return models.operator("LSTM", [(6, 1, 100), *arrays, *operands], attributes, outputs=3)


LSTMS = {
    "forward": lstm(),
    "reverse": lstm(direction="reverse"),
    "bidirectional": lstm(2),
    "bias and state": lstm(operands=[models.weight(1, 1024), None, (1, 1, 128), (1, 1, 128)]),
    "peepholes": lstm(operands=[models.weight(1, 1024), None, None, None, models.weight(1, 384, spread=0.1)]),
    "clip": lstm(clip=0.5),
    "activations": lstm(activations=["HardSigmoid", "Relu", "Tanh"]),
    "forget": lstm(input_forget=1),
}


@pytest.mark.parametrize("name", LSTMS)
def test_an_lstm_keeps_its_attributes(bench, name):
    made = convert(bench, LSTMS[name])
    assert optimized(made)["DynamicQuantizeLSTM"] == 1
    assert {e["name"] for e in made.result.encodings["encodings"]} == {"c1", "c2"}
    check_computes(made, 0.05)


def test_an_lstm_is_stored_once_in_8_bits(bench):
    made = convert(bench, LSTMS["bidirectional"])
    assert Counter(t.data_type for t in made.model.graph.initializer if len(t.dims) == 3)[TensorProto.INT8] == 2
    assert made.result.report["sizes"]["ratio"] < 0.3


def test_a_model_of_one_conv_loads_and_runs(bench):
    made = convert(bench, folded()["conv"][0])
    assert made.fates("Conv") == {"stored"}
    check_computes(made)


def test_shared_weights_are_stored_once(bench):
    model = models.text(
        "(int64[n] i) => (float[n, 512] y, float[n, 64] z)"
        "{ r = Gather(e, i)  y = Gemm <transB = 1> (r, e)  z = MatMul(y, e) }",
        e=models.weight(512, 64),
    )
    made = convert(bench, model, feeds=models.samples(model, ranges={"i": models.Fed((5,), 0, 512, "int64")}))
    stored = [t for t in made.model.graph.initializer if np.prod(t.dims) == 512 * 64]
    assert [(t.name, t.data_type) for t in stored] == [("e", TensorProto.INT8)]
    check_computes(made)


@pytest.mark.parametrize("mode", MODES)
def test_a_tied_embedding_is_stored_once(bench, mode):
    table = models.weight(512, 256)
    model = models.text(
        "(int64[n] i) => (float[n, 512] y) { r = Gather(e, i)  y = MatMul(r, h) }", e=table, h=table.T.copy()
    )
    made = convert(
        bench, model, mode, feeds=models.samples(model, n=5, ranges={"i": models.Fed((5,), 0, 512, "int64")})
    )
    assert [t.name for t in made.model.graph.initializer if np.prod(t.dims) == 512 * 256] == ["e"]
    assert "Transpose" not in optimized(made)
    reference = onnx.ModelProto()
    reference.CopyFrom(model)
    for tensor in reference.graph.initializer:
        real = dequantized(made, "e")
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(real if tensor.name == "e" else real.T), tensor.name)
        )
    for feed in made.feeds:
        expected = conversion.run(reference, feed)["y"]
        np.testing.assert_allclose(made.run(feed)["y"], expected, atol=0.02 * np.abs(expected).max())


def test_activations_are_quantized_once_for_all_who_read_them(bench):
    model = models.text(
        "(float[M, 256] x) => (float[M, 256] y) { a = MatMul(x, v)  b = MatMul(x, w)  y = Mul(a, b) }",
        v=models.weight(256, 256), w=models.weight(256, 256, seed=1),
    )  # fmt: skip
    made = convert(bench, model)
    assert len(made.nodes("DynamicQuantizeLinear")) == 1
    assert len(made.nodes("MatMulInteger")) == 2
    check_computes(made)


@pytest.mark.parametrize("op", ["If", "Loop"])
def test_weights_in_bodies_are_stored_and_folded(bench, op):
    weight = models.initializer("w", models.weight(64, 64, spread=0.1))
    z = [helper.make_tensor_value_info("z", 1, (4, 64))]
    if op == "If":
        bodies = [
            helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], "yes", [], z, [weight]),
            helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], "no", [], z, [weight]),
        ]
        node = helper.make_node(op, ["c"], ["y"], name="flow", then_branch=bodies[0], else_branch=bodies[1])
        inputs = {"c": models.Fed((), 0, 1, "bool"), "x": models.Fed((4, 64))}
        arrays = {}
    else:
        body = helper.make_graph(
            [helper.make_node("MatMul", ["v", "w"], ["z"]), helper.make_node("Identity", ["more"], ["on"])], "body",
            [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, ()), ("more", 9, ()), ("v", 1, (4, 64)))],
            [helper.make_tensor_value_info("on", 9, ()), *z],
        )  # fmt: skip
        node = helper.make_node(op, ["n", "", "x"], ["y"], name="flow", body=body)
        inputs, arrays = (
            {"x": models.Fed((4, 64))},
            {"n": np.asarray(3, np.int64), "w": models.weight(64, 64, spread=0.1)},
        )
    made = convert(bench, models.graph([node], inputs, ["y"], arrays))
    assert made.ledger["flow"].fate == "untouched"
    inside = [e for e in made.ledger.values() if e.op_type == "MatMul"]
    assert len(inside) == (2 if op == "If" else 1)
    assert {e.fate for e in inside} <= {"stored", "integer"}
    assert made.result.report["sizes"]["ratio"] < 0.6
    kinds = optimized(made)
    assert not {"Cast", "Mul", "DequantizeLinear"} & set(kinds)
    for feed in made.feeds:
        expected = conversion.run(made.float_model, feed)["y"]
        np.testing.assert_allclose(made.run(feed)["y"], expected, atol=0.05 * np.abs(expected).max())


def test_the_file_holds_no_shapes_that_the_user_did_not_write(bench):
    made = convert(bench, products()["matmul, add, relu"])
    assert list(made.model.graph.value_info) == []


def test_the_file_is_a_quarter_of_the_float_one(bench):
    assert convert(bench, products()["matmul"]).result.report["sizes"]["ratio"] < 0.27
    made = convert(bench, models.operator("MatMul", [("M", 512), models.weight(512, 512)]), "weight-only-int4")
    assert made.result.report["sizes"]["ratio"] < 0.17
