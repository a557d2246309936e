"""Decides what becomes integer, before any number is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from quantcli import graph, patterns, planner, runtime
from quantcli.errors import ModelError
from quantcli.ledger import ledger_of, refuse_floats

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.plan import Plan
    from quantcli.state import State, Tick

_ASKED = "kept float as asked"


@dataclass(frozen=True, slots=True)
class MakePlan:
    """Makes the plan; where the recipe allows no float, refuses with every reason."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"plan"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Plan, and enter every node into the ledger."""
        del tick
        model = state.model.clone()
        infos = runtime.annotate(model)
        matched = patterns.match_all(state.recipe.exclude, model, state.report.ledger)
        asked = {name: _ASKED for names in matched.values() for name in names}
        notes = tuple(f"--float {p}: {len(names)} nodes" for p, names in matched.items())
        plan = planner.make_plan(model, infos, state.recipe, asked)
        _check_weights(model, plan)
        state = replace(state, model=model, plan=plan).noted(notes=notes).entered(ledger_of(model, plan))
        refuse_floats(state)
        return state


def _check_weights(model: ir.Model, plan: Plan) -> None:
    values: Mapping[str, ir.Value] = graph.named_values(model.graph)
    for unit in plan.linear_units():
        for name in (unit.weight, unit.bias):
            array = graph.constant(values[name]) if name else None
            if array is not None and not np.isfinite(array).all():
                broken = int(np.count_nonzero(~np.isfinite(array)))
                raise ModelError(
                    f"weight {name!r} of node {unit.node!r} holds {broken} values that are NaN or infinite",
                    hint="repair the model: such a weight has no integer form and makes the float output wrong too",
                )
