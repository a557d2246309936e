"""The operations of the tool as functions: paths in, results out; command line and ``Converter`` are thin over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from threadpoolctl import threadpool_limits

from quantcli import documents, files, modes, pipeline, plugins, runtime
from quantcli.data import (
    Feed,
    InputSpec,
    RepresentativeDataset,
    from_arrays,
    from_callable,
    open_dataset,
    random_dataset,
)
from quantcli.errors import ModelError, OutputError, QualityError, UnsupportedError, UsageError
from quantcli.options import Options, resolved
from quantcli.state import Instrument, State

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.encodings import Json
    from quantcli.recipe import Recipe

Sample = Feed | Sequence[np.ndarray]
__all__ = ["DataSource", "Options", "Result", "convert"]

DataSource = str | Path | RepresentativeDataset | Callable[[], Iterable[Sample]] | Sequence[Feed]
BUNDLED_NOTE: Final = "no model given: converting the bundled sample (digits.onnx with 100 calibration samples)"


@dataclass(frozen=True, slots=True)
class Result:
    """What a conversion gave.

    Attributes:
        output: The written model; None for a dry run.
        encodings: The encodings document, as in ``<output stem>.encodings.json``.
        report: The report document, as in ``<output stem>.report.json``.
        state: Everything known at the end.
    """

    output: Path | None
    encodings: Mapping[str, Json] = field(default_factory=dict)
    report: Mapping[str, Json] = field(default_factory=dict)
    state: State | None = None


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
        representative_dataset: Path of a spec, ``.npz`` or folder; a generator function; or feeds by input name.
        output: Where to write; default ``<stem>.<mode>.onnx`` in the current folder.
        options: Everything else.
        instruments: Watchers of the passes.

    Raises:
        QuantError: With an exit code and a hint; nothing was written.
    """
    asked = options or Options()
    recipe = resolved(mode, asked)
    bundled = model is None
    path = Path(model) if model is not None else modes.sample_folder() / "digits.onnx"
    if bundled and representative_dataset is None and asked.random_data is None:
        representative_dataset = modes.sample_folder() / "dataset.yaml"
    target = Path(output) if output is not None else Path(f"{path.stem}.{recipe.name}.onnx")
    files.check_exists(path)
    _check_data_asked(recipe, representative_dataset, asked)
    if not asked.dry_run:
        _check_places(target, (path, asked.recipe, representative_dataset))
    original = files.load_model(path)
    if not asked.dry_run:
        _check_places(target, files.external_files(original, path))
    state = _state(original, path, recipe, representative_dataset, asked)
    if bundled:
        state = state.noted(notes=(BUNDLED_NOTE,))
    state = _run(state, asked, instruments)
    if asked.dry_run:
        return Result(None, report=documents.report(state, path, None), state=state)
    return _written(state, path, target, asked)


def _check_data_asked(recipe: Recipe, source: DataSource | None, asked: Options) -> None:
    if recipe.needs_data and source is None and asked.random_data is None and not asked.dry_run:
        raise UsageError(
            f"mode {recipe.name!r} needs calibration data",
            hint="give --representative-dataset SPEC (YAML spec, .npz or folder); --random-data N only for trials",
        )
    if source is not None and asked.random_data is not None:
        raise UsageError("--representative-dataset and --random-data exclude each other", hint="give one of them")


def _check_places(target: Path, inputs: Iterable[object]) -> None:
    named = tuple(Path(i) for i in inputs if isinstance(i, str | Path))
    files.check_output(target, named)
    for place in documents.sidecars(target):
        files.check_output(place, named)


def _state(original: ir.Model, path: Path, recipe: Recipe, source: DataSource | None, asked: Options) -> State:
    threads = asked.threads or runtime.usable_threads()
    try:
        session = runtime.load(original, threads=threads)
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", hint=error.hint) from error
    state = State(original=original, model=original, recipe=recipe, threads=threads)
    if source is None and asked.random_data is None:
        return state
    data = _opened(source, _input_specs(session, path), asked)
    data.check()
    stamped = (f"calibrated on random data ({len(data)} samples): accuracy means nothing",) if data.synthetic else ()
    return replace(state, data=data).noted(warnings=(*data.warnings, *stamped))


def _input_specs(session: runtime.Session, path: Path) -> list[InputSpec]:
    specs = []
    for info in session.inputs:
        if info.dtype is None:
            raise ModelError(f"{path}: input {info.name!r} is not a tensor; sequences and maps cannot be fed")
        specs.append(InputSpec(info.name, np.dtype(info.dtype), info.shape))
    return specs


def _opened(source: DataSource | None, specs: list[InputSpec], asked: Options) -> RepresentativeDataset:
    if source is None:
        return random_dataset(specs, asked.random_data or 1)
    if isinstance(source, RepresentativeDataset):
        return source.take(asked.samples) if asked.samples else source
    if isinstance(source, str | Path):
        return open_dataset(Path(source), specs, samples=asked.samples)
    if callable(source):
        return from_callable(source, specs, samples=asked.samples)
    return from_arrays(source, specs, samples=asked.samples)


def _run(state: State, asked: Options, instruments: Sequence[Instrument]) -> State:
    passes = plugins.passes_of(state.recipe)
    if asked.dry_run:
        names = [p.name for p in passes]
        end = names.index("make_plan") + 1 if "make_plan" in names else len(names)
        passes = [p for p in passes[:end] if "data" not in p.run.needs]
    watchers = (*instruments, SaveTemps(asked.save_temps)) if asked.save_temps else instruments
    has = frozenset({"data"}) if state.data is not None else frozenset()
    pipeline.check(passes, has=has)
    try:
        with threadpool_limits(
            1, user_api="blas"
        ):  # a sum split over threads rounds differently: same bytes everywhere
            state = pipeline.run(passes, state, watchers)
    except OSError as error:
        raise OutputError(
            f"the file system gave no room for scratch files: {error.strerror}",
            hint="make room in the temporary folder, point TMPDIR elsewhere, or use fewer samples",
        ) from error
    floats = state.report.floats()
    if asked.strict and floats:
        raise UnsupportedError(
            f"--strict: {len(floats)} operators stay float",
            reasons=[f"{e.op_type} {e.node!r}: {e.reason}" for e in floats],
            hint="leave --strict out, or keep only what has an integer form",
        )
    if not asked.dry_run and not state.plan.units:
        state = state.noted(warnings=("no operator became integer; the output computes in float",))
    return state


def _written(state: State, path: Path, target: Path, asked: Options) -> Result:
    quantized, verification = state.quantized, state.report.verification
    if quantized is None or verification is None:
        raise UsageError(
            "the recipe ends without a verified model", hint="it needs the passes emit and verify; nothing was written"
        )
    provenance = documents.provenance(state, path)
    model = documents.stamped(state, provenance)
    data = files.model_bytes(model)
    encodings = documents.encodings(state, provenance)
    sizes = (path.stat().st_size + documents.external_bytes(state.original), len(data))
    report = documents.report(state, path, sizes)
    low = min((q.sqnr_db for q in verification.outputs.values()), default=float("inf"))
    failed = asked.min_sqnr is not None and low < asked.min_sqnr
    if not failed or asked.keep:
        beside = documents.sidecars(target)
        texts = [documents.text(d).encode() for d in (encodings, report)]
        files.write_all(dict(zip((target, *beside), (data, *texts), strict=True)))
    if failed:
        kept = f"; written as asked by --keep: {target}" if asked.keep else "; nothing was written"
        raise QualityError(
            f"worst output has {low:.2f} dB, below --min-sqnr {asked.min_sqnr:g}{kept}",
            hint="see quant convert --dry-run; try more samples, --float PATTERN for sensitive nodes, or a wider mode",
        )
    return Result(target, encodings, report, state)


@dataclass(frozen=True, slots=True)
class SaveTemps:
    """Instrument: writes the model after each pass, numbered, into a folder."""

    folder: Path
    _count: list[int] = field(default_factory=lambda: [0])

    def before(self, name: str, state: State) -> None:
        """Nothing to do."""

    def tick(self, name: str, done: int, total: int) -> None:
        """Nothing to do."""

    def after(self, name: str, state: State, seconds: float) -> None:
        """Write the model as it stands."""
        del seconds
        self._count[0] += 1
        model = state.quantized.model if state.quantized else state.model
        files.save_temporary(model, self.folder / f"{self._count[0]:02d}-{name}.onnx")
