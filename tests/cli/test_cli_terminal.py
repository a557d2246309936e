"""On a terminal: tables and bars. Elsewhere: plain text. Broken stdouts end well."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from rich.console import Console

from quantcli.cli import plain, progress, render, terminal
from quantcli.cli.sections import Section
from quantcli.errors import OutputError

TABLE = Section("title", (("a", "1"), ("bb", "22")), ("name", "n"), frozenset({1}), ("a line",))


def pretend_terminal(monkeypatch, stream: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(getattr(sys, stream), "isatty", lambda: True)


def test_plain_text_is_aligned():
    assert plain.text([TABLE]) == "title\n  name   n\n  a      1\n  bb    22\n  a line"


def test_plain_sections_are_set_apart():
    assert plain.text([Section("a", lines=("x",)), Section("b", lines=("y",))]) == "a\n  x\n\nb\n  y"


def test_a_terminal_gets_colours(monkeypatch, capsys):
    pretend_terminal(monkeypatch, "stdout")
    terminal.show([TABLE])
    assert "\x1b[" in capsys.readouterr().out


def test_brackets_in_names_are_no_markup():
    assert "[red]x[/red]" in render.text([Section("t", (("[red]x[/red]",),))], width=80)


def test_code_lines_are_never_broken():
    line = "q = " + "x + " * 60 + "1"
    assert line in render.text([Section("t", lines=(line,))], width=40)


def test_bars_count_what_is_done():
    out = io.StringIO()
    with render.bars(Console(file=out, force_terminal=True, width=100)) as bars:
        bars.before("calibrate", None)
        bars.tick("calibrate", 3, 8)
        bars.after("calibrate", None, 0.1)
    assert "calibrate" in out.getvalue()
    assert "8/8" in out.getvalue()


def test_a_terminal_gets_bars(monkeypatch, capsys):
    pretend_terminal(monkeypatch, "stderr")
    with progress.watching(quiet=False) as (watcher,):
        assert isinstance(watcher, render.Bars)
    assert capsys.readouterr().out == ""


def test_quiet_gets_no_instrument():
    with progress.watching(quiet=True) as watchers:
        assert watchers == ()


def test_a_dumb_terminal_gets_lines(monkeypatch):
    pretend_terminal(monkeypatch, "stderr")
    monkeypatch.setenv("TERM", "dumb")
    with progress.watching(quiet=False) as (watcher,):
        assert isinstance(watcher, progress.Lines)


def test_a_closed_stderr_stops_nothing(monkeypatch):
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    terminal.complain("x")


def test_a_full_stdout_is_an_output_error(monkeypatch):
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OutputError, match="No space left"):
        terminal.say("x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_2():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "quantcli", "modes"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error: cannot write to standard output: No space left on device",
    )


def test_a_reader_that_left_ends_quietly():
    command = [sys.executable, "-m", "quantcli", "modes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - ours
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (0, "")


def test_what_other_packages_log_is_not_told(tmp_path):
    text = "(float[4,64] x) => (float[4,64] y, float[2] k) { y = MatMul(x, w) }"
    model = models.text(text, w=models.weight(64, 64), k=np.ones(2, np.float32))
    onnx.save(model, tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "quantcli", "convert", "m.onnx", "--mode", "dynamic-range", "--quiet"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
