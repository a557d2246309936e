"""When a row of the tables does not apply to a particular node, and why: structure, not numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from quantcli import graph
from quantcli.oprules import Role

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.oprules import OpRule
    from quantcli.runtime import TensorInfo

Infos = Mapping[str, "TensorInfo"]


def reason_against(node: ir.Node, rule: OpRule, infos: Infos, *, wide: bool = False) -> str | None:
    """Return why the node cannot be an integer operator although its type could, or None.

    ``wide`` leaves out what only the 8-bit kernels cannot do.
    """
    for index in data_inputs(node, rule):
        value = node.inputs[index]
        if value is not None and not is_float32(value, infos):
            return f"input {index} ({graph.name_of(value)!r}) is not a float32 tensor"
    check = None if wide and node.op_type in _EIGHT_BIT_ONLY else _CHECKS.get(node.op_type)
    return check(node, infos) if check else None


def data_inputs(node: ir.Node, rule: OpRule) -> tuple[int, ...]:
    """Return the indices of the inputs that carry activations, absent ones left out."""
    wanted = range(len(node.inputs)) if rule.data is None else rule.data
    return tuple(i for i in wanted if graph.input_at(node, i) is not None)


def is_float32(value: ir.Value, infos: Infos) -> bool:
    """Tell whether onnxruntime gives the tensor type float32."""
    info = infos.get(graph.name_of(value))
    return info is not None and info.is_float32


def rank(value: ir.Value | None, infos: Infos) -> int | None:
    """Return the rank of a tensor; None where it is unknown (onnxruntime reports that as rank 0)."""
    info = infos.get(graph.name_of(value)) if value is not None else None
    return len(info.shape) if info is not None and info.shape else None


def dimension(value: ir.Value | None, axis: int, infos: Infos) -> int | None:
    """Return a fixed dimension of a tensor, or None where it is free or unknown."""
    info = infos.get(graph.name_of(value)) if value is not None else None
    if info is None or not info.shape or not -len(info.shape) <= axis < len(info.shape):
        return None
    size = info.shape[axis]
    return size if isinstance(size, int) else None


def _conv(node: ir.Node, _infos: Infos) -> str | None:
    if not graph.is_constant(graph.input_at(node, 1)):
        return "the weight is computed, not a constant"
    bias = graph.input_at(node, 2)
    return "the bias is computed, not a constant" if bias is not None and not graph.is_constant(bias) else None


def _gemm(node: ir.Node, infos: Infos) -> str | None:
    against = _conv(node, infos)
    plain = not graph.int_attribute(node, "transA", 0) and all(
        graph.float_attribute(node, a, 1.0) == 1.0 for a in ("alpha", "beta")
    )
    if against is not None or not plain:
        return against or "transA, alpha or beta could not be folded into its constants"
    weight, bias = graph.constant(node.inputs[1]), graph.constant(graph.input_at(node, 2))
    channels = 0 if weight is None else weight.shape[0 if graph.int_attribute(node, "transB", 0) else 1]
    fits = bias is None or bias.size == 1 or (bias.size == channels == bias.shape[-1])
    return None if fits else "its bias is not one number per output channel"


def _matmul(node: ir.Node, infos: Infos) -> str | None:
    left, right = node.inputs
    if graph.is_constant(left) and graph.is_constant(right):
        return "both operands are constants"
    if (rank(left, infos) == 1) or (rank(right, infos) == 1):
        return "a vector operand: QLinearMatMul takes matrices"
    return None


def _resize(node: ir.Node, _infos: Infos) -> str | None:
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "nearest":
        return "interpolation on integers truncates in onnxruntime instead of rounding"
    return None


def _argument_constant(node: ir.Node, _infos: Infos) -> str | None:
    if any(graph.is_constant(v) for v in node.inputs[:1]):
        return "selects from a constant"
    return None


def _softmax(node: ir.Node, infos: Infos) -> str | None:
    known = rank(node.inputs[0], infos)
    axis = graph.int_attribute(node, "axis", -1)
    if known is None:
        return "the rank of its input is unknown, and QLinearSoftmax needs it"
    if dimension(node.inputs[0], axis, infos) == 1:
        return "QLinearSoftmax overflows over a single value"
    return None


def _average_pool(node: ir.Node, infos: Infos) -> str | None:
    if graph.int_attribute(node, "ceil_mode", 0) and graph.int_attribute(node, "count_include_pad", 0):
        return "QLinearAveragePool is wrong with ceil_mode and count_include_pad together"
    if any(d != 1 for d in graph.ints_attribute(node, "dilations") or ()):
        return "QLinearAveragePool has no dilations"
    known = rank(node.inputs[0], infos)
    return None if known in (3, 4, 5) else f"QLinearAveragePool takes rank 3 to 5, not {known}"


def _global_pool(node: ir.Node, infos: Infos) -> str | None:
    known = rank(node.inputs[0], infos)
    return None if known is not None and known >= 3 else "the rank of its input is unknown or below 3"


def _mean(node: ir.Node, infos: Infos) -> str | None:
    known = rank(node.inputs[0], infos)
    if known is None:
        return "the rank of its input is unknown"
    axes = reduced_axes(node, known)
    if axes is None:
        return "the reduced axes are computed, not constant"
    if known - len(axes) != 2:
        return "only means that keep two axes (batch and channel) have an integer kernel"
    return None


def _cast(node: ir.Node, infos: Infos) -> str | None:
    info = infos.get(graph.name_of(node.inputs[0])) if node.inputs[0] is not None else None
    given = info.dtype.name if info is not None and info.dtype is not None else "an unknown type"
    return None if given == "uint8" else f"casts {given}: only uint8 values are on an 8-bit grid as they stand"


def reduced_axes(node: ir.Node, known: int) -> tuple[int, ...] | None:
    """Return the axes that a Reduce operator reduces, ascending and non-negative; None where they are computed."""
    axes = graph.ints_attribute(node, "axes")
    given = graph.input_at(node, 1)
    if given is not None:
        array = graph.constant(given)
        if array is None:
            return None
        axes = tuple(int(a) for a in array.ravel())
    return tuple(sorted(a % known for a in axes)) if axes else tuple(range(known))


def _clip(node: ir.Node, _infos: Infos) -> str | None:
    computed = any(v is not None and not graph.is_constant(v) for v in node.inputs[1:])
    return "its limits are computed, not constant" if computed else None


def _no_indices(node: ir.Node, _infos: Infos) -> str | None:
    return "its index output is used" if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]) else None


_CHECKS: Final[dict[str, Callable[[ir.Node, Infos], str | None]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Resize": _resize,
    "Softmax": _softmax,
    "ReduceMean": _mean,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MaxPool": _no_indices,
    "Cast": _cast,
    "Clip": _clip,
    "Split": _argument_constant,
    "Slice": _argument_constant,
}

_EIGHT_BIT_ONLY: Final = frozenset({"Softmax", "ReduceMean", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})

CORE: Final = frozenset({Role.LINEAR, Role.PRODUCT})
"""Roles that carry the arithmetic: whatever is worth computing in integers is next to one of them."""
