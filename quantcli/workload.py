"""The work of a float model: which kind each operator is of, and how often it multiplies and accumulates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Final

from quantcli import graph

if TYPE_CHECKING:
    import onnx_ir as ir

Size = tuple[int, ...]
Sizes = Mapping[str, Size]

CONVOLUTION: Final = "convolution"
DEPTHWISE: Final = "depthwise convolution"
PRODUCT: Final = "matrix product"
ATTENTION: Final = "product of activations"
RECURRENT: Final = "recurrent"
EMBEDDING: Final = "embedding"

_ATTENTION_OPS: Final = ("Attention", "MultiHeadAttention", "GroupQueryAttention")


def work(model: ir.Model, seen: Sizes) -> dict[str, tuple[str, int]]:
    """Return, by name of a node of the main graph, its kind and multiply-accumulates; others do not multiply."""
    found = {}
    for node in model.graph:
        kind = kind_of(node)
        if kind is not None:
            found[graph.node_name(node)] = (kind, _MACS[kind](node, seen) if kind in _MACS else 0)
    return found


def kind_of(node: ir.Node) -> str | None:
    """Return the kind of an operator that has weights or multiplies matrices."""
    if node.op_type in _ATTENTION_OPS:
        return ATTENTION
    find = _KINDS.get(node.op_type) if graph.is_onnx(node) else None
    return find(node) if find is not None else None


def is_weight(value: ir.Value) -> bool:
    """Tell whether the value is a constant of several real numbers."""
    tensor = value.const_value if graph.is_constant(value) else None
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1


def _convolution_kind(node: ir.Node) -> str:
    weight = graph.input_at(node, 1)
    inner = weight.shape[1] if weight is not None and weight.shape is not None and len(weight.shape) > 1 else 0
    return DEPTHWISE if graph.int_attribute(node, "group", 1) > 1 and inner == 1 else CONVOLUTION


def _product_kind(node: ir.Node) -> str:
    return PRODUCT if any(v is not None and graph.is_constant(v) for v in node.inputs[:2]) else ATTENTION


def _gather_kind(node: ir.Node) -> str | None:
    return EMBEDDING if node.inputs[0] is not None and is_weight(node.inputs[0]) else None


_KINDS: Final[Mapping[str, Callable[[ir.Node], str | None]]] = {
    "Conv": _convolution_kind,
    "ConvTranspose": _convolution_kind,
    "MatMul": _product_kind,
    "Gemm": _product_kind,
    "Gather": _gather_kind,
    "LSTM": lambda _: RECURRENT,
    "GRU": lambda _: RECURRENT,
    "RNN": lambda _: RECURRENT,
}
WEIGHTED: Final = tuple(_KINDS)
"""Types of operators that may have weights."""


def _conv(node: ir.Node, seen: Sizes) -> int:
    weight = graph.input_at(node, 1)
    data = node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0]
    return prod(_of(data, seen)) * prod(_of(weight, seen)[1:])


def _product(node: ir.Node, seen: Sizes) -> int:
    left = _of(node.inputs[0], seen)
    turned = node.op_type == "Gemm" and graph.int_attribute(node, "transA", 0)
    inner = left[0 if turned else -1] if left else 1
    return prod(_of(node.outputs[0], seen)) * inner


def _attention(node: ir.Node, seen: Sizes) -> int:
    if node.op_type not in _ATTENTION_OPS:
        return _product(node, seen)
    query, key = (_of(graph.input_at(node, i), seen) for i in (0, 1))
    return 2 * prod(query) * (key[-2] if len(key) > 1 else 1)


def _recurrent(node: ir.Node, seen: Sizes) -> int:
    steps = prod(_of(node.inputs[0], seen)[:2])
    return steps * sum(prod(_of(graph.input_at(node, i), seen)) for i in (1, 2))


_MACS: Final[Mapping[str, Callable[[ir.Node, Sizes], int]]] = {
    CONVOLUTION: _conv,
    DEPTHWISE: _conv,
    PRODUCT: _product,
    ATTENTION: _attention,
    RECURRENT: _recurrent,
}


def _of(value: ir.Value | None, seen: Sizes) -> Size:
    return () if value is None else seen.get(graph.name_of(value), ())
