"""The error boundary: runs a command, and turns whatever it raises into clear lines and a documented exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import traceback
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import terminal
from quantcli.errors import InternalError, OutputError, QuantError, UnsupportedError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it
COMPLETION: Final = "_QUANT_COMPLETE"
BUG_HINT: Final = "this is a bug of ours: run again with --debug and report what it shows"


@dataclass(frozen=True, slots=True)
class Failure:
    """What the user is told of an error."""

    kind: str
    message: str
    hint: str | None
    reasons: tuple[str, ...]
    exit_code: int


def run(command: click.Command, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Args:
        command: The command or group.
        arguments: What the user typed after ``quant``; ``--json`` and ``--debug`` count here even if parsing fails.
    """
    logging.getLogger("onnx_ir").addHandler(logging.NullHandler())  # what it says means nothing to a user of ours
    if os.environ.get(COMPLETION):
        command.main(prog_name="quant", complete_var=COMPLETION)  # answers the shell and leaves
    try:
        with command.make_context("quant", list(arguments)) as context:
            command.invoke(context)
        terminal.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        return 0  # the reader has seen enough (`| head`); what was asked for is done
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where everything ends
        return _told(error, arguments)
    return 0


def failure_of(error: BaseException) -> Failure:
    """Return what to tell of an error: its own words, or that it is a bug of ours."""
    if isinstance(error, QuantError):
        reasons = error.reasons if isinstance(error, UnsupportedError) else ()
        hint = _with_bug_hint(error.hint) if error.exit_code == InternalError.exit_code else error.hint
        return Failure(error.kind, error.message, hint, reasons, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", "interrupted; nothing was written", None, (), INTERRUPTED)
    if isinstance(error, click.ClickException):
        return _usage_failure(error)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure(InternalError.kind, message, BUG_HINT, (), InternalError.exit_code)


def _with_bug_hint(hint: str | None) -> str:
    return f"{hint}; {BUG_HINT}" if hint else BUG_HINT


def _usage_failure(error: click.ClickException) -> Failure:
    context = getattr(error, "ctx", None)
    path = context.command_path if isinstance(context, click.Context) else "quant"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption) and isinstance(context, click.Context):
        known = [name for p in context.command.get_params(context) for name in (*p.opts, *p.secondary_opts)]
        message = f"unknown option {error.option_name!r}{did_you_mean(error.option_name, known)}"
    return Failure(UsageError.kind, message, f"{path} --help lists what there is", (), UsageError.exit_code)


def _told(error: BaseException, arguments: Sequence[str]) -> int:
    failure = failure_of(error)
    if "--debug" in arguments:
        terminal.complain("".join(traceback.format_exception(error)).rstrip("\n"))
    for line in _lines(failure):
        terminal.complain(line)
    if "--json" in arguments:
        with contextlib.suppress(
            BrokenPipeError, OutputError
        ):  # the error's own exit code says more than a closed stdout
            terminal.say(json.dumps({"error": asdict(failure)}, indent=1))
            terminal.flush()
    return failure.exit_code


def _lines(failure: Failure) -> list[str]:
    prefix = "" if failure.kind == "interrupted" else "error: "
    lines = [f"{prefix}{terminal.one_line(failure.message)}"]
    lines += [f"  {terminal.one_line(reason)}" for reason in failure.reasons]
    if failure.hint:
        lines.append(f"hint: {terminal.one_line(failure.hint)}")
    return lines
