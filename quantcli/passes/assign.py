"""Turns what calibration saw into scales and zero points: of tensors, of groups that share one, of weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import affine, graph, planner, portability, range_trials, runtime, saturation
from quantcli.bias_room import bias_limit, scale_floor
from quantcli.divisors import rounded_to_zero
from quantcli.encodings import Encodings
from quantcli.ledger import ledger_of, refuse_floats
from quantcli.masks import switches
from quantcli.quant import PerAxis, QuantParams
from quantcli.ranges import chosen, clamps_of, clipped, deciding, masked, stats_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import Plan, Unit
    from quantcli.range_trials import Picked
    from quantcli.state import State, Tick

_UNSEEN: Final = "never calibrated: tensor {!r} took no finite value on the representative dataset"
_BIAS_STEPS: Final = 1 << 16  # resolution of a bias whose layer reads nothing but zeros
MIXED_RANGES: Final = 10.0  # a join of 8 bits whose operands differ by more loses the small one's resolution


@dataclass(frozen=True, slots=True)
class Assign:
    """Chooses every parameter; operators whose tensors were never seen go back to float, with that reason."""

    needs: ClassVar[frozenset[str]] = frozenset({"plan", "stats"})
    gives: ClassVar[frozenset[str]] = frozenset({"encodings"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Assign encodings to every edge of the plan."""
        state = _without_floats(state)
        values = graph.named_values(state.model.graph)
        tried = range_trials.picked(state, tick)
        ranges = {**chosen((n for n in state.plan.activations if n not in tried.ranges), state), **tried.ranges}
        hidden = masked(state, ranges)
        tensors = _activation_params(state, ranges, hidden)
        tensors |= _exact_ones(state, ranges)
        tensors |= _silent_inputs(state.plan, values, ranges, tensors)
        limit = bias_limit(state.recipe)
        weights, warnings = _weight_params(state.plan, values, tensors, limit, _exact(state))
        report = replace(state.report, ranges={**state.report.ranges, **ranges})  # those of bodies are known already
        mixed = tuple(_mixed(state, ranges))
        state = replace(state, encodings=Encodings(tensors, weights), report=report)
        return state.noted(warnings=(*warnings, *mixed), notes=(*_about_masks(hidden, ranges), *_about_methods(tried)))


def _without_floats(state: State) -> State:
    """Replan without the operators that read or make a tensor without a range, or whose result divides close to 0."""
    values = graph.named_values(state.model.graph)
    kept: dict[str, str] = {n: r for n, r in state.plan.skipped.items() if n in _names(state)}
    while True:
        fresh = {}
        for unit in state.plan.units:
            for tensor in (*(t for _, t in unit.inputs), *(unit.outputs or (unit.output,))):
                if tensor in state.plan.activations and not stats_of(tensor, values, state).count:
                    fresh[unit.node] = _UNSEEN.format(tensor)
        dividing = {n: reason for n, reason in rounded_to_zero(state).items() if n not in kept}
        if not fresh and not dividing:
            return state
        kept |= {**dividing, **fresh}
        plan = planner.make_plan(state.model, runtime.describe(state.model), state.recipe, kept)
        kept_grids = {n: grid for n, grid in state.plan.fixed.items() if n in plan.activations}
        plan = replace(plan, fixed={**plan.fixed, **kept_grids})
        state = replace(state, plan=plan).entered(ledger_of(state.model, plan)).noted(warnings=tuple(fresh.values()))
        refuse_floats(state)


def _names(state: State) -> set[str]:
    return {graph.node_name(n) for n in state.model.graph}


def _activation_params(
    state: State, ranges: Mapping[str, tuple[float, float]], hidden: Mapping[str, float]
) -> dict[str, QuantParams]:
    plan, found = state.plan, dict[str, QuantParams]()
    clamps = clamps_of(plan)
    clamps |= {n: clipped(clamps.get(n, (-np.inf, np.inf)), (floor, np.inf)) for n, floor in hidden.items()}
    alone = [frozenset({n}) for n in plan.activations if not any(n in g for g in plan.groups)]
    for group in (*plan.groups, *alone):
        spec = plan.activations[next(iter(group))]
        fixed = next((plan.fixed[n] for n in sorted(group) if n in plan.fixed), None)
        if fixed is not None:
            params = affine.exact_grid(*fixed, spec)
        else:
            cut = [clipped(ranges[n], clamps.get(n)) for n in deciding(group, state)]
            params = affine.choose_params(min(low for low, _ in cut), max(high for _, high in cut), spec)
        found.update(dict.fromkeys(group, params))
    return found


def _exact_ones(state: State, ranges: Mapping[str, tuple[float, float]]) -> dict[str, QuantParams]:
    """Return grids that hold one exactly, of tensors of zeros and ones that masks are computed from."""
    plan, found = state.plan, dict[str, QuantParams]()
    of_masks = switches(list(state.model.graph)) & plan.activations.keys()
    for name in sorted(of_masks):
        group = next((g for g in plan.groups if name in g), frozenset({name}))
        spec = plan.activations[name]
        if not group & plan.fixed.keys() and all(ranges[n] == (0.0, 1.0) for n in group):
            step = 2.0 ** -(spec.dtype.bits - 1 - spec.dtype.signed)
            found |= dict.fromkeys(group, affine.exact_grid(step, 0, spec))
    return found


def _silent_inputs(
    plan: Plan,
    values: Mapping[str, ir.Value],
    ranges: Mapping[str, tuple[float, float]],
    tensors: Mapping[str, QuantParams],
) -> dict[str, QuantParams]:
    """Return finer scales for activations that were always zero: the bias that they are read with is on their grid."""
    grouped = {n for group in plan.groups for n in group}
    finer: dict[str, QuantParams] = {}
    for unit in plan.linear_units():
        name = unit.inputs[0][1]
        bias, weight = (graph.real_constant(values[n]) if n else None for n in (unit.bias, unit.weight))
        if any(ranges[name]) or name in grouped or bias is None or weight is None or not (bias.any() and weight.any()):
            continue
        steps = np.abs(bias).max() / _BIAS_STEPS / (np.abs(weight).max() / 127)
        wanted = float(min(steps, finer[name].scale if name in finer else tensors[name].scale))
        spec = plan.activations[name]
        finer[name] = affine.choose_params(0.0, wanted * (spec.qmax if spec.symmetric else spec.qmax - spec.qmin), spec)
    return finer


def _weight_params(
    plan: Plan,
    values: Mapping[str, ir.Value],
    tensors: Mapping[str, QuantParams],
    largest_bias: int,
    exact: frozenset[str],
) -> tuple[dict[tuple[str, int], QuantParams], tuple[str, ...]]:
    found: dict[tuple[str, int], QuantParams] = {}
    warnings: list[str] = []
    for unit in plan.linear_units():
        weight = graph.real_constant(values[unit.weight or ""])
        bias = graph.constant(values[unit.bias]) if unit.bias else None
        if weight is None:
            continue
        spec = plan.weights[unit.node]
        floor = scale_floor(bias, tensors[unit.inputs[0][1]].scale, weight.shape[unit.axis], largest_bias)
        if floor.ndim and spec.granularity != PerAxis(unit.axis):
            floor = floor.max()
        smallest = np.maximum(floor, saturation.exact_scale(weight, spec)) if unit.node in exact else floor
        params = affine.weight_params(weight, spec, smallest_scale=smallest)
        found[(unit.node, 1)] = params
        said = "int32" if largest_bias == affine.BIAS_LIMIT else "float64's 53 bits"
        warnings += _about_channels(unit, weight, params, floor, said)
    return found, tuple(warnings)


def _exact(state: State) -> frozenset[str]:
    """Return the linear operators whose weights shall be so small that no two products saturate."""
    nodes = {graph.node_name(n): n for n in state.model.graph}
    linear = state.plan.linear_units() if state.recipe.portable else ()
    return frozenset(u.node for u in linear if portability.adds_pairs(u, nodes[u.node], state.recipe))


def _about_channels(
    unit: Unit, weight: npt.NDArray[np.generic], params: QuantParams, floor: npt.NDArray[np.float32], limit: str
) -> list[str]:
    found = []
    if params.scale.ndim:
        rest = tuple(i for i in range(weight.ndim) if i != unit.axis)
        dead = np.flatnonzero(np.abs(weight).max(axis=rest) == 0)
        if dead.size:
            found.append(f"{unit.node!r}: {dead.size} output channels have only zero weights ({_some(dead)})")
    widened = np.flatnonzero(np.atleast_1d((params.scale <= floor) & (floor > 0)))
    if widened.size:
        found.append(
            f"{unit.node!r}: the bias of {widened.size} channels ({_some(widened)}) would overflow {limit}; "
            "their weight scale was widened"
        )
    return found


def _some(indices: npt.NDArray[np.integer]) -> str:
    return ", ".join(str(i) for i in indices[:5]) + (" ..." if indices.size > 5 else "")


def _about_masks(hidden: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Return the note that lists what was cut because the Softmax behind it sees no difference."""
    cut = sorted(n for n, floor in hidden.items() if ranges[n][0] < floor - 1e-3 * abs(floor))
    said = [f"{n!r} at {hidden[n]:.4g} instead of {ranges[n][0]:.4g}" for n in cut]
    return (f"ranges end where the Softmax behind them sees no difference: {', '.join(said)}",) if said else ()


def _about_methods(tried: Picked) -> tuple[str, ...]:
    """Return the note that lists the ranges that are not what was seen."""
    if tried.untried:
        return (f"ranges of {tried.untried} tensors are of least error by themselves: no run of the model tried them",)
    said = [f"{name!r} {tried.methods[name]}" for name in sorted(tried.methods)]
    return (f"ranges that serve better than min-max: {', '.join(said)}",) if said else ()


def _mixed(state: State, ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    found = []
    for unit in state.plan.units:
        if unit.lowering != "concat":
            continue
        spans = {t: max(abs(ranges[t][0]), abs(ranges[t][1])) for _, t in unit.inputs}
        low, high = min(spans, key=spans.__getitem__), max(spans, key=spans.__getitem__)
        most = MIXED_RANGES * 2.0 ** (state.plan.activations[unit.output].dtype.bits - 8)
        if 0 < spans[low] * most < spans[high]:
            found.append(
                f"{unit.node!r} joins {low!r} (up to {spans[low]:g}) and {high!r} (up to {spans[high]:g}) under one "
                f"scale, a ratio of {spans[high] / spans[low]:.0f}; keep it float with --float {unit.node!r}"
            )
    return found
