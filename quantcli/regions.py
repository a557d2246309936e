"""Finds pointwise regions: connected operators that together are a function of one variable.

``x * sigmoid(x)``, HardSwish spelled Add, Clip, Mul, Div, PReLU spelled Relu, Abs, Sub, Mul, Add: each is one region,
one quantization at its input and one at its output. Constants may be scalars, or vary along one axis (per channel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli import graph
from quantcli.applicability import Infos, dimension, is_float32, rank
from quantcli.oprules import OP_RULES, POINTWISE_WITH_CONSTANT, Role

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Region:
    """Operators that compute one tensor from one other."""

    source: ir.Value
    members: tuple[ir.Node, ...]
    channel: int | None  # axis of the source along which its constants vary

    @property
    def result(self) -> ir.Value:
        """The one tensor that leaves the region."""
        return self.members[-1].outputs[0]


def find_regions(nodes: Sequence[ir.Node], infos: Infos, *, claimed: Container[str]) -> list[Region]:
    """Return the pointwise regions of a graph, in topological order, none overlapping.

    Args:
        nodes: The nodes of the graph in topological order.
        infos: Type and shape of its tensors.
        claimed: Names of nodes that may not be members.
    """
    regions: list[Region] = []
    taken: set[str] = set()
    candidates = [n for n in nodes if graph.node_name(n) not in claimed and _may_join(n, infos)]
    for node in candidates:
        if graph.node_name(node) in taken:
            continue
        source = _source(node)
        if source is None:
            continue
        left = [c for c in candidates if graph.node_name(c) not in taken]
        region = _grown(source, left, infos) or _grown(source, [node], infos)
        if region is not None:
            regions.append(region)
            taken.update(graph.node_name(m) for m in region.members)
    return regions


def alone(node: ir.Node, infos: Infos) -> Region | None:
    """Return the region of one operator, or None where it is no function of one variable."""
    source = _source(node)
    return None if source is None else _grown(source, [node], infos)


def is_region_worth(region: Region) -> bool:
    """Tell whether a region is more than one plain Add or Mul, which have integer kernels of their own."""
    return len(region.members) > 1 or region.members[0].op_type not in ("Add", "Mul", "Max", "Min", "Sub")


def _may_join(node: ir.Node, infos: Infos) -> bool:
    if not graph.is_onnx(node) or len(node.outputs) != 1 or not is_float32(node.outputs[0], infos):
        return False
    rule = OP_RULES.get(node.op_type)
    if rule is None or not (rule.role is Role.POINTWISE or node.op_type in POINTWISE_WITH_CONSTANT):
        return False
    return all(v is None or is_float32(v, infos) for v in node.inputs)


def _variables(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None and not graph.is_constant(v)]


def _source(node: ir.Node) -> ir.Value | None:
    variables = list(dict.fromkeys(_variables(node)))
    return variables[0] if len(variables) == 1 else None


def _grown(source: ir.Value, candidates: Sequence[ir.Node], infos: Infos) -> Region | None:
    inside: set[ir.Value] = {source}
    members: list[ir.Node] = []
    axes: set[int] = set()
    for node in candidates:
        if any(v not in inside for v in _variables(node)) or not _variables(node):
            continue
        varying = _varying_axes(node, source, infos)
        if varying is None or len(axes | varying) > 1:
            continue
        axes |= varying
        members.append(node)
        inside.add(node.outputs[0])
    return _with_one_exit(source, members, infos)


def _with_one_exit(source: ir.Value, members: list[ir.Node], infos: Infos) -> Region | None:
    """Cut the members down to those that compute the first tensor which others read."""
    own = set(members)
    for last in members:
        result = last.outputs[0]
        if not result.is_graph_output() and all(reader in own for reader, _ in graph.consumers(result)):
            continue
        chosen = _ancestors(last, own)
        ordered = [m for m in members if m in chosen]
        leaks = any(
            m.outputs[0].is_graph_output() or any(reader not in chosen for reader, _ in graph.consumers(m.outputs[0]))
            for m in ordered[:-1]
        )
        if leaks:
            return None
        axes = {a for m in ordered for a in _varying_axes(m, source, infos) or ()}
        return Region(source, tuple(ordered), axes.pop() if axes else None)
    return None


def _ancestors(node: ir.Node, own: set[ir.Node]) -> set[ir.Node]:
    found, todo = {node}, [node]
    while todo:
        for value in _variables(todo.pop()):
            producer = value.producer()
            if producer in own and producer not in found:
                found.add(producer)
                todo.append(producer)
    return found


def _varying_axes(node: ir.Node, source: ir.Value, infos: Infos) -> set[int] | None:
    """Return the axes of ``source`` along which the node's constants vary, or None where they change its shape."""
    axes: set[int] = set()
    known = rank(source, infos)
    for index, value in enumerate(node.inputs):
        array = graph.constant(value) if value is not None and graph.is_constant(value) else None
        if array is None or (array.size == 1 and array.ndim <= (known or 0)):
            continue
        if index and node.op_type == "Clip":
            continue
        if known is None or array.ndim > known:
            return None
        shape = (1,) * (known - array.ndim) + array.shape
        varying = [i for i, size in enumerate(shape) if size != 1]
        if len(varying) != 1 or known < 2 or dimension(source, varying[0], infos) != shape[varying[0]]:
            return None
        axes.add(varying[0])
    return axes
