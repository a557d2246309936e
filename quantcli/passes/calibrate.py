"""One streaming pass over the representative dataset: what range does each tensor of the plan take?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from quantcli import graph, masks, runtime
from quantcli.calibrators.minmax import MinMax, MinMaxObserver
from quantcli.report import FeedStats

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.state import Calibrator, Observer, State, Tick


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Runs the prepared float model once per sample; memory is that of one sample."""

    calibrator: Calibrator = field(default_factory=MinMax)
    needs: ClassVar[frozenset[str]] = frozenset({"plan", "data"})
    gives: ClassVar[frozenset[str]] = frozenset({"stats"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Observe every activation of the plan, and every input for the report."""
        if state.data is None:
            return state
        values = graph.named_values(state.model.graph)
        wanted = {n: s for n, s in state.plan.activations.items() if not graph.is_constant(values[n])}
        observers: dict[str, Observer] = {name: self.calibrator.observer(spec) for name, spec in wanted.items()}
        seen = _Sight(list(state.model.graph))
        observers |= {name: MinMaxObserver() for name in seen.beside(wanted)}
        computed = [n for n in observers if values[n].producer() is not None]
        session = runtime.load(state.model, threads=state.threads, outputs=computed) if computed else None
        feeds: dict[str, _FeedSums] = {}
        total = len(state.data)
        for done, feed in enumerate(state.data, 1):
            for name, array in feed.items():
                feeds.setdefault(name, _FeedSums()).add(array)
                if name in observers:
                    observers[name].observe(seen.of(name, array))
            for name, array in (session.run(feed) if session else {}).items():
                observers[name].observe(seen.of(name, array))
            tick(done, total)
        stats = {name: o.stats() for name, o in observers.items()}
        shown = {n: f.stats() for n, f in feeds.items() if f.count}
        raw = tuple(
            f"input {n!r} ranges over {s.min:g}..{s.max:g}: raw pixels? Check that the model expects them unscaled"
            for n, s in shown.items()
            if feeds[n].is_float and 0 <= s.min < 16 and 200 < s.max <= 255
        )
        return replace(state, stats=stats, report=replace(state.report, feeds=shown)).noted(warnings=raw)


class _Sight:
    """What of a tensor counts for its range: of scores only what their Softmax can see, no infinity of a mask."""

    def __init__(self, nodes: Sequence[ir.Node]) -> None:
        self._axes, self._masks = masks.softmax_inputs(nodes), masks.bottomless(nodes)

    def beside(self, wanted: Container[str]) -> list[str]:
        """Return the scores that are on no grid themselves, but tell how low the grids of masks must reach."""
        return [n for n in self._axes if n not in wanted] if any(n in wanted for n in self._masks) else []

    def of(self, name: str, array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        values = array.astype(np.float32, copy=False)
        if name in self._axes:
            return masks.visible(values, self._axes[name])
        return masks.without_infinity(values) if name in self._masks else values


@dataclass(slots=True)
class _FeedSums:
    """Running sums of what is fed to one input."""

    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    squares: float = 0.0
    is_float: bool = False

    def add(self, array: npt.NDArray[np.generic]) -> None:
        if array.dtype.kind not in "fiub" or not array.size:
            return
        flat = array.ravel()
        self.is_float = array.dtype.kind == "f"
        self.count += flat.size
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.total += float(flat.sum(dtype=np.float64))
        wide = flat.astype(np.float64)
        self.squares += float(wide @ wide)

    def stats(self) -> FeedStats:
        mean = self.total / self.count
        variance = max(self.squares / self.count - mean * mean, 0.0)
        return FeedStats(self.count, self.low, self.high, mean, math.sqrt(variance))
