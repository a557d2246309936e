"""Counts the multiply-accumulates of one sample, operator by operator: the coverage that decides speed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from quantcli.facts import sizes
from quantcli.workload import work

if TYPE_CHECKING:
    from quantcli.state import State, Tick


@dataclass(frozen=True, slots=True)
class CountWork:
    """Enters the work of each operator into the ledger; of a body of control flow, that of one turn."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Count on the first sample; without one, free dimensions count as 1."""
        del tick
        feed = next(iter(state.data), None) if state.data is not None else None
        ledger = state.report.ledger
        found = work(state.model, sizes(state.model, feed))
        counted = {name: replace(ledger[name], macs=macs) for name, (_, macs) in found.items() if name in ledger}
        return state.entered(counted)
