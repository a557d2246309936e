"""What is tried for several modes at once: a result for each, or the error that says why it has none."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from quantcli.errors import InternalError, QuantError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Given = TypeVar("Given")
Found = TypeVar("Found")


def apart(step: Callable[[str, Given], Found], given: Mapping[str, Given]) -> dict[str, Found | QuantError]:
    """Do a step for each mode; what one cannot do does not stop the others.

    Raises:
        UsageError: The call itself is wrong, whatever the mode.
    """
    return {mode: attempted(partial(step, mode, value), mode) for mode, value in given.items()}


def attempted(step: Callable[[], Found], mode: str) -> Found | QuantError:
    """Do a step; return its result, or the error that stopped it.

    Raises:
        UsageError: The call itself is wrong, whatever the mode.
    """
    try:
        return step()
    except UsageError:
        raise
    except QuantError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a bug of ours in one mode takes no other mode along; it is told
        told = InternalError(f"{type(error).__name__}: {error}", hint=f"--mode {mode} --debug shows where")
        told.__cause__ = error
        return told


def good(results: Mapping[str, Found | QuantError]) -> dict[str, Found]:
    """Return what is no refusal."""
    return {mode: r for mode, r in results.items() if not isinstance(r, QuantError)}


def refusals(results: Mapping[str, Found | QuantError]) -> dict[str, QuantError]:
    """Return the refusals."""
    return {mode: r for mode, r in results.items() if isinstance(r, QuantError)}


def check_any(outcomes: Mapping[str, Found | QuantError]) -> None:
    """Raise where every mode refuses.

    Raises:
        QuantError: The one reason, or all of them.
    """
    if good(outcomes) or not outcomes:
        return
    errors = refusals(outcomes)
    first = next(iter(errors.values()))
    if all(type(e) is type(first) and e.message == first.message for e in errors.values()):
        raise first
    reasons = [f"{mode}: {error.message}" for mode, error in errors.items()]
    if all(type(e) is InternalError for e in errors.values()):
        raise InternalError(f"every mode fails: {'; '.join(reasons)}", hint=first.hint)
    raise UnsupportedError("no mode can convert this model", reasons=reasons)
