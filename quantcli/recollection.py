"""Where what is seen of the samples is remembered: in saved statistics, in the user's cache, or nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from quantcli import cache, plugins, saved_statistics
from quantcli.errors import UsageError
from quantcli.fingerprints import fingerprint
from quantcli.observations import Observations
from quantcli.saved_statistics import Statistics

if TYPE_CHECKING:
    from pathlib import Path

    from quantcli.data import RepresentativeDataset
    from quantcli.observations import Store
    from quantcli.saved_statistics import Recorder
    from quantcli.state import State


def with_cache(state: State) -> State:
    """Return a state with samples that looks up in the user's cache what was seen of them before."""
    store, note = cache.opened()
    said = state.noted(notes=(note,)) if note else state
    return said if store is None or state.data is None else replace(said, observed=_observations(state.data, store))


def recorded(state: State, recorder: Recorder) -> State:
    """Return a state with samples whose observations are recorded."""
    if state.data is None:
        return state
    return replace(state, observed=replace(_observations(state.data, recorder), for_every_method=True))


def statistics_of(path: Path, state: State, model: Path) -> Statistics:
    """Return the statistics in a file, which are those of the model of a state.

    Args:
        path: The file.
        state: With the user's model.
        model: Where that is, to be told.

    Raises:
        StatisticsError: They cannot be read, or are of another model.
    """
    found = saved_statistics.read(path)
    saved_statistics.check_model(found, fingerprint(state.original), model, path)
    return found


def with_statistics(state: State, found: Statistics, where: Path) -> State:
    """Return a state that knows of its samples what the statistics say, instead of looking at them.

    Raises:
        StatisticsError: They are of other samples.
    """
    store = saved_statistics.Saved(found, where)
    if state.data is None:
        return state
    known = _observations(state.data, store)
    saved_statistics.check_data(found, known.origin[0], state.data.description, where)
    return replace(state, observed=known)


def from_statistics(state: State, found: Statistics, where: Path, trial: RepresentativeDataset) -> State:
    """Return a state without samples that knows what the statistics say.

    Args:
        state: With a recipe.
        found: The statistics.
        where: Their file.
        trial: Random samples, to prove on that the result runs.
    """
    known = Observations(
        None,
        found.samples,
        f"{found.data}, known from {where.name}",
        found.random_data,
        (found.data_sha256,),
        saved_statistics.Saved(found, where),
    )
    left = [p.name for p in plugins.passes_of(state.recipe) if "data" in p.run.needs]
    said = f"ranges from {where.name}: {found.samples} samples of {found.data}"
    verified = f"verified on {len(trial)} random samples; --representative-dataset beside --stats gives real ones"
    without = (f"left out, because only samples tell what they need: {', '.join(left)}",) if left else ()
    known_state = replace(state, data=trial, observed=known, stand_in=True)
    return known_state.noted(notes=(said, verified, *without, *trial.warnings))


def statistics(recorder: Recorder, state: State, modes: tuple[str, ...]) -> Statistics:
    """Return what was recorded as statistics.

    Args:
        recorder: What was seen.
        state: Of the user's model, with the samples that it was seen on.
        modes: Recipes that were prepared for.
    """
    seen = state.observations
    if seen is None:
        raise UsageError("statistics are of samples, and there are none", hint="give --representative-dataset SPEC")
    return Statistics(
        model_sha256=fingerprint(state.original),
        data_sha256=seen.digest(),
        data=seen.description,
        samples=seen.count,
        random_data=seen.synthetic,
        modes=modes,
        seen=recorder.seen,
    )


def _observations(data: RepresentativeDataset, store: Store) -> Observations:
    return Observations(data, len(data), data.description, data.synthetic, (data.digest(),), store)
