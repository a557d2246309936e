"""The command line to run, and the bundled sample, converted once for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import Outcome, run_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUICK = ("--samples", "4", "--threads", "1", "--set", "passes.bias_correction=off")


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
