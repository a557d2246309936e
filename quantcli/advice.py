"""From facts to advice: which mode, why, what else there is, and what would be lost. Pure; the knowledge is ``tables``.

A mode's place is decided by the first rule whose traits the model and the target have; expected speed by the kinds of
work that the mode converts.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli.advice_tables import (
    NOTES,
    OUTSIDE,
    RULES,
    SMALL_BYTES,
    SMALL_MACS,
    SPEEDS,
    UNCHANGED,
    Rule,
)
from quantcli.facts import DENSE, SCORES
from quantcli.workload import ATTENTION, CONVOLUTION, DEPTHWISE, EMBEDDING, PRODUCT, RECURRENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from quantcli.facts import Facts
    from quantcli.prospects import Prospect

SPEC = "SPEC.yaml"  # in the place of a dataset that is to be made
_LITTLE = 0.95  # of the size: a mode that leaves more gains nothing worth its name


@dataclass(frozen=True, slots=True)
class Alternative:
    """A mode in its rank.

    Attributes:
        mode: Its name.
        bytes: Expected size; None where it refuses.
        ratio: Expected size against the float model.
        speed: Expected range of speed against float: (low, high).
        needs_data: Whether it needs calibration data.
        integer: Operators computed in integers.
        stored: Operators whose weights are stored smaller.
        lost: What stays float or is refused, with reasons.
        mind: What to mind in this mode with this model.
    """

    mode: str
    bytes: int | None
    ratio: float | None
    speed: tuple[float, float] | None
    needs_data: bool
    integer: int
    stored: int
    lost: tuple[str, ...]
    mind: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """What is recommended.

    Attributes:
        mode: The mode.
        target: What for.
        reasons: Why.
        alternatives: Every mode, the recommended one first.
        notes: What to know whatever the mode.
        command: The line to run.
        facts: What it follows from.
    """

    mode: str
    target: str
    reasons: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    notes: tuple[str, ...]
    command: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Shown:
    """What the user asked about, for the command line.

    Attributes:
        model: The model as he calls it; empty for the bundled sample.
        dataset: Likewise the dataset; None for none that has a name.
        target: One of ``TARGETS``.
        custom_op_libs: Libraries of custom operators.
        image_preset: How images are fed; None where that is said elsewhere.
    """

    model: str = ""
    dataset: str | None = None
    target: str = "cpu"
    custom_op_libs: tuple[str, ...] = ()
    image_preset: str | None = None


def advise(facts: Facts, prospects: Sequence[Prospect], asked: Shown) -> Advice:
    """Recommend a mode.

    Args:
        facts: Of the model.
        prospects: What each mode would make of it.
        asked: What the user asked about.
    """
    traits = traits_of(facts, asked.target)
    rule = next(r for r in RULES if r.when <= traits)
    ranked = _ranked(rule, prospects, facts)
    best = ranked[0]
    command = ["quant", "convert", *([asked.model] if asked.model else []), "--mode", best.mode]
    if asked.dataset is not None or (best.needs_data and asked.model):
        command += ["--representative-dataset", asked.dataset or SPEC]
    command += ["--image-preset", asked.image_preset] if asked.image_preset else []
    command += [word for lib in asked.custom_op_libs for word in ("--custom-op-lib", lib)]
    missing = () if facts.samples or not best.needs_data else (f"make {SPEC} first: see docs/dataset.md",)
    return Advice(
        mode=best.mode,
        target=asked.target,
        reasons=(rule.reason, *_passed_over(rule, best, prospects), *_proportions(facts)),
        alternatives=tuple(_alternative(p, facts, traits) for p in ranked),
        notes=(*missing, *(n.text for n in NOTES if not n.modes and n.when <= traits)),
        command=shlex.join(command),
        facts=facts,
    )


def traits_of(facts: Facts, target: str) -> frozenset[str]:
    """Return what is characteristic of a model and a target, in the words of the rules."""
    loads, macs, weights = facts.loads, max(facts.macs, 1), max(facts.float_bytes, 1)
    share = {kind: load.macs / macs for kind, load in loads.items()}
    stored = {kind: load.weight_bytes / weights for kind, load in loads.items()}
    attention = ATTENTION in loads and (loads[ATTENTION].operators >= 2) and "Softmax" in facts.operators
    fused = any("Attention" in op for op in facts.operators)
    written_out = facts.states > 0 and {"Sigmoid", "Tanh"} <= set(facts.operators)
    transformer = attention or fused
    marks = {
        f"for {target}": True,
        "data": facts.samples > 0,
        "few samples": 0 < facts.samples < 20,
        "no labels": facts.samples > 0 and not facts.labels and facts.output == SCORES,
        "half": facts.half_bytes > weights / 2,
        "recurrent": RECURRENT in loads or written_out or bool({"Loop", "Scan"} & set(facts.control)),
        "transformer": transformer,
        "language": transformer and EMBEDDING in loads,
        "products": share.get(PRODUCT, 0) >= 0.5 or stored.get(PRODUCT, 0) + stored.get(EMBEDDING, 0) >= 0.5,
        "convolutional": share.get(CONVOLUTION, 0) + share.get(DEPTHWISE, 0) >= 0.5,
        "depthwise": DEPTHWISE in loads,
        "dense": facts.output == DENSE and EMBEDDING not in loads,
        "free": bool(facts.free),
        "control": bool(facts.control),
        "small": facts.float_bytes < SMALL_BYTES,
        "quick": 0 < facts.macs < SMALL_MACS,
        "weightless": facts.float_bytes < facts.file_bytes / 2,
    }
    return frozenset(name for name, holds in marks.items() if holds)


def _ranked(rule: Rule, prospects: Sequence[Prospect], facts: Facts) -> list[Prospect]:
    """Return the modes by the rule; those that refuse, gain nothing or lack their data come last, in this order."""
    places = {mode: i for i, mode in enumerate(rule.ranking)}

    def rank(prospect: Prospect) -> tuple[bool, bool, bool, int, int]:
        lacking = prospect.needs_data and not facts.samples and not rule.collects
        idle = prospect.mode != rule.ranking[-1] and not _gains(prospect, facts)
        last = prospect.bytes or facts.file_bytes
        return bool(prospect.refused), lacking, idle, places.get(prospect.mode, len(places)), last

    return sorted(prospects, key=rank)


def _gains(prospect: Prospect, facts: Facts) -> bool:
    smaller = prospect.bytes is not None and prospect.bytes < _LITTLE * facts.file_bytes
    return prospect.gains and (smaller or bool(prospect.integer))


def _passed_over(rule: Rule, best: Prospect, prospects: Iterable[Prospect]) -> list[str]:
    """Say why the modes that the rule prefers to the best one were not taken."""
    preferred = rule.ranking[: rule.ranking.index(best.mode)] if best.mode in rule.ranking else rule.ranking
    known = {p.mode: p for p in prospects}
    said = []
    for prospect in (known[m] for m in preferred if m in known):
        why = f"it refuses: {prospect.refused}" if prospect.refused else "it gains nothing here, or lacks its data"
        said.append(f"{prospect.mode} would come first, but {why}")
    return said


def _proportions(facts: Facts) -> list[str]:
    """Say where the work and the weights are."""
    said = []
    if facts.macs:
        ranked = sorted(facts.loads.items(), key=lambda item: -item[1].macs)
        parts = [f"{load.macs / facts.macs:.0%} {kind}" for kind, load in ranked if load.macs >= facts.macs / 100]
        said.append(f"work: {facts.macs / 1e6:.3g} million multiply-accumulates: {', '.join(parts)}")
    if facts.float_bytes:
        ranked = sorted(facts.loads.items(), key=lambda item: -item[1].weight_bytes)
        shares = [(kind, load.weight_bytes / facts.float_bytes) for kind, load in ranked]
        parts = [f"{part:.0%} {kind}" for kind, part in shares if part >= 0.01]
        said.append(f"weights: {facts.parameters:,} numbers: {', '.join(parts) or 'none in operators'}")
    many = f"{facts.samples} samples are at hand" if facts.samples else "no calibration data is at hand"
    return [*said, many]


def _alternative(prospect: Prospect, facts: Facts, traits: frozenset[str]) -> Alternative:
    floats = tuple(f"float: {ops}: {reason}" for reason, ops in prospect.floats) if prospect.gains else ()
    refused = tuple(f"refused: {ops + ': ' if ops.strip('0123456789') else ''}{why}" for why, ops in prospect.reasons)
    mind = tuple(n.text for n in NOTES if prospect.mode in n.modes and n.when <= traits)
    return Alternative(
        mode=prospect.mode,
        bytes=prospect.bytes,
        ratio=prospect.bytes / max(facts.file_bytes, 1) if prospect.bytes is not None else None,
        speed=None if prospect.refused else speed_of(prospect, facts),
        needs_data=prospect.needs_data,
        integer=prospect.integer,
        stored=prospect.stored,
        lost=refused or ((f"refused: {prospect.refused}",) if prospect.refused else floats),
        mind=mind,
    )


def speed_of(prospect: Prospect, facts: Facts) -> tuple[float, float]:
    """Return the expected range of speed against float, from the share of work that each kind of operator is.

    What does not multiply takes time too: the shares of ``OUTSIDE``, at the mode's own pace.
    """
    table = SPEEDS.get(prospect.arithmetic, UNCHANGED)
    if table.is_unchanged or not any(prospect.macs.values()):
        return 1.0, 1.0
    average = facts.macs / max(sum(load.operators for load in facts.loads.values() if load.macs), 1)
    shares = next(shares for limit, shares in OUTSIDE if average <= limit)
    ends = []
    for end, outside in enumerate(shares):
        inside = 0.0
        for kind, load in facts.loads.items():
            changed = prospect.macs.get(kind, 0)
            inside += (changed / table.of(kind)[end] + load.macs - changed) / facts.macs
        ends.append(1 / ((1 - outside) * inside + outside / table.rest[end]))
    return ends[0], ends[1]
