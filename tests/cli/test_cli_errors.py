"""Every error is one clear line, a hint and a documented exit code; never a traceback, never a file left behind."""

from __future__ import annotations

import click
import pytest

from quantcli import api, errors
from quantcli.cli import boundary

TRACEBACK = "Traceback (most recent call last)"


def raising(error: BaseException):
    def convert(*_: object, **__: object) -> None:
        raise error

    return convert


@pytest.fixture
def failing(convert, monkeypatch):
    def run(error: BaseException, *arguments: str):
        monkeypatch.setattr(api, "convert", raising(error))
        return convert(*arguments)

    return run


def test_quality_below_the_threshold_is_1_and_writes_nothing(convert):
    done = convert("--min-sqnr", "200")
    assert (done.code, done.files, done.out) == (1, [], "")
    assert "below --min-sqnr 200" in done.err


def test_keep_writes_although_it_is_1(convert):
    done = convert("--min-sqnr", "200", "--keep")
    assert (done.code, len(done.files)) == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smaples", "3"], "unknown option '--smaples'; did you mean '--samples'"),
        (["--mode", "int8-onyl"], "unknown mode 'int8-onyl'; did you mean 'int8-only'"),
        (["--float", "op:Softmx"], "did you mean 'Softmax'"),
        (["--set", "scheme.wieghts.dtype=int8"], "did you mean 'weights'"),
        (["--samples", "0"], "'--samples': 0 is not in the range"),
        (["--samples", "many"], "'--samples': 'many' is not a valid integer"),
        (["--threads", "0"], "'--threads': 0 is not in the range"),
        (["--input-type", "int4"], "'--input-type': 'int4' is not one of"),
        (["--min-sqnr", "nan"], "--min-sqnr nan"),
        (["--keep"], "--keep means nothing without --min-sqnr"),
        (["--mode", "int8-only", "--recipe", "x.yaml"], "--mode and --recipe exclude each other"),
        (["a.onnx", "b.onnx"], "unexpected extra argument"),
        (["-o", "nowhere/x.onnx"], "the folder nowhere does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_2_with_one_line(convert, arguments, message):
    done = convert(*arguments)
    first, *rest = done.err.splitlines()
    said = first if first.startswith("error: ") else next(line for line in rest if line.startswith("error: "))
    assert (done.code, done.out, done.files) == (2, "", [])
    assert message in said


def test_unknown_command_is_2_with_a_near_name(quant):
    done = quant("convrt")
    assert (done.code, done.err.splitlines()[0]) == (2, "error: unknown command 'convrt'; did you mean 'convert'?")


def test_no_command_is_2_with_the_help(quant):
    done = quant()
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["no.onnx", "--random-data", "2"],
        ["--representative-dataset", "no.yaml"],
        ["--recipe", "no.yaml"],
    ],
    ids=["model", "dataset", "recipe"],
)
def test_bad_input_is_3(convert, arguments):
    done = convert(*arguments)
    assert (done.code, done.out, done.files) == (3, "", [])
    assert done.err.splitlines()[0].startswith("error: no.")


def test_impossible_in_the_mode_is_4_with_every_reason(convert):
    done = convert("--float", "op:Softmax", "--float", "op:Gemm")
    lines = done.err.splitlines()
    reasons = [line for line in lines if line.startswith("  ")]
    assert (done.code, done.files, len(reasons)) == (4, [], 2)
    assert lines[-1].startswith("hint: ")


def test_bug_of_ours_is_70_and_says_so(failing):
    done = failing(ZeroDivisionError("division by zero"))
    message, hint = done.err.splitlines()
    assert (done.code, message) == (70, "error: ZeroDivisionError: division by zero")
    assert "a bug of ours" in hint
    assert "--debug" in hint


def test_broken_law_of_ours_is_70_and_keeps_its_hint(failing):
    done = failing(errors.InternalError("x changed", hint="switch y off"))
    assert done.code == 70
    assert done.err.splitlines()[1].startswith("hint: switch y off; this is a bug of ours")


def test_debug_shows_the_traceback(failing):
    assert TRACEBACK in failing(ZeroDivisionError(), "--debug").err


def test_no_traceback_without_debug(failing):
    assert TRACEBACK not in failing(ZeroDivisionError()).err


def test_interrupt_is_130(failing):
    done = failing(KeyboardInterrupt())
    assert (done.code, done.err) == (130, "interrupted; nothing was written\n")


def test_a_reader_that_leaves_is_no_error(failing):
    done = failing(BrokenPipeError())
    assert (done.code, done.err) == (0, "")


def test_a_message_is_one_line_without_control_characters(failing):
    done = failing(errors.ModelError("bad\nname \x1b[31mred"))
    assert (done.code, done.err) == (3, "error: bad name \\x1b[31mred\n")


@pytest.mark.parametrize("kind", [e for e in vars(errors).values() if isinstance(e, type)])
def test_every_error_gives_its_own_code(kind):
    failure = boundary.failure_of(kind("x"))
    assert (failure.exit_code, failure.kind, failure.message) == (kind.exit_code, kind.kind, "x")


def test_click_errors_are_usage_errors():
    assert boundary.failure_of(click.ClickException("x")).exit_code == errors.UsageError.exit_code
