"""Finds the integer operators whose result divides in float, and may be rounded to 0 although it never was 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantcli import graph
from quantcli.oprules import DIVIDING, OP_RULES, Role
from quantcli.ranges import stats_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.state import State

DIVIDES: Final = "its result {!r} divides, and what comes near 0 would be rounded to 0"


def rounded_to_zero(state: State) -> dict[str, str]:
    """Return, by name, the units to keep in float, and why: near 0 their results are within a step of it."""
    makers = {t: u for u in state.plan.units for t in (u.outputs or (u.output,))}
    covered = {n for u in state.plan.units for n in (u.node, *u.absorbed, *u.members)}
    found: dict[str, str] = {}
    for node in state.model.graph:
        if not graph.is_onnx(node, *DIVIDING) or graph.node_name(node) in covered:
            continue
        unit = _maker(node.inputs[DIVIDING[node.op_type]], makers)
        if unit is not None and not unit.float_result and _may_vanish(unit.output, state):
            found[unit.node] = DIVIDES.format(unit.output)
    return found


def _maker(value: ir.Value | None, makers: dict[str, Unit]) -> Unit | None:
    """Return the unit that makes a tensor, whatever is only moved in between."""
    while value is not None:
        unit, node = makers.get(graph.name_of(value)), value.producer()
        if unit is not None or node is None:
            return unit
        rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
        if rule is None or rule.role is not Role.SAME:
            return None
        value = node.inputs[0]
    return None


def _may_vanish(name: str, state: State) -> bool:
    spec, stats = state.plan.activations.get(name), stats_of(name, graph.named_values(state.model.graph), state)
    if spec is None or not stats.count:
        return False
    step = (max(stats.max, 0.0) - min(stats.min, 0.0)) / (spec.qmax - spec.qmin)
    return stats.min < step and stats.max > -step
