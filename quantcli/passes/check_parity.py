"""Proves on real samples that the prepared float model still computes what the user's model computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, cast

import numpy as np

from quantcli import graph, runtime, widening
from quantcli.errors import InternalError
from quantcli.metrics import Comparison

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.data import Feed
    from quantcli.state import State, Tick

UNSETTLED: Final = (
    "output {name!r} is rounding noise on these samples: inputs and weights that differ in the last bits change it to "
    "{db:.1f} dB; it could not be compared after preparation"
)
TRIALS: Final = 16  # a threshold among constants or inputs moves the decisive way in some of them
ULPS: Final = 4
NOISE_DB: Final = 20.0  # what a change that is no worse than the model's own noise may be off
ENOUGH_DB: Final = 60.0  # folding in float32 costs rounding at 1e-7; a wrong fold costs everything


@dataclass(frozen=True, slots=True)
class CheckParity:
    """Compares both models on a few samples."""

    samples: int = 3
    needs: ClassVar[frozenset[str]] = frozenset({"samples"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Run both models; raise where they differ."""
        if state.data is None:
            return state
        reference = widening.widened(state.reference)[0]
        before = runtime.load(reference, threads=state.threads)
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
        state = replace(state, report=replace(state.report, parity_db=comparison.sqnr_db))
        if comparison.sqnr_db >= ENOUGH_DB or comparison.largest <= 1e-5:
            return state
        own = _conditioning(reference, feeds, name, state.threads)
        if own > comparison.sqnr_db + NOISE_DB:
            raise InternalError(
                f"preparing the model changed output {name!r}: only {comparison.sqnr_db:.1f} dB from the original",
                hint="switch the preparation off step by step, e.g. --set passes.fold_batch_norm=off, and report it",
            )
        return state.noted(warnings=(UNSETTLED.format(name=name, db=own),))


def _conditioning(model: ir.Model, feeds: Iterable[Feed], name: str, threads: int) -> float:
    """Return the least SQNR in dB that an output keeps when inputs and constants move in their last bits."""
    before, found = runtime.load(model, threads=threads), []
    for seed in range(TRIALS):
        random, total = np.random.default_rng(seed), Comparison()
        after = runtime.load(_nearly(model, random), threads=threads)
        for feed in feeds:
            other = {n: _moved(x, random) for n, x in feed.items()}
            total = total.add(before.run(feed)[name], after.run(other)[name])
        found.append(total.sqnr_db)
    return min(found)


def _nearly(model: ir.Model, random: np.random.Generator) -> ir.Model:
    moved = model.clone()
    for part in graph.all_graphs(moved):
        for value in part.initializers.values():
            array = graph.real_constant(value)
            if array is not None:
                graph.set_initializer(value, _moved(array, random))
    return moved


def _moved(array: npt.NDArray[np.generic], random: np.random.Generator) -> npt.NDArray[np.generic]:
    if array.dtype.kind != "f":
        return array
    real = cast("npt.NDArray[np.floating]", array)
    return np.asarray(real + random.integers(-ULPS, ULPS + 1, array.shape) * np.spacing(real), array.dtype)
