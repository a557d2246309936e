"""What is written computes, bit for bit, what the numpy integer reference makes of the encodings beside it.

The reference is fed with the grids of the encodings file and with the integers of the written model's initializers; how
the operators are put together is said here a second time, independently of the lowering.
"""

from __future__ import annotations

import math
import platform

import integer_reference as reference
import models
import numpy as np
import pytest
from conversion import run
from integer_reference import F32, Grid
from onnx import helper, numpy_helper
from op_cases import CASES, REGIONS

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"}, reason="the references describe the x86-64 kernels"
)

same = np.testing.assert_array_equal


class Written:
    """A model written as int8-only, and its integers as uint8, which is what the kernels between its casts see."""

    def __init__(self, case, converted):
        self.case, self.converted = case, converted
        self.attributes = case.attributes
        self.constants = converted.constants
        self.prepared = {t.name: numpy_helper.to_array(t) for t in converted.prepared.graph.initializer}

    def grid(self, name):
        """The grid of an activation, as of uint8: an int8 boundary has a zero point that is 128 less."""
        found = self.converted.grids[name]
        if found.zero_point.dtype == np.int8 and name in self.boundary:
            return Grid(found.scale, np.asarray(int(found.zero_point) + 128, np.uint8))
        return found

    @property
    def boundary(self):
        return {v.name for v in (*self.converted.model.graph.input, *self.converted.model.graph.output)}

    def integers(self, feed):
        """The uint8 integers of every operand that is an activation: fed, or a constant on a grid of its own."""
        real = {n: feed.get(n, self.prepared.get(n)) for n in self.operands}
        grids = {n: self.grid(n) for n in real if n in self.converted.grids}
        return {n: reference.quantize_linear(real[n], g) for n, g in grids.items() if g.zero_point.dtype == np.uint8}

    @property
    def operands(self):
        return [n for n in self.converted.float_model.graph.node[0].input if n]

    @property
    def linear(self):
        """The names of the weight and of the bias after preparation."""
        (node,) = [n for n in self.converted.prepared.graph.node if n.op_type == self.case.op]
        return node.input[1], node.input[2] if len(node.input) > 2 else None

    def weight(self):
        """The int8 weight that stands in the model: the float one rounded to its grid, half to even."""
        name, _ = self.linear
        (stored,) = [a for a in self.constants.values() if a.dtype == np.int8 and a.ndim > 1]
        grid = self.converted.grids[name]
        rounded = reference.quantize_linear(self.prepared[name], grid, axis=self.converted.axes[name])
        same(stored, np.maximum(rounded, -127))
        return stored, grid

    def bias(self, grid_x, grid_w):
        """The int32 bias that stands in the model: the float one in steps of s_x * s_w."""
        _, name = self.linear
        (stored,) = [a for a in self.constants.values() if a.dtype == np.int32]
        real = np.zeros(1) if name is None else self.prepared[name].astype(np.float64)
        same(stored, np.rint(real / (grid_x.scale * grid_w.scale)) * np.ones(stored.shape))
        return stored


# ---- what each operator computes -------------------------------------------------------------------------------------


def conv(written, q):
    (w, grid_w), grid_x = written.weight(), written.grid("x0")
    options = dict(written.attributes)
    kind = options.pop("auto_pad", "NOTSET")
    if kind.startswith("SAME"):
        options["pads"] = same_pads(kind, q["x0"].shape[2:], w.shape[2:], options.get("strides"))
    return reference.qlinear_conv(
        q["x0"], w, written.bias(grid_x, grid_w), (grid_x, grid_w, written.grid("y")), **options
    )


def gemm(written, q):
    (w, grid_w), grid_x = written.weight(), written.grid("x0")
    bias = written.bias(grid_x, grid_w)
    trans_a, trans_b = (bool(written.attributes.get(n)) for n in ("transA", "transB"))
    grids = (grid_x, grid_w, written.grid("y"))
    return reference.qgemm(q["x0"], w, bias, grids, trans_a=trans_a, trans_b=trans_b)


def matmul(written, q):
    a, b = written.operands
    if b not in q:
        w, grid_w = written.weight()
        return reference.qlinear_matmul(q[a], w, (written.grid(a), grid_w, written.grid("y")))
    return reference.qlinear_matmul(q[a], q[b], (written.grid(a), written.grid(b), written.grid("y")))


def add(written, q):
    a, b = sorted(written.operands, key=lambda n: -q[n].size)  # the smaller operand is the second
    return reference.qlinear_add(q[a], written.grid(a), q[b], written.grid(b), written.grid("y"))


def sub(written, q):
    a, b = written.operands
    grid = written.grid(b)
    mirrored = Grid(grid.scale, np.asarray(255 - int(grid.zero_point), np.uint8))
    return reference.qlinear_add(q[a], written.grid(a), reference.negate(q[b]), mirrored, written.grid("y"))


def mul(written, q):
    a, b = written.operands
    return reference.qlinear_mul(q[a], written.grid(a), q[b], written.grid(b), written.grid("y"))


def concat(written, q):
    parts = [(q[n], written.grid(n)) for n in written.operands]
    return reference.qlinear_concat(parts, written.grid("y"), axis=written.attributes["axis"])


def global_average_pool(written, q):
    return reference.qlinear_global_average_pool(q["x0"], written.grid("x0"), written.grid("y"))


def average_pool(written, q):
    options = dict(written.attributes)
    kernel, kind = options.pop("kernel_shape"), options.pop("auto_pad", "NOTSET")
    if kind.startswith("SAME"):
        options["pads"] = same_pads(kind, q["x0"].shape[2:], kernel, options.get("strides"))
    return reference.qlinear_average_pool(q["x0"], (written.grid("x0"), written.grid("y")), kernel, **options)


def softmax(written, q):
    axis = written.attributes.get("axis", -1)
    return reference.qlinear_softmax(q["x0"], written.grid("x0"), written.grid("y"), axis=axis)


def max_pool(written, q):
    options = dict(written.attributes)
    kernel, kind = options.pop("kernel_shape"), options.pop("auto_pad", "NOTSET")
    if kind.startswith("SAME"):
        options["pads"] = same_pads(kind, q["x0"].shape[2:], kernel, options.get("strides"))
    return reference.max_pool(q["x0"], kernel, **options)


def pad(written, q):
    x, rank = q["x0"], q["x0"].ndim
    given, axes = written.prepared["c1"], written.prepared.get("c3", np.arange(rank))
    pads = np.zeros(2 * rank, np.int64)
    pads[[*axes, *(axes + rank)]] = given
    value = reference.quantize_linear(np.atleast_1d(written.prepared.get("c2", F32(0))), written.grid("x0"))
    mode = written.attributes.get("mode", "constant")
    return reference.pad(x, list(pads), mode=mode, value=int(value.item()))


def same_pads(kind, sizes, kernel, strides):
    """The pads that auto_pad stands for: outputs are ceil(size / stride), the odd one goes to the end for UPPER."""
    begins, ends = [], []
    for size, k, s in zip(sizes, kernel, strides or [1] * len(kernel), strict=True):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        begins.append(total // 2 if kind == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    return [*begins, *ends]


REFERENCES = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "Add": add,
    "Sub": sub,
    "Mul": mul,
    "Concat": concat,
    "GlobalAveragePool": global_average_pool,
    "AveragePool": average_pool,
    "Softmax": softmax,
    "MaxPool": max_pool,
    "Pad": pad,
}
WRITTEN_AS_IT_IS = [
    n for n, c in CASES.items() if c.op in REFERENCES and c.becomes in (None, c.op) and c.refusal("integer") is None
]

FUNCTIONS = [n for n, c in CASES.items() if c.row().lowering == "table" and c.refusal("integer") is None]


# ---- the laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in WRITTEN_AS_IT_IS if n != "pad-negative"])
def test_the_integers_are_those_of_the_reference(bench, name):
    case = CASES[name]
    model = case.model()
    converted = bench.convert(model, feeds=case.feeds(model))
    written = Written(case, converted)
    for feed in converted.feeds[:3]:
        expected = REFERENCES[case.op](written, written.integers(feed))
        for optimize in (False, True):
            same(integer_outputs(converted, feed, optimize=optimize)["y"], expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_one_variable_is_rounded_once(bench, name):
    model = CASES[name].model()
    converted = bench.convert(model, feeds=CASES[name].feeds(model))
    check_rounded_once(converted)


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_of_one_variable_is_rounded_once(bench, name):
    source, constants = REGIONS[name]
    model = models.text(source, **constants)
    check_rounded_once(bench.convert(model, feeds=models.samples(model, N=2)))


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul", "Add", "Mul"])
def test_both_formats_give_the_same_integers(bench, op):
    for name in (n for n in WRITTEN_AS_IT_IS if CASES[n].op == op):
        model = CASES[name].model()
        feeds = CASES[name].feeds(model)
        results = [bench.convert(model, feeds=feeds, format=f) for f in ("integer", "qdq")]
        for feed in feeds[:3]:
            integer, qdq = (integer_outputs(converted, feed)["y"] for converted in results)
            same(qdq, integer, err_msg=name)


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_both_formats_give_the_same_integers_after_rounding_is_optimized(bench, op):
    name = {"Conv": "conv", "Gemm": "gemm-trans-b", "MatMul": "matmul-3d"}[op]
    model = CASES[name].model()
    results = [
        bench.convert(model, feeds=CASES[name].feeds(model), format=f, nearest=False) for f in ("integer", "qdq")
    ]
    for feed in CASES[name].feeds(model)[:3]:
        integer, qdq = (integer_outputs(converted, feed)["y"] for converted in results)
        same(qdq, integer)


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_rounded_once(converted):
    """Every integer of the output is the float function of the input's real number, rounded to the output's grid."""
    (name,) = [i.name for i in converted.float_model.graph.input]
    grid_x, grid_y = converted.grids[name], converted.grids["y"]
    for feed in converted.feeds[:3]:
        real = reference.dequantize_linear(reference.quantize_linear(feed[name], grid_x), grid_x)
        function = run(converted.float_model, {name: real}, optimize=False)["y"]
        same(integer_outputs(converted, feed, as_uint8=False)["y"], reference.quantize_linear(function, grid_y))


def integer_outputs(converted, feed, *, optimize=True, as_uint8=True):
    """Run on quantized feeds; int8 outputs are returned as the uint8 of the kernels."""
    inputs = {i.name: i.type.tensor_type.elem_type for i in converted.model.graph.input}
    int8 = helper.np_dtype_to_tensor_dtype(np.dtype(np.int8))
    fed = {
        n: np.asarray(reference.quantize_linear(x, converted.grids[n])) if inputs[n] == int8 else x
        for n, x in feed.items()
    }  # fmt: skip
    results = run(converted.model, fed, optimize=optimize)
    moved = {n: (x.astype(np.int16) + 128).astype(np.uint8) if x.dtype == np.int8 else x for n, x in results.items()}
    return moved if as_uint8 else results
