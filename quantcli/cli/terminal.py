"""The door to stdout and stderr: plain text without a terminal, rich text with one. Knows no command."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

from quantcli.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantcli.cli.sections import Section


def show(sections: Sequence[Section]) -> None:
    """Print sections on stdout: with colours and tables on a terminal, as aligned text otherwise."""
    if is_terminal(sys.stdout):
        from quantcli.cli import render  # noqa: PLC0415 - rich is loaded for a terminal only

        say(render.text(sections))
    else:
        from quantcli.cli import plain  # noqa: PLC0415 - loaded when there is something to say

        say(plain.text(sections))


def say(text: str) -> None:
    """Print on stdout.

    Raises:
        OutputError: It cannot be written, for example because the disk is full.
        BrokenPipeError: Its reader is gone.
    """
    with _stdout_errors():
        print(text)  # noqa: T201 - this is the door


def flush() -> None:
    """Write out what stdout still holds, so that its errors show here and not at exit."""
    if sys.stdout is not None:
        with _stdout_errors():
            sys.stdout.flush()


def complain(text: str) -> None:
    """Print on stderr; a closed stderr changes nothing else."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the door


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal that can draw."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def one_line(text: str) -> str:
    """Return text as one line: white space collapsed, control characters (names in models may hold any) escaped."""
    words = " ".join(text.split())
    return words if words.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


@contextlib.contextmanager
def _stdout_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _abandon_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(
            f"cannot write to standard output: {error.strerror}", hint="files that were written before are complete"
        ) from error


def _abandon_stdout() -> None:
    """Send the rest of stdout nowhere, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
