"""What is known of the values of each tensor of a plan: from calibration, or from the constant itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli import graph
from quantcli.masks import bottomless, floors, without_infinity
from quantcli.quant import NOTHING_SEEN, TensorStats

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.plan import Plan
    from quantcli.state import State

Range = tuple[float, float]


def stats_of(name: str, values: Mapping[str, ir.Value], state: State) -> TensorStats:
    """Return the statistics of a tensor; those of a constant are its own, -infinity of a mask is the lowest float32."""
    array = graph.constant(values[name]) if graph.is_constant(values[name]) else None
    if array is None:
        return state.stats.get(name, NOTHING_SEEN)
    if not np.isfinite(array).all() and name in bottomless(list(state.model.graph)):
        array = without_infinity(array.astype(np.float32, copy=False))
    finite = array[np.isfinite(array)]
    return TensorStats(finite.size, float(finite.min()), float(finite.max())) if finite.size else NOTHING_SEEN


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
