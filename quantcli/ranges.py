"""What is known of the values of each tensor of a plan: from calibration, or from the constant itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli import graph
from quantcli.quant import NOTHING_SEEN, TensorStats

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.plan import Plan
    from quantcli.state import State

Range = tuple[float, float]


def stats_of(name: str, values: Mapping[str, ir.Value], state: State) -> TensorStats:
    """Return the statistics of a tensor; those of a constant are its own."""
    array = graph.constant(values[name]) if graph.is_constant(values[name]) else None
    if array is None:
        return state.stats.get(name, NOTHING_SEEN)
    finite = array[np.isfinite(array)]
    return TensorStats(finite.size, float(finite.min()), float(finite.max())) if finite.size else NOTHING_SEEN


def clamps_of(plan: Plan) -> dict[str, Range]:
    """Return, by tensor, the bounds beyond which its range need not reach."""
    return {**plan.useful, **{u.output: u.clamp for u in plan.units if u.clamp is not None}}


def clipped(found: Range, clamp: Range | None) -> Range:
    """Return a range cut down to a clamp."""
    return found if clamp is None else (max(found[0], clamp[0]), min(found[1], clamp[1]))
