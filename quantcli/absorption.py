"""What a unit swallows: the bias Add behind a MatMul, the Relu or Clip that its output range expresses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.applicability import Infos, data_inputs, is_float32
from quantcli.oprules import OP_RULES, Role

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    import onnx_ir as ir

    from quantcli.plan import Unit

_MAY_CLAMP: Final = frozenset({Role.LINEAR, Role.ELEMENTWISE, Role.REDUCE})


@dataclass(frozen=True, slots=True)
class Swallowed:
    """What one node takes in."""

    nodes: tuple[str, ...]
    output: str
    bias: str | None = None
    clamp: tuple[float, float] | None = None

    def applied(self, unit: Unit) -> Unit:
        """Return the unit with all of it taken in."""
        return replace(
            unit,
            absorbed=self.nodes,
            output=self.output,
            outputs=(self.output,),
            bias=self.bias or unit.bias,
            clamp=self.clamp,
        )


def absorb(nodes: Sequence[ir.Node], infos: Infos, kept_float: Container[str]) -> dict[str, Swallowed]:
    """Return, by the name of the node that swallows, what disappears into it.

    A clamp needs an asymmetric output range: with zero point at the end of the integer range, saturation is the clamp.
    """
    found: dict[str, Swallowed] = {}
    for node in nodes:
        if graph.node_name(node) in kept_float or not _may_absorb(node, infos):
            continue
        swallowed = _chain(node, kept_float)
        if swallowed is not None:
            found[graph.node_name(node)] = swallowed
    return found


def clamp_of(node: ir.Node) -> tuple[float, float] | None:
    """Return the bounds of a Relu or Clip that hold zero, or None for anything else."""
    rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
    if rule is None or rule.bounds is None:
        return None
    low, high = rule.bounds
    if node.op_type == "Clip":
        for index, value in enumerate(node.inputs[1:]):
            if value is None:
                continue
            array = graph.constant(value)
            if array is None or array.size != 1:
                return None
            low, high = (float(array.item()), high) if index == 0 else (low, float(array.item()))
    return (low, high) if low <= 0.0 <= high and low < high else None


def is_bias_of(bias: ir.Value | None, channels: int) -> bool:
    """Tell whether a constant can be added per output channel: all its size on the last axis, or a scalar."""
    array = graph.constant(bias) if graph.is_constant(bias) else None
    if array is None or array.dtype != np.float32:
        return False
    return array.size == 1 or (array.size == channels == array.shape[-1])


def _may_absorb(node: ir.Node, infos: Infos) -> bool:
    rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
    if rule is None or rule.role not in _MAY_CLAMP or not is_float32(node.outputs[0], infos):
        return False
    if rule.role is Role.ELEMENTWISE:  # with one variable operand it belongs to a pointwise region instead
        variables = {node.inputs[i] for i in data_inputs(node, rule) if not graph.is_constant(node.inputs[i])}
        return len(variables) > 1
    return True


def _chain(node: ir.Node, kept_float: Container[str]) -> Swallowed | None:
    nodes: list[str] = []
    output, bias, clamp = node.outputs[0], None, None
    add = graph.only_consumer(output)
    if node.op_type == "MatMul" and add is not None and _is_bias_add(node, add) and not _kept(add, kept_float):
        other = add.inputs[1] if add.inputs[0] is output else add.inputs[0]
        bias = graph.name_of(other) if other is not None else None
        nodes.append(graph.node_name(add))
        output = add.outputs[0]
    reader = graph.only_consumer(output)
    if reader is not None and reader.inputs[0] is output and not _kept(reader, kept_float):
        clamp = clamp_of(reader)
        if clamp is not None:
            nodes.append(graph.node_name(reader))
            output = reader.outputs[0]
    return Swallowed(tuple(nodes), graph.name_of(output), bias, clamp) if nodes else None


def _kept(node: ir.Node, kept_float: Container[str]) -> bool:
    return graph.node_name(node) in kept_float


def _is_bias_add(matmul: ir.Node, add: ir.Node) -> bool:
    weight = graph.constant(matmul.inputs[1]) if graph.is_constant(matmul.inputs[1]) else None
    if weight is None or weight.ndim != 2 or not graph.is_onnx(add, "Add"):
        return False
    other = add.inputs[1] if add.inputs[0] is matmul.outputs[0] else add.inputs[0]
    return is_bias_of(other, weight.shape[1])
