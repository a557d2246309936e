"""Collects statistics without converting: what every recipe asks of the samples before it chooses scales, recorded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from quantcli import attempts, execution, fitting, graph, jobs, range_trials, recollection
from quantcli import modes as shipped
from quantcli.errors import QuantError, UsageError
from quantcli.options import resolved
from quantcli.saved_statistics import Recorder, Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx_ir as ir

    from quantcli.jobs import Job
    from quantcli.options import Options
    from quantcli.recipe import Recipe
    from quantcli.state import Instrument, State


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What calibration gave.

    Attributes:
        output: The written file.
        statistics: What is in it.
        states: By mode, everything known at the end; ranges are not chosen yet.
        refused: By mode, why there are no statistics for it.
    """

    output: Path
    statistics: Statistics
    states: Mapping[str, State]
    refused: Mapping[str, QuantError] = field(default_factory=dict)


def recipes_of(modes: Sequence[str], asked: Options) -> dict[str, Recipe]:
    """Return the recipes to calibrate for, by name.

    Args:
        modes: Their names; none for every mode that calibrates, or the one recipe file of the options.
        asked: Options of the call.

    Raises:
        QuantError: A mode or an option is wrong, or a mode calibrates nothing.
    """
    for option, is_given in (("--stats", asked.stats is not None), ("--dry-run", asked.dry_run)):
        if is_given:
            raise UsageError(f"{option} means nothing to a calibration", hint="it is an option of conversions")
    if asked.recipe is not None:
        only = resolved("", asked)
        found: Mapping[str, Recipe | QuantError] = {only.name: only}
    else:
        found = fitting.fitted(modes or shipped.names(), asked)[0]
    attempts.check_any(found)
    wanted = {name: recipe for name, recipe in attempts.good(found).items() if recipe.needs_data}
    idle = [name for name in found if name not in wanted]
    if idle and (modes or not wanted):
        raise UsageError(
            f"mode {idle[0]!r} calibrates nothing, expected one that needs data", hint="quant modes lists them"
        )
    return wanted


def calibrated(
    job: Job, original: ir.Model, recipes: Mapping[str, Recipe], asked: Options, instruments: Sequence[Instrument] = ()
) -> Calibrated:
    """Return the statistics for some recipes; nothing is written.

    Raises:
        QuantError: No recipe can be prepared for.
    """
    states = jobs.begun_all(job, original, recipes, asked)
    first = next(iter(states.values()))
    recorder = Recorder(first.observed.store if first.observed is not None else None)
    begun = {mode: recollection.recorded(state, recorder) for mode, state in states.items()}
    ended = {mode: attempts.attempted(partial(_seen, s, asked, instruments, mode), mode) for mode, s in begun.items()}
    attempts.check_any(ended)
    done = attempts.good(ended)
    return Calibrated(
        job.target,
        recollection.statistics(recorder, begun[next(iter(done))], tuple(done)),
        done,
        attempts.refusals(ended),
    )


def _seen(state: State, asked: Options, instruments: Sequence[Instrument], mode: str) -> State:
    """Prepare and look, as a conversion with the samples would, and as one that has nothing but the statistics."""
    watchers = execution.watching(mode, asked, instruments)
    done = execution.looked(state, asked, watchers)
    range_trials.picked(done, lambda _done, _total: None)
    alone = replace(state, stand_in=True)
    before = [[p.name for p in execution.split(s, asked)[0]] for s in (state, alone)]
    if before[0] != before[1] or _has_bodies(done.model):
        execution.looked(alone, asked, watchers)
    return done


def _has_bodies(model: ir.Model) -> bool:
    """Tell whether there is control flow: its bodies are refined on samples before the graph around them is seen."""
    return sum(1 for _ in graph.all_graphs(model)) > 1
