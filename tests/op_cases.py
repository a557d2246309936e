"""The op table as models: at least one operator for every rule, and functions of one variable spelled in several.

A row is data; what must hold of every row is said by the tests. Knows the tables of quantcli, and nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import models
import numpy as np
from models import Fed, ints, weight
from onnx import compose, helper

from quantcli.kernels import KERNELS, NO_KERNEL, POINTWISE
from quantcli.oprules import OP_RULES, Role


@dataclass(frozen=True)
class Case:
    """One operator.

    Attributes:
        op: Its type; a key of the op table.
        operands: Its inputs (see `models.operator`).
        attributes: Its attributes.
        outputs: How many it has.
        opset: Of the model.
        against: Why this one cannot be integer, although its row says that it can.
        becomes: The operator whose row decides, where preparation writes this one differently; "" for a region.
        beside: The linear operator before it, where it is tested between two.
    """

    op: str
    operands: tuple[models.Operand, ...]
    attributes: dict[str, object] = field(default_factory=dict)
    outputs: int = 1
    opset: int = models.OPSET
    against: str = ""
    becomes: str | None = None
    beside: str = "MatMul"

    def row(self):
        op = self.op if self.becomes is None else self.becomes
        rule = OP_RULES.get(op)
        return KERNELS.get(op, POINTWISE if not op or rule.role is Role.POINTWISE else NO_KERNEL)

    def refusal(self, output_format):
        """Why it stays float in a format, or None."""
        cell = self.row().cell(output_format)
        return (self.against or None) if cell.integer else cell.reason

    def model(self):
        return models.operator(self.op, self.operands, self.attributes, outputs=self.outputs, opset=self.opset)

    def feeds(self, model):
        ranges = {f"x{i}": models.fed(o) for i, o in enumerate(self.operands) if isinstance(o, tuple)}
        return models.samples(model, ranges=ranges, seed=len(self.op))


F = (2, 6)  # rows and columns
IMAGE = (1, 8, 6, 6)
POSITIVE = Fed(IMAGE, 0.2, 3.0)
NEGATIVE = Fed(IMAGE, -3.0, -0.2)
COMPUTED = "is computed, not a constant"
TOGETHER = 4  # samples of many cases in one model


def case(op, *operands, outputs=1, opset=models.OPSET, against="", becomes=None, beside="MatMul", **attributes):
    return Case(op, operands, attributes, outputs, opset, against, becomes, beside)


LINEAR = {
    "conv": case("Conv", (1, 3, 9, 7), weight(5, 3, 3, 3), weight(5), pads=[1, 1, 1, 1]),
    "conv-no-bias": case("Conv", (1, 3, 9, 7), weight(5, 3, 3, 3)),
    "conv-pointwise": case("Conv", (2, 7, 3, 5), weight(9, 7, 1, 1), weight(9)),
    "conv-odd": case("Conv", (1, 3, 11, 9), weight(4, 3, 3, 5), weight(4), pads=[0, 2, 1, 1], strides=[2, 1]),
    "conv-dilated": case("Conv", (1, 4, 9, 9), weight(5, 4, 3, 3), weight(5), dilations=[2, 1], pads=[2, 1, 2, 1]),
    "conv-scaled-rows": case("Conv", (1, 8, 5, 5), weight(8, 8, 3, 3, scaled=0), weight(8)),
    "conv-large-bias": case("Conv", (1, 3, 5, 5), weight(4, 3, 3, 3), weight(4, spread=30)),
    "conv-batch": case("Conv", (3, 2, 4, 4), weight(4, 2, 2, 2), weight(4)),
    "conv-one-channel": case("Conv", (1, 1, 8, 8), weight(1, 1, 3, 3), weight(1)),
    "conv-1d": case("Conv", (2, 5, 13), weight(7, 5, 3), weight(7), pads=[1, 0], strides=[2]),
    "conv-1d-dilated": case("Conv", (1, 4, 17), weight(6, 4, 3), dilations=[3], pads=[2, 2]),
    "conv-3d": case("Conv", (1, 3, 5, 6, 4), weight(5, 3, 3, 2, 2), weight(5), strides=[1, 2, 1]),
    "conv-groups": case("Conv", (1, 12, 7, 7), weight(8, 3, 3, 3), weight(8), group=4, pads=[1, 1, 1, 1]),
    "conv-depthwise": case("Conv", (1, 16, 8, 7), weight(16, 1, 3, 3, scaled=0), weight(16), group=16),
    "conv-depthwise-odd": case("Conv", (1, 7, 6, 6), weight(7, 1, 5, 5), group=7, pads=[2, 2, 2, 2]),
    "conv-depthwise-doubled": case("Conv", (1, 4, 6, 6), weight(8, 1, 3, 3), weight(8), group=4),
    "conv-1d-depthwise": case("Conv", (1, 16, 21), weight(16, 1, 5), weight(16), group=16, pads=[2, 2]),
    "conv-same-upper": case("Conv", (1, 3, 7, 8), weight(4, 3, 3, 2), weight(4), auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv-same-lower": case("Conv", (1, 3, 7, 8), weight(4, 3, 3, 2), weight(4), auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv-valid": case("Conv", (1, 3, 7, 8), weight(4, 3, 3, 3), weight(4), auto_pad="VALID"),
    "conv-computed-weight": case("Conv", (1, 3, 5, 5), (4, 3, 3, 3), against=f"the weight {COMPUTED}"),
    "conv-computed-bias": case("Conv", (1, 3, 5, 5), weight(4, 3, 3, 3), (4,), against=f"the bias {COMPUTED}"),
    "conv-transpose": case("ConvTranspose", (1, 4, 5, 5), weight(4, 3, 3, 3, scaled=1), weight(3), strides=[2, 2]),
    "gemm": case("Gemm", (3, 6), weight(6, 5), weight(5)),
    "gemm-no-bias": case("Gemm", (3, 6), weight(6, 5)),
    "gemm-trans-b": case("Gemm", (3, 6), weight(5, 6), weight(5), transB=1),
    "gemm-trans-b-scaled-rows": case("Gemm", (3, 8), weight(8, 8, scaled=0), weight(8), transB=1),
    "gemm-scaled-columns": case("Gemm", (3, 8), weight(8, 8, scaled=1), weight(8)),
    "gemm-trans-a": case("Gemm", (6, 3), weight(6, 5), weight(5), transA=1),
    "gemm-trans-ab": case("Gemm", (6, 3), weight(5, 6), weight(5), transA=1, transB=1),
    "gemm-alpha": case("Gemm", (3, 6), weight(6, 5), weight(5), alpha=2.0),
    "gemm-alpha-beta": case("Gemm", (3, 6), weight(5, 6), weight(5), alpha=0.5, beta=3.0, transB=1),
    "gemm-beta-zero": case("Gemm", (3, 6), weight(6, 5), weight(5, spread=9), beta=0.0),
    "gemm-bias-one": case("Gemm", (3, 6), weight(6, 5), weight(1)),
    "gemm-bias-scalar": case("Gemm", (3, 6), weight(6, 5), weight(), beta=2.0),
    "gemm-bias-row": case("Gemm", (3, 6), weight(6, 5), weight(1, 5), beta=2.0),
    "gemm-bias-one-one": case("Gemm", (3, 6), weight(6, 5), weight(1, 1)),
    "gemm-one-row-bias-matrix": case("Gemm", (1, 6), weight(6, 5), weight(1, 5)),
    "gemm-bias-column": case("Gemm", (3, 6), weight(6, 5), weight(3, 1), against="bias"),
    "gemm-bias-square-column": case("Gemm", (5, 6), weight(6, 5), weight(5, 1), against="bias"),
    "gemm-bias-matrix": case("Gemm", (3, 6), weight(6, 5), weight(3, 5), against="bias"),
    "gemm-computed-weight": case("Gemm", (3, 6), (6, 5), weight(5), against=f"the weight {COMPUTED}"),
    "gemm-computed-bias": case("Gemm", (3, 6), weight(6, 5), (5,), against=f"the bias {COMPUTED}"),
    "matmul": case("MatMul", (3, 6), weight(6, 5)),
    "matmul-scaled-columns": case("MatMul", (3, 8), weight(8, 8, scaled=1)),
    "matmul-3d": case("MatMul", (2, 3, 6), weight(6, 5)),
    "matmul-4d": case("MatMul", (2, 2, 3, 6), weight(6, 5)),
    "matmul-one-column": case("MatMul", (3, 6), weight(6, 1)),
    "matmul-batched-weight": case("MatMul", (2, 3, 6), weight(2, 6, 5)),
    "matmul-const-left": case("MatMul", weight(4, 3), (3, 6)),
    "matmul-two-activations": case("MatMul", (3, 6), (6, 4)),
    "matmul-two-activations-3d": case("MatMul", (2, 3, 6), (2, 6, 4)),
    "matmul-two-activations-4d-broadcast": case("MatMul", (2, 1, 3, 6), (1, 3, 6, 4)),
    "matmul-two-activations-mixed-rank": case("MatMul", (2, 3, 6), (6, 4)),
    "matmul-vector": case("MatMul", (2, 3, 6), weight(6), against="a vector operand"),
}  # fmt: skip

ARITHMETIC = {
    "add": case("Add", IMAGE, Fed(IMAGE, 0, 5)),
    "add-channels": case("Add", IMAGE, (1, 8, 1, 1)),
    "add-channels-first-operand": case("Add", (8, 1, 1), IMAGE),
    "add-row": case("Add", (2, 3, 6), (6,)),
    "add-outer": case("Add", (4, 1), (1, 5)),
    "add-ranges": case("Add", Fed(IMAGE, -0.01, 0.01), Fed(IMAGE, 0, 100)),
    "add-constant": case("Add", IMAGE, weight(*IMAGE)),
    "add-scalar": case("Add", weight(), IMAGE),
    "add-positive-constant": case("Add", IMAGE, weight(8, 1, 1) + 5),
    "sub": case("Sub", IMAGE, Fed(IMAGE, 0, 5)),
    "sub-broadcast": case("Sub", IMAGE, (1, 8, 1, 1)),
    "sub-broadcast-first-operand": case("Sub", (1, 8, 1, 1), IMAGE),
    "sub-constant": case("Sub", IMAGE, weight(*IMAGE), becomes="Add"),
    "sub-from-constant": case("Sub", weight(*IMAGE), IMAGE),
    "sub-from-one": case("Sub", np.ones(1, np.float32), IMAGE),
    "mul": case("Mul", IMAGE, Fed(IMAGE, 0, 5)),
    "mul-gate": case("Mul", IMAGE, Fed((1, 8, 1, 1), 0, 1)),
    "mul-gate-first-operand": case("Mul", Fed((1, 8, 1, 1), 0, 1), IMAGE),
    "mul-scalar": case("Mul", IMAGE, weight(1)),
    "mul-constant": case("Mul", IMAGE, weight(*IMAGE)),
    "mul-fed-scalar": case("Mul", IMAGE, Fed((), 0.5, 2)),
    "mul-outer": case("Mul", (4, 1), (1, 5)),
    "div-by-scalar": case("Div", IMAGE, np.asarray(3.0, np.float32), becomes="Mul"),
    "div-by-channels": case("Div", IMAGE, weight(8, 1, 1) + 3, becomes="Mul"),
    "div-of-constant": case("Div", weight(1), POSITIVE, becomes=""),
    "div": case("Div", IMAGE, Fed(IMAGE, 1, 5)),
    "pow-square": case("Pow", IMAGE, np.asarray(2.0, np.float32), becomes=""),
    "pow-root": case("Pow", POSITIVE, np.asarray([0.5], np.float32), becomes=""),
    "pow-of-constant": case("Pow", np.asarray(2.0, np.float32), IMAGE, becomes=""),
    "pow": case("Pow", POSITIVE, Fed(IMAGE, 1, 2)),
    "prelu-scalar": case("PRelu", IMAGE, weight(1), becomes=""),
    "prelu-channels": case("PRelu", IMAGE, weight(8, 1, 1), becomes=""),
    "prelu-last-axis": case("PRelu", (2, 5, 6), weight(6), becomes=""),
    "prelu-computed": case("PRelu", IMAGE, (8, 1, 1)),
    "where": case("Where", Fed(IMAGE, dtype="bool"), IMAGE, Fed(IMAGE, 0, 5)),
    "where-broadcast": case("Where", Fed((1, 1, 6, 6), dtype="bool"), IMAGE, Fed((1, 8, 1, 1), 0, 5)),
    "where-constant": case("Where", Fed(IMAGE, dtype="bool"), IMAGE, np.asarray(-5.0, np.float32)),
    "where-constant-condition": case("Where", weight(*IMAGE) > 0, IMAGE, IMAGE),
    "max": case("Max", IMAGE, Fed(IMAGE, -1, 5)),
    "max-three": case("Max", IMAGE, (8, 1, 1), Fed(IMAGE, -1, 0)),
    "max-constant": case("Max", IMAGE, weight(8, 1, 1)),
    "max-one": case("Max", IMAGE),
    "min": case("Min", IMAGE, Fed(IMAGE, -1, 5)),
    "min-scalar": case("Min", IMAGE, np.asarray(0.5, np.float32)),
    "concat": case("Concat", IMAGE, IMAGE, axis=1),
    "concat-ranges": case("Concat", Fed(F, 0, 1), Fed(F, -60, 60), axis=0),
    "concat-three-negative-axis": case("Concat", (2, 3, 6), (2, 3, 1), (2, 3, 4), axis=-1),
    "concat-constant": case("Concat", IMAGE, weight(1, 2, 6, 6), axis=1),
    "concat-one": case("Concat", IMAGE, axis=1),
}  # fmt: skip

MOVEMENT = {
    "reshape": case("Reshape", IMAGE, ints(1, -1, 6)),
    "reshape-zero": case("Reshape", IMAGE, ints(0, 8, -1)),
    "flatten": case("Flatten", IMAGE),
    "flatten-axis": case("Flatten", (2, 3, 4, 6), axis=-1),
    "squeeze": case("Squeeze", (1, 5, 1, 6), ints(0, 2)),
    "squeeze-all": case("Squeeze", (5, 1, 6)),
    "unsqueeze": case("Unsqueeze", F, ints(0, -2)),
    "transpose": case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    "transpose-reverse": case("Transpose", (3, 6)),
    "slice": case("Slice", IMAGE, ints(1, 0), ints(5, 6), ints(2, 3), ints(2, 1)),
    "slice-backwards": case("Slice", (2, 7), ints(-1), ints(-8), ints(1), ints(-1)),
    "split": case("Split", IMAGE, axis=1, num_outputs=2, outputs=2),
    "split-sizes": case("Split", IMAGE, ints(1, 5, 2), axis=1, outputs=3),
    "tile": case("Tile", (2, 3, 4), ints(1, 2, 3)),
    "expand": case("Expand", (1, 8, 1, 6), ints(1, 8, 3, 6)),
    "gather": case("Gather", IMAGE, ints(3, 0, 0), axis=1),
    "gather-scalar": case("Gather", (2, 4, 6), np.asarray(-1), axis=1),
    "gather-computed-indices": case("Gather", (5, 6), Fed((3,), 0, 4, "int64")),
    "gather-embedding": case("Gather", weight(7, 6), Fed((2, 4), 0, 6, "int64")),
    "gather-elements": case("GatherElements", F, Fed((2, 4), 0, 5, "int64"), axis=1),
    "gather-nd": case("GatherND", (2, 4, 6), ints(0, 3, 1, 1).reshape(2, 2)),
    "pad": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1)),
    "pad-value": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), np.asarray(1.5, np.float32)),
    "pad-value-beyond-the-range": case("Pad", Fed(F, 0, 1), ints(0, 1, 0, 1), np.asarray(-9.0, np.float32)),
    "pad-axes": case("Pad", IMAGE, ints(1, 1), np.asarray(0.5, np.float32), ints(3)),
    "pad-reflect": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
    "pad-edge": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="edge"),
    "pad-wrap": case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="wrap"),
    "pad-edge-axes": case("Pad", IMAGE, ints(1, 1), None, ints(3), mode="edge"),
    "pad-negative": case("Pad", IMAGE, ints(0, 0, -1, 0, 0, 0, 1, -2)),
    "depth-to-space": case("DepthToSpace", IMAGE, blocksize=2),
    "depth-to-space-crd": case("DepthToSpace", IMAGE, blocksize=2, mode="CRD"),
    "space-to-depth": case("SpaceToDepth", IMAGE, blocksize=2),
    "reverse-sequence": case("ReverseSequence", (4, 2, 6), ints(4, 2)),
    "trilu": case("Trilu", (6, 6)),
    "identity": case("Identity", IMAGE),
    "max-pool": case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], beside="Conv"),
    "max-pool-padded": case("MaxPool", NEGATIVE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 1], beside="Conv"),
    "max-pool-ceil": case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, beside="Conv"),
    "max-pool-dilated": case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], beside="Conv"),
    "max-pool-same": case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER", beside="Conv"),
    "max-pool-1d": case("MaxPool", (1, 8, 9), kernel_shape=[3], strides=[2], beside="Conv"),
    "max-pool-3d": case("MaxPool", (1, 2, 4, 4, 4), kernel_shape=[2, 2, 2], beside="Conv"),
    "max-pool-indices": case("MaxPool", IMAGE, kernel_shape=[2, 2], outputs=2, against="its index output is used"),
    "global-max-pool": case("GlobalMaxPool", NEGATIVE),
    "global-max-pool-1d": case("GlobalMaxPool", (2, 3, 7)),
    "global-max-pool-3d": case("GlobalMaxPool", (1, 2, 3, 4, 5)),
    "reduce-max": case("ReduceMax", IMAGE, ints(2, 3)),
    "reduce-max-dropped": case("ReduceMax", (2, 4, 6), ints(1), keepdims=0),
    "reduce-max-all": case("ReduceMax", F),
    "reduce-min": case("ReduceMin", IMAGE, ints(-3)),
    "resize-nearest": case("Resize", IMAGE, None, np.asarray([1, 1, 2, 2], np.float32), mode="nearest"),
    "resize-nearest-down": case("Resize", IMAGE, None, np.asarray([1, 1, 0.5, 0.5], np.float32), mode="nearest"),
    "resize-nearest-sizes": case("Resize", IMAGE, None, None, ints(1, 8, 9, 4), mode="nearest"),
    "resize-nearest-asymmetric": case(
        "Resize", IMAGE, None, np.asarray([1, 1, 1.5, 2.5], np.float32),
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    ),
    "resize-linear": case(
        "Resize", IMAGE, None, np.asarray([1, 1, 2, 2], np.float32), mode="linear", against="truncates",
    ),
    "resize-cubic": case(
        "Resize", IMAGE, None, np.asarray([1, 1, 2, 2], np.float32), mode="cubic", against="truncates",
    ),
    "upsample": case(
        "Upsample", IMAGE, np.asarray([1, 1, 2, 2], np.float32), mode="nearest", opset=9, becomes="Resize",
    ),
    "upsample-linear": case(
        "Upsample", IMAGE, np.asarray([1, 1, 2, 2], np.float32), mode="linear", opset=9, becomes="Resize",
        against="truncates",
    ),
    "top-k": case("TopK", F, ints(3), outputs=2),
}  # fmt: skip

REDUCTION = {
    "average-pool": case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "average-pool-padded": case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 1]),
    "average-pool-include-pad": case(
        "AveragePool", POSITIVE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1,
    ),
    "average-pool-ceil": case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average-pool-same": case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "average-pool-1d": case("AveragePool", (2, 3, 11), kernel_shape=[4], pads=[2, 1]),
    "average-pool-3d": case("AveragePool", (1, 3, 5, 6, 4), kernel_shape=[2, 3, 2], strides=[1, 2, 2]),
    "average-pool-whole": case("AveragePool", IMAGE, kernel_shape=[6, 6], becomes="GlobalAveragePool"),
    "average-pool-ceil-include-pad": case(
        "AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1,
        against="ceil_mode and count_include_pad",
    ),
    "average-pool-dilated": case("AveragePool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], against="no dilations"),
    "global-average-pool": case("GlobalAveragePool", Fed(IMAGE, -1, 9)),
    "global-average-pool-1d": case("GlobalAveragePool", (2, 3, 7)),
    "global-average-pool-3d": case("GlobalAveragePool", (1, 2, 3, 4, 5)),
    "reduce-mean-spatial": case("ReduceMean", IMAGE, ints(2, 3)),
    "reduce-mean-spatial-dropped": case("ReduceMean", IMAGE, ints(-1, -2), keepdims=0),
    "reduce-mean-channels-last": case("ReduceMean", (2, 5, 4, 6), ints(1, 2), keepdims=0),
    "reduce-mean-channels-last-kept": case("ReduceMean", (2, 5, 4, 6), ints(1, 2)),
    "reduce-mean-middle": case("ReduceMean", (2, 5, 6), ints(1)),
    "reduce-mean-first": case("ReduceMean", (5, 2, 6), ints(0)),
    "reduce-mean-first-dropped": case("ReduceMean", (5, 2, 6), ints(0), keepdims=0),
    "reduce-mean-outer": case("ReduceMean", (3, 2, 4, 6), ints(0, 2)),
    "reduce-mean-outer-axes": case("ReduceMean", (3, 2, 4, 6), ints(0, 3)),
    "reduce-mean-last": case("ReduceMean", (2, 3, 6), ints(-1)),
    "reduce-mean-opset-13": case("ReduceMean", IMAGE, axes=[2, 3], opset=13),
    "reduce-mean-all": case("ReduceMean", Fed((2, 3, 6), 0, 4), against="keep two axes"),
    "reduce-mean-one-axis": case("ReduceMean", IMAGE, ints(3), against="keep two axes"),
    "reduce-mean-computed-axes": case("ReduceMean", (2, 3, 6), Fed((1,), 1, 1, "int64"), against="axes are computed"),
    "reduce-sum": case("ReduceSum", IMAGE, ints(2, 3)),
    "softmax": case("Softmax", (3, 6)),
    "softmax-axis": case("Softmax", (2, 5, 6), axis=1),
    "softmax-first-axis": case("Softmax", (4, 6), axis=0),
    "softmax-image": case("Softmax", IMAGE, axis=1),
    "softmax-peaked": case("Softmax", Fed((3, 6), -20, 20)),
    "softmax-single-value": case("Softmax", (6, 1), against="overflows over a single value"),
    "log-softmax": case("LogSoftmax", F),
    "lp-normalization": case("LpNormalization", F),
}  # fmt: skip

POINTWISE_CASES = {
    "sigmoid": case("Sigmoid", Fed(IMAGE, -6, 6)),
    "tanh": case("Tanh", Fed(IMAGE, -3, 3)),
    "relu": case("Relu", IMAGE),
    "relu-negative": case("Relu", NEGATIVE),
    "clip-6": case("Clip", Fed(IMAGE, -3, 9), np.asarray(0.0, np.float32), np.asarray(6.0, np.float32)),
    "clip-above-zero": case("Clip", Fed(IMAGE, -3, 9), np.asarray(1.0, np.float32), np.asarray(6.0, np.float32)),
    "clip-below": case("Clip", IMAGE, np.asarray(-0.5, np.float32)),
    "clip-above": case("Clip", IMAGE, None, np.asarray(0.5, np.float32)),
    "clip-nothing": case("Clip", IMAGE),
    "clip-computed-limit": case("Clip", IMAGE, Fed((), -0.5, -0.4), against="computed"),
    "leaky-relu": case("LeakyRelu", IMAGE, alpha=0.1),
    "thresholded-relu": case("ThresholdedRelu", IMAGE, alpha=0.7),
    "elu": case("Elu", IMAGE, alpha=1.5),
    "selu": case("Selu", IMAGE),
    "celu": case("Celu", IMAGE, alpha=0.5),
    "gelu": case("Gelu", IMAGE),
    "gelu-tanh": case("Gelu", IMAGE, approximate="tanh"),
    "hard-sigmoid": case("HardSigmoid", Fed(IMAGE, -4, 4), alpha=0.2, beta=0.4),
    "hard-swish": case("HardSwish", Fed(IMAGE, -4, 4)),
    "mish": case("Mish", IMAGE),
    "softplus": case("Softplus", IMAGE),
    "softsign": case("Softsign", IMAGE),
    "swish": case("Swish", IMAGE, opset=24),
    "abs": case("Abs", IMAGE),
    "neg": case("Neg", POSITIVE),
    "exp": case("Exp", IMAGE),
    "log": case("Log", POSITIVE),
    "sqrt": case("Sqrt", POSITIVE),
    "reciprocal": case("Reciprocal", POSITIVE),
    "erf": case("Erf", IMAGE),
    "sign": case("Sign", IMAGE),
    "floor": case("Floor", Fed(IMAGE, -5, 5)),
    "ceil": case("Ceil", Fed(IMAGE, -5, 5)),
    "round": case("Round", Fed(IMAGE, -5, 5)),
    "sin": case("Sin", Fed(IMAGE, -4, 4)),
    "cos": case("Cos", Fed(IMAGE, -4, 4)),
}  # fmt: skip

READING = {
    "shape": case("Shape", IMAGE),
    "size": case("Size", IMAGE),
    "cast": case("Cast", Fed(IMAGE, 0, 255, "uint8"), to=1),
    "cast-int32": case("Cast", Fed(IMAGE, 0, 255, "int32"), to=1, against="casts int32"),
    "arg-max": case("ArgMax", F, axis=1, keepdims=0),
    "arg-min": case("ArgMin", (2, 3, 6), axis=-1, select_last_index=1),
}

CASES = LINEAR | ARITHMETIC | MOVEMENT | REDUCTION | POINTWISE_CASES | READING

IMAGES = "float[1,8,6,6] x) => (float[1,8,6,6] y)"
ROOT = float(np.sqrt(2 / np.pi))
GELU_TANH = (
    f"({IMAGES} {{ p = Pow(x, n) k = Mul(p, c) s = Add(x, k) t = Mul(s, r) h = Tanh(t) o = Add(h, i)"
    " m = Mul(x, o) y = Mul(m, a) }"
)
REGIONS = {
    "silu": (f"({IMAGES} {{ s = Sigmoid(x) y = Mul(x, s) }}", {}),
    "silu-product-first": (f"({IMAGES} {{ s = Sigmoid(x) y = Mul(s, x) }}", {}),
    "hard-swish": (
        f"({IMAGES} {{ a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six) }}",
        {"three": 3, "zero": 0, "six": 6},
    ),
    "hard-sigmoid": (
        f"({IMAGES} {{ a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six) }}", {"three": 3, "zero": 0, "six": 6}
    ),
    "prelu": (
        f"({IMAGES} {{ r = Relu(x) a = Abs(x) d = Sub(x, a) m = Mul(d, slope) h = Mul(m, half) y = Add(r, h) }}",
        {"slope": weight(8, 1, 1), "half": 0.5},
    ),
    "prelu-of-neg": (
        f"({IMAGES} {{ r = Relu(x) n = Neg(x) p = Relu(n) m = Mul(p, slope) y = Add(r, m) }}",
        {"slope": weight(8, 1, 1)},
    ),
    "gelu-tanh": (
        GELU_TANH,
        {"n": 3, "c": 0.044715, "r": ROOT, "i": 1, "a": 0.5},
    ),
    "gelu-erf": (
        f"({IMAGES} {{ d = Div(x, root) e = Erf(d) o = Add(e, one) m = Mul(x, o) y = Mul(m, half) }}",
        {"root": float(np.sqrt(2)), "one": 1, "half": 0.5},
    ),
    "mish": (f"({IMAGES} {{ s = Softplus(x) t = Tanh(s) y = Mul(x, t) }}", {}),
    "channel-affine": (
        f"({IMAGES} {{ m = Mul(x, scale) a = Add(m, offset) y = Relu(a) }}",
        {"scale": weight(1, 8, 1, 1), "offset": weight(8, 1, 1, seed=1)},
    ),
    "prelu-channels-scaled": (f"({IMAGES} {{ y = PRelu(x, slope) }}", {"slope": weight(8, 1, 1, scaled=0) / 100}),
    "last-axis": (
        "(float[2,5,6] x) => (float[2,5,6] y) { m = Mul(x, scale) y = Tanh(m) }", {"scale": weight(6)}
    ),
    "free-batch": ("(float[N,5,6] x) => (float[N,5,6] y) { m = Mul(x, scale) y = Tanh(m) }", {"scale": weight(5, 1)}),
    "softsign-of-scalar-chain": (
        f"({IMAGES} {{ a = Sub(one, x) b = Div(a, two) c = Max(b, low) d = Min(c, high) y = Softsign(d) }}",
        {"one": 1, "two": 2, "low": -0.2, "high": 0.7},
    ),
}  # fmt: skip


def embedded(case):
    """The operator with a linear operator before each float input, and one behind each float result."""
    inputs, arrays, names, nodes = {}, {}, [], []
    for index, operand in enumerate(case.operands):
        names.append("" if operand is None else f"c{index}" if isinstance(operand, np.ndarray) else f"x{index}")
        if isinstance(operand, np.ndarray):
            arrays[f"c{index}"] = operand
        elif operand is not None:
            inputs[f"x{index}"] = models.fed(operand)
            names[-1] = linear(case.beside, f"before{index}", f"x{index}", inputs[f"x{index}"], (nodes, arrays))
    results = ["y", *(f"y{i}" for i in range(1, case.outputs))]
    nodes.append(helper.make_node(case.op, names, results, name="tested", **case.attributes))
    alone = models.graph(nodes, inputs, results, arrays, opset=case.opset)
    made = dict(zip(results, alone.graph.output, strict=True))
    outputs = [linear(case.beside, f"after_{n}", n, models.fed_like(made[n]), (nodes, arrays)) for n in results]
    return models.graph(nodes, inputs, outputs, arrays, opset=case.opset)


def linear(op, name, source, fed, parts):
    """Append a linear operator that changes little; return what it makes, or ``source`` if it cannot have one."""
    nodes, arrays = parts
    if fed.dtype != "float32" or len(fed.shape) < (3 if op == "Conv" else 2):
        return source
    size = fed.shape[1 if op == "Conv" else -1]
    array = near_identity(size)
    arrays[f"{name}_weight"] = array.reshape(size, size, *(1,) * (len(fed.shape) - 2)) if op == "Conv" else array
    nodes.append(helper.make_node(op, [source, f"{name}_weight"], [f"{name}_result"], name=name))
    return f"{name}_result"


def near_identity(size):
    """A weight that keeps signs, so that what is fed to a logarithm stays positive."""
    return (np.eye(size) + np.random.default_rng(size).uniform(0, 0.05, (size, size))).astype(np.float32)


def together(cases, of=Case.model):
    """Many cases as one model for each opset, with feeds: of case `c`, every name begins with `c/`."""
    found = {}
    for opset in dict.fromkeys(c.opset for c in cases.values()):
        own = {n: of(c) for n, c in cases.items() if c.opset == opset}
        parts = [compose.add_prefix(model, f"{name}/") for name, model in own.items()]
        whole, feeds = parts[0], [{} for _ in range(TOGETHER)]
        for part in parts[1:]:
            for kind in ("node", "input", "output", "initializer"):
                getattr(whole.graph, kind).extend(getattr(part.graph, kind))
        for name, model in own.items():
            for feed, mine in zip(feeds, cases[name].feeds(model), strict=False):
                feed.update({f"{name}/{n}": x for n, x in mine.items()})
        found[opset] = whole, feeds
    return found
