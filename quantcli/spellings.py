"""What groups of operators stand for: one row for each function that exporters spell in many ways.

A group is known by what it computes, not by how it is arranged: its values in float64 are compared with the function
that it may be, on samples that tell the candidates apart; parameters (axes, epsilon, scale, bias) are solved for and
must be those of its own constants. Rewrites nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.cones import Cone, computed, cones_of, reduced_axes
from quantcli.lowering.wide.functions import evaluate
from quantcli.meaning import Meaning, Row
from quantcli.normalizations import alike, deviation, mean_square, softmax, unit_length

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    Floats = npt.NDArray[np.float64]

_POINTS: Final = np.concatenate([np.linspace(-12, 12, 385), [-100.0, -40.0, 40.0, 100.0]])
_NEAR: Final = 2.0**-12  # a step within which a HardSigmoid is a straight line


def meanings(nodes: Sequence[ir.Node], taken: Container[str] = (), rows: Sequence[Row] | None = None) -> list[Meaning]:
    """Return what the groups of a graph stand for, last one first; no operator is in two of them.

    Args:
        nodes: Of one graph, in topological order.
        taken: Names of operators that belong to no group.
        rows: The functions to look for; all of them by default.
    """
    order = {node: place for place, node in enumerate(nodes)}
    used = {n for n in nodes if graph.node_name(n) in taken}
    found: list[Meaning] = []
    for last in reversed(nodes):
        if last in used or not graph.is_onnx(last, *_LAST):
            continue
        meaning = next(_solved(cones_of(last, order, used), ROWS if rows is None else rows), None)
        if meaning is not None:
            found.append(meaning)
            used.update(meaning.cone.members)
    return found


def kept_together(nodes: Sequence[ir.Node], taken: Container[str] = ()) -> dict[str, str]:
    """Return, by name, the operators of normalizations that have no operator of their own, with why they stay float.

    As one piece in float they cost less than in integers one by one, and onnxruntime may fuse them.
    """
    found: dict[str, str] = {}
    for meaning in meanings(nodes, taken, [r for r in ROWS if r.reduces]):
        names = [graph.node_name(m) for m in meaning.cone.members]
        found.update(dict.fromkeys(names, f"part of {meaning.row.operator} {names[-1]!r}, which stays float"))
    for node in nodes:
        names = [graph.node_name(m) for m in _of_groups(node)]
        if not any(n in taken or n in found for n in names):
            found.update(
                dict.fromkeys(names, f"part of GroupNormalization {graph.node_name(node)!r}, which stays float")
            )
    return found


def _of_groups(node: ir.Node) -> list[ir.Node]:
    """Return the spelling of a GroupNormalization: Reshape, InstanceNormalization, Reshape, Mul and Add by channel."""
    before = node.inputs[0].producer() if graph.is_onnx(node, "InstanceNormalization") and node.inputs[0] else None
    after = graph.only_consumer(node.outputs[0])
    if before is None or after is None or not graph.is_onnx(before, "Reshape") or not graph.is_onnx(after, "Reshape"):
        return []
    found = [*([before] if graph.only_consumer(before.outputs[0]) is node else []), node, after]
    for op_type in ("Mul", "Add"):
        reader = graph.only_consumer(found[-1].outputs[0])
        if reader is not None and graph.is_onnx(reader, op_type) and any(graph.is_constant(v) for v in reader.inputs):
            found.append(reader)
    return found


def _solved(cones: Sequence[Cone], rows: Sequence[Row]) -> Iterator[Meaning]:
    for cone in cones:
        for row in rows:
            meaning = row.solve(cone, row) if cone.has(row.anchors) else None
            if meaning is not None:
                yield meaning


# ---- functions of one variable ---------------------------------------------------------------------------------------


def _gelu(cone: Cone, row: Row) -> Meaning | None:
    for approximate in ("none", "tanh"):
        if _is_function(cone, "Gelu", {"approximate": approximate}):
            return Meaning(cone, row, {"approximate": approximate})
    return None


def _hard_swish(cone: Cone, row: Row) -> Meaning | None:
    return Meaning(cone, row) if _is_function(cone, "HardSwish", {}) else None


def _mish(cone: Cone, row: Row) -> Meaning | None:
    return Meaning(cone, row) if _is_function(cone, "Mish", {}) else None


def _hard_sigmoid(cone: Cone, row: Row) -> Meaning | None:
    near = _scalar_function(cone, np.array([-_NEAR, 0.0, _NEAR]))
    if near is None or not 0.0 < near[1] < 1.0 or near[2] <= near[0]:
        return None
    slope, offset = float(np.float32((near[2] - near[0]) / (2 * _NEAR))), float(np.float32(near[1]))
    attributes = {"alpha": slope, "beta": offset}
    return Meaning(cone, row, attributes) if _is_function(cone, "HardSigmoid", attributes) else None


def _is_function(cone: Cone, op_type: str, attributes: Mapping[str, float | str]) -> bool:
    found = _scalar_function(cone, _POINTS)
    return found is not None and alike(found, evaluate(op_type, attributes, [_POINTS]), np.maximum(np.abs(_POINTS), 1))


def _scalar_function(cone: Cone, points: Floats) -> Floats | None:
    """Return the values of a function whose constants are scalars, or None for any other cone."""
    if any(c.size != 1 for c in cone.constants()) or reduced_axes(cone, 1):
        return None
    found = computed(cone, points)
    return found.reshape(points.shape) if found is not None and found.size == points.size else None


# ---- the table -------------------------------------------------------------------------------------------------------

_LAST: Final = ("Mul", "Div", "Add", "Sub", "Clip", "Min", "Max")
_ROOTS: Final = frozenset({"Sqrt", "Pow"})
_LIMITS: Final = frozenset({"Clip", "Relu", "Min", "Max", "HardSigmoid"})

ROWS: Final[tuple[Row, ...]] = (
    Row("HardSwish", 14, _LIMITS, _hard_swish),
    Row("HardSigmoid", 6, _LIMITS - {"HardSigmoid"}, _hard_sigmoid),
    Row("Gelu", 20, frozenset({"Erf", "Tanh"}), _gelu, fused=(("Div", "Erf", "Add", "Mul", "Mul"),)),
    Row("Mish", 18, frozenset({"Softplus"}), _mish),
    Row("Softmax", 13, frozenset({"Exp"}), softmax, reduces=True, last_axis=True),
    Row("InstanceNormalization", 6, _ROOTS, deviation, reduces=True, planes=True),
    Row(
        "LayerNormalization", 17, _ROOTS, deviation, reduces=True,
        fused=(("ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"),),
    ),
    Row(
        "RMSNormalization", 23, _ROOTS, mean_square, reduces=True, takes_bias=False,
        fused=(
            ("Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"),
            ("Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Mul"),
        ),
    ),
    Row("LpNormalization", None, _ROOTS | {"ReduceL2"}, unit_length, reduces=True),
)  # fmt: skip
"""Rows that come first are tried first.

In float, on one thread of onnxruntime 1.31, HardSwish takes 0.6 of the time of its spelling, HardSigmoid 0.5, Gelu 0.7
where onnxruntime does not fuse it itself (0.4 by tanh), Mish 1.0, InstanceNormalization 0.35, LayerNormalization and
RMSNormalization 0.5, Softmax 0.7 to 0.9 over the last axis, but 4 over another.
"""
