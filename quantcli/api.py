"""The operations of the tool as functions: paths in, results out; command line and ``Converter`` are thin over it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantcli import (
    advice,
    attempts,
    calibrating,
    data,
    data_report,
    execution,
    files,
    fitting,
    jobs,
    outcome,
    survey,
    together,
)
from quantcli import modes as shipped
from quantcli.advice import Advice
from quantcli.advice_tables import TARGETS
from quantcli.calibrating import Calibrated
from quantcli.data_report import DataReport
from quantcli.errors import QuantError, UsageError, did_you_mean
from quantcli.jobs import DataSource, Job
from quantcli.options import Options, completed, resolved
from quantcli.outcome import Result
from quantcli.racing import Latency
from quantcli.ties import End
from quantcli.together import latencies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantcli.recipe import Recipe
    from quantcli.state import Instrument

__all__ = [
    "Advice",
    "Calibrated",
    "DataReport",
    "DataSource",
    "Latency",
    "Options",
    "Result",
    "advise",
    "calibrate",
    "convert",
    "convert_all",
    "convert_signatures",
    "describe_data",
    "latencies",
]

BUNDLED_NOTE: Final = "no model given: converting the bundled sample (digits.onnx with 100 calibration samples)"


def convert(  # noqa: PLR0913 - what differs from call to call; all else is in Options
    model: str | Path | None = None,
    *,
    mode: str = "int8-only",
    representative_dataset: DataSource | None = None,
    output: str | Path | None = None,
    options: Options | None = None,
    instruments: Sequence[Instrument] = (),
) -> Result:
    """Convert a float ONNX model, verify the result, and write it with its encodings and report.

    Args:
        model: The model; None is the bundled sample.
        mode: Name of a mode (``quant modes``).
        representative_dataset: Path of whatever the command line takes (docs/dataset.md); a generator function; or
            feeds by input name.
        output: Where to write; default ``<stem>.<mode>.onnx`` in the current folder.
        options: Everything else.
        instruments: Watchers of the passes.

    Raises:
        QuantError: With an exit code and a hint; nothing was written.
    """
    asked = completed(options or Options())
    recipe = resolved(mode, asked)
    path, source = _given(model, representative_dataset, asked)
    target = Path(output) if output is not None else Path(f"{path.stem}.{recipe.name}.onnx")
    jobs.check_data_asked(recipe, source, asked)
    job = Job(path, target, source)
    state = jobs.begun(job, jobs.loaded(job, asked), recipe, asked)
    if model is None:
        state = state.noted(notes=(BUNDLED_NOTE,))
    return outcome.settled([job], execution.run({"": state}, asked, instruments), asked)[""]


def convert_all(
    model: str | Path | None = None,
    *,
    representative_dataset: DataSource | None = None,
    output: str | Path | None = None,
    options: Options | None = None,
    instruments: Sequence[Instrument] = (),
) -> dict[str, Result | QuantError]:
    """Convert a model in every mode, from one preparation and one calibration.

    Args:
        model: The model; None is the bundled sample.
        representative_dataset: As ``convert`` takes it; without one, modes that need data refuse.
        output: Folder to write ``<stem>.<mode>.onnx`` into; default the current one.
        options: Everything else; what a mode does not take is left out there.
        instruments: Watchers of the passes.

    Returns:
        By mode, its result or why it has none. Results were written all together.

    Raises:
        QuantError: No mode has a result, or the call itself is wrong; nothing was written.
    """
    asked = completed(options or Options())
    fitting.check_together(asked)
    known, left_out = fitting.fitted(shipped.names(), asked)
    path, source = _given(model, representative_dataset, asked)
    folder = _folder(output)
    fit = together.with_data(known, source, asked)
    recipes, outcomes = attempts.good(fit), dict[str, Result | QuantError](attempts.refusals(fit))
    todo = {mode: Job(path, folder / f"{path.stem}.{mode}.onnx", source) for mode in recipes}
    if todo:
        first, *others = todo.values()
        original = jobs.loaded(first, asked, [job.target for job in others])
        states = jobs.begun_all(first, original, recipes, asked)
        ended = together.run(states, asked, instruments)
        done = {m: s.noted(notes=_notes(model, left_out[m])) for m, s in attempts.good(ended).items()}
        written = outcome.settled_apart({mode: todo[mode] for mode in done}, done, asked)
        outcomes = {**outcomes, **attempts.refusals(ended), **written}
    attempts.check_any(outcomes)
    return {mode: outcomes[mode] for mode in known}


def convert_signatures(
    spec: str | Path,
    *,
    mode: str = "int8-only",
    output: str | Path | None = None,
    options: Options | None = None,
    instruments: Sequence[Instrument] = (),
) -> dict[str, Result]:
    """Convert several models that belong together; tensors that pass from one to another share their encodings.

    Args:
        spec: A YAML file with ``signatures:``: a model and a dataset for each.
        mode: Name of a mode.
        output: Folder to write into; default the current one.
        options: Everything else, for all of them.
        instruments: Watchers of the passes.

    Returns:
        The results by signature; all of them were written, or none.

    Raises:
        QuantError: With an exit code and a hint; nothing was written.
    """
    asked = completed(options or Options())
    if asked.stats is not None:
        raise UsageError(f"--stats is of one model; {spec} has several", hint="leave it out, or convert one by one")
    recipe = resolved(mode, asked)
    found = data.read_signatures(Path(spec))
    folder = _folder(output)
    todo = [_job(s, folder, recipe) for s in found.signatures.values()]
    _check_apart(todo)
    for job in todo:
        jobs.check_data_asked(recipe, job.source, asked)
    states = {job.signature: jobs.begun(job, jobs.loaded(job, asked), recipe, asked) for job in todo}
    ties = [(End(*leaving), End(*entering)) for leaving, entering in found.ties]
    return outcome.settled(todo, execution.run(states, asked, instruments, ties), asked)


def calibrate(  # noqa: PLR0913 - as for convert
    model: str | Path | None = None,
    *,
    modes: Sequence[str] = (),
    representative_dataset: DataSource | None = None,
    output: str | Path | None = None,
    options: Options | None = None,
    instruments: Sequence[Instrument] = (),
) -> Calibrated:
    """Save what samples show of a model: ``convert`` with ``Options(stats=...)`` takes its ranges from that.

    Args:
        model: The model; None is the bundled sample.
        modes: What conversions will make; none for every mode that calibrates.
        representative_dataset: As ``convert`` takes it.
        output: Where to write; default ``<stem>.stats.json`` in the current folder.
        options: Everything else.
        instruments: Watchers of the passes.

    Raises:
        QuantError: With an exit code and a hint; nothing was written.
    """
    asked = completed(options or Options())
    recipes = calibrating.recipes_of(modes, asked)
    path, source = _given(model, representative_dataset, asked)
    for recipe in recipes.values():
        jobs.check_data_asked(recipe, source, asked)
    job = Job(path, Path(output) if output is not None else Path(f"{path.stem}.stats.json"), source)
    found = calibrating.calibrated(job, jobs.loaded(job, asked), recipes, asked, instruments)
    files.write_all({found.output: found.statistics})
    return found


def advise(
    model: str | Path | None = None,
    *,
    representative_dataset: DataSource | None = None,
    image_preset: str | None = None,
    target: str = "cpu",
    custom_op_libs: Sequence[str | Path] = (),
) -> Advice:
    """Recommend a mode for a model; nothing is converted.

    Args:
        model: The model; None is the bundled sample.
        representative_dataset: As ``convert`` takes it, if there is one.
        image_preset: How images without a spec are fed.
        target: ``cpu``, ``edge-integer``, ``gpu`` or ``size``.
        custom_op_libs: Shared libraries of custom operators that the model needs.

    Raises:
        QuantError: The model or the dataset is wrong, or there is no such target.
    """
    if target not in TARGETS:
        raise UsageError(f"unknown target {target!r}{did_you_mean(target, TARGETS)}; expected {' | '.join(TARGETS)}")
    libs = tuple(Path(lib) for lib in custom_op_libs)
    asked = Options(dry_run=True, image_preset=image_preset, custom_op_libs=libs)
    path, source = _given(model, representative_dataset, asked)
    jobs.check_preset(source, asked)
    job = Job(path, path, source)
    recipes = {name: resolved(name, asked) for name in shipped.names()}
    states = jobs.begun_all(job, jobs.loaded(job, asked), recipes, asked)
    found, expected = survey.made(job, states, together.run(states, asked))
    named = isinstance(representative_dataset, str | Path)
    dataset = str(representative_dataset) if named else None
    shown = advice.Shown(str(model or ""), dataset, target, tuple(str(lib) for lib in custom_op_libs), image_preset)
    return advice.advise(found, expected, shown)


def describe_data(
    representative_dataset: DataSource,
    *,
    model: str | Path | None = None,
    output: str | Path | None = None,
    options: Options | None = None,
) -> DataReport:
    """Look at what a dataset would feed, and with a model, at what it leaves unexercised.

    Args:
        representative_dataset: As ``convert`` takes it.
        model: The float model; without one, the dataset has to say itself what its inputs are.
        output: Where to write a contact sheet of the images (PNG); None for none.
        options: Number of samples, preset of images, threads, libraries of custom operators.

    Raises:
        QuantError: With an exit code and a hint; nothing was written.
    """
    path, target = (Path(p) if p is not None else None for p in (model, output))
    return data_report.described(representative_dataset, path, target, options or Options())


def _given(model: str | Path | None, source: DataSource | None, asked: Options) -> tuple[Path, DataSource | None]:
    """Return the model and its samples; the bundled ones where none are given."""
    if model is not None:
        return Path(model), source
    sample = shipped.sample_folder()
    return sample / "digits.onnx", sample / "dataset.yaml" if source is None and not asked.made_up else source


def _notes(model: str | Path | None, left_out: Sequence[str]) -> tuple[str, ...]:
    bundled = (BUNDLED_NOTE,) if model is None else ()
    return (*bundled, *(f"{said} means nothing in this mode and was left out" for said in left_out))


def _folder(output: str | Path | None) -> Path:
    folder = Path(output) if output is not None else Path()
    if output is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder; several models need one to be written into", hint="create it first")
    return folder


def _job(signature: data.Signature, folder: Path, recipe: Recipe) -> Job:
    target = folder / f"{signature.model.stem}.{recipe.name}.onnx"
    return Job(signature.model, target, None if signature.dataset is None else signature, signature.name)


def _check_apart(todo: Sequence[Job]) -> None:
    targets = [job.target for job in todo]
    twice = next((t for t in targets if targets.count(t) > 1), None)
    if twice is not None:
        raise UsageError(f"two signatures would write {twice}", hint="give their model files different names")
