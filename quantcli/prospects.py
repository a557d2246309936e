"""What each mode would make of a model: expected size, and which work becomes integer; from the plan, nothing is run.

Gathers; judges nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Final

from quantcli import graph
from quantcli.errors import UnsupportedError
from quantcli.quant import PerAxis, PerBlock
from quantcli.report import ABSORBED, INTEGER, STORED
from quantcli.workload import ATTENTION, WEIGHTED, work

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    import onnx_ir as ir

    from quantcli.errors import QuantError
    from quantcli.quant import QuantSpec
    from quantcli.recipe import Recipe
    from quantcli.state import State
    from quantcli.workload import Sizes

_REASON: Final = re.compile(r"(\S+) (?:'[^']*'|\"[^\"]*\"): (.*)", re.DOTALL)
_SCALE_BYTES: Final = 4

# What the graph grows by beside its constants, by form: for each activation, each unit, and each output channel of a
# linear unit (the scales of its bias). Measured on the models of the benchmarks.
_GROWTH: Final = {"qdq": (130, 150, 8), "integer": (0, 200, 0), "wide": (0, 2000, 0)}
_TABLES: Final = {("wide", "softmax"): 170_000}  # by form and lowering: tables that a unit brings along


@dataclass(frozen=True, slots=True)
class Prospect:
    """What one mode would give.

    Attributes:
        mode: Its name.
        summary: What it makes.
        arithmetic: Types of activations and weights, and the format.
        needs_data: Whether it needs calibration data.
        bytes: Expected size; None where the mode refuses.
        integer: Operators that become integer, what they absorb included.
        stored: Operators whose weights are stored smaller.
        floats: Reason and operators of what stays float: (reason, operators as ``3 Softmax``).
        macs: Multiply-accumulates by kind that become integer or have stored weights.
        refused: Why the mode refuses; empty where it does not.
        reasons: Every cause, grouped likewise.
    """

    mode: str
    summary: str = ""
    arithmetic: tuple[str, str, str] = ("float32", "float32", "float")
    needs_data: bool = False
    bytes: int | None = None
    integer: int = 0
    stored: int = 0
    floats: tuple[tuple[str, str], ...] = ()
    macs: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def gains(self) -> bool:
        """Tell whether the mode changes anything."""
        return bool(self.integer or self.stored)


def planned(recipe: Recipe, state: State, seen: Sizes, structure: int) -> Prospect:
    """Return the prospect of a mode whose plan could be made.

    Args:
        recipe: The mode.
        state: With the plan, or what was emitted without one.
        seen: Shapes, as ``facts.sizes`` gives them.
        structure: Bytes of the model that are no weights.
    """
    report = state.report
    counted = report.count()
    done = work(state.model, seen)
    in_float = (
        recipe.format == "float"
    )  # there it is no loss that an operator computes in float, but that a weight stays
    weighted = {name for name, (kind, _) in done.items() if kind != ATTENTION}
    converted: Counter[str] = Counter()
    for name, (kind, macs) in done.items():
        if name in report.ledger and report.ledger[name].fate in (INTEGER, STORED):
            converted[kind] += macs
    return Prospect(
        mode=recipe.name,
        summary=recipe.summary,
        arithmetic=arithmetic(recipe),
        needs_data=recipe.needs_data,
        bytes=structure + _expected(state),
        integer=counted.get(INTEGER, 0) + counted.get(ABSORBED, 0),
        stored=counted.get(STORED, 0),
        floats=_grouped((e.op_type, e.reason) for e in report.floats() if not in_float or e.node in weighted),
        macs=dict(converted),
    )


def refused(recipe: Recipe, error: QuantError) -> Prospect:
    """Return the prospect of a mode that refuses."""
    return Prospect(
        mode=recipe.name,
        summary=recipe.summary,
        arithmetic=arithmetic(recipe),
        needs_data=recipe.needs_data,
        refused=error.message,
        reasons=causes(error, WEIGHTED if recipe.format == "float" else ()),
    )


def causes(error: QuantError, only: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return each cause of a refusal, the most frequent first, with the operators that it concerns.

    Args:
        error: The refusal.
        only: Types of operators to speak of; all where there are none.
    """
    said = error.reasons if isinstance(error, UnsupportedError) else ()
    matches = [_REASON.fullmatch(cause) for cause in said]
    pairs = [(m[1], m[2]) if m else ("", c) for m, c in zip(matches, said, strict=True)]
    return _grouped(pair for pair in pairs if not only or pair[0] in only)


def arithmetic(recipe: Recipe) -> tuple[str, str, str]:
    """Return the types of activations and weights, and the format of a recipe."""
    return recipe.scheme.activations.dtype, recipe.scheme.weights.dtype, recipe.format


def _grouped(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return each reason, the most frequent first, with the operators that it concerns."""
    by_reason: dict[str, Counter[str]] = {}
    for op_type, reason in pairs:
        by_reason.setdefault(reason, Counter())[op_type] += 1
    ranked = sorted(by_reason.items(), key=lambda item: -item[1].total())
    return tuple((reason, ", ".join(f"{n} {op}".rstrip() for op, n in ops.most_common())) for reason, ops in ranked)


def _expected(state: State) -> int:
    """Return the bytes that the constants of the result take: known where it was emitted, from the plan otherwise."""
    if state.quantized is not None:
        return sum(_nbytes(v) for g in graph.all_graphs(state.quantized.model) for v in g.initializers.values())
    total = sum(_nbytes(v) for g in graph.all_graphs(state.model) for v in g.initializers.values())
    for value, spec in _narrowed(state):
        total += _narrow_bytes(value, spec) - _nbytes(value)
    return total + _growth(state)


def _growth(state: State) -> int:
    plan, form = state.plan, state.recipe.form
    if form not in _GROWTH:
        return 0
    edge, unit, channel = _GROWTH[form]
    constants = state.model.graph.initializers
    shapes = [(u.axis, v.shape) for u in plan.linear_units() if (v := constants.get(u.weight or "")) is not None]
    channels = sum(int(shape.numpy()[axis]) for axis, shape in shapes if shape is not None)
    tables = sum(_TABLES.get((form, u.lowering), 0) for u in plan.units)
    return edge * len(plan.activations) + unit * len(plan.units) + channel * channels + tables


def _narrowed(state: State) -> Iterator[tuple[ir.Value, QuantSpec]]:
    """Yield every weight that the plan quantizes, once."""
    graphs = list(graph.all_graphs(state.model))
    for stored in state.plan.stored:
        yield graphs[stored.scope].initializers[stored.name], stored.spec
    specs = {
        u.weight or "": state.plan.weights[u.node] for u in state.plan.linear_units() if u.node in state.plan.weights
    }
    for name, spec in {**state.plan.activations, **specs}.items():
        if name in state.model.graph.initializers:
            yield state.model.graph.initializers[name], spec


def _narrow_bytes(value: ir.Value, spec: QuantSpec) -> int:
    shape = tuple(int(n) for n in value.const_value.shape.numpy()) if value.const_value is not None else ()
    size, grouping = prod(shape), spec.granularity
    scales = 1
    if isinstance(grouping, PerAxis) and shape:
        scales = shape[grouping.axis]
    elif isinstance(grouping, PerBlock):
        scales = -(-size // grouping.size)
    return -(-size * spec.dtype.bits // 8) + scales * (_SCALE_BYTES + (0 if spec.symmetric else 1))


def _nbytes(value: ir.Value) -> int:
    return int(value.const_value.nbytes) if value.const_value is not None else 0
