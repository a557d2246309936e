"""Cones: operators that together compute one tensor from one other, however they are arranged, and what they compute.

Found on the graph, evaluated in float64 with numpy; knows no operator that a cone might stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.lowering.wide.functions import FUNCTIONS, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LARGEST: Final = 20  # members; the longest spelling of a normalization has 14


@dataclass(frozen=True, slots=True)
class Cone:
    """Operators in topological order; only the result of the last one is read by others."""

    source: ir.Value
    members: tuple[ir.Node, ...]

    @property
    def last(self) -> ir.Node:
        """The operator that gives the result."""
        return self.members[-1]

    def has(self, op_types: Container[str]) -> bool:
        """Tell whether one of the members is of one of these types."""
        return any(m.op_type in op_types for m in self.members)

    def constants(self) -> list[npt.NDArray[np.generic]]:
        """Return the constants that the members compute with, axes left out."""
        read = [(m, i) for m in self.members for i in range(len(m.inputs)) if not (m.op_type in REDUCTIONS and i)]
        found = [graph.constant(m.inputs[i]) for m, i in read if graph.is_constant(m.inputs[i])]
        return [c for c in found if c is not None]


def cones_of(last: ir.Node, order: Mapping[ir.Node, int], taken: Container[ir.Node]) -> list[Cone]:
    """Return the cones that end in an operator, the largest first.

    Args:
        last: The operator.
        order: The place of every operator in topological order.
        taken: Operators that belong to something else.
    """
    found: list[Cone] = []
    members: set[ir.Node] = set()
    todo = [last]
    while todo and len(members) < LARGEST:
        node = max(todo, key=order.__getitem__)
        if node in taken or not _is_known(node) or (node is not last and not _is_inner(node, members)):
            break
        todo.remove(node)
        members.add(node)
        open_ends = dict.fromkeys(v for m in members for v in _variables(m) if v.producer() not in members)
        makers = [v.producer() for v in open_ends]
        todo = [m for m in makers if m is not None and m in order]
        if len(open_ends) == 1 and len(members) > 1:
            found.append(Cone(next(iter(open_ends)), tuple(sorted(members, key=order.__getitem__))))
        if len(todo) < len(makers) and len(open_ends) > 1 and not todo:
            break
    return found[::-1]


def computed(cone: Cone, sample: Floats) -> Floats | None:
    """Return what the members make of a value of the source; None where the shapes do not fit."""
    known: dict[ir.Value, Floats] = {cone.source: sample}
    try:
        for node in cone.members:
            operands = [_operand(v, known) for v in node.inputs if v is not None]
            known[node.outputs[0]] = _applied(node, operands)
    except (ValueError, IndexError):  # numpy: operands that do not broadcast, axes that are not there
        return None
    return known[cone.last.outputs[0]]


def reduced_axes(cone: Cone, rank: int) -> set[tuple[int, ...]]:
    """Return the sets of axes that the members reduce, none of them negative."""
    return {_axes(m, rank) for m in cone.members if m.op_type in REDUCTIONS}


def _is_known(node: ir.Node) -> bool:
    if not graph.is_onnx(node) or len(node.outputs) != 1 or not isinstance(node.graph, ir.Graph):
        return False
    if any(v is None for v in node.inputs) and node.op_type != "Clip":
        return False
    if node.op_type in REDUCTIONS:
        axes = graph.input_at(node, 1)
        return bool(graph.int_attribute(node, "keepdims", 1)) and (axes is None or graph.is_constant(axes))
    return node.op_type in FUNCTIONS


def _is_inner(node: ir.Node, members: Container[ir.Node]) -> bool:
    """Tell whether nobody but the members reads what an operator computes."""
    result = node.outputs[0]
    return not result.is_graph_output() and all(reader in members for reader, _ in graph.consumers(result))


def _variables(node: ir.Node) -> Iterator[ir.Value]:
    inputs = node.inputs[:1] if node.op_type in REDUCTIONS else node.inputs
    return (v for v in inputs if v is not None and not graph.is_constant(v))


def _operand(value: ir.Value, known: Mapping[ir.Value, Floats]) -> Floats:
    if value in known:
        return known[value]
    array = graph.constant(value)
    if array is None:
        raise ValueError(f"{value.name!r} is computed outside of the cone")
    return array.astype(np.float64)


def _applied(node: ir.Node, operands: list[Floats]) -> Floats:
    if node.op_type in REDUCTIONS:
        with np.errstate(all="ignore"):
            return REDUCTIONS[node.op_type](operands[0], _axes(node, operands[0].ndim))
    attributes = {a.name: a.value for a in node.attributes.values() if a.type.name in ("FLOAT", "INT", "STRING")}
    if node.op_type == "Clip" and len(node.inputs) > 1:
        operands = [operands[0], *(_end(node, 1, -np.inf), _end(node, 2, np.inf))]
    return evaluate(node.op_type, attributes, operands)


def _end(clip: ir.Node, index: int, default: float) -> Floats:
    given = graph.constant(graph.input_at(clip, index))
    return np.asarray(default if given is None else given, np.float64)


def _axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    given = graph.constant(graph.input_at(node, 1))
    axes = graph.ints_attribute(node, "axes") if given is None else tuple(int(a) for a in given.ravel())
    if not axes:
        return () if graph.int_attribute(node, "noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(a % rank for a in axes))


REDUCTIONS: Final[dict[str, Callable[[Floats, tuple[int, ...]], Floats]]] = {
    "ReduceMean": lambda x, axes: np.asarray(x.mean(axis=axes, keepdims=True)),
    "ReduceSum": lambda x, axes: np.asarray(x.sum(axis=axes, keepdims=True)),
    "ReduceSumSquare": lambda x, axes: np.asarray(np.square(x).sum(axis=axes, keepdims=True)),
    "ReduceMax": lambda x, axes: np.asarray(x.max(axis=axes, keepdims=True)),
    "ReduceL2": lambda x, axes: np.asarray(np.sqrt(np.square(x).sum(axis=axes, keepdims=True))),
}
"""Operators that reduce axes and keep them as ones."""
