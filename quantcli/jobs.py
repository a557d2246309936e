"""One model to convert: where it is, where its result goes, what it is calibrated on; and the state to begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import accuracy, batching, custom_ops, documents, files, own_types, recollection, runtime, widening
from quantcli.data import (
    NATURAL,
    Feed,
    InputSpec,
    RepresentativeDataset,
    Signature,
    from_arrays,
    from_callable,
    guesses,
    open_dataset,
    open_signature,
    random_dataset,
)
from quantcli.data_free import SAMPLES, SIZE, data_free
from quantcli.errors import ModelError, UsageError
from quantcli.state import State

if TYPE_CHECKING:
    from quantcli.options import Options
    from quantcli.recipe import Recipe
    from quantcli.saved_statistics import Statistics

Sample = Feed | Sequence[np.ndarray]
DataSource = str | Path | Signature | RepresentativeDataset | Callable[[], Iterable[Sample]] | Sequence[Feed]
IN_FLOAT32: Final = "onnxruntime does not run the model in its own float types: results are compared with it in float32"
TRIAL_SAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One model of a conversion.

    Attributes:
        model: The float model.
        target: Where the quantized one goes.
        source: Samples for calibration.
        signature: Its name among several models that are converted together.
    """

    model: Path
    target: Path
    source: DataSource | None = None
    signature: str = ""


def check_data_asked(recipe: Recipe, source: DataSource | None, asked: Options) -> None:
    """Raise where a mode needs samples and none are given, or where two kinds are."""
    given = source is not None or asked.made_up or asked.stats is not None
    if recipe.needs_data and not given and not asked.dry_run:
        raise UsageError(
            f"mode {recipe.name!r} needs calibration data",
            hint="give --representative-dataset SPEC (YAML spec, .npz or folder), or --data-free where there are none; "
            "--random-data N only for trials",
        )
    made_up = {"--random-data": asked.random_data is not None, "--data-free": asked.data_free}
    if asked.stats is not None and asked.made_up:
        option = next(o for o, is_given in made_up.items() if is_given)
        raise UsageError(f"--stats and {option} exclude each other", hint="give one of them")
    check_preset(source, asked)
    kinds = [o for o, is_given in {"--representative-dataset": source is not None, **made_up}.items() if is_given]
    if len(kinds) > 1:
        raise UsageError(f"{' and '.join(kinds)} exclude each other", hint="give one of them")


def check_preset(source: DataSource | None, asked: Options) -> None:
    """Raise where a way to feed images is given, and no samples that could be images."""
    if asked.image_preset is not None and not isinstance(source, str | Path):
        raise UsageError(
            f"--image-preset {asked.image_preset} means nothing without a folder or table of images",
            hint="give --representative-dataset FOLDER",
        )


def loaded(job: Job, asked: Options, others: Iterable[Path] = ()) -> ir.Model:
    """Load the model of a job, after checking that its results may be written, and what goes to ``others``.

    Raises:
        UsageError: A result would replace an input, or a library of custom operators does not exist.
        ModelError: The model cannot be loaded.
    """
    files.check_exists(job.model)
    custom_ops.check_exist(asked.custom_op_libs)
    targets = () if asked.dry_run else (job.target, *others)
    for target in targets:
        _check_places(target, (job.model, asked.recipe, job.source, asked.stats))
    original = files.load_model(job.model)
    for target in targets:
        _check_places(target, files.external_files(original, job.model))
    custom_ops.attach(original, asked.custom_op_libs)
    return original


def begun(job: Job, original: ir.Model, recipe: Recipe, asked: Options) -> State:
    """Return the state that the passes begin with: the model runs in the runtime, its data is checked."""
    return begun_all(job, original, {"": recipe}, asked)[""]


def begun_all(job: Job, original: ir.Model, recipes: Mapping[str, Recipe], asked: Options) -> dict[str, State]:
    """Return the states of several recipes for one model: it is loaded once, its data is opened and checked once."""
    threads = asked.threads or runtime.usable_threads()
    session, runnable = _loadable(job, original, threads)
    begun = State(original, original, next(iter(recipes.values())), threads=threads, runnable=runnable)
    said = begun.noted(notes=(IN_FLOAT32,) if runnable is not None else ())
    states = {n: replace(said, recipe=r) for n, r in recipes.items()}
    saved = recollection.statistics_of(asked.stats, begun, job.model) if asked.stats and not asked.dry_run else None
    if job.source is None and not asked.made_up:
        bare = {n for n, r in recipes.items() if asked.dry_run or (r.needs_data and saved is None)}
        trial = None if len(bare) == len(states) else trial_data(session, job.model)
        return {n: s if n in bare or trial is None else _on_trial(s, trial, saved, asked) for n, s in states.items()}
    data = _opened(job, session, asked, said)
    data.check()
    data = accuracy.with_fitting_labels(session, data)
    return {n: _remembering(_with_data(s, data, asked), saved, asked) for n, s in states.items()}


def _remembering(state: State, saved: Statistics | None, asked: Options) -> State:
    """Return a state with samples, and where what is seen of them is looked up."""
    if saved is not None and asked.stats is not None and state.recipe.needs_data:
        return recollection.with_statistics(state, saved, asked.stats)
    return recollection.with_cache(state) if asked.cache and not asked.dry_run else state


def _loadable(job: Job, original: ir.Model, threads: int) -> tuple[runtime.Session, ir.Model | None]:
    """Load the model; where the runtime does not run it in its own float types, load it in float32 and return that too.

    Inputs and outputs keep their types, except bfloat16, which samples do not come in: they become float32.
    """
    ends = (*original.graph.inputs, *original.graph.outputs)
    try:
        if not any(v.dtype == ir.DataType.BFLOAT16 for v in ends):
            return runtime.load(original, threads=threads), None
    except ModelError as error:
        if not widening.has_others(original):
            raise ModelError(f"{job.model}: {error.message}", hint=error.hint) from error
    model, _counts = widening.widened(original)
    own_types.restore(model, own_types.types_of(original))
    try:
        return runtime.load(model, threads=threads), model
    except ModelError as error:
        raise ModelError(f"{job.model}, widened to float32: {error.message}", hint=error.hint) from error


def _with_data(state: State, data: RepresentativeDataset, asked: Options) -> State:
    made_up = data.synthetic and state.recipe.needs_data
    stamped = (_stamp(len(data), free=asked.data_free),) if made_up else ()
    return replace(state, data=data).noted(warnings=(*data.warnings, *stamped))


def _on_trial(state: State, data: RepresentativeDataset, saved: Statistics | None, asked: Options) -> State:
    if state.recipe.needs_data and saved is not None and asked.stats is not None:
        known = recollection.from_statistics(state, saved, asked.stats, data)
        return known.noted(warnings=(_stamp(saved.samples),)) if saved.random_data else known
    note = f"verified on {TRIAL_SAMPLES} random samples: no data given; --representative-dataset gives real ones"
    return replace(state, data=data).noted(notes=(note, *data.warnings))


def _stamp(samples: int, *, free: bool = False) -> str:
    if free:
        return f"calibrated without data, on {samples} samples that were made up for the model: real ones give more"
    return f"calibrated on random data ({samples} samples): accuracy means nothing"


def input_specs(session: runtime.Session, path: Path) -> list[InputSpec]:
    """Return name, type and shape of every input that has to be fed."""
    specs = []
    for info in session.inputs:
        if info.dtype is None:
            raise ModelError(f"{path}: input {info.name!r} is not a tensor; sequences and maps cannot be fed")
        specs.append(InputSpec(info.name, np.dtype(info.dtype), info.shape))
    return specs


def _check_places(target: Path, inputs: Iterable[object]) -> None:
    named = tuple(Path(i) for i in inputs if isinstance(i, str | Path))
    files.check_output(target, named)
    for place in (files.data_file(target), *documents.sidecars(target)):
        files.check_output(place, named)


def trial_data(
    session: runtime.Session, path: Path, count: int = TRIAL_SAMPLES, size: int = NATURAL.size
) -> RepresentativeDataset:
    """Return random samples that the model takes: the first guess at its shapes and integers that it runs on.

    Guesses with free dimensions of ``size`` come first. A guess on which no output holds anything proves nothing; it
    serves only where no other one runs.

    Raises:
        ModelError: It runs on none of them.
    """
    specs = input_specs(session, path)
    picky = any(s.dtype.kind != "f" for s in specs)  # what integers mean may depend on their values
    failure: ModelError | None = None
    empty: RepresentativeDataset | None = None
    for guess in sorted(guesses(specs), key=lambda g: g.size != size):
        data = random_dataset(specs, count, guess=guess)
        try:
            full = [any(x.size for x in session.run(feed).values()) for feed in (data if picky else data.take(1))]
        except ModelError as error:
            failure = failure or error
            continue
        if guess not in (NATURAL, replace(NATURAL, size=size)):
            data = replace(data, warnings=(f"random samples of the first kind that the model takes: {guess}",))
        if all(full):
            return data
        empty = empty or data
    if empty is not None:
        return empty
    raise ModelError(
        f"{path}: the float model runs on none of the random samples tried; on the most natural ones: "
        f"{failure.message if failure else ''}",
        hint="give --representative-dataset with at least one sample that the model takes",
    )


def _opened(job: Job, session: runtime.Session, asked: Options, state: State) -> RepresentativeDataset:
    source, specs = job.source, input_specs(session, job.model)
    if asked.data_free:
        return data_free(state, trial_data(session, job.model, asked.samples or SAMPLES, SIZE), specs)
    if source is None:
        return trial_data(session, job.model, asked.random_data or 1)
    return _given(source, specs, asked, session)


def _given(
    source: DataSource, specs: Sequence[InputSpec], asked: Options, session: runtime.Session
) -> RepresentativeDataset:
    independent = partial(batching.are_independent, session)
    if isinstance(source, RepresentativeDataset):
        return source.take(asked.samples) if asked.samples else source
    if isinstance(source, Signature):
        return open_signature(source, specs, samples=asked.samples, independent=independent)
    if isinstance(source, str | Path):
        return open_dataset(
            Path(source), specs, samples=asked.samples, preset=asked.image_preset, independent=independent
        )
    if callable(source):
        return from_callable(source, specs, samples=asked.samples, independent=independent)
    return from_arrays(source, specs, samples=asked.samples, independent=independent)
