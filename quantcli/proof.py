"""Proves on calibration data that changed layers bring a model's outputs closer to float, or takes them back.

What lowers the error of every layer by itself may raise that of the model: errors of layers also cancel out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import feeding, graph, runtime
from quantcli.metrics import Comparison
from quantcli.spool import spool_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from quantcli.state import Quantized, State

_EXACT_DB: Final = 200.0  # an output without any error
_NOISE_DB: Final = 0.1  # per output; less may be the other way round on other samples


def kept_if_better(state: State, changed: Quantized, samples: int) -> tuple[Quantized, int] | None:
    """Return as much of a change as brings the outputs no further from float, and how many layers changed.

    Where all of it does, the first layers keep theirs, as many as halving the list finds: what a layer was changed to
    stands on the layers before it.

    Args:
        state: With data and the quantized model as it was.
        changed: The same with other weights and biases.
        samples: Compared on this many samples, spread over the dataset.

    Returns:
        None where not even the first change helps.
    """
    if state.quantized is None or state.data is None:
        return changed, 0
    layers = _changed_layers(state, changed)
    judge = _Judge(state, samples)
    try:
        least = judge.score(state.quantized) - _NOISE_DB * len(judge.floats)
        if judge.score(changed) >= least:
            return changed, len(layers)
        good, bad, found = 0, len(layers), None
        while bad - good > 1:
            middle = (good + bad) // 2
            tried = _with_layers(state.quantized, changed, layers[:middle])
            if judge.score(tried) >= least:
                good, found = middle, tried
            else:
                bad = middle
    finally:
        judge.close()
    return None if found is None else (found, good)


def proven(state: State, changed: Quantized, samples: int, note: str) -> State:
    """Return the state with as much of a change as helps, and with a note that says so."""
    found = kept_if_better(state, changed, samples)
    if found is None:
        return state.noted(notes=(f"{note}; taken back: the outputs were closer to float without it",))
    better, layers = found
    if better is not changed:
        note = f"{note}; taken back behind the first {layers}: the outputs were closer to float without"
    return replace(state, quantized=better).noted(notes=(note,))


def copied(quantized: Quantized) -> Quantized:
    """Return the same with a model of its own, so that changing it leaves the other alone."""
    return replace(quantized, model=quantized.model.clone())


class _Judge:
    """The float outputs of some samples, and how close those of other models come."""

    def __init__(self, state: State, samples: int) -> None:
        session = runtime.load(state.model, threads=state.threads)
        self._threads = state.threads
        self._feeds = state.data.take(samples) if state.data is not None else ()
        self.floats = [o.name for o in session.outputs if o.is_float32]
        self._expected = spool_all({n: found[n] for n in self.floats} for found in map(session.run, self._feeds))

    def score(self, quantized: Quantized) -> float:
        """Return the decibels of all outputs together."""
        session = runtime.load(quantized.model, threads=self._threads)
        totals = dict.fromkeys(self.floats, Comparison())
        expected = zip(*(self._expected[n] for n in self.floats), strict=True)
        for feed, arrays in zip(self._feeds, expected, strict=False):
            found = feeding.to_floats(session.run(feeding.to_integers(feed, quantized.boundary)), quantized.boundary)
            for name, array in zip(self.floats, arrays, strict=True):
                totals[name] = totals[name].add(array, found[name])
        return sum(min(c.sqnr_db, _EXACT_DB) for c in totals.values())

    def close(self) -> None:
        """Let go of the outputs."""
        for spool in self._expected.values():
            spool.close()


def _changed_layers(state: State, changed: Quantized) -> list[tuple[str, ...]]:
    """Return the names of the constants of each layer that differ, in topological order."""
    if state.quantized is None:
        return []
    found = []
    for unit in [u for u in state.plan.linear_units() if u.node in changed.biases]:
        names = (changed.weights[unit.node], changed.biases[unit.node])
        differ = tuple(
            n for n in names if not np.array_equal(_array(state.quantized.model, n), _array(changed.model, n))
        )
        if differ:
            found.append(differ)
    return found


def _with_layers(before: Quantized, after: Quantized, layers: Sequence[tuple[str, ...]]) -> Quantized:
    found = copied(before)
    for name in [n for names in layers for n in names]:
        graph.set_initializer(found.model.graph.initializers[name], _array(after.model, name))
    return found


def _array(model: ir.Model, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    array = graph.constant(model.graph.initializers[name])
    if array is None:
        raise ValueError(f"{name!r} is no constant")
    return array
