"""Finds the integer operators whose result divides in float, and may be rounded to 0 although it never was 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantcli import graph
from quantcli.oprules import DIVIDING, OP_RULES, Role
from quantcli.ranges import stats_of

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        tensor = _made(node.inputs[DIVIDING[node.op_type]], makers)
        unit = makers.get(tensor)
        if unit is not None and not unit.float_result and _may_vanish(tensor, state):
            found[unit.node] = DIVIDES.format(tensor)
    return found


def _made(value: ir.Value | None, makers: Mapping[str, Unit]) -> str:
    """Return the name of the tensor that a unit makes and that is only moved to become this one; empty without one."""
    while value is not None and graph.name_of(value) not in makers:
        node = value.producer()
        rule = OP_RULES.get(node.op_type) if node is not None and graph.is_onnx(node) else None
        value = node.inputs[0] if node is not None and rule is not None and rule.role is Role.SAME else None
    return graph.name_of(value) if value is not None else ""


def _may_vanish(name: str, state: State) -> bool:
    spec, stats = state.plan.activations.get(name), stats_of(name, graph.named_values(state.model.graph), state)
    if spec is None or not stats.count:
        return False
    step = (max(stats.max, 0.0) - min(stats.min, 0.0)) / (spec.qmax - spec.qmin)
    return stats.min < step and stats.max > -step
