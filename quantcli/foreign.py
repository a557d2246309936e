"""Passes and calibrators of other packages: where they are offered, what loads them, and whose fault an error is.

Knows nothing of what they do.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from quantcli.errors import PluginError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

PASSES: Final = "quantcli.passes"
CALIBRATORS: Final = "quantcli.calibrators"
_OWN: Final = "quantcli"
FAULT: Final = "that package is at fault, not quant: --debug shows where"


def kind_of(group: str) -> str:
    """Return what a group of entry points offers, in the singular: ``pass``, ``calibrator``."""
    return group.rpartition(".")[2].removesuffix("s").removesuffix("e")


def offered(group: str) -> dict[str, EntryPoint]:
    """Return what other packages offer, by name; the first of those that offer the same."""
    return {e.name: e for e in reversed(list(entry_points(group=group)))}


def origin(entry: EntryPoint) -> str:
    """Return name and version of the distribution, or the module where it is unknown."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.module


def load(name: str, group: str) -> type:
    """Return the class that another package offers under a name.

    Raises:
        RecipeError: Several packages offer the name.
        PluginError: It cannot be loaded, or is no class.
    """
    same = [e for e in entry_points(group=group) if e.name == name]
    owners = sorted({origin(e) for e in same})
    if len(owners) > 1:
        raise RecipeError(
            f"{kind_of(group)} {name!r} is offered by {' and by '.join(owners)}", hint="uninstall all of them but one"
        )
    said = f"{kind_of(group)} {name!r} of {owners[0]}"
    try:
        found = same[0].load()
    except Exception as error:
        told = f"{said} cannot be loaded: {type(error).__name__}: {error}"
        raise PluginError(told, hint=f"see whether 'import {same[0].module}' works in this environment") from error
    if not isinstance(found, type):
        raise PluginError(f"{said} is {same[0].value}, which is no class", hint=FAULT)
    return found


def check_contract(name: str, group: str, made: object) -> None:
    """Raise where an object of another package is not what its group promises.

    Raises:
        PluginError: A part is missing.
    """
    owner = origin(offered(group)[name])
    wanted = ("observer", "range") if group == CALIBRATORS else ("__call__",)
    missing = [f"{part}()" for part in wanted if not callable(getattr(made, part, None))]
    if group == PASSES:
        missing += [part for part in ("needs", "gives") if not isinstance(getattr(made, part, None), frozenset)]
    if missing:
        said = ", ".join(missing)
        raise PluginError(f"{kind_of(group)} {name!r} of {owner} has no {said} as docs/plugins.md asks for", hint=FAULT)


def blamed(error: BaseException) -> PluginError | None:
    """Return the error to tell where one was raised in or below code of another package's pass or calibrator."""
    owners = {
        e.module.partition(".")[0]: origin(e) for group in (PASSES, CALIBRATORS) for e in entry_points(group=group)
    }
    frames = [f for f in _frames(error) if (p := _package(f)) in owners and p != _OWN]
    if not frames:
        return None
    code = frames[-1].f_code
    where = f"{code.co_qualname} ({PurePath(code.co_filename).name}:{frames[-1].f_lineno})"
    return PluginError(f"{owners[_package(frames[-1])]} failed in {where}: {type(error).__name__}: {error}", hint=FAULT)


def _frames(error: BaseException) -> Iterable[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
