"""THE storage table: which constant of which operator may be stored in integers, and in which forms it is read.

A *product* has an integer or a block-wise kernel; every other weight is *folded*: onnxruntime expands it to float32
when it loads the model. Decides specs and forms; knows no numbers and writes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from quantcli import dtypes, dynamic_cost, graph
from quantcli.applicability import dimension, rank
from quantcli.dynamic_cost import Shape
from quantcli.quant import PerAxis, PerBlock, PerTensor, QuantSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from quantcli.applicability import Infos
    from quantcli.plan import StoredUse
    from quantcli.recipe import TensorScheme

DYNAMIC: Final = "dynamic"  # activations quantized at run time: MatMulInteger
RECURRENT: Final = "recurrent"  # the same for a whole LSTM
BLOCKED: Final = "blocked"  # DequantizeLinear that onnxruntime fuses into MatMulNBits
FOLDED: Final = "folded"  # Cast and Mul, evaluated when the model is loaded

_KERNELS: Final = {
    DYNAMIC: "MatMulInteger: uint8 activations, quantized at run time, x {weights}",
    RECURRENT: "DynamicQuantizeLSTM: uint8 activations, quantized at run time, x {weights}",
    BLOCKED: "MatMulNBits: {weights}; accuracy level 4, activations rounded to int8 per block",
    FOLDED: "float32; weights {weights}, expanded when the model is loaded",
}
SHORTEST_BLOCK: Final = 16  # an axis shorter than the smallest block gains nothing from blocks
FEWEST_PER_SCALE: Final = 8  # with fewer int8 values to one float32 scale, the scales outweigh what is saved


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a weight has its output channels, and along which axis its products are summed."""

    channel: tuple[int, ...]
    reduced: int


@dataclass(frozen=True, slots=True)
class StorageRule:
    """One row.

    Attributes:
        weights: Indices of the inputs that may be stored.
        layout: Finds the axes of such a weight, given node, index and rank.
        kernel: The form beside ``folded``: ``product`` or ``recurrent``; empty where there is none.
        always: Whether the weight is stored in every mode; convolutions and recurrences only where asked for.
        table: Whether rows of the weight are looked up instead of summed over.
    """

    weights: tuple[int, ...]
    layout: Callable[[ir.Node, int, int], Layout]
    kernel: str = ""
    always: bool = False
    table: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of all weights: the scheme, and which operators and kernels may be used.

    Attributes:
        scheme: Types and granularity.
        dynamic: Whether activations are quantized at run time.
        fused: Whether block-wise weights may reach a kernel that rounds activations.
        everywhere: Whether weights without a kernel of their own (convolution, recurrence) are stored too.
        smallest: Fewest elements worth storing.
        eight_bit_below: Weights with fewer elements are stored in 8 bits even if 4 are wanted.
        eight_bit_tables: Whether tables are, too: no sum averages out the rounding of what is looked up.
    """

    scheme: TensorScheme
    dynamic: bool
    fused: bool = True
    everywhere: bool = True
    smallest: int = 1024
    eight_bit_below: int = 0
    eight_bit_tables: bool = False


def _first(_node: ir.Node, _index: int, known: int) -> Layout:
    return Layout((0,), min(1, known - 1))


def _second(_node: ir.Node, _index: int, _known: int) -> Layout:
    return Layout((1,), 0)


def _gemm(node: ir.Node, index: int, _known: int) -> Layout:
    turned = bool(graph.int_attribute(node, "transB" if index else "transA", 0))
    channel = int(turned != bool(index))
    return Layout((channel,), 1 - channel)


def _matmul(_node: ir.Node, index: int, known: int) -> Layout:
    if known == 1:
        return Layout((), 0)
    channel, reduced = (known - 1, known - 2) if index else (known - 2, known - 1)
    return Layout((*range(known - 2), channel), reduced)


def _recurrent(_node: ir.Node, _index: int, _known: int) -> Layout:
    return Layout((0, 1), 2)


def _gather(node: ir.Node, _index: int, known: int) -> Layout:
    axis = graph.int_attribute(node, "axis", 0) % known
    return Layout((axis,), known - 1 if axis != known - 1 else 0)


STORAGE: Final[dict[str, StorageRule]] = {
    "MatMul": StorageRule((0, 1), _matmul, "product", always=True),
    "Gemm": StorageRule((0, 1), _gemm, "product", always=True),
    "Gather": StorageRule((0,), _gather, always=True, table=True),
    "LSTM": StorageRule((1, 2), _recurrent, "recurrent"),
    "GRU": StorageRule((1, 2), _recurrent),
    "RNN": StorageRule((1, 2), _recurrent),
    "Conv": StorageRule((1,), _first),
    "ConvTranspose": StorageRule((1,), _second),
}


def rule_of(node: ir.Node, index: int) -> StorageRule | None:
    """Return the row by which an input of a node may be stored."""
    rule = STORAGE.get(node.op_type) if graph.is_onnx(node) else None
    return rule if rule is not None and index in rule.weights else None


def form_of(node: ir.Node, index: int, infos: Infos, wish: Wish) -> tuple[str, str]:
    """Return the form in which a node reads a stored weight, and the reason if it is the folded one."""
    rule = rule_of(node, index)
    if rule is None or not rule.kernel:
        return FOLDED, f"{node.op_type} has no integer kernel for such weights"
    if rule.kernel == "recurrent":
        reason = _against_recurrent(node, wish)
        return (FOLDED, reason) if reason else (RECURRENT, "")
    reason = _against_product(node, index, infos)
    if reason is None and wish.dynamic:
        reason = _against_dynamic(node, infos, wish.scheme)
        return (FOLDED, reason) if reason else (DYNAMIC, "")
    if reason is None and not wish.fused:
        reason = "asked to compute in float: the kernel for block-wise weights rounds activations"
    return (FOLDED, reason) if reason else (BLOCKED, "")


def reason_against(node: ir.Node, index: int) -> str | None:
    """Return why a weight stays float whatever is wanted, or None."""
    rule, shape = rule_of(node, index), _shape(node.inputs[index])
    if rule is None or not rule.table:
        return None
    channels = math.prod(shape[a] for a in rule.layout(node, index, len(shape)).channel)
    each = math.prod(shape) // max(channels, 1)
    return None if each >= FEWEST_PER_SCALE else f"a table with rows of {each}: too few values to share a scale"


def spec_of(node: ir.Node, index: int, form: str, wish: Wish) -> QuantSpec:
    """Return how a weight is quantized for a reader: by blocks of the axis summed over, by channel, or as a whole."""
    rule, shape = rule_of(node, index), _shape(node.inputs[index])
    scheme = wish.scheme
    spec = QuantSpec(dtypes.BY_NAME[scheme.dtype], scheme.symmetric, PerTensor(), scheme.narrow_range)
    if rule is None or scheme.granularity == "per-tensor":
        return spec
    layout = rule.layout(node, index, len(shape))
    if spec.dtype.bits < 8 and (math.prod(shape) < wish.eight_bit_below or (rule.table and wish.eight_bit_tables)):
        return by_channel(_eight_bit(spec), shape, layout)
    if scheme.granularity == "per-channel":
        return by_channel(spec, shape, layout)
    if rule.always and (form == BLOCKED or shape[layout.reduced] >= SHORTEST_BLOCK):
        return replace(spec, granularity=PerBlock(layout.reduced, scheme.block_size))
    return by_channel(_eight_bit(spec), shape, layout)


def kernel_of(form: str, spec: QuantSpec) -> str:
    """Return what computes, for the ledger."""
    size = spec.granularity.size if isinstance(spec.granularity, PerBlock) else 0
    grouping = {PerTensor: "per tensor", PerAxis: "per channel"}.get(type(spec.granularity), f"in blocks of {size}")
    return _KERNELS[form].format(weights=f"{spec.dtype.name} {grouping}")


def takes(node: ir.Node, use: StoredUse, spec: QuantSpec) -> bool:
    """Tell whether a reader could read a weight quantized in another way: all kernels take 8 bits by output channel."""
    rule = rule_of(node, use.index)
    if rule is None or use.form == FOLDED:
        return True
    channel = rule.layout(node, use.index, len(_shape(node.inputs[use.index]))).channel
    return spec.dtype.bits == 8 and spec.granularity == PerAxis(channel[-1])


def by_channel(spec: QuantSpec, shape: tuple[int, ...], layout: Layout) -> QuantSpec:
    """Return the spec with one scale per channel, or 8-bit with one for all where the channels are too short."""
    channels = math.prod(shape[a] for a in layout.channel)
    if not layout.channel or math.prod(shape) < FEWEST_PER_SCALE * channels:
        return replace(_eight_bit(spec), granularity=PerTensor())
    *outer, last = layout.channel
    if all(shape[a] == 1 for a in outer):
        return replace(spec, granularity=PerAxis(last))
    return replace(spec, granularity=PerBlock(layout.reduced, shape[layout.reduced]))


def _against_product(node: ir.Node, index: int, infos: Infos) -> str | None:
    known, factors = len(_shape(node.inputs[index])), [graph.float_attribute(node, a, 1.0) for a in ("alpha", "beta")]
    if index != 1:
        return "the constant is its left operand: the kernels take constants on the right"
    if known != 2:
        return f"the kernels take constants of rank 2, not {known}"
    if factors != [1.0, 1.0] or graph.int_attribute(node, "transA", 0):
        return "transA, alpha or beta could not be folded into its constants"
    other = rank(node.inputs[0], infos)
    return None if other is not None and other >= 2 else "its other operand is a vector, or of unknown rank"


def _against_dynamic(node: ir.Node, infos: Infos, scheme: TensorScheme) -> str | None:
    against = _against_integers(scheme)
    if against is not None:
        return against
    depth, width = _shape(node.inputs[1])
    if graph.int_attribute(node, "transB", 0):
        depth, width = width, depth
    shape = Shape(_rows(node, infos), depth, width)
    if dynamic_cost.pays(shape):
        return None
    rows = f"{shape.rows} row{'s' * (shape.rows > 1)}" if shape.rows else "a free number of rows"
    return f"quantizing {rows} at run time makes a product with {depth} x {width} weights slower than float"


def _against_recurrent(node: ir.Node, wish: Wish) -> str | None:
    if not wish.dynamic:
        return "no kernel takes recurrent weights in blocks"
    shapes = [_shape(node.inputs[i]) for i in (1, 2) if graph.is_constant(node.inputs[i])]
    if len(shapes) != 2 or min(math.prod(s) for s in shapes) < wish.smallest:
        return f"DynamicQuantizeLSTM takes both weights in integers; one is computed or under {wish.smallest} elements"
    weights = sum(math.prod(s[1:]) for s in shapes)
    slower = f"quantizing its state at run time makes an LSTM with {weights} weights slower than float"
    return _against_integers(wish.scheme) or (None if dynamic_cost.recurrent_pays(weights) else slower)


def _against_integers(scheme: TensorScheme) -> str | None:
    if dtypes.BY_NAME[scheme.dtype].bits != 8 or scheme.granularity == "per-block":
        return "the integer kernels take 8-bit weights with one scale per output channel"
    return None


def _rows(node: ir.Node, infos: Infos) -> int:
    """Return how many rows the left operand has; 0 where that is free."""
    known = rank(node.inputs[0], infos) or 0
    return math.prod(dimension(node.inputs[0], a, infos) or 0 for a in range(known - 1))


def _eight_bit(spec: QuantSpec) -> QuantSpec:
    return replace(spec, dtype=dtypes.INT8 if spec.dtype.signed else dtypes.UINT8)


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    return tuple(value.shape.numpy()) if value is not None and value.shape is not None else ()
