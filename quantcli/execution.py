"""Runs the passes of one conversion, or of several models that are converted together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from threadpoolctl import threadpool_limits

from quantcli import accuracy, files, foreign, pipeline, plugins, ties
from quantcli.errors import OutputError, QuantError, UnsupportedError
from quantcli.report import INTEGER, STORED
from quantcli.state import FROM_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from quantcli.options import Options
    from quantcli.pipeline import NamedPass
    from quantcli.state import Instrument, State
    from quantcli.ties import Tie

_SPLIT: Final = "assign"  # what is tied is tied when ranges are known and before parameters are chosen
PLANS: Final = ("make_plan", "plan_weights")


def run(
    states: Mapping[str, State], asked: Options, instruments: Sequence[Instrument] = (), declared: Sequence[Tie] = ()
) -> dict[str, State]:
    """Run every state through the passes of its recipe; tensors that are one value get one encoding.

    Args:
        states: By signature; one conversion has the signature ``""``.
        asked: Options of the call.
        instruments: Watchers of the passes.
        declared: What the user declared to be one value.

    Raises:
        UnsupportedError: ``--strict``, and an operator stays float.
        OutputError: No room for scratch files.
    """
    parts = {name: split(state, asked) for name, state in states.items()}
    watchers = {name: watching(name, asked, instruments) for name in states}
    heads = {name: passed(state, parts[name][0], watchers[name]) for name, state in states.items()}
    tied = heads if asked.dry_run else ties.tied(heads, declared)
    done = {name: passed(state, parts[name][1], watchers[name]) for name, state in tied.items()}
    return {n: accuracy.scored(s, accuracy.expected(s)) for n, s in checked(done, asked).items()}


def split(state: State, asked: Options) -> tuple[list[NamedPass], list[NamedPass]]:
    """Return the passes of a recipe before and after the place where tensors are tied.

    Raises:
        RecipeError: They do not fit together.
    """
    passes = plugins.passes_of(state.recipe)
    names = [p.name for p in passes]
    if asked.dry_run:
        end = next((names.index(p) + 1 for p in PLANS if p in names), len(names))
        return [p for p in passes[:end] if not p.run.needs & FROM_SAMPLES], []
    passes = [p for p in passes if not without_samples(p, state)]
    names = [p.name for p in passes]
    pipeline.check(passes, has=state.given)
    at = names.index(_SPLIT) if _SPLIT in names else len(names)
    return passes[:at], passes[at:]


def looked(state: State, asked: Options, watchers: Sequence[Instrument]) -> State:
    """Run the passes of a recipe up to the last one that learns of the samples before anything is written.

    Raises:
        QuantError: As ``run``.
    """
    first, rest = split(state, asked)
    seen = [i for i, p in enumerate(rest) if p.name == _SPLIT or "observations" in p.run.needs]
    tied = ties.tied({"": passed(state, first, watchers)})[""]
    return passed(tied, rest[: max(seen, default=-1) + 1], watchers)


def without_samples(step: NamedPass, state: State) -> bool:
    """Tell whether a pass has to be left out because the samples are known from saved statistics alone."""
    return state.stand_in and "data" in step.run.needs


def watching(name: str, asked: Options, instruments: Sequence[Instrument]) -> tuple[Instrument, ...]:
    """Return the instruments for the passes of one of several conversions, or of the only one (``""``)."""
    folder = asked.save_temps
    return (*instruments, SaveTemps(folder / name if name else folder)) if folder else tuple(instruments)


def passed(state: State, passes: Sequence[NamedPass], watchers: Sequence[Instrument]) -> State:
    """Run some passes on a state.

    Raises:
        OutputError: No room for scratch files.
        PluginError: A pass or calibrator of another package fails.
    """
    try:
        with threadpool_limits(1, user_api="blas"):  # sums split over threads round differently: same bytes everywhere
            return pipeline.run(passes, state, watchers)
    except QuantError:
        raise
    except Exception as error:
        said = foreign.blamed(error)
        if said is not None:
            raise said from error
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"the file system gave no room for scratch files: {error.strerror}",
            hint="make room in the temporary folder, point TMPDIR elsewhere, or use fewer samples",
        ) from error


def checked(states: Mapping[str, State], asked: Options) -> dict[str, State]:
    """Return the states at the end of their passes, with a warning where nothing was gained.

    Raises:
        UnsupportedError: ``--strict``, and an operator stays float.
    """
    for state in states.values():
        _check_strict(state, asked)
    return {name: _warned(state, asked) for name, state in states.items()}


def _check_strict(state: State, asked: Options) -> None:
    floats = [e for e in state.report.floats() if not e.by_design]
    if asked.strict and floats:
        raise UnsupportedError(
            f"--strict: {len(floats)} operators stay float",
            reasons=[f"{e.op_type} {e.node!r}: {e.reason}" for e in floats],
            hint="leave --strict out, or keep only what has an integer form",
        )


def _warned(state: State, asked: Options) -> State:
    changed = {INTEGER, STORED} & set(state.report.count())
    if asked.dry_run or changed or state.recipe.scheme.weights.dtype == "float32":
        return state
    stored = state.recipe.format == "float"
    said = "nothing was worth storing smaller: the output is the float model" if stored else (
        "no operator became integer; the output computes in float")  # fmt: skip
    return state.noted(warnings=(said,))


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
