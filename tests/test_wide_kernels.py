"""Every wide lowering computes what `wide_reference` says: not one bit differs, as written and optimized.

One operator is one model; its int16 inputs are fed and its int16 output is read.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import models
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import wide_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Fed, ints
from wide_reference import Tensor, Window

from quantcli import affine, dtypes, graph, wide_applicability
from quantcli.consistency import check_consistency
from quantcli.encodings import Encodings
from quantcli.errors import InternalError
from quantcli.lowering.wide import functions, integer, planes, softmax
from quantcli.plan import Plan, Unit
from quantcli.quant import PerAxis, PerTensor, QuantParams, QuantSpec
from quantcli.state import Quantized
from quantcli.writer import Writer


def _bytes_multiply_exactly():
    """Tell whether this CPU adds pairs of byte products in more than 16 bits (x86 without VNNI saturates)."""
    inputs = [Fed((8, 64), dtype="uint8"), np.full((64, 16), 127, np.int8)]
    session = ort.InferenceSession(models.operator("MatMulInteger", inputs).SerializeToString())
    return bool((session.run(None, {"x0": np.full((8, 64), 255, np.uint8)})[0] == 64 * 255 * 127).all())


pytestmark = pytest.mark.skipif(not _bytes_multiply_exactly(), reason="products of bytes saturate on this CPU")
WIDE = QuantSpec(dtypes.INT16, symmetric=True)
EVERY = np.arange(-32768, 32768).astype(np.int16)
LEVELS = {
    "as-written": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "optimized": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
SIGNS = pytest.mark.parametrize("sign", ["any", "nonnegative"])


# ---- arrange ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def wide_params(scale):
    return QuantParams(WIDE, np.asarray(scale, np.float32), np.asarray(0, np.int16))


def weight_params(scale, axis):
    granularity = PerTensor() if np.ndim(scale) == 0 else PerAxis(axis)
    spec = QuantSpec(dtypes.INT8, symmetric=True, granularity=granularity, narrow_range=True)
    return QuantParams(spec, np.asarray(scale, np.float32), np.zeros(np.shape(scale), np.int8))


def activations(rng, shape, sign="any"):
    """Random int16 with the extremes among them."""
    low = 0 if sign == "nonnegative" else -32768
    q = rng.integers(low, 32768, shape).astype(np.int16)
    chosen = rng.random(shape)
    return np.where(chosen < 0.05, np.int16(low), np.where(chosen > 0.95, np.int16(32767), q))


def weights(rng, shape):
    return rng.integers(-127, 128, shape).astype(np.int8)


def writer_of(model, scales, edges=None):
    made = ir.from_proto(model)
    graph.name_everything(made)
    return Writer(made, Encodings({t: wide_params(s) for t, s in scales.items()}, edges or {}))


def feed_integers(writer, feeds, sign="any"):
    """Let the named activations come from int16 graph inputs."""
    for tensor, q in feeds.items():
        value = ir.Value(name=f"{tensor}_fed", type=ir.TensorType(ir.DataType.INT16), shape=ir.Shape(q.shape))
        writer.graph.inputs.append(value)
        writer.integers[tensor] = value
        if sign == "nonnegative":
            writer.nonnegative.add(tensor)


def results(writer, tensors, feeds):
    """Return the integers of some tensors, which are the same at both optimization levels."""
    values = [writer.integers[t] for t in tensors]
    for value in values:
        value.type, value.shape = ir.TensorType(ir.DataType.INT16), None
    fed = {f"{t}_fed": q for t, q in feeds.items()}
    writer.graph.outputs[:] = values
    writer.graph.sort()
    graph.remove_unused(writer.model)
    for value in list(writer.graph.inputs):
        if not value.uses() and graph.name_of(value) not in fed:
            writer.graph.inputs.remove(value)
    data = ir.to_proto(writer.model).SerializeToString()
    found = {}
    for name, level in LEVELS.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.graph_optimization_level = 1, level
        found[name] = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, fed)
    for written, optimized in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(written, optimized)
    return found["optimized"]


def run_unit(model, unit, scales, feeds, *, sign="any", edges=None):
    """Lower one unit and run it."""
    writer = writer_of(model, scales, edges)
    feed_integers(writer, feeds, sign)
    integer.write(writer, unit)
    assert unit.node in writer.kernels
    return results(writer, unit.outputs or (unit.output,), feeds)


def of_node(lowering, count=1, **facts):
    inputs = facts.pop("inputs", tuple((i, f"x{i}") for i in range(count)))
    return Unit("tested", lowering, inputs, "y", **facts)


same = np.testing.assert_array_equal


# ---- linear operators ------------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "1d": ((2, 5, 13), (7, 5, 3), {"pads": [1, 0], "strides": [2]}),
    "1d-dilated": ((1, 4, 17), (6, 4, 3), {"dilations": [3], "pads": [2, 2]}),
    "1d-depthwise": ((1, 16, 21), (16, 1, 5), {"group": 16, "pads": [2, 2]}),
    "2d": ((2, 16, 8, 9), (16, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
    "2d-lines-of-two": ((1, 9, 3, 2), (5, 9, 3, 3), {"pads": [1, 1, 1, 1]}),
    "2d-lines-of-one-row": ((1, 9, 1, 5), (5, 9, 3, 3), {"pads": [1, 1, 1, 1]}),
    "2d-one-column": ((1, 9, 5, 1), (5, 9, 3, 3), {"pads": [1, 1, 1, 1]}),
    "2d-long-rows": ((1, 9, 3, 60), (5, 9, 3, 3), {"pads": [1, 1, 1, 1]}),
    "2d-pointwise": ((2, 19, 5, 3), (33, 19, 1, 1), {}),
    "2d-pointwise-strided": ((1, 16, 8, 8), (8, 16, 1, 1), {"strides": [2, 2]}),
    "2d-to-vector": ((3, 12, 1, 1), (10, 12, 1, 1), {}),
    "2d-odd": ((1, 3, 11, 9), (16, 3, 3, 5), {"pads": [0, 2, 1, 1], "strides": [2, 1]}),
    "2d-wide-pads": ((1, 3, 4, 5), (5, 3, 3, 3), {"pads": [2, 2, 2, 2]}),
    "2d-tall": ((1, 7, 9, 6), (4, 7, 5, 1), {"pads": [2, 0, 2, 0]}),
    "2d-even": ((1, 7, 9, 6), (4, 7, 2, 4), {"pads": [0, 1, 1, 2]}),
    "2d-dilated": ((1, 4, 9, 9), (5, 4, 3, 3), {"dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    "2d-dilated-same": ((1, 4, 9, 9), (5, 4, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "2d-grouped": ((1, 12, 7, 7), (8, 3, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "2d-grouped-deep": ((1, 32, 5, 5), (6, 16, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "2d-depthwise": ((1, 32, 8, 7), (32, 1, 3, 3), {"group": 32, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "2d-depthwise-odd": ((2, 7, 6, 6), (7, 1, 5, 5), {"group": 7, "pads": [2, 2, 2, 2]}),
    "2d-depthwise-doubled": ((1, 8, 6, 6), (16, 1, 3, 3), {"group": 8}),
    "2d-deep": ((1, 80, 4, 4), (17, 80, 3, 3), {"pads": [1, 1, 1, 1]}),
    "2d-beyond-int32": ((1, 280, 4, 4), (3, 280, 3, 3), {"pads": [1, 1, 1, 1]}),
    "3d": ((1, 3, 5, 6, 4), (5, 3, 3, 2, 2), {"strides": [1, 2, 1], "pads": [1, 0, 1, 1, 1, 0]}),
    "3d-grouped": ((1, 4, 5, 5, 5), (6, 2, 2, 3, 2), {"group": 2, "dilations": [2, 1, 1]}),
}


def conv_problem(rng, shape_x, shape_w, attributes, *, bias_size=2**20, per_channel=True):
    """A Conv with integer contents: model, edges, scales, weight, bias, and the factors of its sums."""
    w, channels = weights(rng, shape_w), shape_w[0]
    scale_w = np.float32(10 ** rng.uniform(-4, -2, channels if per_channel else ()))
    scale_x = np.float32(10 ** rng.uniform(-5, -2))
    bias = rng.integers(-bias_size, bias_size, channels, endpoint=True)
    spread = 16000 * 74 * np.sqrt(np.prod(shape_w[1:])) * scale_x * np.median(scale_w)
    scale_y = np.float32(spread / 12000)
    along = [-1, *[1] * (len(shape_w) - 1)]
    wide_scale = scale_w.reshape(along) if per_channel else scale_w
    real_w = (w * wide_scale).astype(np.float32)
    bias_scale = (scale_x * scale_w).astype(np.float32)
    operands = [Fed(shape_x), real_w, (bias * bias_scale.astype(np.float64)).astype(np.float32)]
    model = models.operator("Conv", operands, attributes)
    edges = {("tested", 1): weight_params(scale_w, 0)}
    given = model.graph.initializer[1]
    exact = np.rint(np.frombuffer(given.raw_data, np.float32).astype(np.float64) / bias_scale).astype(np.int64)
    factors = np.broadcast_to(reference.factor(scale_x, scale_w, scale_y), (channels,))
    return model, edges, {"x0": scale_x, "y": scale_y}, (w, exact, factors)


def conv_reference(x, w, bias, factors, attributes, *, limits=reference.LIMITS):
    along = [-1, *[1] * (x.ndim - 2)]
    sums = reference.conv_sums(x, w, Window.of(x.ndim - 2, attributes), attributes.get("group", 1))
    return reference.requantize(sums + bias.reshape(along), factors.reshape(along), limits)


@SIGNS
@pytest.mark.parametrize("per_channel", [True, False], ids=["per-channel", "per-tensor"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv_is_exact(rng, case, per_channel, sign):
    shape_x, shape_w, attributes = CONVOLUTIONS[case]
    model, edges, scales, (w, bias, factors) = conv_problem(rng, shape_x, shape_w, attributes, per_channel=per_channel)
    x = activations(rng, shape_x, sign)
    unit = of_node("conv", weight="c1", bias="c2")
    (found,) = run_unit(model, unit, scales, {"x0": x}, sign=sign, edges=edges)
    same(found, conv_reference(x, w, bias, factors, attributes))


@pytest.mark.parametrize("case", ["2d", "2d-depthwise", "2d-beyond-int32"])
@pytest.mark.parametrize("x_value", [-32768, 32767])
@pytest.mark.parametrize("w_value", [-127, 127])
def test_conv_is_exact_at_the_extremes(rng, case, x_value, w_value):
    shape_x, shape_w, attributes = CONVOLUTIONS[case]
    model, edges, scales, (_, bias, factors) = conv_problem(rng, shape_x, shape_w, attributes, per_channel=False)
    w, x = np.full(shape_w, w_value, np.int8), np.full(shape_x, x_value, np.int16)
    real = (w * edges[("tested", 1)].scale).astype(np.float32)
    model.graph.initializer[0].CopyFrom(models.initializer("c1", real))
    factors = factors / 20  # else all of them saturate
    scales["y"] = np.float32(scales["y"] * 20)
    factors = np.broadcast_to(reference.factor(scales["x0"], edges[("tested", 1)].scale, scales["y"]), factors.shape)
    (found,) = run_unit(model, of_node("conv", weight="c1", bias="c2"), scales, {"x0": x}, edges=edges)
    same(found, conv_reference(x, w, bias, factors, attributes))


@pytest.mark.parametrize("bias_size", [2**29, 2**34])
@pytest.mark.parametrize("case", ["2d", "2d-depthwise"])
def test_conv_takes_large_biases(rng, case, bias_size):
    shape_x, shape_w, attributes = CONVOLUTIONS[case]
    model, edges, scales, (w, bias, factors) = conv_problem(rng, shape_x, shape_w, attributes, bias_size=bias_size)
    x = activations(rng, shape_x)
    ratio = np.float32(bias_size / 2**24)
    scales["y"] = np.float32(scales["y"] * ratio)
    factors = reference.factor(scales["x0"], edges[("tested", 1)].scale, scales["y"])
    unit = of_node("conv", weight="c1", bias="c2")
    (found,) = run_unit(model, unit, scales, {"x0": x}, edges=edges)
    same(found, conv_reference(x, w, bias, factors, attributes))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_pads_automatically(rng, auto_pad):
    explicit = {"SAME_UPPER": [0, 1, 1, 1], "SAME_LOWER": [1, 1, 0, 1], "VALID": [0, 0, 0, 0]}[auto_pad]
    strides = [2, 1]
    given = {"auto_pad": auto_pad, "strides": strides}
    model, edges, scales, (w, bias, factors) = conv_problem(rng, (1, 3, 8, 9), (4, 3, 3, 3), given)
    x = activations(rng, (1, 3, 8, 9))
    (found,) = run_unit(model, of_node("conv", weight="c1", bias="c2"), scales, {"x0": x}, edges=edges)
    same(found, conv_reference(x, w, bias, factors, {"pads": explicit, "strides": strides}))


@pytest.mark.parametrize("clamp", [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, 0.0)])
def test_conv_clamps_on_the_grid(rng, clamp):
    shape_x, shape_w, attributes = CONVOLUTIONS["2d"]
    model, edges, scales, (w, bias, factors) = conv_problem(rng, shape_x, shape_w, attributes)
    span = float(scales["y"]) * 12000 / 6
    real = tuple(c * span for c in clamp)
    limits = tuple(int(v) for v in np.clip(np.rint(np.array(real) / np.float64(scales["y"])), *reference.LIMITS))
    x = activations(rng, shape_x)
    unit = of_node("conv", weight="c1", bias="c2", clamp=real)
    (found,) = run_unit(model, unit, scales, {"x0": x}, edges=edges)
    same(found, conv_reference(x, w, bias, factors, attributes, limits=limits))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("clamp", [None, (0.0, np.inf), (-0.5, 0.5)], ids=["any", "relu", "clip"])
@pytest.mark.parametrize("group", [1, 8])
def test_a_convolution_reads_what_another_leaves(rng, clamp, group, kernel):
    pads = ",".join([str(kernel // 2)] * 4)
    source = f"""(float[2,8,6,7] x) => (float[2,8,6,7] z) {{
        y = Conv<pads=[1,1,1,1]>(x, v)
        z = Conv<group={group}, pads=[{pads}]>(y, w)
    }}"""
    v, w = weights(rng, (8, 8, 3, 3)), weights(rng, (8, 8 // group, kernel, kernel))
    scales = {"x": np.float32(1e-4), "y": np.float32(3e-3), "z": np.float32(2e-2 if group == 1 else 6e-3)}
    made = models.text(source, v=(v * np.float32(1e-3)).astype(np.float32), w=(w * np.float32(2e-3)).astype(np.float32))
    for index, node in enumerate(made.graph.node):
        node.name = f"conv{index}"
    edges = {("conv0", 1): weight_params(1e-3, 0), ("conv1", 1): weight_params(2e-3, 0)}
    x = activations(rng, (2, 8, 6, 7))
    writer = writer_of(made, scales, edges)
    feed_integers(writer, {"x": x})
    real = clamp and tuple(c * 30 for c in clamp)
    integer.write(writer, Unit("conv0", "conv", ((0, "x"),), "y", weight="v", clamp=real))
    integer.write(writer, Unit("conv1", "conv", ((0, "y"),), "z", weight="w"))
    limits = writer.limits("y", real) or reference.LIMITS
    found_y, found_z = results(writer, ("y", "z"), {"x": x})
    same_pads = Window([1, 1], [1, 1, 1, 1], [1, 1])
    y = reference.requantize(
        reference.conv_sums(x, v, same_pads), reference.factor(scales["x"], np.float32(1e-3), scales["y"]), limits
    )
    same(found_y, y)
    window = Window([1, 1], [kernel // 2] * 4, [1, 1])
    z = reference.requantize(
        reference.conv_sums(y, w, window, group), reference.factor(scales["y"], np.float32(2e-3), scales["z"])
    )
    same(found_z, z)
    assert len(np.unique(y)) > 20


PRODUCTS = [
    *((op, shape) for op in ("Gemm", "Gemm-transB", "MatMul") for shape in ((1, 5), (32, 640), (7, 1500))),
    ("MatMul", (3, 4, 33)),
    ("MatMul", (2, 3, 5, 16)),
]


@SIGNS
@pytest.mark.parametrize(("op", "shape"), PRODUCTS, ids=str)
def test_products_with_constants_are_exact(rng, op, shape, sign):
    depth, columns = shape[-1], 9
    w = weights(rng, (depth, columns))
    scale_w = np.float32(10 ** rng.uniform(-4, -2, columns))
    bias = rng.integers(-(2**20), 2**20, columns)
    scale_x, axis = np.float32(1e-4), 0 if op == "Gemm-transB" else 1
    scale_y = np.float32(16000 * 74 * np.sqrt(depth) * scale_x * np.median(scale_w) / 12000)
    real_bias = (bias * (scale_x * scale_w).astype(np.float64)).astype(np.float32)
    real_w = (w * scale_w).astype(np.float32)
    operands = [Fed(shape), real_w.T.copy() if axis == 0 else real_w, *([real_bias] if op != "MatMul" else [])]
    model = models.operator(op.partition("-")[0], operands, {"transB": 1} if axis == 0 else {})
    if op == "MatMul":
        model.graph.initializer.append(models.initializer("c2", real_bias))
    exact = np.rint(real_bias.astype(np.float64) / (scale_x * scale_w).astype(np.float32)).astype(np.int64)
    x = activations(rng, shape, sign)
    unit = of_node("matmul" if op == "MatMul" else "gemm", weight="c1", bias="c2", axis=axis)
    edges = {("tested", 1): weight_params(scale_w, axis)}
    (found,) = run_unit(model, unit, {"x0": scale_x, "y": scale_y}, {"x0": x}, sign=sign, edges=edges)
    acc = x.astype(np.int64) @ w.astype(np.int64) + exact
    same(found, reference.requantize(acc, reference.factor(scale_x, scale_w, scale_y)))


@pytest.mark.parametrize(("left", "right"), [((3, 5), (5, 4)), ((2, 3, 4, 65), (2, 3, 65, 7)), ((2, 4, 9), (9, 3))])
def test_products_of_activations_are_exact(rng, left, right):
    a, b = activations(rng, left), activations(rng, right)
    scales = {"x0": np.float32(1e-3), "x1": np.float32(2.3e-4), "y": np.float32(1e-2 * np.sqrt(left[-1]))}
    model = models.operator("MatMul", [Fed(left), Fed(right)])
    (found,) = run_unit(model, of_node("product", 2), scales, {"x0": a, "x1": b})
    same(found, reference.matmul(Tensor(a, scales["x0"]), Tensor(b, scales["x1"]), scales["y"]))


def test_weight_and_bias_are_one_constant_each_in_the_original_layout(rng):
    shape_x, shape_w, attributes = CONVOLUTIONS["2d-grouped"]
    model, edges, scales, (w, bias, _) = conv_problem(rng, shape_x, shape_w, attributes)
    writer = writer_of(model, scales, edges)
    feed_integers(writer, {"x0": activations(rng, shape_x)})
    integer.write(writer, of_node("conv", weight="c1", bias="c2"))
    same(graph.constant(writer.graph.initializers[writer.weights["tested"]]), w)
    same(graph.constant(writer.graph.initializers[writer.biases["tested"]]), bias.astype(np.int32))


# ---- arithmetic ------------------------------------------------------------------------------------------------------

SHAPES = {
    "equal": ((2, 3, 5, 7), (2, 3, 5, 7)),
    "channel": ((2, 3, 5, 7), (3, 1, 1)),
    "row": ((4, 9), (9,)),
    "excited": ((2, 3, 5, 7), (2, 3, 1, 1)),
    "scalar": ((2, 33), ()),
}
SCALES = {
    "plain": (1e-3, 2.7e-3, 3.1e-3),
    "equal": (1e-3, 1e-3, 1e-3),
    "halves": (1e-3, 5e-4, 2e-3),
    "saturating": (1e-2, 1e-3, 1e-3),
}


@pytest.mark.parametrize("chosen", SCALES)
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min"])
def test_arithmetic_is_exact(rng, op, shapes, chosen):
    a, b = (activations(rng, s) for s in SHAPES[shapes])
    s_a, s_b, s_y = (np.float32(s) for s in SCALES[chosen])
    if op == "Mul":
        s_y = np.float32(s_y * 30)
    lowering = "extremum" if op in {"Max", "Min"} else op.lower()
    model = models.operator(op, [Fed(a.shape), Fed(b.shape)])
    (found,) = run_unit(model, of_node(lowering, 2), {"x0": s_a, "x1": s_b, "y": s_y}, {"x0": a, "x1": b})
    left, right = Tensor(a, s_a), Tensor(b, s_b)
    if op in {"Add", "Sub"}:
        same(found, reference.add(left, right, s_y, 1 if op == "Add" else -1))
    elif op == "Mul":
        same(found, reference.mul(left, right, s_y))
    else:
        choose = np.maximum if op == "Max" else np.minimum
        same(found, choose(reference.regrid(left, s_y), reference.regrid(right, s_y)))


def test_add_quantizes_a_constant_operand(rng):
    a, constant = activations(rng, (2, 3, 4)), rng.normal(0, 10, (3, 1)).astype(np.float32)
    scales = {"x0": np.float32(1e-3), "c1": np.float32(1e-3), "y": np.float32(2e-3)}
    model = models.operator("Add", [Fed(a.shape), constant])
    unit = of_node("add", inputs=((0, "x0"), (1, "c1")), clamp=(0.0, np.inf))
    (found,) = run_unit(model, unit, scales, {"x0": a})
    b = affine.quantize(constant, wide_params(scales["c1"]))
    same(found, reference.add(Tensor(a, scales["x0"]), Tensor(b, scales["c1"]), scales["y"], limits=(0, 32767)))


def test_where_chooses_on_the_grid_of_the_result(rng):
    a, b, chosen = activations(rng, (2, 3, 4)), activations(rng, (3, 1)), rng.random((2, 3, 4)) < 0.5
    scales = {"x1": np.float32(1e-3), "x2": np.float32(2.7e-3), "y": np.float32(2.7e-3)}
    model = models.operator("Where", [chosen, Fed(a.shape), Fed(b.shape)])
    unit = of_node("where", inputs=((1, "x1"), (2, "x2")))
    (found,) = run_unit(model, unit, scales, {"x1": a, "x2": b})
    regrid = (reference.regrid(Tensor(q, scales[n]), scales["y"]) for q, n in ((a, "x1"), (b, "x2")))
    same(found, np.where(chosen, *regrid))


@SIGNS
@pytest.mark.parametrize("clamp", [None, (0.0, 20.0)])
def test_concat_moves_operands_to_the_grid_of_the_result(rng, clamp, sign):
    parts = [activations(rng, (2, c, 5), sign) for c in (1, 4, 3)]
    scales = {"x0": np.float32(1e-3), "x1": np.float32(2.7e-3), "x2": np.float32(1e-3), "y": np.float32(1e-3)}
    model = models.operator("Concat", [Fed(p.shape) for p in parts], {"axis": 1})
    feeds = {f"x{i}": p for i, p in enumerate(parts)}
    (found,) = run_unit(model, of_node("concat", 3, clamp=clamp), scales, feeds, sign=sign)
    joined = np.concatenate([reference.regrid(Tensor(q, scales[n]), scales["y"]) for n, q in feeds.items()], axis=1)
    same(found, joined if clamp is None else np.clip(joined, 0, 20000))


# ---- means, pools, movement ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 17, 7, 7), (3, 8, 1, 1), (1, 5, 33, 31), (2, 3, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("free", [False, True])
def test_global_average_pool_is_exact(rng, shape, free):
    x, s_x, s_y = activations(rng, shape), np.float32(1e-3), np.float32(3.3e-4)
    fed = Fed(tuple("nchwd"[: len(shape)])) if free else Fed(shape)
    model = models.operator("GlobalAveragePool", [fed])
    (found,) = run_unit(model, of_node("global_average_pool"), {"x0": s_x, "y": s_y}, {"x0": x})
    sums = x.astype(np.int64).sum(tuple(range(2, x.ndim)), keepdims=True)
    same(found, reference.mean(sums, int(np.prod(shape[2:])), s_x, s_y))


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(1,), (2, 3), (0, 2), (-1,)], ids=str)
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
def test_sums_and_means_over_any_axes_are_exact(rng, op, axes, keepdims):
    x, s_x = activations(rng, (2, 3, 5, 7)), np.float32(1e-3)
    count = int(np.prod([x.shape[a] for a in axes])) if op == "ReduceMean" else 1
    s_y = np.float32(5e-4 if op == "ReduceMean" else 7e-3)
    model = models.operator(op, [Fed(x.shape), ints(*axes)], {"keepdims": keepdims})
    (found,) = run_unit(model, of_node("reduce_mean"), {"x0": s_x, "y": s_y}, {"x0": x})
    sums = x.astype(np.int64).sum(axes, keepdims=bool(keepdims))
    same(found, reference.mean(sums, count, s_x, s_y))


POOLS = {
    "1d": ((2, 3, 11), [3], {"strides": [2]}),
    "2d": ((1, 8, 14, 14), [2, 2], {"strides": [2, 2]}),
    "2d-padded": ((1, 5, 9, 8), [3, 3], {"strides": [2, 1], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "2d-large": ((1, 4, 25, 23), [21, 23], {}),
    "3d": ((1, 3, 5, 6, 4), [2, 3, 2], {"strides": [1, 2, 2]}),
}


@SIGNS
@pytest.mark.parametrize("case", POOLS)
def test_average_pool_is_exact(rng, case, sign):
    shape, kernel, attributes = POOLS[case]
    x, s_x, s_y = activations(rng, shape, sign), np.float32(1e-3), np.float32(4.1e-4)
    model = models.operator("AveragePool", [Fed(shape)], {"kernel_shape": kernel, **attributes})
    (found,) = run_unit(model, of_node("average_pool"), {"x0": s_x, "y": s_y}, {"x0": x}, sign=sign)
    sums = reference.windows(x.astype(np.int64), kernel, Window.of(len(kernel), attributes)).sum(-1)
    same(found, reference.mean(sums, int(np.prod(kernel)), s_x, s_y))


@pytest.mark.parametrize("clamp", [None, (0.0, 5.0)])
def test_max_pool_never_chooses_the_padding(rng, clamp):
    x = activations(rng, (1, 3, 7, 6))
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    model = models.operator("MaxPool", [Fed(x.shape)], attributes)
    scales = {"x0": np.float32(1e-3), "y": np.float32(1e-3)}
    (found,) = run_unit(model, of_node("move", clamp=clamp), scales, {"x0": x})
    low = x.astype(np.int64) + 32768  # padding with zeros then never wins
    largest = reference.windows(low, [3, 3], Window.of(2, attributes)).max(-1) - 32768
    same(found, largest if clamp is None else np.clip(largest, 0, 5000))


def _depth_to_space(x):
    n, c, h, w = x.shape
    return x.reshape(n, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)


def _space_to_depth(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


MOVES = {
    "Reshape": (["x", ints(4, -1)], {}, lambda x: x.reshape(4, -1)),
    "Transpose": (["x"], {"perm": [0, 2, 3, 1]}, lambda x: x.transpose(0, 2, 3, 1)),
    "Slice": (["x", ints(1), ints(5), ints(2), ints(2)], {}, lambda x: x[:, :, 1:5:2]),
    "Gather": (["x", ints(2, 0)], {"axis": 1}, lambda x: x[:, [2, 0]]),
    "Tile": (["x", ints(1, 1, 2, 1)], {}, lambda x: np.tile(x, (1, 1, 2, 1))),
    "Flatten": (["x"], {}, lambda x: x.reshape(2, -1)),
    "DepthToSpace": (["x"], {"blocksize": 2, "mode": "CRD"}, _depth_to_space),
    "SpaceToDepth": (["x"], {"blocksize": 2}, _space_to_depth),
    "ReduceMax": (["x", ints(2, 3)], {}, lambda x: x.max((2, 3), keepdims=True)),
    "ReduceMin": (["x", ints(1)], {"keepdims": 0}, lambda x: x.min(1)),
    "GlobalMaxPool": (["x"], {}, lambda x: x.max((2, 3), keepdims=True)),
    "Resize": (
        ["x", None, np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"},
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
}


@SIGNS
@pytest.mark.parametrize("op", MOVES)
def test_movement_keeps_integers(rng, op, sign):
    operands, attributes, expected = MOVES[op]
    x = activations(rng, (2, 4, 6, 6), sign)
    given = [Fed(x.shape) if isinstance(o, str) else o for o in operands]
    model = models.operator(op, given, attributes)
    scales = {"x0": np.float32(1e-3), "y": np.float32(1e-3)}
    (found,) = run_unit(model, of_node("move"), scales, {"x0": x}, sign=sign)
    same(found, expected(x))


def test_split_settles_every_result(rng):
    x = activations(rng, (2, 5, 3))
    model = models.operator("Split", [Fed(x.shape), ints(2, 3)], {"axis": 1}, outputs=2)
    unit = of_node("move", outputs=("y", "y1"))
    first, second = run_unit(model, unit, dict.fromkeys(("x0", "y", "y1"), np.float32(1e-3)), {"x0": x})
    same(first, x[:, :2])
    same(second, x[:, 2:])


@pytest.mark.parametrize("value", [None, 2.5, -2.5])
def test_pad_pads_with_the_integer_of_the_constant(rng, value):
    x, scale = activations(rng, (1, 2, 3, 4), "nonnegative"), np.float32(1e-3)
    operands = [
        Fed(x.shape),
        ints(0, 0, 1, 2, 0, 1, 0, 2),
        *([np.array(value, np.float32)] if value is not None else []),
    ]
    model = models.operator("Pad", operands)
    (found,) = run_unit(model, of_node("pad"), {"x0": scale, "y": scale}, {"x0": x}, sign="nonnegative")
    filler = 0 if value is None else round(value * 1000)
    same(found, np.pad(x, [(0, 0), (0, 1), (1, 0), (2, 2)], constant_values=filler))


# ---- functions of one variable ---------------------------------------------------------------------------------------

FUNCTIONS = {
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), {}, 2e-4),
    "Tanh": (np.tanh, {}, 2e-4),
    "Exp": (np.exp, {}, 2e-4),
    "Erf": (reference.erf, {}, 1e-4),
    "Gelu": (lambda x: 0.5 * x * (1 + reference.erf(x / np.sqrt(2))), {}, 2e-4),
    "Softplus": (lambda x: np.logaddexp(x, 0), {}, 2e-4),
    "Elu": (lambda x: np.where(x > 0, x, np.expm1(x)), {}, 2e-4),
    "Relu": (lambda x: np.maximum(x, 0), {}, 2e-4),
    "Abs": (np.abs, {}, 2e-4),
    "Neg": (np.negative, {}, 2e-4),
    "LeakyRelu": (lambda x: np.maximum(x, 0) + np.minimum(x, 0) * np.float64(np.float32(0.1)), {"alpha": 0.1}, 2e-4),
    "HardSigmoid": (
        lambda x: np.clip(x * np.float64(np.float32(0.3)) + np.float64(np.float32(0.4)), 0, 1),
        {"alpha": 0.3, "beta": 0.4},
        1e-4,
    ),
    "HardSwish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), {}, 2e-4),
}


@pytest.mark.parametrize("scale_y", [1 / 32768, 2.3e-4])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_are_exact_for_every_integer(op, scale_y):
    f, attributes, scale = FUNCTIONS[op]
    x, s_x, s_y = EVERY.reshape(2, 4, -1), np.float32(scale), np.float32(scale_y)
    model = models.operator(op, [Fed(x.shape)], attributes)
    unit = of_node("table", members=("tested",))
    (found,) = run_unit(model, unit, {"x0": s_x, "y": s_y}, {"x0": x})
    same(found, reference.function(f, Tensor(x, s_x), s_y))


REGIONS = {
    "silu": ("s = Sigmoid(x)  y = Mul(x, s)", {}, lambda x: x * (1 / (1 + np.exp(-x)))),
    "prelu": (
        "y = PRelu(x, a)",
        {"a": np.linspace(-1, 1, 4, dtype=np.float32).reshape(4, 1)},
        lambda x: np.maximum(x, 0) + np.minimum(x, 0) * np.linspace(-1, 1, 4, dtype=np.float32).reshape(4, 1),
    ),
    "affine": (
        "t = Mul(x, a)  y = Add(b, t)",
        {"a": np.float32([[1.5], [2], [-1], [0]]), "b": np.float32([0.3])},
        lambda x: np.float64(np.float32(0.3)) + x * np.array([[1.5], [2], [-1], [0]]),
    ),
    "clip": ("y = Clip(x, low, high)", {"low": -1.0, "high": 2.5}, lambda x: np.clip(x, -1, 2.5)),
    "reversed": ("t = Sub(one, x)  y = Div(t, three)", {"one": 1.0, "three": 3.0}, lambda x: (1 - x) / 3),
}


@pytest.mark.parametrize("region", REGIONS)
def test_regions_are_exact_for_every_integer(region):
    body, constants, f = REGIONS[region]
    x, s_x, s_y = EVERY.reshape(2, 4, -1), np.float32(2e-4), np.float32(3.3e-4)
    source = f"(float[2,4,8192] x) => (float[2,4,8192] y) {{ {body} }}"
    model = models.text(source, **constants)
    names = []
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
        names.append(node.name)
    unit = Unit(names[-1], "table", ((0, "x"),), "y", members=tuple(names), channel=1 if region != "silu" else None)
    (found,) = run_unit(model, unit, {"x": s_x, "y": s_y}, {"x": x})
    same(found, reference.function(f, Tensor(x, s_x), s_y))


REFUSED = {
    "tables per channel": (
        "(float[2,4,9] x) => (float[2,4,9] y) { t = Mul(x, a)  y = Sigmoid(t) }",
        {"a": np.ones((4, 1), np.float32)},
        {"lowering": "table", "channel": 1},
    ),
    "divisor is zero": ("(float[9] x) => (float[9] y) { y = Div(x, a) }", {"a": 0.0}, {"lowering": "table"}),
    "infinite": ("(float[9] x) => (float[9] y) { y = Mul(x, a) }", {"a": np.inf}, {"lowering": "table"}),
    "no float64 definition": ("(float[9] x) => (float[9] y) { y = Tan(x) }", {}, {"lowering": "table"}),
    "overflow int32": (
        "(float[1,70000] x) => (float[1,2] y) { y = MatMul(x, a) }",
        {"a": np.ones((70000, 2), np.float32)},
        {"lowering": "matmul", "weight": "a", "axis": 1},
    ),
    "windows at the border": (
        "(float[1,3,9] x) => (float[1,3,9] y) { y = AveragePool<kernel_shape=[3], pads=[1,1]>(x) }",
        {},
        {"lowering": "average_pool"},
    ),
    "ceil_mode": (
        "(float[1,3,9] x) => (float[1,3,5] y) { y = AveragePool<kernel_shape=[2], strides=[2], ceil_mode=1>(x) }",
        {},
        {"lowering": "average_pool"},
    ),
    "a sum of 900 values": (
        "(float[1,3,30,30] x) => (float[1,3,1,1] y) { y = AveragePool<kernel_shape=[30,30]>(x) }",
        {},
        {"lowering": "average_pool"},
    ),
    "the value that it pads with": (
        "(float[9] x, float v) => (float[11] y) { y = Pad(x, pads, v) }",
        {"pads": np.array([1, 1])},
        {"lowering": "pad"},
    ),
    "axes are computed": (
        "(float[2,9] x, int64[1] axes) => (float[a,b] y) { y = ReduceMean(x, axes) }",
        {},
        {"lowering": "reduce_mean"},
    ),
}


def refusal(source, constants, facts):
    model = ir.from_proto(models.text(source, **constants))
    graph.name_everything(model)
    nodes = {graph.node_name(n): n for n in model.graph}
    facts = {"inputs": ((0, "x"),), "output": "y", **facts}
    return wide_applicability.reason_against_wide(Unit(list(nodes)[-1], members=tuple(nodes), **facts), nodes)


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_exact_is_refused_with_a_reason(why):
    source, constants, facts = REFUSED[why]
    words = why.replace("tables per channel", "table of 65,536 entries for each")
    assert words in refusal(source, constants, facts)


def test_what_can_be_exact_is_not_refused():
    silu = "(float[2,4,9] x) => (float[2,4,9] y) { s = Sigmoid(x)  y = Mul(x, s) }"
    assert refusal(silu, {}, {"lowering": "table"}) is None
    pool = "(float[1,3,9] x) => (float[1,3,8] y) { y = AveragePool<kernel_shape=[2]>(x) }"
    assert refusal(pool, {}, {"lowering": "average_pool"}) is None


def test_every_function_has_a_float64_definition():
    assert functions.FUNCTIONS.keys() == wide_applicability.ARITHMETIC | wide_applicability.TABLED


@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 2), -1), ((3, 1000), -1), ((3, 7, 5), 1), ((6, 4, 5), 0), ((2, 1), 1)]
)
@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.3])
def test_softmax_divides_integer_exponentials(rng, shape, axis, scale):
    x, s_x, s_y = activations(rng, shape), np.float32(scale), np.float32(1 / 32768)
    model = models.operator("Softmax", [Fed(shape)], {"axis": axis})
    (found,) = run_unit(model, of_node("softmax"), {"x0": s_x, "y": s_y}, {"x0": x})
    same(found, reference.softmax(Tensor(x, s_x), s_y, axis))


def test_bytes_of_the_users_own_become_int16():
    x = np.arange(256, dtype=np.uint8).reshape(2, 128)
    model = models.operator("Cast", [Fed((2, 128), dtype="uint8")], {"to": 1})
    writer = writer_of(model, {"y": 1})
    integer.write(writer, of_node("source", inputs=()))
    value = writer.integers["y"]
    value.type = ir.TensorType(ir.DataType.INT16)
    writer.graph.outputs[:] = [value]
    graph.remove_unused(writer.model)
    session = ort.InferenceSession(ir.to_proto(writer.model).SerializeToString())
    same(session.run(None, {"x0": x})[0], x.astype(np.int16))


# ---- planes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [True, False], ids=["int8", "uint8"])
@SIGNS
def test_planes_are_the_digits_of_every_integer(sign, signed):
    q = EVERY if sign == "any" else EVERY[32768:]
    writer = writer_of(models.operator("Identity", [Fed(q.shape)]), {"x0": 1})
    feed_integers(writer, {"x0": q}, sign)
    split = planes.byte_planes(writer, "x0", signed=signed)
    for value in (split.high, split.low):
        value.type = ir.TensorType(ir.DataType.INT8 if signed else ir.DataType.UINT8)
    writer.graph.outputs[:] = [split.high, split.low]
    writer.graph.inputs.pop(0)  # the float one
    graph.remove_unused(writer.model)
    session = ort.InferenceSession(ir.to_proto(writer.model).SerializeToString())
    high, low = (a.astype(np.int64) for a in session.run(None, {"x0_fed": q}))
    same(256 * (high - int(split.high_zero)) + low - int(split.low_zero), q.astype(np.int64))


@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.tuples(st.floats(1e-6, 1e-1), st.floats(1e-6, 1e-1), st.floats(1e-6, 10)),
    st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_requantization_is_exact_for_any_scales(depth, columns, scales, seed):
    rng = np.random.default_rng(seed)
    w, x = weights(rng, (depth, columns)), activations(rng, (5, depth))
    scale_x, scale_w, scale_y = (np.float32(s) for s in scales)
    model = models.operator("MatMul", [Fed(x.shape), (w * scale_w).astype(np.float32)])
    unit = of_node("matmul", weight="c1", axis=1)
    edges = {("tested", 1): weight_params(scale_w, 1)}
    (found,) = run_unit(model, unit, {"x0": scale_x, "y": scale_y}, {"x0": x}, edges=edges)
    acc = x.astype(np.int64) @ w.astype(np.int64)
    same(found, reference.requantize(acc, reference.factor(scale_x, scale_w, scale_y)))


@pytest.mark.parametrize("numerator", [1, 3, 5])
@pytest.mark.parametrize("shift", [1, 4, 9])
def test_halves_round_to_even(numerator, shift):
    """Scales that are powers of two put many sums exactly between two integers."""
    x = np.arange(-(2**14), 2**14, dtype=np.int16).reshape(-1, 1)
    w = np.full((1, 3), numerator, np.int8)
    model = models.operator("MatMul", [Fed(x.shape), w.astype(np.float32)])
    edges = {("tested", 1): weight_params(1, 1)}
    unit = of_node("matmul", weight="c1", axis=1)
    (found,) = run_unit(model, unit, {"x0": 1, "y": 2.0**shift}, {"x0": x}, edges=edges)
    same(found, reference.rounded(x.astype(np.float64) * numerator / 2**shift * np.ones(3)))


def test_an_old_opset_quantizes_with_microsofts_operator(rng):
    x = activations(rng, (4, 5))
    model = models.operator("Relu", [Fed(x.shape)], opset=13)
    writer = writer_of(model, {"x0": 2.0**-10, "y": 2.0**-10})
    integer.write(writer, replace(of_node("table"), members=("tested",)))
    domains = {n.domain for n in writer.graph if n.op_type in {"QuantizeLinear", "DequantizeLinear"}}
    assert domains == {graph.MICROSOFT}
    session = ort.InferenceSession(ir.to_proto(writer.model).SerializeToString())
    same(session.run(None, {"x0": (x * 2.0**-10).astype(np.float32)})[0], np.maximum(x, 0) * np.float32(2.0**-10))


# ---- forms that are chosen, and what they hold -----------------------------------------------------------------------


def emitted(writer, op_type):
    return [n for n in writer.graph if n.op_type == op_type]


def test_equal_tables_are_stored_once():
    model = models.text("(float[9] x) => (float[9] y, float[9] z) { y = Sigmoid(x)  z = Sigmoid(x) }")
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    writer = writer_of(model, {"x": 1e-3, "y": 1 / 32768, "z": 1 / 32768})
    feed_integers(writer, {"x": EVERY[:9]})
    for index, output in enumerate("yz"):
        integer.write(writer, Unit(f"n{index}", "table", ((0, "x"),), output, members=(f"n{index}",)))
    first, second = (n.inputs[0] for n in emitted(writer, "GatherElements"))
    assert first is second


def test_softmax_stores_two_tables_of_256_entries():
    writer = writer_of(models.operator("Softmax", [Fed((2, 9))]), {"x0": 1e-3, "y": 1 / 32768})
    feed_integers(writer, {"x0": EVERY[:18].reshape(2, 9)})
    integer.write(writer, of_node("softmax"))
    assert [n.inputs[0].shape for n in emitted(writer, "GatherElements")] == [(256,), (256,)]


@given(st.floats(1e-7, 1), st.lists(st.integers(0, 65535), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_two_tables_give_the_exponential(scale, distances):
    high, low = np.divmod(np.asarray(distances), 256)
    first, second = softmax.exponentials(np.float64(np.float32(scale)))
    exact = np.exp(-np.float64(np.float32(scale)) * np.asarray(distances)) * 2.0**30
    np.testing.assert_allclose(np.rint(first[high] * second[low]), exact, atol=0.5 + 1e-4)


@SIGNS
def test_planes_of_float32_are_multiples_of_256_and_the_rest(sign):
    q = EVERY if sign == "any" else EVERY[32768:]
    writer = writer_of(models.operator("Identity", [Fed(q.shape)]), {"x0": 1})
    feed_integers(writer, {"x0": q}, sign)
    parts = planes.real_planes(writer, "x0")
    for value in parts:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    writer.graph.outputs[:] = parts
    writer.graph.inputs.pop(0)  # the float one
    graph.remove_unused(writer.model)
    session = ort.InferenceSession(ir.to_proto(writer.model).SerializeToString())
    raised, rest = session.run(None, {"x0_fed": q})
    same(raised + rest, q)
    same(raised % 256, 0)
    assert np.abs(rest).max() == 128


@pytest.mark.parametrize(("columns", "small"), [(64, True), (65, False)])
@pytest.mark.parametrize("shape", [(3, 64), (2, 3, 64)], ids=str)
def test_small_matrices_are_multiplied_in_float64(rng, shape, columns, small):
    x, w = activations(rng, shape), weights(rng, (64, columns))
    model = models.operator("MatMul", [Fed(shape), w.astype(np.float32)])
    unit = of_node("matmul", weight="c1", axis=1)
    writer = writer_of(model, {"x0": 1, "y": 900}, {("tested", 1): weight_params(1, 1)})
    feed_integers(writer, {"x0": x})
    integer.write(writer, unit)
    (found,) = results(writer, ["y"], {"x0": x})
    assert len(emitted(writer, "MatMulInteger")) == (0 if small else 2)
    same(found, reference.requantize(x.astype(np.int64) @ w, reference.factor(1, 1, 900)))


def test_what_only_float64_reads_is_never_int16(rng):
    """A convolution whose result an Add reads, and clamps on the grid in between."""
    source = "(float[1,8,6,7] x) => (float[1,8,6,7] z) { y = Conv<pads=[1,1,1,1]>(x, v)  z = Add(y, x) }"
    v, x = weights(rng, (8, 8, 3, 3)), activations(rng, (1, 8, 6, 7))
    model = models.text(source, v=v.astype(np.float32))
    for node in model.graph.node:
        node.name = node.op_type
    scales = {"x": np.float32(1), "y": np.float32(70), "z": np.float32(80)}
    writer = writer_of(model, scales, {("Conv", 1): weight_params(1, 0)})
    feed_integers(writer, {"x": x})
    integer.write(writer, Unit("Conv", "conv", ((0, "x"),), "y", weight="v"))
    integer.write(writer, Unit("Add", "add", ((0, "y"), (1, "x")), "z"))
    (found,) = results(writer, ["z"], {"x": x})
    assert len(emitted(writer, "QuantizeLinear")) == 2  # the high byte of x, and z itself
    sums = reference.conv_sums(x, v, Window([1, 1], [1, 1, 1, 1], [1, 1]))
    y = reference.requantize(sums, reference.factor(1, 1, scales["y"]))
    assert np.abs(y.astype(np.int32)).max() > 32766  # some of them saturate
    same(found, reference.add(Tensor(y, scales["y"]), Tensor(x, scales["x"]), scales["z"]))


@pytest.mark.parametrize(("scales", "divisions"), [((2.1e-4, 3.3e-4), 0), ((1.0, 98.0), 1)], ids=["quick", "ties"])
def test_divisions_become_multiplications_where_every_integer_agrees(scales, divisions):
    """Where 98 steps of the input are one of the output, some halves are exact quotients but no exact products."""
    model = models.operator("Relu", [Fed((4, 16384))])
    unit = of_node("table", members=("tested",))
    s_x, s_y = (np.float32(s) for s in scales)
    writer = writer_of(model, {"x0": s_x, "y": s_y})
    x = EVERY.reshape(4, -1)
    feed_integers(writer, {"x0": x})
    integer.write(writer, unit)
    (found,) = results(writer, ["y"], {"x0": x})
    same(found, reference.function(lambda r: np.maximum(r, 0), Tensor(x, s_x), s_y))
    assert len(emitted(writer, "Div")) == divisions


CAPACITIES = {
    "int32": ("2d", {}, (65535, 2**31 - 1)),
    "beyond": ("2d-beyond-int32", {}, (2**23 - 1, 2**53 - 1)),
    "large-bias": ("2d", {"bias_size": 2**34}, (65535, 2**53 - 1)),
    "float32": ("2d-depthwise", {}, (65533, 2**31 - 1)),
    "one-pixel": ("2d-to-vector", {}, (65535, 2**31 - 1)),
}


def bounded(rng, case):
    """A written convolution, with the plan that it is all of."""
    name, facts, _ = CAPACITIES[case]
    shape_x, shape_w, attributes = CONVOLUTIONS[name]
    model, edges, scales, _ = conv_problem(rng, shape_x, shape_w, attributes, **facts)
    writer = writer_of(model, scales, edges)
    feed_integers(writer, {"x0": activations(rng, shape_x)})
    unit = of_node("conv", weight="c1", bias="c2")
    integer.write(writer, unit)
    quantized = Quantized(writer.model, biases=writer.biases, weights=writer.weights, bounds=writer.bounds)
    return quantized, Plan(units=(unit,)), writer.encodings


@pytest.mark.parametrize("case", CAPACITIES)
def test_what_a_form_holds_is_recorded(rng, case):
    quantized, _, _ = bounded(rng, case)
    assert quantized.bounds == {"tested": CAPACITIES[case][2]}


@pytest.mark.parametrize("case", CAPACITIES)
def test_weights_as_written_are_within_bounds(rng, case):
    check_consistency(*bounded(rng, case))


def test_weights_that_grew_beyond_their_form_are_refused(rng):
    quantized, plan, encodings = bounded(rng, "int32")
    largest = np.abs(graph.constant(quantized.model.graph.initializers[quantized.weights["tested"]]).astype(int))
    tight = int(largest.sum((1, 2, 3)).max())
    check_consistency(replace(quantized, bounds={"tested": (tight, 2**31 - 1)}), plan, encodings)
    with pytest.raises(InternalError, match=rf"'tested'.* {tight}; .*exact up to {tight - 1}"):
        check_consistency(replace(quantized, bounds={"tested": (tight - 1, 2**31 - 1)}), plan, encodings)


def test_a_bias_that_grew_beyond_its_form_is_refused(rng):
    quantized, plan, encodings = bounded(rng, "int32")
    bias = quantized.model.graph.initializers[quantized.biases["tested"]]
    graph.set_initializer(bias, np.full(bias.shape, -(2**31) + 2**20, np.int32))
    with pytest.raises(InternalError, match=r"'tested'.*exact up to 2147483647"):
        check_consistency(quantized, plan, encodings)
