"""The representative dataset as a value: which samples of a source are fed, and in which order.

Knows neither files nor formats; a source does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantcli.data.inputs import Feed


class Source(Protocol):
    """Numbered samples that are read in ascending order, as often as needed."""

    def count(self) -> int:
        """Return the number of samples."""

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Yield the validated samples of these ascending numbers, holding one at a time."""

    def check(self, indices: Sequence[int]) -> None:
        """Raise what reading would raise, as cheaply as can be."""

    def fingerprint(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield what decides the content of these samples, whatever folder they are in."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which samples of a source are fed.

    Attributes:
        samples: At most this many; None for all.
        seed: Drawn at random without replacement; None for the first ones.
        takes: Evenly spread parts of the selection, one after the other.
    """

    samples: int | None = None
    seed: int | None = None
    takes: tuple[int, ...] = ()

    def of(self, count: int) -> Sequence[int]:
        """Return the selected numbers out of ``range(count)``, ascending."""
        chosen = self._drawn(count)
        for n in self.takes:
            chosen = chosen if n >= len(chosen) else [chosen[i * len(chosen) // n] for i in range(n)]
        return chosen

    def _drawn(self, count: int) -> Sequence[int]:
        if self.samples is None or self.samples >= count:
            return range(count)
        if self.seed is None:
            return range(self.samples)
        drawn = np.random.default_rng(self.seed).choice(count, self.samples, replace=False)
        return [int(i) for i in np.sort(drawn)]


@dataclass(frozen=True, slots=True, eq=False)
class RepresentativeDataset:
    """Samples for calibration: iterated as often as needed, with one sample in memory.

    Attributes:
        description: What it is, for the report: ``calib.yaml``.
        source: Where the samples come from.
        selection: Which of them are fed.
        synthetic: Whether the samples are made up.
        warnings: What the user should know.
        labels: Class index of every sample of the source; empty where there are none.
        in_float32: Whether arrays of other float types are fed as float32.
    """

    description: str
    source: Source
    selection: Selection = Selection()
    synthetic: bool = False
    warnings: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    in_float32: bool = False

    def __len__(self) -> int:
        return len(self._indices())

    def __iter__(self) -> Iterator[Feed]:
        samples = self.source.read(self._indices())
        return map(_in_float32, samples) if self.in_float32 else samples

    def check(self) -> None:
        """Validate the selected samples in one cheap pass: arrays are read, images only opened.

        Raises:
            DatasetError: A sample does not fit the model, or cannot be read.
        """
        self.source.check(self._indices())

    def digest(self) -> str:
        """Return the sha256 of what feeds the selected samples, independent of folders."""
        total = hashlib.sha256()
        for part in self.source.fingerprint(self._indices()):
            total.update(len(part).to_bytes(8, "little"))  # framed: parts cannot run into each other
            total.update(part)
        return total.hexdigest()

    def take(self, n: int) -> RepresentativeDataset:
        """Return at most ``n`` samples, evenly spread over the selection.

        Raises:
            DatasetError: ``n`` is not at least 1.
        """
        if require_positive(n, "take") >= len(self):
            return self
        selection = replace(self.selection, takes=(*self.selection.takes, n))
        return replace(self, description=f"{n} samples of {self.description}", selection=selection)

    def classes(self) -> list[int]:
        """Return the class indices of the selected samples; empty where there are no labels."""
        return [self.labels[i] for i in self._indices()] if self.labels else []

    def _indices(self) -> Sequence[int]:
        return self.selection.of(self.source.count())


def _in_float32(feed: Feed) -> Feed:
    with np.errstate(over="ignore"):
        return {n: x.astype(np.float32, copy=False) if x.dtype.kind == "f" else x for n, x in feed.items()}


def require_positive(number: int, name: str) -> int:
    """Return the number of samples asked for.

    Raises:
        DatasetError: It is not at least 1.
    """
    if number < 1:
        raise DatasetError(f"{name}: {number} samples asked for, expected at least 1", hint="Ask for 1 or more.")
    return number
