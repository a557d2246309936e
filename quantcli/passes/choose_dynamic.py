"""Leaves to run time the activations whose samples differ so much that one range for all would drown most of them.

Loud and quiet sounds, bright and dark images: a static grid has the step of the largest sample, a grid chosen at run
time has that of each sample. Where a product stands between float operators anyhow, the choice costs one pass over its
input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph, runtime
from quantcli.ledger import ledger_of
from quantcli.storage import DYNAMIC, Wish, form_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.data import RepresentativeDataset
    from quantcli.observations import Subject
    from quantcli.plan import Plan, Unit
    from quantcli.state import State, Tick

SPANS: Final = "mean squared span"


@dataclass(frozen=True, slots=True)
class ChooseDynamic:
    """Takes out of the plan the products that ``store_weights`` shall write with activations quantized at run time.

    Attributes:
        gain: Power of the rounding noise on one range for all samples, over that on a range for each, from which on.
    """

    gain: float = 10.0
    needs: ClassVar[frozenset[str]] = frozenset({"plan", "stats", "observations"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Measure the inputs of the products in question, and decide."""
        units = _possible(state) if state.recipe.fallback == "float" else []
        seen = state.observations
        if not units or seen is None:
            return state
        asked = [(SPANS, name) for name in sorted({u.inputs[0][1] for u in units})]
        each = seen.of(state.model, asked, _Look(state, tick), expected=float)
        chosen = [u for u in units if _gain(state, each[SPANS, u.inputs[0][1]] or 0.0, u.inputs[0][1]) >= self.gain]
        if not chosen:
            return state
        plan = _without(state.plan, chosen)
        return replace(state, plan=plan).entered(ledger_of(state.model, plan))


def _possible(state: State) -> list[Unit]:
    """Return the products between float operators, alone in reading their input, that have a kernel for it."""
    plan = state.plan
    made = {name for u in plan.units for name in (*u.outputs, u.output)}
    read = [tensor for u in plan.units for _, tensor in u.inputs]
    shared = {name for group in plan.groups if len(group) > 1 for name in group} | set(plan.fixed)
    fed = {v.name for v in state.model.graph.inputs} if state.recipe.inputs != "float32" else set()
    taken, bound = made | shared | fed, {*read, *shared, *_integer_outputs(state)}
    found = [u for u in plan.units if u.lowering == "matmul" and u.weight is not None and u.output not in bound]
    found = [u for u in found if u.inputs[0][1] not in taken and read.count(u.inputs[0][1]) == 1]
    if not found:
        return []
    infos, nodes = runtime.describe(state.model), {graph.node_name(n): n for n in state.model.graph}
    wish = Wish(state.recipe.scheme.weights, dynamic=True)
    return [u for u in found if form_of(nodes[u.node], 1, infos, wish)[0] == DYNAMIC]


def _integer_outputs(state: State) -> set[str]:
    return {graph.name_of(v) for v in state.model.graph.outputs} if state.recipe.outputs != "float32" else set()


@dataclass(frozen=True, slots=True)
class _Look:
    """Sees, for each tensor, the mean over the samples of the squared length of its range."""

    state: State
    tick: Tick

    def __call__(self, asked: list[Subject], samples: RepresentativeDataset) -> dict[Subject, float | None]:
        model, names = self.state.model, [name for _, name in asked]
        values = graph.named_values(model.graph)
        computed = [n for n in names if values[n].producer() is not None]
        session = runtime.load(model, threads=self.state.threads, outputs=computed) if computed else None
        squares: dict[str, list[float]] = {name: [] for name in names}
        for done, feed in enumerate(samples, 1):
            known = {**feed, **(session.run(feed) if session else {})}
            for name in names:
                squares[name].append(_span(known[name]) ** 2)
            self.tick(done, len(samples))
        return {(kind, n): math.fsum(squares[n]) / max(len(squares[n]), 1) for kind, n in asked}  # exact in any order


def _span(values: npt.NDArray[np.generic]) -> float:
    """Return the length of the range, which always holds zero."""
    kept = values[np.isfinite(values)] if values.size else values
    return float(max(kept.max(initial=0.0), 0.0) - min(kept.min(initial=0.0), 0.0))


def _gain(state: State, each: float, tensor: str) -> float:
    """Return the mean squared step of one grid for all samples over that of a grid for each: noise is step^2 / 12."""
    seen = state.stats[tensor]
    whole = (max(seen.max, 0.0) - min(seen.min, 0.0)) ** 2
    return whole / each if each > 0 and math.isfinite(whole) else 0.0


def _without(plan: Plan, chosen: list[Unit]) -> Plan:
    names, tensors = {u.node for u in chosen}, {t for u in chosen for t in (u.inputs[0][1], u.output)}
    why = "its samples differ too much for one range"
    skipped = {u.node: why for u in chosen}
    skipped |= {name: f"part of {u.node}" for u in chosen for name in u.absorbed}
    return replace(
        plan,
        units=tuple(u for u in plan.units if u.node not in names),
        activations={t: s for t, s in plan.activations.items() if t not in tensors},
        weights={n: s for n, s in plan.weights.items() if n not in names},
        groups=tuple(g for g in plan.groups if not g & tensors),
        skipped={**plan.skipped, **skipped},
    )
