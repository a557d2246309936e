"""Runs the command line in this process."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli import cli
from quantcli.cli import boundary

if TYPE_CHECKING:
    from pathlib import Path


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
