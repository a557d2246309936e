"""THE op table: what quantization needs of each operator, one row each.

The facts are those of LiteRT's 8-bit and 16x8 specifications, said for ONNX operators. What the runtime can execute is
not known here (``kernels``); an operator without a row is not quantizable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Role(Enum):
    """How an operator treats the scales of its operands."""

    LINEAR = "linear"  # activation x constant weight (+ bias), int32 accumulator
    PRODUCT = "product"  # MatMul of two activations
    ELEMENTWISE = "elementwise"  # every input and the output have scales of their own
    JOIN = "join"  # many inputs into one output: one scale for all where the producers allow it
    SAME = "same"  # data movement or selection: the result is on the grid of the data input
    REDUCE = "reduce"  # means and sums: the output has its own, narrower range
    FIXED = "fixed"  # the range of the result is known beforehand
    POINTWISE = "pointwise"  # a function of one variable: 256 entries say all
    SOURCE = "source"  # 8-bit integers of the user's own become real numbers: the grid 1, 0 holds them exactly
    OPAQUE = "opaque"  # reads values or shapes, its result is not a quantized tensor


@dataclass(frozen=True, slots=True)
class OpRule:
    """One row.

    Attributes:
        role: How scales are treated.
        data: Indices of the inputs that carry activations; None means all of them.
        weight: Index of the constant weight (LINEAR).
        bias: Index of the bias (LINEAR), or None where the operator has none.
        axis: Output channel axis of the weight for group 1 (LINEAR); Gemm's depends on transB.
        fixed: Scale and uint8 zero point of the result where it is known (FIXED, and POINTWISE with a bounded result).
        fixed16: Scale of the int16 result (zero point 0) where LiteRT fixes it.
        bounds: Smallest and largest value that the operator lets through: it is absorbed by the range of its producer.
        flat: Values below and above which the result is constant (to within half an 8-bit step of a bounded result):
            the range of the input need not reach further.
        flat16: Likewise to within half a 16-bit step.
    """

    role: Role
    data: tuple[int, ...] | None = (0,)
    weight: int | None = None
    bias: int | None = None
    axis: int = 0
    fixed: tuple[float, int] | None = None
    fixed16: float | None = None
    bounds: tuple[float, float] | None = None
    flat: tuple[float, float] | None = None
    flat16: tuple[float, float] | None = None


_INF: Final = float("inf")
_SAME: Final = OpRule(Role.SAME)
_POINTWISE: Final = OpRule(Role.POINTWISE)
_REDUCE: Final = OpRule(Role.REDUCE)
_OPAQUE: Final = OpRule(Role.OPAQUE, data=None)

OP_RULES: Final[dict[str, OpRule]] = {
    # linear operators: int8 weights per output channel, int32 bias of scale s_in * s_w[c]
    "Conv": OpRule(Role.LINEAR, weight=1, bias=2, axis=0),
    "ConvTranspose": OpRule(Role.LINEAR, weight=1, bias=2, axis=1),
    "Gemm": OpRule(Role.LINEAR, weight=1, bias=2, axis=1),
    "MatMul": OpRule(Role.LINEAR, weight=1, axis=-1),
    # arithmetic of activations; constants are quantized as activations
    "Add": OpRule(Role.ELEMENTWISE, data=None),
    "Sub": OpRule(Role.ELEMENTWISE, data=None),
    "Mul": OpRule(Role.ELEMENTWISE, data=None),
    "Div": OpRule(Role.ELEMENTWISE, data=None),
    "Pow": OpRule(Role.ELEMENTWISE, data=None),
    "Where": OpRule(Role.ELEMENTWISE, data=(1, 2)),
    "PRelu": OpRule(Role.ELEMENTWISE, data=(0, 1)),
    # several inputs on one grid
    "Concat": OpRule(Role.JOIN, data=None),
    "Max": OpRule(Role.JOIN, data=None),
    "Min": OpRule(Role.JOIN, data=None),
    # data movement and selection
    "Reshape": _SAME,
    "Flatten": _SAME,
    "Squeeze": _SAME,
    "Unsqueeze": _SAME,
    "Transpose": _SAME,
    "Slice": _SAME,
    "Split": _SAME,
    "Tile": _SAME,
    "Expand": _SAME,
    "Gather": _SAME,
    "GatherElements": _SAME,
    "GatherND": _SAME,
    "Pad": _SAME,
    "DepthToSpace": _SAME,
    "SpaceToDepth": _SAME,
    "ReverseSequence": _SAME,
    "Trilu": _SAME,
    "Identity": _SAME,
    "MaxPool": _SAME,
    "GlobalMaxPool": _SAME,
    "ReduceMax": _SAME,
    "ReduceMin": _SAME,
    "Resize": _SAME,
    "Upsample": _SAME,
    "TopK": _SAME,
    # means: LiteRT's pooling kernels cannot rescale and force one scale; onnxruntime's can, and a mean is narrower
    "AveragePool": _REDUCE,
    "GlobalAveragePool": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceSum": _REDUCE,
    # results whose range is known (LiteRT: int8 zero points -128, 127, 0; uint8 is 128 more)
    "Softmax": OpRule(Role.FIXED, fixed=(1 / 256, 0), fixed16=1 / 32768),
    "LogSoftmax": OpRule(Role.FIXED, fixed=(16 / 256, 255)),
    "LpNormalization": OpRule(Role.FIXED, fixed=(1 / 128, 128)),
    # functions of one variable
    "Sigmoid": OpRule(Role.POINTWISE, fixed=(1 / 256, 0), fixed16=1 / 32768, flat=(-8.0, 8.0), flat16=(-11.5, 11.5)),
    "Tanh": OpRule(Role.POINTWISE, fixed=(1 / 128, 128), fixed16=1 / 32768, flat=(-4.0, 4.0), flat16=(-6.0, 6.0)),
    "Relu": OpRule(Role.POINTWISE, bounds=(0.0, _INF)),
    "Clip": OpRule(Role.POINTWISE, bounds=(-_INF, _INF)),
    "LeakyRelu": _POINTWISE,
    "ThresholdedRelu": _POINTWISE,
    "Elu": _POINTWISE,
    "Selu": _POINTWISE,
    "Celu": _POINTWISE,
    "Gelu": _POINTWISE,
    "HardSigmoid": OpRule(Role.POINTWISE, flat=(-2.5, 2.5), flat16=(-2.5, 2.5)),  # of the default alpha 0.2, beta 0.5
    "HardSwish": OpRule(Role.POINTWISE, flat=(-3.0, _INF), flat16=(-3.0, _INF)),
    "Mish": _POINTWISE,
    "Softplus": _POINTWISE,
    "Softsign": _POINTWISE,
    "Swish": _POINTWISE,
    "Abs": _POINTWISE,
    "Neg": _POINTWISE,
    "Exp": _POINTWISE,
    "Log": _POINTWISE,
    "Sqrt": _POINTWISE,
    "Reciprocal": _POINTWISE,
    "Erf": _POINTWISE,
    "Sign": _POINTWISE,
    "Floor": _POINTWISE,
    "Ceil": _POINTWISE,
    "Round": _POINTWISE,
    "Sin": _POINTWISE,
    "Cos": _POINTWISE,
    # integers of the user's own, such as the pixels of an image
    "Cast": OpRule(Role.SOURCE, data=(), fixed=(1.0, 0), fixed16=1.0),
    # read, not computed with
    "Shape": _OPAQUE,
    "Size": _OPAQUE,
    "ArgMax": OpRule(Role.OPAQUE),
    "ArgMin": OpRule(Role.OPAQUE),
}

# Binary arithmetic that is pointwise when every other operand is a constant (scalar or per channel), or comes from the
# same tensor: together with POINTWISE operators it forms one region, one function of one variable.
POINTWISE_WITH_CONSTANT: Final = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"})

# Of the operators that keep a grid, those that may leave out the values for which it is wide.
SELECTING: Final = frozenset({"Slice", "Split", "Gather", "GatherElements", "GatherND"})

# What an exporter may leave behind that changes nothing at inference time.
NO_OPS: Final = frozenset({"Identity", "Dropout"})

# Which input divides: where that is rounded to 0, the result is no number.
DIVIDING: Final = {"Div": 1, "Reciprocal": 0}
