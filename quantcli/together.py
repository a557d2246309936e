"""Every mode from one preparation and one calibration: steps that recipes have in common run once.

Two recipes share a step where everything before it was shared and the step depends on nothing else in which they
differ. Calibration runs once for each prepared model, over the tensors of all its plans.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

from quantcli import accuracy, execution, feeding, jobs, racing, runtime, ties
from quantcli.attempts import apart, attempted, good, refusals
from quantcli.errors import QuantError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from quantcli.jobs import DataSource
    from quantcli.options import Options
    from quantcli.outcome import Result
    from quantcli.pipeline import NamedPass
    from quantcli.quant import QuantSpec
    from quantcli.recipe import Recipe
    from quantcli.state import Calibrator, Instrument, State

# Steps that depend on the state and their options alone, and options that count in one format of the recipe only, or
# where weights have 4 bits.
SHARED: Final[Mapping[str, Mapping[str, str]]] = {
    "widen": {},
    "modernize": {},
    "convert_opset": {"qdq": "qdq", "four_bits": "four_bits"},
    "simplify": {},
    "fold_batch_norm": {},
    "canonicalize": {},
    "recognize": {},
    "pointwise_products": {},
    "check_parity": {},
    "check_operators": {},
    "equalize": {},
    "expand_prelu": {},
}
READ: Final[Mapping[str, tuple[str, ...]]] = {"recognize": ("fallback", "form")}  # of the recipe, by these steps
CALIBRATE: Final = "calibrate"


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a mode has come.

    Attributes:
        state: Its state.
        lineage: Number of the prepared model; modes with the same one have the same model.
        own: Names of the steps that only this mode ran since.
        todo: Passes that are left before tensors are tied.
        rest: Passes that come after.
    """

    state: State
    lineage: int = 0
    own: tuple[str, ...] = ()
    todo: tuple[NamedPass, ...] = ()
    rest: tuple[NamedPass, ...] = ()


def run(
    states: Mapping[str, State], asked: Options, instruments: Sequence[Instrument] = ()
) -> dict[str, State | QuantError]:
    """Run the passes of every recipe on one model.

    Args:
        states: The first state of each mode; they differ in their recipes.
        asked: Options of the call.
        instruments: Watchers of the passes.

    Returns:
        The last state of each mode, or why it has none.

    Raises:
        UsageError: The call itself is wrong, whatever the mode.
    """
    watchers = {mode: execution.watching(mode, asked, instruments) for mode in states}
    shared = Prepared()
    heads = apart(lambda mode, state: _head(shared, state, asked, watchers[mode]), states)
    calibrated: dict[str, Reached | QuantError] = {}
    for group in _groups(good(heads)):
        calibrated |= _calibrated(group, watchers)
    ended = apart(lambda mode, at: _ended(at, asked, watchers[mode]), good(calibrated))
    outcomes = {**refusals(heads), **refusals(calibrated), **_scored(ended)}
    return {mode: outcomes[mode] for mode in states}


def with_data(
    recipes: Mapping[str, Recipe | QuantError], source: DataSource | None, asked: Options
) -> dict[str, Recipe | QuantError]:
    """Refuse the modes that need samples where there are none.

    Raises:
        UsageError: Samples and random data both are given.
    """
    known = dict(recipes)
    for mode, recipe in good(recipes).items():
        try:
            jobs.check_data_asked(recipe, source, asked)
        except UsageError as error:
            if source is not None:
                raise
            known[mode] = error
    return known


def latencies(results: Mapping[str, Result | QuantError], threads: int = 1) -> dict[str, racing.Latency]:
    """Measure, in turns on one sample, the float model (``""``) and every model that was made.

    A large model is not measured: memory does not hold every one of them as it would run by itself.
    """
    made = {mode: r.state for mode, r in good(results).items() if r.state is not None and r.state.quantized is not None}
    some = next(iter(made.values()), None)
    if some is None or some.data is None or runtime.is_large(some.reference):
        return {}
    feed = next(iter(some.data))
    sessions = {"": runtime.load(some.reference, threads=threads)}
    feeds: dict[str, runtime.Feed] = {"": feed}
    for mode, state in made.items():
        if state.quantized is not None:
            sessions[mode] = runtime.load(state.quantized.model, threads=threads)
            feeds[mode] = feeding.to_integers(feed, state.quantized.boundary)
    return racing.race(sessions, feeds)


@dataclass(slots=True)
class Prepared:
    """What was computed already, by where it began and the step."""

    known: dict[tuple[int, str, str], Reached | QuantError] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def after(self, at: Reached, step: NamedPass, watchers: Sequence[Instrument]) -> Reached:
        """Return where a step leads to; it runs unless another mode took it from the same place."""
        decided = _decided_by(step, at.state.recipe)
        if at.own or decided is None:
            state = execution.passed(at.state, [step], watchers)
            own = at.own if _left_alone(at.state, state) else (*at.own, step.name)
            return replace(at, state=state, own=own)
        key = (at.lineage, step.name, decided)
        if key not in self.known:
            self.known[key] = self._run(at, step, watchers)
        found = self.known[key]
        if isinstance(found, QuantError):
            raise found
        return replace(at, state=replace(found.state, recipe=at.state.recipe), lineage=found.lineage)

    def _run(self, at: Reached, step: NamedPass, watchers: Sequence[Instrument]) -> Reached | QuantError:
        """Run a step; what it leaves as it was keeps its lineage."""
        state = attempted(partial(execution.passed, at.state, [step], watchers), at.state.recipe.name)
        if isinstance(state, QuantError):
            return state
        return Reached(state, at.lineage if _left_alone(at.state, state) else next(self.numbers))


def _left_alone(before: State, after: State) -> bool:
    """Tell whether a step changed nothing but the clock."""
    timings = before.report.timings
    return (
        all(getattr(before, f.name) is getattr(after, f.name) for f in fields(before) if f.name != "report")
        and replace(after.report, timings=timings) == before.report
    )


def _decided_by(step: NamedPass, recipe: Recipe) -> str | None:
    """Return what decides the result of a step beside the state; None where that may be all of its recipe."""
    formats = SHARED.get(step.name)
    if formats is None or not is_dataclass(step.run):
        return None
    applying = {recipe.format} | ({"four_bits"} if recipe.four_bits else set())
    counting = [f for f in fields(step.run) if formats.get(f.name, recipe.format) in applying]
    options = [(f.name, v) for f in counting if (v := getattr(step.run, f.name)) != f.default]
    return repr([*options, *((f, getattr(recipe, f)) for f in READ.get(step.name, ()))])


def _head(shared: Prepared, state: State, asked: Options, watchers: Sequence[Instrument]) -> Reached:
    """Prepare and plan, up to calibration."""
    first, rest = execution.split(state, asked)
    names = [p.name for p in first]
    at = names.index(CALIBRATE) if CALIBRATE in names else len(names)
    reached = Reached(state, todo=tuple(first[at:]), rest=tuple(rest))
    for step in first[:at]:
        reached = shared.after(reached, step, watchers)
    return reached


def _groups(heads: Mapping[str, Reached]) -> list[dict[str, Reached]]:
    """Return the modes that are calibrated together: one prepared model, one calibrator, observers that fit all."""
    groups: list[tuple[object, dict[str, Reached]]] = []
    for mode, at in heads.items():
        alone = not at.todo or not set(at.own) <= set(execution.PLANS)
        key: object = mode if alone else (at.lineage, repr(at.todo[0].run))
        fitting = next((g for k, g in groups if k == key and _observe_alike(g.values(), at)), None)
        if fitting is None:
            groups.append((key, {mode: at}))
        else:
            fitting[mode] = at
    return [group for _, group in groups]


def _observe_alike(group: Iterable[Reached], other: Reached) -> bool:
    """Tell whether the calibrator's observers see the same whatever the specs that these plans give a tensor."""
    calibrator: Calibrator | None = getattr(other.todo[0].run, "calibrator", None)
    pairs = {(spec, at.state.plan.activations.get(tensor, spec))
             for at in group for tensor, spec in other.state.plan.activations.items()}  # fmt: skip
    differing = [(a, b) for a, b in pairs if a != b]
    return not differing or (
        calibrator is not None and all(calibrator.observer(a) == calibrator.observer(b) for a, b in differing)
    )


def _calibrated(
    group: Mapping[str, Reached], watchers: Mapping[str, Sequence[Instrument]]
) -> dict[str, Reached | QuantError]:
    """Calibrate once over the activations of all plans, and give each mode its part."""
    first = next(iter(group))
    at = group[first]
    if not at.todo:
        return dict(group)
    union: dict[str, QuantSpec] = {t: s for r in group.values() for t, s in r.state.plan.activations.items()}
    seen = apart(
        lambda mode, state: execution.passed(state, at.todo[:1], watchers[mode]),
        {first: replace(at.state, plan=replace(at.state.plan, activations=union))},
    )[first]
    if isinstance(seen, QuantError):
        return dict.fromkeys(group, seen)
    said = seen.report.warnings[len(at.state.report.warnings) :]
    return {mode: replace(r, state=_with_part(r.state, seen, said), todo=r.todo[1:]) for mode, r in group.items()}


def _with_part(state: State, seen: State, warnings: tuple[str, ...]) -> State:
    stats = {t: s for t, s in seen.stats.items() if t in state.plan.activations or t not in seen.plan.activations}
    timings = {**state.report.timings, CALIBRATE: seen.report.timings[CALIBRATE]}
    report = replace(state.report, feeds=seen.report.feeds, timings=timings)
    return replace(state, stats=stats, ranging=seen.ranging, report=report).noted(warnings=warnings)


def _ended(at: Reached, asked: Options, watchers: Sequence[Instrument]) -> State:
    state = execution.passed(at.state, at.todo, watchers)
    tied = {"": state} if asked.dry_run else ties.tied({"": state})
    return execution.checked({"": execution.passed(tied[""], at.rest, watchers)}, asked)[""]


def _scored(ended: Mapping[str, State | QuantError]) -> dict[str, State | QuantError]:
    """Measure the accuracy of each; the float model's once."""
    done = good(ended)
    if not done:
        return dict(ended)
    expected = accuracy.expected(next(iter(done.values())))
    return {**ended, **{mode: accuracy.scored(state, expected) for mode, state in done.items()}}
