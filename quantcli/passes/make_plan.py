"""Decides what becomes integer, before any number is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph, patterns, planner, runtime
from quantcli.errors import ModelError
from quantcli.ledger import ledger_of, refuse_floats
from quantcli.spellings import kept_together

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.state import State, Tick

_ASKED: Final = "kept float as asked"
_WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


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
        whole = kept_together(list(model.graph), asked) if state.recipe.fallback == "float" else {}
        plan = planner.make_plan(model, infos, state.recipe, {**whole, **asked})
        _check_weights(model)
        state = replace(state, model=model, plan=plan).noted(notes=notes).entered(ledger_of(model, plan))
        refuse_floats(state)
        return state


def _check_weights(model: ir.Model) -> None:
    """Raise for a weight or bias with a NaN or an infinity: its layer is wrong in float already."""
    for node in model.graph.all_nodes():
        for value in node.inputs[1:] if graph.is_onnx(node, *_WEIGHTED) else ():
            array = graph.real_constant(value)
            if value is not None and array is not None and not np.isfinite(array).all():
                broken = int(np.count_nonzero(~np.isfinite(array)))
                raise ModelError(
                    f"weight {value.name!r} of node {node.name!r} ({node.op_type}) holds {broken} values that are NaN "
                    "or infinite; expected finite numbers",
                    hint="repair the model: such a weight has no integer form and makes the float output wrong too",
                )
