"""The representative dataset as a value: which samples of a source are fed.

Knows neither files nor formats; a source does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from quantcli.data.selection import require_positive

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
        """Raise what reading would raise."""

    def fingerprint(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield what decides the content of these samples, wherever they come from."""

    def labels(self) -> Sequence[int]:
        """Return the class index of each sample; empty where they have none."""


@dataclass(frozen=True, slots=True, eq=False)
class RepresentativeDataset:
    """Samples for calibration: iterated as often as needed, with one sample in memory.

    Attributes:
        description: What it is, for the report: ``calib.yaml``.
        source: Where the samples come from.
        takes: Evenly spread parts of the source, one after the other.
        synthetic: Whether the samples are made up.
        warnings: What the user should know.
        implied: Whether the labels are only how files lie in folders.
        unlabelled: Whether the labels of the source do not count.
        in_float32: Whether arrays of other float types are fed as float32.
    """

    description: str
    source: Source
    takes: tuple[int, ...] = ()
    synthetic: bool = False
    warnings: tuple[str, ...] = ()
    implied: bool = False
    unlabelled: bool = False
    in_float32: bool = False

    def __len__(self) -> int:
        return len(self._indices())

    def __iter__(self) -> Iterator[Feed]:
        samples = self.source.read(self._indices())
        return map(_in_float32, samples) if self.in_float32 else samples

    def check(self) -> None:
        """Validate the samples.

        Raises:
            DatasetError: A sample does not fit the model, or cannot be read.
        """
        self.source.check(self._indices())

    def digest(self) -> str:
        """Return the sha256 of what is fed, whatever files, order or kind of source it comes from."""
        total = hashlib.sha256()
        for part in self.source.fingerprint(self._indices()):
            total.update(len(part).to_bytes(8, "little"))  # framed: parts cannot run into each other
            total.update(part)
        return total.hexdigest()

    def duplicates(self) -> int:
        """Return how many samples are equal to an earlier one."""
        keys = list(self.source.fingerprint(self._indices()))
        return len(keys) - len(set(keys))

    def take(self, n: int) -> RepresentativeDataset:
        """Return at most ``n`` samples, evenly spread over those there are.

        Raises:
            DatasetError: ``n`` is not at least 1.
        """
        if require_positive(n, "take") >= len(self):
            return self
        return replace(self, description=f"{n} samples of {self.description}", takes=(*self.takes, n))

    def without_labels(self, why: str) -> RepresentativeDataset:
        """Return the same samples without classes, and the reason as a warning."""
        return replace(self, unlabelled=True, warnings=(*self.warnings, why))

    @property
    def labels(self) -> tuple[int, ...]:
        """The class index of every sample of the source; empty where there are none."""
        return () if self.unlabelled else tuple(self.source.labels())

    def classes(self) -> list[int]:
        """Return the class indices of the samples, in their order; empty where there are no labels."""
        labels = self.labels
        return [labels[i] for i in self._indices()] if labels else []

    def _indices(self) -> Sequence[int]:
        chosen: Sequence[int] = range(self.source.count())
        for n in self.takes:
            chosen = chosen if n >= len(chosen) else [chosen[i * len(chosen) // n] for i in range(n)]
        return chosen


def _in_float32(feed: Feed) -> Feed:
    with np.errstate(over="ignore"):
        return {n: x.astype(np.float32, copy=False) if x.dtype.kind == "f" else x for n, x in feed.items()}
