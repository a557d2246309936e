"""Calibrates with quantcli and stops where the ranges are chosen: what remains of a conversion is not measured."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from quantcli.api import Options, convert

if TYPE_CHECKING:
    from pathlib import Path

    from quantcli.state import State

MODE = "full-integer"
AFTER = "assign"
BESIDE = ("check_parity", "equalize", "absorb_high_bias", "smooth")  # run the model, too, before ranges are chosen


class Done(Exception):  # noqa: N818 - nothing went wrong
    """The ranges are there."""


class Until:
    """An instrument that ends the conversion after a pass."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.state: State | None = None

    def before(self, name: str, state: State) -> None:
        """Nothing to do."""

    def tick(self, name: str, done: int, total: int) -> None:
        """Nothing to do."""

    def after(self, name: str, state: State, seconds: float) -> None:  # noqa: ARG002 - the contract of instruments
        """Keep the state and stop."""
        if name == self._name:
            self.state = state
            raise Done


def ranges(model: Path, dataset: Path, *, method: str, samples: int) -> dict[str, tuple[float, float]]:
    """Return the range of every tensor that a conversion would quantize.

    Args:
        model: The float model.
        dataset: What ``quant convert --representative-dataset`` takes.
        method: Name of the calibrator.
        samples: At most this many.
    """
    until = Until(AFTER)
    recipe = tuple(f"passes.{name}=off" for name in BESIDE)
    options = Options(settings=recipe, calibrator=method, samples=samples, threads=1, cache=False)
    output = model.with_suffix(".out")
    with contextlib.suppress(Done):
        convert(model, mode=MODE, representative_dataset=dataset, output=output, options=options, instruments=[until])
    return dict(until.state.report.ranges) if until.state is not None else {}
