"""The coverage ledger: the fate of every node under a plan, and the refusal where a mode allows no float."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantcli import graph
from quantcli.bodies import bodies_of
from quantcli.errors import UnsupportedError
from quantcli.report import ABSORBED, FLOAT, INTEGER, UNTOUCHED, Entry

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.plan import Plan
    from quantcli.state import State

CONTROL_FLOW: Final = "control flow computes nothing itself: the operators of its bodies are listed by themselves"


def refuse_floats(state: State) -> None:
    """Raise with every reason where the recipe allows no float operator and the plan keeps one."""
    floats = [e for e in state.report.floats() if state.recipe.fallback == "refuse"]
    if floats:
        shown = [f"{e.op_type} {e.node!r}: {e.reason}" for e in floats]
        raise UnsupportedError(
            f"{len(floats)} of {len(state.model.graph)} operators cannot be integer in mode {state.recipe.name!r}",
            reasons=shown,
            hint="use --mode full-integer, which keeps these in float",
        )


def ledger_of(model: ir.Model, plan: Plan) -> dict[str, Entry]:
    """Return the fate of every node of the prepared graph under a plan."""
    nodes = {graph.node_name(n): n for n in model.graph}
    entries: dict[str, Entry] = {}

    def enter(name: str, fate: str, *, kernel: str = "", reason: str = "") -> None:
        entries[name] = Entry(name, graph.describe_op(nodes[name]), fate, kernel, reason)

    for name in plan.untouched:
        enter(name, UNTOUCHED, reason=CONTROL_FLOW if bodies_of(nodes[name]) else "no float32 tensor")
    for name, reason in plan.skipped.items():
        enter(name, FLOAT, reason=reason)
    for unit in plan.units:
        enter(unit.node, INTEGER, kernel=unit.lowering)
        for name in (*unit.absorbed, *unit.members[:-1]):
            enter(name, ABSORBED, reason=f"part of {unit.node}")
    return {n: entries[n] for n in nodes if n in entries}
