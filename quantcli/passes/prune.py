"""Removes from the emitted model what nothing reads: integers that were there for earlier passes to look at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from quantcli import graph

if TYPE_CHECKING:
    from quantcli.state import State, Tick


@dataclass(frozen=True, slots=True)
class Prune:
    """Removes unused nodes and constants."""

    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Prune the quantized model."""
        del tick
        if state.quantized is None:
            return state
        model = state.quantized.model.clone()
        graph.remove_unused(model)
        present = graph.named_values(model.graph)
        tensors = {user: integer for user, integer in state.quantized.tensors.items() if integer in present}
        return replace(state, quantized=replace(state.quantized, model=model, tensors=tensors))
