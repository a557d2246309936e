"""One streaming pass over the representative dataset: how do the values of each tensor of the plan lie?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph, masks, observers, patterns, runtime
from quantcli.calibrators.minmax import MinMax
from quantcli.errors import RecipeError, did_you_mean
from quantcli.quant import TensorStats
from quantcli.report import FeedStats
from quantcli.state import Ranging

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.data import RepresentativeDataset
    from quantcli.observations import Subject
    from quantcli.quant import QuantSpec
    from quantcli.state import Calibrator, Observer, State, Tick

    Range = tuple[float, float]

FED: Final = "fed"  # what is learnt of an input, quantized or not


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Runs the prepared float model once per sample; memory is that of one sample.

    Attributes:
        calibrator: Chooses the ranges, now by what it lets be observed and later by what was.
        overrides: Patterns of tensors whose ranges another calibrator chooses, or that range; the last match counts.
    """

    calibrator: Calibrator = field(default_factory=MinMax)
    overrides: tuple[tuple[str, Calibrator | Range], ...] = field(default=(), metadata={"given": True})
    needs: ClassVar[frozenset[str]] = frozenset({"plan", "observations"})
    gives: ClassVar[frozenset[str]] = frozenset({"stats"})

    def with_overrides(self, overrides: Sequence[tuple[str, Calibrator | Range]]) -> Calibrate:
        """Return the pass with other ways to choose the ranges of some tensors."""
        return replace(self, overrides=tuple(overrides))

    def __call__(self, state: State, tick: Tick) -> State:
        """Observe every activation of the plan, and every input for the report.

        Raises:
            RecipeError: An override of the recipe matches no tensor that is quantized.
        """
        seen = state.observations
        if seen is None:
            return state
        _check_overrides(state)
        ranging = Ranging(self.calibrator, self._overridden(state))
        wanted = _Wanted(state, ranging)
        fed = [(FED, graph.name_of(v)) for v in state.model.graph.inputs if not graph.is_constant(v)]
        asked = [*((wanted.kind(n), n) for n in wanted.names), *fed]
        look = _Look(state, wanted, tick)
        found = seen.of(state.model, asked, look, expected=object, instead=observers.INSTEAD)
        stats = {n: s for (kind, n), s in found.items() if kind != FED and isinstance(s, TensorStats)}
        shown = {n: s for (kind, n), s in found.items() if kind == FED and isinstance(s, FeedStats)}
        report = replace(state.report, feeds=shown)
        return replace(state, stats=stats, ranging=ranging, report=report).noted(warnings=_raw_pixels(state, shown))

    def _overridden(self, state: State) -> dict[str, Calibrator | Range]:
        names = state.plan.activations
        return {n: choice for pattern, choice in self.overrides for n in sorted(patterns.among(pattern, names))}


class _Wanted:
    """The tensors to observe, and how."""

    def __init__(self, state: State, ranging: Ranging) -> None:
        values = graph.named_values(state.model.graph)
        wanted = {n: s for n, s in state.plan.activations.items() if not graph.is_constant(values[n])}
        self.sight = _Sight(list(state.model.graph))
        self._makers: dict[str, Callable[[], Observer]] = {n: _maker(ranging.of(n), s) for n, s in wanted.items()}
        self._makers |= dict.fromkeys(self.sight.beside(wanted), observers.ExtremesObserver)
        if state.observations is not None and state.observations.for_every_method:
            poorer = [n for n in self._makers if observers.HISTOGRAM in observers.INSTEAD.get(self.kind(n), ())]
            self._makers |= dict.fromkeys(poorer, observers.HistogramObserver)
        self.names = list(self._makers)
        self.computed = [n for n in self.names if values[n].producer() is not None]

    def kind(self, name: str) -> str:
        """Return a text that names all that decides what is seen of a tensor beside the model and the samples."""
        observer = self._makers[name]()
        return str(getattr(observer, "kind", f"{type(observer).__module__}.{observer!r}"))

    def observers(self, names: Sequence[str]) -> dict[str, Observer]:
        """Return a fresh observer for each of some tensors."""
        return {name: self._makers[name]() for name in names}


def _maker(choice: Calibrator | Range | None, spec: QuantSpec) -> Callable[[], Observer]:
    if choice is None or isinstance(choice, tuple):
        return observers.ExtremesObserver
    return lambda: choice.observer(spec)


@dataclass(frozen=True, slots=True)
class _Look:
    """Feeds every sample once."""

    state: State
    wanted: _Wanted
    tick: Tick

    def __call__(self, asked: list[Subject], samples: RepresentativeDataset) -> dict[Subject, object]:
        watching = self.wanted.observers([n for kind, n in asked if kind != FED])
        feeds = {n: _FeedSums() for kind, n in asked if kind == FED}
        computed = [n for n in self.wanted.computed if n in watching]
        model, threads = self.state.model, self.state.threads
        session = runtime.load(model, threads=threads, outputs=computed) if computed else None
        total = len(samples)
        for done, feed in enumerate(samples, 1):
            for name, array in feed.items():
                if name in feeds:
                    feeds[name].add(array)
                if name in watching:
                    watching[name].observe(self.wanted.sight.of(name, array))
            for name, array in (session.run(feed) if session else {}).items():
                watching[name].observe(self.wanted.sight.of(name, array))
            self.tick(done, total)
        return {(k, n): feeds[n].stats() if k == FED else watching[n].stats() for k, n in asked}


def _check_overrides(state: State) -> None:
    """Raise for an override of the recipe that changes nothing; what it matches may be in a body."""
    plan = state.plan
    free = {n for n in plan.activations if n not in plan.fixed} | set(state.inner)
    known = {graph.name_of(v) for part in graph.all_graphs(state.model) for v in graph.named_values(part).values()}
    for override in state.recipe.overrides:
        if patterns.among(override.tensor, free):
            continue
        without = sorted(patterns.among(override.tensor, known))
        if without:
            fixed = "whose grid its operator fixes" if without[0] in plan.fixed else "that has no grid of its own"
            raise RecipeError(
                f"overrides: {override.tensor!r} matches only {without[0]!r}, {fixed}",
                hint="the encodings list the tensors that have one: those that an integer operator reads or makes",
            )
        near = did_you_mean(override.tensor, free)
        raise RecipeError(
            f"overrides: {override.tensor!r} matches no tensor of the model{near}",
            hint="a pattern is a name, a glob or re:REGEX; the ranges in the report list the tensors",
        )


def _raw_pixels(state: State, shown: Mapping[str, FeedStats]) -> tuple[str, ...]:
    values = graph.named_values(state.model.graph)
    return tuple(
        f"input {n!r} ranges over {s.min:g}..{s.max:g}: raw pixels? Check that the model expects them unscaled"
        for n, s in shown.items()
        if (kind := values[n].dtype) is not None and kind.is_floating_point() and 0 <= s.min < 16 and 200 < s.max <= 255
    )


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

    def add(self, array: npt.NDArray[np.generic]) -> None:
        if array.dtype.kind not in "fiub" or not array.size:
            return
        flat = array.ravel()
        self.count += flat.size
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.total += float(flat.sum(dtype=np.float64))
        wide = flat.astype(np.float64)
        self.squares += float(wide @ wide)

    def stats(self) -> FeedStats | None:
        if not self.count:
            return None
        mean = self.total / self.count
        variance = max(self.squares / self.count - mean * mean, 0.0)
        return FeedStats(self.count, self.low, self.high, mean, math.sqrt(variance))
