"""One set of options for many modes: each applies to the modes that take it, and must apply to one at least."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quantcli.errors import QuantError, UsageError
from quantcli.options import Options, resolved

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from quantcli.recipe import Recipe

_PARTIAL: Final = {  # options that mean something in some modes only
    "format": "--format",
    "fallback": "--fallback",
    "input_type": "--input-type",
    "output_type": "--output-type",
    "preset": "--preset",
    "calibrator": "--calibrator",
    "stats": "--stats",
    "portable": "--portable",
}
_NOT_ASKED: Final[Mapping[str, object]] = {option: getattr(Options(), option) for option in _PARTIAL}


def check_together(asked: Options) -> None:
    """Raise for what is not possible for all modes at once.

    Raises:
        UsageError: With what to do instead.
    """
    if asked.recipe is not None:
        raise UsageError("--recipe is one recipe; --mode all makes every mode", hint="leave one of them out")
    if asked.keep:
        raise UsageError(
            "--keep is not possible with --mode all: a mode below --min-sqnr is listed, the others are written",
            hint="leave --keep or --min-sqnr out",
        )


def fitted(modes: Iterable[str], asked: Options) -> tuple[dict[str, Recipe | QuantError], dict[str, tuple[str, ...]]]:
    """Resolve each mode with those options that it takes.

    Returns:
        The recipe of each mode, or why it has none; and the options that were left out in each.

    Raises:
        UsageError: An option fits no mode.
    """
    recipes: dict[str, Recipe | QuantError] = {}
    left_out: dict[str, dict[str, UsageError]] = {}
    for mode in modes:
        recipes[mode], left_out[mode] = _fitted(mode, asked)
    _check_fits_one(left_out)
    return recipes, {mode: tuple(said) for mode, said in left_out.items()}


def _fitted(mode: str, asked: Options) -> tuple[Recipe | QuantError, dict[str, UsageError]]:
    left_out: dict[str, UsageError] = {}
    taken = _changed(asked, {**_NOT_ASKED, "settings": ()})
    found = _resolved(mode, taken)
    for said, option, value in _asked(asked):
        change: dict[str, object] = {option: (*taken.settings, value) if option == "settings" else value}
        tried = _changed(taken, change)
        try:
            found = _resolved(mode, tried)
        except UsageError as error:
            left_out[said] = error
        else:
            taken = tried
    return found, left_out


def _resolved(mode: str, asked: Options) -> Recipe | QuantError:
    """Return the recipe, or why it cannot be what is asked; what the mode does not take is raised."""
    try:
        return resolved(mode, asked)
    except UsageError:
        raise
    except QuantError as error:
        return error


def _changed(asked: Options, change: Mapping[str, object]) -> Options:
    return replace(asked, **change)  # type: ignore[arg-type]  # names and values are those of Options itself


def _asked(asked: Options) -> Iterator[tuple[str, str, object]]:
    """Yield what was asked for that some modes may not take: as typed, the option, and its value."""
    for option, flag in _PARTIAL.items():
        value = getattr(asked, option)
        if value != _NOT_ASKED[option]:
            yield flag if value is True else f"{flag} {value}", option, value
    for setting in asked.settings:
        yield f"--set {setting}", "settings", setting


def _check_fits_one(left_out: Mapping[str, Mapping[str, UsageError]]) -> None:
    everywhere = set.intersection(*(set(said) for said in left_out.values())) if left_out else set()
    for errors in left_out.values():
        for said, error in errors.items():
            if said in everywhere:
                raise UsageError(f"no mode takes {said}: {error.message}", hint=error.hint)
