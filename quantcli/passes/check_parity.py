"""Proves on real samples that the prepared float model still computes what the user's model computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from quantcli import runtime, widening
from quantcli.errors import InternalError
from quantcli.metrics import Comparison

if TYPE_CHECKING:
    from quantcli.state import State, Tick

ENOUGH_DB: Final = 60.0  # folding in float32 costs rounding at 1e-7; a wrong fold costs everything


@dataclass(frozen=True, slots=True)
class CheckParity:
    """Compares both models on a few samples."""

    samples: int = 3
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Run both models; raise where they differ."""
        if state.data is None:
            return state
        before = runtime.load(widening.widened(state.reference)[0], threads=state.threads)
        after = runtime.load(state.model, threads=state.threads)
        total = {o.name: Comparison() for o in before.outputs if o.dtype is not None and o.dtype.kind == "f"}
        feeds = state.data.take(self.samples)
        for done, feed in enumerate(feeds, 1):
            expected, found = before.run(feed), after.run(feed)
            total = {n: c.add(expected[n], found[n]) for n, c in total.items()}
            tick(done, len(feeds))
        worst = min(total.items(), key=lambda item: item[1].sqnr_db, default=None)
        if worst is None:
            return state
        name, comparison = worst
        if comparison.sqnr_db < ENOUGH_DB and comparison.largest > 1e-5:
            raise InternalError(
                f"preparing the model changed output {name!r}: only {comparison.sqnr_db:.1f} dB from the original",
                hint="switch the preparation off step by step, e.g. --set passes.fold_batch_norm=off, and report it",
            )
        return replace(state, report=replace(state.report, parity_db=comparison.sqnr_db))
