"""What Softmax can see: how far below the largest score of its row a value may lie before it is as good as -infinity.

Masks are written as -1e4, -1e9, -3.4e38 or -inf; on a grid of 8 or 16 bits such a number would leave nothing for the
scores. Behind a Softmax it need not be on the grid: anything low enough does the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.oprules import OP_RULES, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

DEPTH: Final = 10.0
"""n values that lie DEPTH + ln(n) below the largest weigh exp(-10) = 4.5e-5 of it together: 1.5 steps of a 16-bit
result, 1/86 of an 8-bit one."""

HOPELESS: Final = 1e3
"""A row whose largest score is this far below that of the sample is masked as a whole: it is equal everywhere."""

_LOWEST: Final = float(np.finfo(np.float32).min)


def softmax_inputs(nodes: Sequence[ir.Node]) -> dict[str, int]:
    """Return the tensors that nothing but Softmax reads, with the axis of the rows.

    Args:
        nodes: Of one graph.
    """
    found: dict[str, int] = {}
    for node in nodes:
        source = node.inputs[0] if graph.is_onnx(node, "Softmax") else None
        if source is None or source.is_graph_output():
            continue
        readers = [reader for reader, _ in graph.consumers(source)]
        axes = {graph.int_attribute(r, "axis", -1) for r in readers if graph.is_onnx(r, "Softmax")}
        if len(axes) == 1 and all(graph.is_onnx(r, "Softmax") for r in readers):
            found[graph.name_of(source)] = axes.pop()
    return found


def visible(scores: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """Return what a Softmax over ``axis`` tells apart of its input: values far below that of their row are raised.

    Rows that are masked as a whole are left out; the result may be flat.
    """
    if scores.ndim == 0 or not scores.size:
        return scores
    rows = np.moveaxis(scores, axis, -1)
    best = rows.max(axis=-1, keepdims=True)
    depth = np.float32(DEPTH + math.log(rows.shape[-1]))
    hopeful = best[..., 0] > best.max() - HOPELESS
    return np.asarray(np.maximum(rows, best - depth)[hopeful], np.float32)


def bottomless(nodes: Sequence[ir.Node]) -> frozenset[str]:
    """Return the tensors that may be arbitrarily low, because all that becomes of them is the input of a Softmax."""
    return frozenset(floors(nodes, dict.fromkeys(softmax_inputs(nodes), (0.0, 0.0)), lambda _: 0.0))


def floors(
    nodes: Sequence[ir.Node], ranges: Mapping[str, tuple[float, float]], highest: Callable[[ir.Value], float | None]
) -> dict[str, float]:
    """Return, by tensor, the value below which a Softmax sees no difference.

    Of an operand of a sum it is that of the sum less the other operand's largest value; data movement, selection by
    Where and multiplication with a positive constant pass it on. A tensor with another reader has none.

    Args:
        nodes: Of one graph, in topological order.
        ranges: Ranges of the inputs of Softmax, as ``visible`` shows them.
        highest: Gives the largest value of a tensor, or None where that is unknown.
    """
    found = {name: ranges[name][0] for name in softmax_inputs(nodes) if name in ranges}
    for node in reversed(nodes):
        if not node.outputs or node.outputs[0].name not in found:
            continue
        for value in dict.fromkeys(node.inputs):
            floor = _floor(value, found, highest) if value is not None else None
            if value is not None and floor is not None:
                found[graph.name_of(value)] = floor
    return found


def _floor(value: ir.Value, found: Mapping[str, float], highest: Callable[[ir.Value], float | None]) -> float | None:
    if value.is_graph_output() or value.name in found:
        return None
    each = [_needed(node, index, found, highest) for node, index in graph.consumers(value)]
    known = [f for f in each if f is not None]
    return min(known) if known and len(known) == len(each) else None


def _needed(
    node: ir.Node, index: int, found: Mapping[str, float], highest: Callable[[ir.Value], float | None]
) -> float | None:
    """Return the floor that one reader asks of its operand."""
    rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
    floor = found.get(node.outputs[0].name or "") if len(node.outputs) == 1 else None
    if rule is None or floor is None:
        return None
    if (rule.role is Role.SAME and index == 0) or (node.op_type == "Where" and index > 0):
        return floor
    other = node.inputs[1 - index] if node.op_type in ("Add", "Mul") else None
    if node.op_type == "Add" and other is not None and other is not node.inputs[index]:
        most = highest(other)
        return None if most is None else floor - max(most, 0.0)
    factor = graph.real_constant(other)
    if node.op_type == "Mul" and factor is not None and factor.size == 1 and factor.item() > 0:
        return floor / float(factor.item())
    return None


def without_infinity(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return an array with the lowest float32 in place of -infinity."""
    return np.where(np.isneginf(array), np.float32(_LOWEST), array)


def switches(nodes: Sequence[ir.Node]) -> frozenset[str]:
    """Return the tensors of zeros and ones that a mask is computed from: ``(1 - x) * -3.4e38``, step by step.

    What such a factor is multiplied with must be exactly zero or not; a one that is 3e-8 off on its grid hides all.
    """
    low, found = bottomless(nodes), set[str]()
    for node in reversed(nodes):
        if not graph.is_onnx(node) or len(node.outputs) != 1:
            continue
        result = node.outputs[0].name or ""
        constants = [c for v in node.inputs if (c := graph.real_constant(v)) is not None]
        huge = node.op_type in ("Mul", "Div") and any(c.size and np.abs(c).max() >= HOPELESS for c in constants)
        rule = OP_RULES.get(node.op_type)
        moved = rule is not None and rule.role is Role.SAME
        if (result in low and huge) or (result in found and (moved or (node.op_type in ("Sub", "Add") and constants))):
            found.update(graph.name_of(v) for v in node.inputs if v is not None and not graph.is_constant(v))
    return frozenset(found)
