"""Which tensors could have another range than that of what was seen of them, and which ranges those are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantcli import affine, graph
from quantcli.masks import bottomless
from quantcli.ranges import Range, chosen, clamps_of, clipped, deciding, observed, stats_of
from quantcli.state import OfMethods
from quantcli.submodel import outer_reads

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from quantcli.quant import QuantParams
    from quantcli.state import State

NEAR: Final = 0.02
"""Ranges whose ends differ by less than this share of the whole have grids that round nearly alike."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Tensors that share one grid, and the ranges it could have.

    Attributes:
        name: Of the first tensor.
        group: All of the tensors.
        ranges: By method; the first stands until another beats it.
        grids: Of the ranges, in the same order.
    """

    name: str
    group: frozenset[str]
    ranges: Mapping[str, Range]
    grids: tuple[QuantParams, ...]


def offered(state: State, most: int) -> list[Trial]:
    """Return the groups with more than one range, at most so many, those with most to gain first."""
    plan, clamps, read = state.plan, clamps_of(state.plan), _before_products(state)
    scores = bottomless(list(state.model.graph))
    alone = [frozenset({n}) for n in plan.activations if not any(n in g for g in plan.groups)]
    found = []
    for group in (*plan.groups, *alone):
        if group & plan.fixed.keys() or not group & read:
            continue
        members = deciding(group, state)
        if not any(isinstance(state.ranging.of(name), OfMethods) for name in members):
            continue
        ranges = _ranges_of(members, state, clamps, scores)
        spec = plan.activations[min(group)]
        if len(ranges) > 1:
            grids = tuple(affine.choose_params(*ends, spec) for ends in ranges.values())
            found.append(Trial(min(group), group, ranges, grids))
    found.sort(key=lambda t: (-len(t.grids), t.name))
    return found[:most]


def _before_products(state: State) -> set[str]:
    """Return the tensors that a linear operator reads, now or later: of others the largest values are the result."""
    linear = {u.node for u in state.plan.units if u.weight is not None or u.lowering == "product"}
    found: set[str] = set()
    for node in reversed(list(state.model.graph)):
        if graph.node_name(node) in linear or any(graph.name_of(v) in found for v in node.outputs):
            found.update(graph.name_of(v) for v in outer_reads(node))
    return found


def _ranges_of(
    members: Sequence[str], state: State, clamps: Mapping[str, Range], scores: Container[str]
) -> dict[str, Range]:
    """Return the ranges of a group by method, without those that are near one before."""
    values = graph.named_values(state.model.graph)
    each: list[Mapping[str, Range]] = []
    for name in members:
        choice = state.ranging.of(name)
        stats = stats_of(name, values, state)
        known = observed(name, choice, state) if isinstance(choice, OfMethods) and stats.count else None
        if isinstance(choice, OfMethods) and known is not None and known.count:  # none: a constant of infinities
            ranges = choice.candidates(known, state.plan.activations[name])
            first = dict(list(ranges.items())[:1])  # of scores: two that were cut off alike are told apart no more
            each.append(first if name in scores else ranges)
        else:
            each.append({"": chosen([name], state)[name]})
    offered: dict[str, Range] = {}
    for method in dict.fromkeys(m for ranges in each for m in ranges if len(ranges) > 1):
        own = [ranges.get(method, next(iter(ranges.values()))) for ranges in each]
        cut = [clipped(r, clamps.get(n)) for n, r in zip(members, own, strict=True)]
        ends = min(low for low, _ in cut), max(high for _, high in cut)
        whole = next(iter(offered.values()), ends)
        width = NEAR * (max(whole[1], 0.0) - min(whole[0], 0.0))
        if all(_apart(ends, other) > width for other in offered.values()):
            offered[method] = ends
    return offered


def _apart(a: Range, b: Range) -> float:
    return max(abs(min(a[0], 0.0) - min(b[0], 0.0)), abs(max(a[1], 0.0) - max(b[1], 0.0)))
