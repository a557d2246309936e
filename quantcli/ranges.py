"""What is known of the values of each tensor of a plan: from calibration, or from the constant itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli import graph, observers
from quantcli.masks import HOPELESS, bottomless, floors, without_infinity
from quantcli.quant import NOTHING_SEEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import Plan
    from quantcli.quant import TensorStats
    from quantcli.state import Calibrator, Observer, State

Range = tuple[float, float]


def stats_of(name: str, values: Mapping[str, ir.Value], state: State) -> TensorStats:
    """Return the statistics of a tensor; those of a constant are its own, -infinity of a mask is the lowest float32."""
    array = graph.constant(values[name]) if graph.is_constant(values[name]) else None
    if array is None:
        return state.stats.get(name, NOTHING_SEEN)
    if not np.isfinite(array).all() and name in bottomless(list(state.model.graph)):
        array = without_infinity(array.astype(np.float32, copy=False))
    return _seen_by(observers.ExtremesObserver(), array)


def chosen(names: Iterable[str], state: State) -> dict[str, Range]:
    """Return the range of each tensor on its own, as its calibrator chooses it or its override gives it.

    The low end of scores is what was seen: how far below the others one lies that is masked is no outlier.
    """
    values, plan = graph.named_values(state.model.graph), state.plan
    scores = bottomless(list(state.model.graph)) if state.ranging.calibrator or state.ranging.overrides else frozenset()
    found = {}
    for name in names:
        choice, stats = state.ranging.of(name), stats_of(name, values, state)
        if isinstance(choice, tuple):
            found[name] = choice
        elif choice is None or not stats.count:
            found[name] = stats.min, stats.max
        else:
            seen = observed(name, choice, state)
            ends = choice.range(seen, plan.activations[name]) if seen.count else (stats.min, stats.max)
            found[name] = of_scores(ends, stats) if name in scores else ends
    return found


def of_scores(ends: Range, stats: TensorStats) -> Range:
    """Return what may be cut off the range of scores that a Softmax reads: nothing below, and nothing beside a mask."""
    return (stats.min, ends[1] if stats.min > stats.max - HOPELESS else stats.max)


def observed(name: str, calibrator: Calibrator, state: State) -> TensorStats:
    """Return all that a calibrator asks to know of a tensor; it looks at a constant now."""
    value = graph.named_values(state.model.graph)[name]
    array = graph.constant(value) if graph.is_constant(value) else None
    return state.stats[name] if array is None else _seen_by(calibrator.observer(state.plan.activations[name]), array)


def deciding(group: Iterable[str], state: State) -> list[str]:
    """Return the members of a group that decide its range: those that have an override, or else all of them."""
    own = sorted(n for n in group if n in state.ranging.overrides)
    return own or sorted(group)


def _seen_by(observer: Observer, array: npt.NDArray[np.generic]) -> TensorStats:
    finite = array[np.isfinite(array)].astype(np.float32, copy=False)  # in one row: a histogram counts every value
    observer.observe(finite)
    return observer.stats()


def clamps_of(plan: Plan) -> dict[str, Range]:
    """Return, by tensor, the bounds beyond which its range need not reach."""
    return {**plan.useful, **{u.output: u.clamp for u in plan.units if u.clamp is not None}}


def masked(state: State, ranges: Mapping[str, Range]) -> dict[str, float]:
    """Return, by tensor, the value below which the Softmax behind it sees no difference."""
    nodes = list(state.model.graph)
    values = graph.named_values(state.model.graph)
    seen = {n: (s.min, s.max) for n, s in state.stats.items() if s.count}

    def highest(value: ir.Value) -> float | None:
        name = graph.name_of(value)
        known = ranges.get(name) or ((s.min, s.max) if (s := stats_of(name, values, state)).count else None)
        return known[1] if known else None

    return {n: floor for n, floor in floors(nodes, {**seen, **ranges}, highest).items() if n in ranges}


def clipped(found: Range, clamp: Range | None) -> Range:
    """Return a range cut down to a clamp."""
    return found if clamp is None else (max(found[0], clamp[0]), min(found[1], clamp[1]))
