"""Which operators of a model can compute in float16, and why the others cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph, half
from quantcli.lowering.half_constants import ASKED, array_of, bodies
from quantcli.lowering.half_types import BOUNDED, FLOAT32_OPERANDS, LEARNED, SINCE, TENSOR_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

FLOAT: Final = ir.DataType.FLOAT
_EXACT: Final = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.BOOL)  # integers that float16 holds exactly


def refusals(model: ir.Model, asked: Collection[str], wide: Collection[str]) -> dict[ir.Node, str]:
    """Return why operators of the main graph cannot compute in float16; the others can.

    Args:
        model: The model, sorted, with the types of the tensors of its main graph.
        asked: Names of nodes that stay float.
        wide: Tensors that go beyond float16 on the samples.
    """
    positions = _positions(model.graph)
    found = {}
    for node in model.graph:
        reason = ASKED if graph.node_name(node) in asked else _refusal(node, graph.opset(model))
        reason = reason or _beyond(node, wide) or _position(node, positions) or _constant(node)
        if reason:
            found[node] = reason
    return found


def _refusal(node: ir.Node, opset: int) -> str:
    if not graph.is_onnx(node):
        return "an operator of another domain"
    if next(bodies(node), None) is not None:
        return "its bodies compute in float32"
    if opset < SINCE.get(node.op_type, 0):
        return f"{node.op_type} has no float16 form in opset {opset}"
    values = (*node.inputs, *node.outputs)
    if any(v is not None and v.name and v.dtype is None for v in values):
        return "it reads or makes what is no tensor of a known type"
    return ""


def _beyond(node: ir.Node, wide: Collection[str]) -> str:
    name = next((v.name for v in (*node.inputs, *node.outputs) if v is not None and v.name in wide), None)
    return f"tensor {name!r} goes beyond float16's {half.LARGEST:g} on the samples" if name else ""


def _constant(node: ir.Node) -> str:
    """Return why a constant that the operator reads cannot be float16."""
    fixed = FLOAT32_OPERANDS.get(node.op_type, frozenset())
    for index, value in enumerate(node.inputs):
        array = array_of(value) if value is not None and index not in fixed else None
        if value is not None and array is not None and array.dtype == np.float32:
            reason = half.refusal(array.astype(np.float32, copy=False))
            if reason:
                return f"constant {value.name!r}: {reason}"
    held = node.attributes.get(TENSOR_ATTRIBUTE.get(node.op_type, ""))
    array = None if held is None else held.as_tensor().numpy()
    reason = half.refusal(array) if array is not None and array.dtype == np.float32 else ""  # type: ignore[arg-type]
    return f"its value: {reason}" if reason else ""


def _positions(main: ir.Graph) -> set[ir.Value]:
    """Return the tensors that are computed from integers alone: positions, sizes, counts."""
    found: set[ir.Value] = set()
    for node in main:
        if _makes_position(node, found):
            found.update(v for v in node.outputs if v.dtype == FLOAT)
    return found


def _makes_position(node: ir.Node, positions: Collection[ir.Value]) -> bool:
    if graph.is_onnx(node, "Cast"):
        source = node.inputs[0]
        if source is not None and source.dtype != FLOAT:
            return source.dtype is not None and source.dtype.is_integer() and source.dtype not in _EXACT
    if graph.is_onnx(node, "Range"):
        return True
    return _reads_positions(node, positions) and not graph.is_onnx(node, *BOUNDED, *LEARNED)


def _reads_positions(node: ir.Node, positions: Collection[ir.Value]) -> bool:
    computed = list(_computed(node))
    return bool(computed) and all(v in positions for v in computed)


def _computed(node: ir.Node) -> Iterator[ir.Value]:
    yield from (v for v in node.inputs if v is not None and v.dtype == FLOAT and array_of(v) is None)


def _position(node: ir.Node, positions: Collection[ir.Value]) -> str:
    made = any(v in positions for v in node.outputs)
    if made or (_reads_positions(node, positions) and not graph.is_onnx(node, *LEARNED)):
        return "it computes positions, which need more than 11 bits"
    return ""
