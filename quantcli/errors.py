"""Every error that a caller may handle, and the exit code that the command line gives it.

    QuantError
    |- QualityError       1   the output is worse than the asked threshold
    |- UsageError         2   the call itself is wrong: an option, a pattern, data that is missing
    |  `- OutputError     2   the output cannot be written where it was asked for
    |- InputError         3   what was given is wrong
    |  |- ModelError          the model
    |  |- DatasetError        the representative dataset
    |  |- RecipeError         the recipe
    |  |- PluginError         a pass or calibrator of another package
    |  `- StatisticsError     saved statistics: of another model, other data, or not of what is asked for
    |- UnsupportedError   4   cannot be done in this mode; carries every reason
    `- InternalError     70   a bug of ours

Knows nothing of the rest of the package.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class QuantError(Exception):
    """An error with one clear line, a hint that says what to do next, and an exit code."""

    exit_code: ClassVar[int] = 70
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class QualityError(QuantError):
    """The output is below the threshold that the caller asked for."""

    exit_code = 1
    kind = "quality"


class UsageError(QuantError):
    """The call is wrong before any model is read."""

    exit_code = 2
    kind = "usage"


class OutputError(UsageError):
    """The output cannot be written where it was asked for."""

    kind = "output"


class InputError(QuantError):
    """Something that was given is wrong."""

    exit_code = 3
    kind = "input"


class ModelError(InputError):
    """The model cannot be read, or is not a float model that can be converted."""

    kind = "model"


class DatasetError(InputError):
    """The representative dataset does not fit the model, or cannot be read."""

    kind = "dataset"


class RecipeError(InputError):
    """The recipe has an unknown key, a wrong value or a pass that does not exist."""

    kind = "recipe"


class StatisticsError(InputError):
    """Saved statistics cannot be read, or are not those of this model, this data and this recipe."""

    kind = "statistics"


class PluginError(InputError):
    """A pass or calibrator of another package cannot be loaded, or fails."""

    kind = "plugin"


class UnsupportedError(QuantError):
    """The mode cannot express this model; ``reasons`` lists every cause, not the first one."""

    exit_code = 4
    kind = "unsupported"

    def __init__(self, message: str, *, reasons: Iterable[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reasons = tuple(reasons)


class InternalError(QuantError):
    """A law of ours does not hold; the user did nothing wrong."""

    kind = "internal"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
