"""Each integer kernel of onnxruntime computes what `integer_reference` says: not one bit differs.

One node is one model: run as it is written and fully optimized (where convolutions change their layout), on one thread.
"""

from __future__ import annotations

import functools
import itertools
import platform
import zlib
from typing import NamedTuple

import integer_reference as reference
import numpy as np
import onnxruntime as ort
import pytest
from integer_reference import F32, Grid
from onnx import helper, numpy_helper

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"}, reason="the references describe the x86-64 kernels"
)

AS_WRITTEN, OPTIMIZED = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
MICROSOFT = "com.microsoft"
CONTENTS = ("random", "extremes", "lowest", "highest")


class Situation(NamedTuple):
    """What the tensors are filled with, and where the zero points of the input and of the output lie."""

    content: str
    zero_x: int
    zero_y: int


SITUATIONS = [
    Situation("random", 0, 128),
    Situation("random", 3, 255),
    Situation("random", 128, 0),
    Situation("random", 255, 3),
    Situation("extremes", 128, 3),
    Situation("extremes", 255, 255),
    Situation("lowest", 255, 0),
    Situation("highest", 0, 128),
]
in_every_situation = pytest.mark.parametrize(
    "situation", SITUATIONS, ids=lambda s: f"{s.content}-{s.zero_x}-{s.zero_y}"
)
ZERO_POINTS = (0, 3, 128, 255)
# scale of the input over scale of the output: fractions that put many results exactly between two integers, and others
RATIOS = (1.0, 0.5, 0.25, 1 / 3, 2 / 3, 0.1, 0.7, 1.618, 30.0, 1e-3)


# ---- arrange ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(params=[AS_WRITTEN, OPTIMIZED], ids=["as-written", "optimized"])
def level(request):
    return request.param


@pytest.fixture
def run(level):
    """A function that runs one node; the inputs named in ``feeds`` are fed, the others are initializers."""
    return functools.partial(run_node, level=level)


def run_node(op, inputs, *, feeds=("x",), domain="", dtype=np.uint8, level, **attributes):
    node = helper.make_node(op, [name if array is not None else "" for name, array in inputs.items()], ["y"])
    node.domain = domain
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return run_nodes([node], {k: v for k, v in inputs.items() if v is not None}, feeds=feeds, dtype=dtype, level=level)


def run_nodes(nodes, arrays, *, feeds, dtype=np.uint8, level):
    fed = {name: np.asarray(arrays[name]) for name in feeds}
    graph = helper.make_graph(
        nodes,
        "kernel",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in fed.items()],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items() if name not in fed],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, fed)[0]


@functools.cache
def largest_weight():
    """127, or 63 on a CPU that adds pairs of products in 16 bits (x86 without VNNI): larger weights saturate there."""
    inputs = {"x": np.full((8, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)}
    product = run_node("MatMulInteger", inputs, dtype=np.int32, level=AS_WRITTEN)
    return 127 if (product == 64 * 255 * 127).all() else 63


def filled(rng, shape, content="random", *, low=0, high=255, dtype=np.uint8):
    if content == "random":
        return rng.integers(low, high + 1, shape, dtype)
    if content == "extremes":
        return rng.choice(np.array([low, high], dtype), shape)
    return np.full(shape, {"lowest": low, "highest": high}[content], dtype)


def weights(rng, shape, content="random"):
    limit = largest_weight()
    return filled(rng, shape, content, low=-limit - 1, high=limit, dtype=np.int8)


def grid(scale, zero_point, dtype=np.uint8):
    return Grid(np.array(scale, F32), np.array(zero_point, dtype))


def weight_grid(rng, channels):
    """A grid per tensor, or for each of ``channels``, with scales over four orders of magnitude."""
    scale = 10 ** rng.uniform(-5, -1, channels)
    return Grid(np.array(scale, F32), np.zeros(np.shape(scale), np.int8))


def grids(rng, depth, channels, situation):
    """Grids of x, w and y such that sums of ``depth`` random products spread over the range of y."""
    grid_x, grid_w = grid(10 ** rng.uniform(-4, 0), situation.zero_x), weight_grid(rng, channels)
    spread = 74 * 74 * np.sqrt(depth) * grid_x.scale * np.median(grid_w.scale)
    return grid_x, grid_w, grid(spread / 50, situation.zero_y)


def quantized(**parts):
    """Node inputs in the kernels' order: a tensor, its scale, its zero point; without the tensor for an output."""
    inputs = {}
    for name, (array, params) in parts.items():
        if array is not None:
            inputs[name] = array
        inputs |= {f"{name}_scale": params.scale, f"{name}_zero_point": params.zero_point}
    return inputs


def random_grid(rng):
    return grid(10 ** rng.uniform(-4, 0), rng.choice(ZERO_POINTS))


same = functools.partial(np.testing.assert_array_equal, strict=True)  # shape and type too


# ---- quantize, dequantize --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "zero_point"), [(np.uint8, z) for z in ZERO_POINTS] + [(np.int8, z) for z in (-128, 0, 127)]
)
@pytest.mark.parametrize("scale", [1e-9, 0.1, 1.0, 1e9])
def test_quantize_linear_rounds_half_to_even_and_saturates(run, rng, dtype, zero_point, scale):
    params = grid(scale, zero_point, dtype)
    special = [np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0]
    ties = (np.arange(-300, 300) + 0.5) * scale
    x = np.concatenate([special, ties, rng.normal(0, 90 * scale, 300)]).astype(F32)
    same(run("QuantizeLinear", quantized(x=(x, params)), dtype=dtype), reference.quantize_linear(x, params))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quantize_linear_takes_one_grid_per_index_of_an_axis(run, rng, axis):
    x = rng.normal(0, 1, (3, 4, 5)).astype(F32)
    scales = 10 ** rng.uniform(-4, 0, x.shape[axis])
    params = grid(scales, filled(rng, x.shape[axis]))
    same(run("QuantizeLinear", quantized(x=(x, params)), axis=axis), reference.quantize_linear(x, params, axis=axis))


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(np.uint8, 0, 255), (np.int8, -128, 127), (np.int32, -(2**31), 2**31 - 1)]
)
def test_dequantize_linear_multiplies_in_float32(run, rng, dtype, low, high):
    q = filled(rng, (4, 300), low=low, high=high, dtype=dtype)
    zero_point = np.zeros(4) if dtype is np.int32 else [low, 0, 3, high]
    params = grid(10 ** rng.uniform(-6, 0, 4), zero_point, dtype)
    result = run("DequantizeLinear", quantized(x=(q, params)), dtype=F32, axis=0)
    same(result, reference.dequantize_linear(q, params, axis=0))


def test_requantize_rounds_half_to_even():
    result = reference.requantize(np.array([-3, -1, 1, 3, 5]), 0.5, 1, 1, 128, np.uint8)
    same(result, np.array([126, 128, 128, 130, 130], np.uint8))


def test_requantize_wraps_to_int32_before_it_scales():
    result = reference.requantize(np.array([2**31 - 1, 2**31]), 1, 1, 1, 128, np.uint8)
    same(result, np.array([255, 0], np.uint8))


# ---- convolutions and products ---------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "1d": ((2, 5, 13), (7, 5, 3), {"pads": [1, 0], "strides": [2]}),
    "1d-dilated": ((1, 4, 17), (6, 4, 3), {"dilations": [3], "pads": [2, 2]}),
    "1d-depthwise": ((1, 16, 21), (16, 1, 5), {"group": 16, "pads": [2, 2]}),
    "2d-pointwise": ((2, 19, 5, 3), (33, 19, 1, 1), {}),
    "2d-odd": ((1, 3, 11, 9), (16, 3, 3, 5), {"pads": [0, 2, 1, 1], "strides": [2, 1]}),
    "2d-dilated": ((1, 4, 9, 9), (5, 4, 3, 3), {"dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    "2d-grouped": ((1, 12, 7, 7), (8, 3, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "2d-depthwise": ((1, 32, 8, 7), (32, 1, 3, 3), {"group": 32, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "2d-depthwise-odd": ((2, 7, 6, 6), (7, 1, 5, 5), {"group": 7, "pads": [2, 2, 2, 2]}),
    "2d-depthwise-doubled": ((1, 8, 6, 6), (16, 1, 3, 3), {"group": 8}),
    "2d-deep": ((1, 80, 4, 4), (17, 80, 3, 3), {}),
    "3d": ((1, 3, 5, 6, 4), (5, 3, 3, 2, 2), {"strides": [1, 2, 1], "pads": [1, 0, 1, 1, 1, 0]}),
    "3d-grouped": ((1, 4, 5, 5, 5), (6, 2, 2, 3, 2), {"group": 2, "dilations": [2, 1, 1]}),
}


@in_every_situation
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_qlinear_conv_sums_exactly_and_rescales_in_float32(run, rng, case, situation):
    shape_x, shape_w, attributes = CONVOLUTIONS[case]
    x, w = filled(rng, shape_x, situation.content), weights(rng, shape_w, situation.content)
    per_channel, with_bias = situation.zero_x % 2, situation.zero_y % 2
    params = grids(rng, np.prod(shape_w[1:]), shape_w[0] if per_channel else None, situation)
    bias = filled(rng, shape_w[0], low=-(2**20), high=2**20, dtype=np.int32) if with_bias else None
    inputs = quantized(x=(x, params[0]), w=(w, params[1]), y=(None, params[2])) | {"bias": bias}
    same(run("QLinearConv", inputs, **attributes), reference.qlinear_conv(x, w, bias, params, **attributes))


def test_qlinear_conv_wraps_sums_beyond_int32(run, rng):
    x, w = filled(rng, (1, 4, 5, 5)), weights(rng, (6, 4, 3, 3))
    bias = np.array([2**31 - 1, -(2**31), 2**31 - 9999, 0, 2**30, -(2**31) + 9999], np.int32)
    params = grid(0.1, 128), weight_grid(rng, None), grid(1e3, 128)
    inputs = quantized(x=(x, params[0]), w=(w, params[1]), y=(None, params[2])) | {"bias": bias}
    same(run("QLinearConv", inputs), reference.qlinear_conv(x, w, bias, params))


@pytest.mark.parametrize("zero_w", [-128, 5, 127])
def test_qlinear_conv_takes_asymmetric_weights(run, rng, zero_w):
    x, w = filled(rng, (1, 4, 6, 6)), weights(rng, (6, 4, 3, 3))
    params = grid(0.1, 3), grid(0.01, zero_w, np.int8), grid(3.0, 128)
    inputs = quantized(x=(x, params[0]), w=(w, params[1]), y=(None, params[2]))
    same(run("QLinearConv", inputs), reference.qlinear_conv(x, w, None, params))


MATRICES = {
    "vector": ((31,), (31, 9)),
    "2d": ((7, 65), (65, 33)),
    "2d-narrow": ((5, 3), (3, 1)),
    "3d": ((2, 5, 40), (40, 17)),
    "4d": ((2, 3, 4, 20), (20, 16)),
}


@in_every_situation
@pytest.mark.parametrize("case", MATRICES)
def test_qlinear_matmul_by_int8_weights_sums_exactly_and_rescales_in_float32(run, rng, case, situation):
    shape_x, shape_w = MATRICES[case]
    x, w = filled(rng, shape_x, situation.content), weights(rng, shape_w, situation.content)
    per_column = situation.zero_x % 2
    params = grids(rng, shape_w[0], shape_w[1] if per_column else None, situation)
    inputs = quantized(x=(x, params[0]), w=(w, params[1]), y=(None, params[2]))
    same(run("QLinearMatMul", inputs), reference.qlinear_matmul(x, w, params))


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 5, 21), (3, 21, 6)),
        ((2, 3, 5, 21), (2, 3, 21, 6)),
        ((2, 1, 5, 21), (1, 3, 21, 6)),
        ((2, 3, 5, 21), (3, 21, 6)),
        ((5, 21), (3, 21, 6)),
        ((2, 3, 21), (21,)),
    ],
    ids=str,
)
@in_every_situation
def test_qlinear_matmul_of_two_activations_broadcasts_batches(run, rng, shapes, situation):
    a, b = (filled(rng, shape, situation.content) for shape in shapes)
    scale = 10 ** rng.uniform(-4, 0)
    params = grid(scale, situation.zero_x), grid(0.01, rng.choice(ZERO_POINTS)), grid(scale * 5, situation.zero_y)
    inputs = quantized(a=(a, params[0]), b=(b, params[1]), y=(None, params[2]))
    same(run("QLinearMatMul", inputs, feeds=("a", "b")), reference.qlinear_matmul(a, b, params))


@in_every_situation
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=["ab", "aB", "Ab", "AB"])
@pytest.mark.parametrize("per_column", [False, True], ids=["per-tensor", "per-column"])
def test_qgemm_adds_an_int32_bias_before_it_rescales(run, rng, transposed, per_column, situation):
    rows, depth, columns = 5, 37, 19
    trans_a, trans_b = transposed
    a = filled(rng, (depth, rows) if trans_a else (rows, depth), situation.content)
    b = weights(rng, (columns, depth) if trans_b else (depth, columns), situation.content)
    params = grids(rng, depth, columns if per_column else None, situation)
    bias = filled(rng, columns, low=-(2**20), high=2**20, dtype=np.int32) if situation.zero_y % 2 else None
    inputs = quantized(x=(a, params[0]), b=(b, params[1])) | {"bias": bias} | quantized(y=(None, params[2]))
    result = run("QGemm", inputs, domain=MICROSOFT, transA=trans_a, transB=trans_b)
    same(result, reference.qgemm(a, b, bias, params, trans_a=bool(trans_a), trans_b=bool(trans_b)))


def test_qgemm_rounds_sums_to_float32_before_it_rescales(run, rng):
    # sums of about 2**30 a few units beside a tie: float32 moves them onto it
    columns, step = 5000, 2**23
    bias = (rng.integers(-128, 127, columns) * step + step // 2 + rng.integers(-99, 100, columns)).astype(np.int32)
    a, b = filled(rng, (1, 3), high=15), filled(rng, (3, columns), low=-3, high=3, dtype=np.int8)
    params = grid(1.0, 0), grid(1.0, 0, np.int8), grid(step, 128)
    inputs = quantized(x=(a, params[0]), b=(b, params[1])) | {"bias": bias} | quantized(y=(None, params[2]))
    same(run("QGemm", inputs, domain=MICROSOFT), reference.qgemm(a, b, bias, params))


# ---- element by element ----------------------------------------------------------------------------------------------

BROADCASTS = [
    ((), ()),
    ((1,), (1, 1)),
    ((7, 33), (7, 33)),
    ((2, 3, 4, 5), ()),
    ((), (30, 40, 5)),
    ((2, 30, 16, 17), (30, 1, 1)),
    ((30, 1, 1), (2, 30, 16, 17)),
    ((2, 30, 1, 1), (2, 30, 16, 17)),
    ((2, 3, 4, 5), (5,)),
    ((5,), (3, 4, 5)),
    ((4, 1), (1, 65)),
    ((2, 1, 4, 1), (3, 1, 5)),
    ((2, 3, 4, 1), (1, 3, 1, 1)),
    ((6, 1, 1), (2, 3, 1, 1, 1)),
    ((2, 3, 4, 5, 6, 7), (4, 1, 6, 1)),
]
KERNELS = {"QLinearAdd": reference.qlinear_add, "QLinearMul": reference.qlinear_mul}
EVERY_BYTE = np.arange(256, dtype=np.uint8)
EVERY_PAIR = {
    "pairs": (np.repeat(EVERY_BYTE, 256), np.tile(EVERY_BYTE, 256)),
    "a-is-broadcast": (EVERY_BYTE[:, np.newaxis], EVERY_BYTE[np.newaxis]),
    "b-is-broadcast": (EVERY_BYTE[np.newaxis], EVERY_BYTE[:, np.newaxis]),
}
# scale and zero point of a, of b and of y: thousands of pairs lie so near to a tie that the order of rounding decides
NEAR_TIES = [
    ((0.7, 255), (0.9, 128), (0.6, 255)),
    ((0.05, 255), (0.3, 3), (1.0, 3)),
    ((0.1, 3), (0.1, 255), (1.0, 3)),
    ((0.03, 3), (0.1, 3), (0.2, 0)),
]


@pytest.mark.parametrize("near_tie", NEAR_TIES, ids=str)
@pytest.mark.parametrize("operands", EVERY_PAIR)
def test_add_rounds_the_operand_that_it_walks_through_last(run, near_tie, operands):
    a, b = EVERY_PAIR[operands]
    grid_a, grid_b, grid_y = (grid(*params) for params in near_tie)
    inputs = quantized(a=(a, grid_a), b=(b, grid_b), y=(None, grid_y))
    result = run("QLinearAdd", inputs, feeds=("a", "b"), domain=MICROSOFT)
    same(result, reference.qlinear_add(a, grid_a, b, grid_b, grid_y))


@pytest.mark.parametrize("ratio_b", RATIOS)
@pytest.mark.parametrize("ratio_a", RATIOS[::3])
@pytest.mark.parametrize("op", KERNELS)
def test_add_and_mul_are_exact_for_every_pair_of_bytes(run, rng, op, ratio_a, ratio_b):
    a, b = EVERY_PAIR["pairs"]
    grid_y = random_grid(rng)
    scale = grid_y.scale if op == "QLinearAdd" else np.sqrt(grid_y.scale)
    grid_a = grid(scale * F32(ratio_a), rng.choice(ZERO_POINTS))
    grid_b = grid(scale * F32(ratio_b), rng.choice(ZERO_POINTS))
    inputs = quantized(a=(a, grid_a), b=(b, grid_b), y=(None, grid_y))
    same(run(op, inputs, feeds=("a", "b"), domain=MICROSOFT), KERNELS[op](a, grid_a, b, grid_b, grid_y))


@pytest.mark.parametrize("fed", ["ab", "a", "b"])
@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
@pytest.mark.parametrize("op", KERNELS)
def test_add_and_mul_broadcast_both_ways(run, rng, op, shapes, fed):
    a, b = (np.asarray(filled(rng, shape)) for shape in shapes)
    grid_y = random_grid(rng)
    grid_a = grid(grid_y.scale * F32(rng.choice(RATIOS[:8])), rng.choice(ZERO_POINTS))
    grid_b = grid(grid_y.scale * F32(rng.choice(RATIOS[:8])), rng.choice(ZERO_POINTS))
    inputs = quantized(a=(a, grid_a), b=(b, grid_b), y=(None, grid_y))
    same(run(op, inputs, feeds=tuple(fed), domain=MICROSOFT), KERNELS[op](a, grid_a, b, grid_b, grid_y))


@pytest.mark.parametrize("ratio", RATIOS)
def test_add_does_not_depend_on_the_layout_if_the_smaller_operand_comes_second(rng, ratio):
    grid_a, grid_b, grid_y = grid(F32(ratio), 3), grid(0.3, 128), grid(1.0, 7)
    a, b = filled(rng, (2, 16, 24, 24)), filled(rng, (16, 1, 1))
    nhwc = reference.qlinear_add(np.moveaxis(a, 1, -1), grid_a, b.reshape(16), grid_b, grid_y)
    same(np.moveaxis(nhwc, -1, 1), reference.qlinear_add(a, grid_a, b, grid_b, grid_y))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("zero_y", ZERO_POINTS)
def test_qlinear_concat_moves_each_part_to_the_grid_of_the_output(run, rng, axis, zero_y):
    grid_y = grid(0.02, zero_y)
    others = [grid_y, grid(0.02, 17), *(grid(0.02 * ratio, rng.choice(ZERO_POINTS)) for ratio in RATIOS)]
    shapes = rng.integers(3, 7, len(others))
    parts = [(np.swapaxes(filled(rng, (n, 5, 5)), 0, axis), params) for n, params in zip(shapes, others, strict=True)]
    inputs = quantized(y=(None, grid_y), **{f"x{i}": part for i, part in enumerate(parts)})
    feeds = [f"x{i}" for i in range(len(parts))]
    result = run("QLinearConcat", inputs, feeds=feeds, domain=MICROSOFT, axis=axis)
    same(result, reference.qlinear_concat(parts, grid_y, axis=axis))


@pytest.mark.parametrize(
    "shapes",
    [
        ((4, 5), (4, 5), (4, 5)),
        ((4, 1), (5,), (3, 4, 5)),
        ((), (4, 5), ()),
        ((3, 1, 1), (1, 4, 1), (5,)),
        ((4, 5), (), ()),
    ],
    ids=str,
)
@pytest.mark.parametrize("ratio", RATIOS)
def test_qlinear_where_moves_both_sides_to_the_grid_of_the_output(run, rng, shapes, ratio):
    bits, a, b = (np.asarray(filled(rng, shape)) for shape in shapes)
    condition, grid_z = np.asarray(bits > 127), grid(0.05, rng.choice(ZERO_POINTS))
    x, y = (a, grid(0.05 * ratio, rng.choice(ZERO_POINTS))), (b, grid_z)
    inputs = {"condition": condition} | quantized(a=x, b=y, y=(None, grid_z))
    result = run("QLinearWhere", inputs, feeds=("condition", "a", "b"), domain=MICROSOFT)
    same(result, reference.qlinear_where(condition, x, y, grid_z))


@pytest.mark.parametrize("zero_y", ZERO_POINTS)
@pytest.mark.parametrize("zero_x", ZERO_POINTS)
def test_qlinear_leaky_relu_scales_what_is_negative_in_float32(run, zero_x, zero_y):
    for ratio, alpha in itertools.product(RATIOS, (0.0, 0.01, 0.2, 1.5)):
        grid_x, grid_y = grid(0.04 * ratio, zero_x), grid(0.04, zero_y)
        inputs = quantized(x=(EVERY_BYTE, grid_x), y=(None, grid_y))
        result = run("QLinearLeakyRelu", inputs, domain=MICROSOFT, alpha=alpha)
        same(result, reference.qlinear_leaky_relu(EVERY_BYTE, grid_x, grid_y, alpha=alpha))


@pytest.mark.parametrize("zero_y", ZERO_POINTS)
@pytest.mark.parametrize("zero_x", ZERO_POINTS)
def test_qlinear_sigmoid_is_the_rational_approximation(run, rng, zero_x, zero_y):
    # a logistic function rounded only once differs in one entry of these tables, and in 43 of 15 million others
    telling = [0.00535, 0.009274, 0.018548, 0.129848]
    scales_x = [*telling, *10 ** rng.uniform(-3, 0.5, 6)]
    for scale_x, scale_y in itertools.product(scales_x, (1 / 256, 1 / 255, 0.01, 1e-3)):
        grid_x, grid_y = grid(scale_x, zero_x), grid(scale_y, zero_y)
        inputs = quantized(x=(EVERY_BYTE, grid_x), y=(None, grid_y))
        result = run("QLinearSigmoid", inputs, domain=MICROSOFT)
        same(result, reference.qlinear_sigmoid(EVERY_BYTE, grid_x, grid_y))


@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 2), -1), ((40, 10), 1), ((3, 1000), -1), ((3, 7, 5), 1), ((6, 4, 5), 0)]
)
@pytest.mark.parametrize("grid_y", [grid(1 / 256, 0), grid(1 / 255, 3), grid(1 / 100, 128)], ids=["256", "255", "100"])
def test_qlinear_softmax_sums_a_table_in_order(run, rng, shape, axis, grid_y):
    for content, scale_x in itertools.product(CONTENTS, (1e-3, 0.02, 0.1, 1.0)):
        x, grid_x = filled(rng, shape, content), grid(scale_x, 100)
        inputs = quantized(x=(x, grid_x), y=(None, grid_y))
        result = run("QLinearSoftmax", inputs, domain=MICROSOFT, axis=axis, opset=13)
        same(result, reference.qlinear_softmax(x, grid_x, grid_y, axis=axis))


def test_qlinear_softmax_adds_one_term_after_the_other(run):
    # the sum in float64 rounds to another float32, and a quotient to another byte
    x, grid_x, grid_y = np.array([6, 126, 120], np.uint8), grid(0.081, 0), grid(1 / 256, 0)
    result = run("QLinearSoftmax", quantized(x=(x, grid_x), y=(None, grid_y)), domain=MICROSOFT, opset=13)
    same(result, reference.qlinear_softmax(x, grid_x, grid_y))


def test_sub_from_255_negates(run):
    same(run("Sub", {"c": np.uint8(255), "x": EVERY_BYTE}), reference.negate(EVERY_BYTE))


@pytest.mark.parametrize("zero_point", ZERO_POINTS)
def test_negation_mirrors_the_zero_point(zero_point):
    mirrored = reference.dequantize_linear(reference.negate(EVERY_BYTE), grid(0.1, 255 - zero_point))
    same(mirrored, -reference.dequantize_linear(EVERY_BYTE, grid(0.1, zero_point)))


@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (1, 4, 9, 9)])
def test_gather_elements_looks_bytes_up_in_a_table(rng, shape, level):
    table, x = filled(rng, 256), filled(rng, shape)
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["x_flat"]),
        helper.make_node("Cast", ["x_flat"], ["index"], to=helper.np_dtype_to_tensor_dtype(np.dtype(np.int32))),
        helper.make_node("GatherElements", ["table", "index"], ["y_flat"]),
        helper.make_node("Reshape", ["y_flat", "shape"], ["y"]),
    ]
    arrays = {"x": x, "flat": np.array([-1]), "table": table, "shape": np.array(shape)}
    same(run_nodes(nodes, arrays, feeds=("x",), level=level), reference.lookup(table, x))


@pytest.mark.parametrize("source", [np.int8, np.uint8])
def test_cast_and_add_128_move_between_int8_and_uint8(source, level):
    target = np.uint8 if source is np.int8 else np.int8
    x = EVERY_BYTE.view(source)
    cast = {"to": helper.np_dtype_to_tensor_dtype(np.dtype(target))}
    if source is np.int8:
        nodes = [helper.make_node("Cast", ["x"], ["u"], **cast), helper.make_node("Add", ["u", "half"], ["y"])]
    else:
        nodes = [helper.make_node("Add", ["x", "half"], ["u"]), helper.make_node("Cast", ["u"], ["y"], **cast)]
    result = run_nodes(nodes, {"x": x, "half": np.uint8(128)}, feeds=("x",), dtype=target, level=level)
    same(result, (x.astype(np.int64) + (128 if source is np.int8 else -128)).astype(target))


# ---- pools and windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 99, 7, 7), (3, 8, 1, 1), (1, 5, 33, 31), (2, 3, 3, 4, 5)])
@in_every_situation
def test_qlinear_global_average_pool_sums_exactly(run, rng, shape, situation):
    x = filled(rng, shape, situation.content)
    for ratio in RATIOS:
        grid_x, grid_y = grid(0.03 * ratio, situation.zero_x), grid(0.03, situation.zero_y)
        inputs = quantized(x=(x, grid_x), y=(None, grid_y))
        result = run("QLinearGlobalAveragePool", inputs, domain=MICROSOFT)
        same(result, reference.qlinear_global_average_pool(x, grid_x, grid_y))


POOLS = {
    "1d": ((2, 3, 11), [3], {"strides": [2]}),
    "1d-padded": ((2, 3, 11), [4], {"pads": [2, 1]}),
    "2d": ((1, 8, 14, 14), [2, 2], {"strides": [2, 2]}),
    "2d-padded": ((1, 5, 9, 8), [3, 3], {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    "2d-large": ((1, 4, 12, 13), [7, 5], {}),
    "2d-ceil": ((1, 3, 8, 9), [3, 2], {"strides": [2, 2], "pads": [0, 0, 1, 0], "ceil_mode": 1}),
    "2d-ceil-beyond": ((1, 3, 7, 7), [2, 2], {"strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "2d-whole": ((2, 3, 4, 5), [4, 5], {}),
    "3d": ((1, 3, 5, 6, 4), [2, 3, 2], {"strides": [1, 2, 2], "pads": [1, 0, 0, 0, 1, 1]}),
}


@in_every_situation
@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize("case", POOLS)
def test_qlinear_average_pool_sums_in_float32_in_order(run, rng, case, count_include_pad, situation):
    shape, kernel, attributes = POOLS[case]
    options = {**attributes, "count_include_pad": count_include_pad}
    x = filled(rng, shape, situation.content)
    for ratio in RATIOS[:8]:
        params = grid(0.03 * ratio, situation.zero_x), grid(0.03, situation.zero_y)
        inputs = quantized(x=(x, params[0]), y=(None, params[1]))
        result = run("QLinearAveragePool", inputs, domain=MICROSOFT, kernel_shape=kernel, **options)
        same(result, reference.qlinear_average_pool(x, params, kernel, **options))


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("case", [name for name in POOLS if not name.endswith(("large", "whole"))])
def test_max_pool_keeps_bytes(run, rng, case, dilation, content):
    shape, kernel, attributes = POOLS[case]
    options = {**attributes, "dilations": [dilation] * len(kernel)}
    x = filled(rng, shape, content)
    same(run("MaxPool", {"x": x}, kernel_shape=kernel, **options), reference.max_pool(x, kernel, **options))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 2, 1], [1, 0, 0, 3, 0, 1, 3, 0]])
def test_pad_keeps_bytes(run, rng, mode, pads):
    x = filled(rng, (2, 3, 5, 6))
    inputs = {"x": x, "pads": np.array(pads), "value": np.uint8(17)}
    same(run("Pad", inputs, mode=mode), reference.pad(x, pads, mode=mode, value=17))


PER_CHANNEL = np.array([[[7]], [[99]], [[255]]], np.uint8)
LIMITS = {
    "Clip": (np.clip, {"low": np.uint8(3), "high": np.uint8(200)}),
    "Max": (np.maximum, {"b": PER_CHANNEL}),
    "Min": (np.minimum, {"b": PER_CHANNEL}),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("op", LIMITS)
def test_clip_max_and_min_are_those_of_numpy(run, rng, op, content):
    numpy_op, others = LIMITS[op]
    x = filled(rng, (2, 3, 5, 7), content)
    same(run(op, {"x": x, **others}), numpy_op(x, *others.values()))


@pytest.mark.parametrize("axes", [(1,), (2, 3), (0, 2), (-1,)])
def test_reduce_max_and_min_are_those_of_numpy(run, rng, axes):
    x = filled(rng, (2, 3, 5, 7))
    same(run("ReduceMax", {"x": x, "axes": np.array(axes)}), x.max(axes, keepdims=True))
    same(run("ReduceMin", {"x": x, "axes": np.array(axes)}), x.min(axes, keepdims=True))
