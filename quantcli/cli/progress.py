"""Chooses how the passes are watched: bars on a terminal, one plain line per finished step elsewhere, or not at all."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantcli.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantcli.state import Instrument, State


@contextmanager
def watching(*, quiet: bool) -> Iterator[tuple[Instrument, ...]]:
    """Yield the instruments that show progress on stderr."""
    if quiet:
        yield ()
    elif terminal.is_terminal(sys.stderr):
        from quantcli.cli import render  # noqa: PLC0415 - rich is loaded for a terminal only

        with render.bars() as bars:
            yield (bars,)
    else:
        yield (Lines(),)


class Lines:
    """Instrument: one line per finished pass."""

    def before(self, name: str, state: State) -> None:
        """Say nothing yet."""

    def tick(self, name: str, done: int, total: int) -> None:
        """Say nothing: a log is no place for a moving number."""

    def after(self, name: str, state: State, seconds: float) -> None:
        """Say which pass ended and how long it took."""
        del state
        terminal.complain(f"{name:<15}  {seconds:.2f} s")
