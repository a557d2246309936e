"""THE kernel table: what onnxruntime's CPU provider runs in integers, and where integers would be slower than float.

Measured with onnxruntime 1.31 on x86 (AVX512-VNNI), uint8 activations and int8 weights. One row per operator, one cell
per form. A cell says INTEGER, or FLOAT with the reason that the coverage ledger shows. The ``wide`` cells are those of
LiteRT's 16x8 list (an operator outside of it stays float), written by ``lowering.wide`` in exact arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FORMS: Final = ("qdq", "integer", "wide")


@dataclass(frozen=True, slots=True)
class Cell:
    """What becomes of an operator in one format: computed in integers, or in float with a reason."""

    integer: bool
    reason: str = ""
    near_linear_only: bool = False  # pays only next to a convolution, inside onnxruntime's channels-last region


@dataclass(frozen=True, slots=True)
class Kernel:
    """One row: the QDQ form that onnxruntime fuses, the uint8 operators, and 16-bit arithmetic on two byte planes."""

    qdq: Cell
    integer: Cell
    wide: Cell
    lowering: str = "move"  # which function of ``lowering`` writes the integer form
    greedy: bool = False  # onnxruntime fuses it between DQ and Q although the cell says float

    def cell(self, form: str) -> Cell:
        """Return the cell of ``qdq``, ``integer`` (both 8-bit) or ``wide`` (16-bit activations)."""
        return {"qdq": self.qdq, "integer": self.integer, "wide": self.wide}[form]


_YES: Final = Cell(integer=True)


_BY_LINEAR: Final = Cell(
    integer=True,
    reason="the uint8 kernel is 10 times slower than float outside a channels-last region",
    near_linear_only=True,
)


def _float(reason: str) -> Cell:
    return Cell(integer=False, reason=reason)


_UNFUSED: Final = _float("onnxruntime fuses no integer kernel for it between Q and DQ")
_NO_FORM: Final = _float("has no integer form on onnxruntime's CPU provider")
_NO_WIDE: Final = _float("has no 16-bit form")
_NEITHER: Final = Kernel(qdq=_UNFUSED, integer=_NO_FORM, wide=_NO_WIDE)
_TABLE: Final = Kernel(
    qdq=_float("pointwise function: float between DQ and Q is as fast as a table"),
    integer=_YES,
    wide=_YES,
    lowering="table",
)


def _both(lowering: str) -> Kernel:
    return Kernel(qdq=_YES, integer=_YES, wide=_YES, lowering=lowering)


def _integer_only(lowering: str) -> Kernel:
    return Kernel(qdq=_UNFUSED, integer=_YES, wide=_YES, lowering=lowering)


_BOTH: Final = Kernel(qdq=_YES, integer=_YES, wide=_YES)
_INTEGER_ONLY: Final = Kernel(qdq=_UNFUSED, integer=_YES, wide=_YES)

KERNELS: Final[dict[str, Kernel]] = {
    "Conv": _both("conv"),
    "Gemm": _both("gemm"),
    "MatMul": _both("matmul"),
    "ConvTranspose": _NEITHER,
    "Add": _both("add"),
    "Mul": _both("mul"),
    "Sub": _integer_only("sub"),
    "Div": _NEITHER,
    "Pow": _NEITHER,
    "PRelu": _NEITHER,
    "Where": _both("where"),
    "Concat": _both("concat"),
    "Max": _integer_only("extremum"),
    "Min": _integer_only("extremum"),
    "Reshape": _BOTH,
    "Flatten": _BOTH,
    "Squeeze": _BOTH,
    "Unsqueeze": _BOTH,
    "Transpose": _BOTH,
    "Slice": _BOTH,
    "Split": _BOTH,
    "Tile": _BOTH,
    "Expand": _BOTH,
    "Gather": _BOTH,
    "GatherElements": _BOTH,
    "GatherND": _INTEGER_ONLY,
    "Identity": _BOTH,
    "DepthToSpace": _BOTH,
    "SpaceToDepth": _INTEGER_ONLY,
    "ReverseSequence": _NEITHER,
    "Trilu": _NEITHER,
    "TopK": _NEITHER,
    "Pad": _integer_only("pad"),
    "MaxPool": Kernel(qdq=_BY_LINEAR, integer=_YES, wide=_YES),
    "GlobalMaxPool": _integer_only("global_max_pool"),
    "ReduceMax": _BOTH,
    "ReduceMin": _BOTH,
    "Resize": _BOTH,
    "AveragePool": Kernel(
        qdq=_float("QLinearAveragePool is 3-5 times slower than float"),
        integer=_YES,
        wide=_YES,
        lowering="average_pool",
        greedy=True,
    ),
    "GlobalAveragePool": _both("global_average_pool"),
    "ReduceMean": _integer_only("reduce_mean"),
    "ReduceSum": Kernel(qdq=_UNFUSED, integer=_NO_FORM, wide=_YES, lowering="reduce_sum"),
    "Softmax": Kernel(
        qdq=_float("QLinearSoftmax is 4-7 times slower than float"),
        integer=_YES,
        wide=_YES,
        lowering="softmax",
        greedy=True,
    ),
    "Sigmoid": _both("table"),
    "LeakyRelu": _both("table"),
    "LogSoftmax": _NEITHER,
    "LpNormalization": _NEITHER,
    "Cast": _integer_only("source"),
    "Shape": _both("read"),
    "Size": _both("read"),
    "ArgMax": _both("read"),
    "ArgMin": _both("read"),
}

POINTWISE: Final = _TABLE
"""The row of every pointwise operator, and of a whole region of them."""

NO_KERNEL: Final = Kernel(qdq=_NO_FORM, integer=_NO_FORM, wide=_NO_WIDE)
"""The row of everything else."""


def is_fused(op_type: str) -> bool:
    """Tell whether onnxruntime makes an integer kernel of the operator wherever it stands between DQ and Q."""
    row = KERNELS.get(op_type)
    return row is not None and (row.qdq.integer or row.greedy)
