"""Runs the command line in this process, and the bundled sample once for all."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from quantcli import cli
from quantcli.cli import boundary

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = ("--samples", "4", "--threads", "1", "--set", "passes.bias_correction=off")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    folder: Path

    @property
    def document(self) -> dict:
        return json.loads(self.out)

    @property
    def files(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir())


def run_in(folder: Path, *arguments: str) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = boundary.run(cli.quant, arguments)
    return Outcome(code, out.getvalue(), err.getvalue(), folder)


@pytest.fixture
def quant(tmp_path: Path) -> Callable[..., Outcome]:
    """Run ``quant`` in an empty folder."""
    return lambda *arguments: run_in(tmp_path, *arguments)


@pytest.fixture
def convert(quant: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run ``quant convert`` on few samples of the bundled model."""
    return lambda *arguments: quant("convert", *QUICK, *arguments)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The bundled sample, converted as the README says."""
    return run_in(tmp_path_factory.mktemp("sample"), "convert", "--mode", "int8-only")
