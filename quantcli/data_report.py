"""What a representative dataset would feed: gathered in one pass over its samples, with what is suspicious about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantcli import color_order, contact_sheet, data_warnings, exercise, files, jobs, runtime
from quantcli.data import guess_inputs, open_dataset
from quantcli.errors import InternalError, UsageError
from quantcli.feed_statistics import Gathering
from quantcli.input_scaling import own_factor
from quantcli.jobs import Job
from quantcli.options import resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.data import RepresentativeDataset
    from quantcli.exercise import Exercise
    from quantcli.feed_statistics import Summary
    from quantcli.jobs import DataSource
    from quantcli.options import Options
    from quantcli.state import State

NOTHING_DONE: Final = "none"  # the mode in which a model is only looked at


@dataclass(frozen=True, slots=True)
class DataReport:
    """What would be fed.

    Attributes:
        description: What the dataset is.
        samples: Number of samples.
        digest: sha256 of what is fed.
        inputs: What each input gets.
        classes: Number of samples by class; empty without labels.
        model: The model, where one was given.
        warnings: What is suspicious.
        exercise: What of the model the samples leave idle; None without a model.
    """

    description: str
    samples: int
    digest: str
    inputs: tuple[Summary, ...]
    classes: Mapping[int, int]
    model: str
    warnings: tuple[str, ...]
    exercise: Exercise | None = None


def described(source: DataSource, model: Path | None, output: Path | None, asked: Options) -> DataReport:
    """Open a dataset and look at it; with a model, look at what it does to that, too.

    Args:
        source: The dataset.
        model: A float model; without one, the dataset has to say itself what it is for.
        output: Where to write a contact sheet; None for none.
        asked: Number of samples, preset, threads, libraries of custom operators.

    Raises:
        QuantError: The dataset or the model cannot be read, they do not fit, or there are no images for a sheet.
    """
    if output is not None:
        files.check_output(output, tuple(Path(p) for p in (source, model) if isinstance(p, str | Path)))
    if model is None:
        data = _alone(source, asked)
        report = of_data(data)
    else:
        state, data = _begun(source, model, replace(asked, dry_run=True))
        report = with_model(of_data(data), state, data, model.name)
    if output is not None:
        _write_sheet(report, data, output)
    return report


def _begun(source: DataSource, model: Path, dry: Options) -> tuple[State, RepresentativeDataset]:
    job = Job(model, model, source)
    jobs.check_preset(source, dry)
    state = jobs.begun(job, jobs.loaded(job, dry), resolved(NOTHING_DONE, dry), dry)
    if state.data is None:
        raise InternalError(f"{model}: a dataset is given, but nothing is fed")
    return state, state.data


def _write_sheet(report: DataReport, data: RepresentativeDataset, output: Path) -> None:
    from quantcli.data.images import Png  # noqa: PLC0415 - Pillow is loaded only when there are images

    summary = next((s for s in report.inputs if s.layout), None)
    if summary is None:
        fed = ", ".join(f"{s.name!r} {list(s.shapes[0][0])}" for s in report.inputs)
        raise UsageError(
            f"{report.description}: no input looks like images of 1 or 3 channels; fed is {fed}",
            hint="leave the contact sheet (-o) out",
        )
    images = (feed[summary.name][:1] for feed in islice(data, contact_sheet.MOST))
    files.write_all({output: Png(contact_sheet.sheet(images, summary))})


def _alone(source: DataSource, asked: Options) -> RepresentativeDataset:
    if not isinstance(source, str | Path):
        raise UsageError("samples in memory do not say what they are for, expected a model", hint="give the model")
    path = Path(source)
    inputs = guess_inputs(path, asked.image_preset)
    data = open_dataset(path, inputs, samples=asked.samples, preset=asked.image_preset)
    data.check()
    return data


def of_data(data: RepresentativeDataset) -> DataReport:
    """Return what is fed, without a model."""
    gathered: dict[str, Gathering] = {}
    for feed in data:
        for name, array in feed.items():
            gathered.setdefault(name, Gathering(name)).add(array)
    inputs = tuple(g.summary() for g in gathered.values())
    warnings = (*data.warnings, *data_warnings.of_samples(len(data), data.duplicates(), inputs))
    classes = dict(sorted(Counter(data.classes()).items()))
    return DataReport(data.description, len(data), data.digest(), inputs, classes, "", warnings)


def with_model(report: DataReport, state: State, data: RepresentativeDataset, model: str) -> DataReport:
    """Return the report with what the float model says of the samples.

    Args:
        report: Without a model.
        state: The float model.
        data: The same samples.
        model: Its name.
    """
    found = exercise.exercised(state.reference, data, state.threads)
    factors = {str(v.name): own_factor(v) for v in state.reference.graph.inputs}
    warnings = [*report.warnings, *data_warnings.of_scaling(report.inputs, factors)]
    colored = [s for s in report.inputs if len(s.channels) == 3]
    session = runtime.load(state.reference, threads=state.threads)
    for summary in colored:
        warnings += data_warnings.of_orders(summary.name, color_order.orders(session, data, summary.name))
    warnings += data_warnings.of_exercise(found)
    return replace(report, model=model, warnings=tuple(warnings), exercise=found)
