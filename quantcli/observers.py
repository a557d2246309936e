"""What watches the values of one tensor during calibration: its extremes alone, those of each sample, or how they lie.

The result does not depend on the order of the samples: sums are exact, histograms merge exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import histograms
from quantcli.errors import InternalError
from quantcli.quant import SUM_UNIT, Histogram, TensorStats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

EXTREMES: Final = "extremes"
SAMPLE_EXTREMES: Final = "extremes of each sample"
HISTOGRAM: Final = "histogram"
INSTEAD: Final[Mapping[str, Sequence[str]]] = {EXTREMES: (SAMPLE_EXTREMES, HISTOGRAM), SAMPLE_EXTREMES: (HISTOGRAM,)}
"""By what is to be kept, what holds all of that."""


@dataclass(slots=True)
class ExtremesObserver:
    """Keeps the extremes; values that are not finite are counted and left out.

    Attributes:
        each_sample: Whether to keep the sums of the extremes of each sample, too.
    """

    each_sample: bool = False
    _seen: _Extremes = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        self._seen = _Extremes(self.each_sample)

    @property
    def kind(self) -> str:
        """What it keeps."""
        return SAMPLE_EXTREMES if self.each_sample else EXTREMES

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Take in the values of one sample."""
        self._seen.add(np.asarray(values, np.float32))

    def stats(self) -> TensorStats:
        """Return what was seen so far."""
        return self._seen.stats()

    def merge(self, other: ExtremesObserver) -> None:
        """Take in what another observer saw."""
        self._seen = _Extremes.of(self.stats().merge(other.stats()))


@dataclass(slots=True)
class HistogramObserver:
    """Keeps, beside the extremes and their sums, a histogram of values at fixed, evenly spread positions."""

    _seen: _Extremes = field(default_factory=lambda: _Extremes(each_sample=True))
    _histogram: Histogram | None = None

    @property
    def kind(self) -> str:
        """What it keeps."""
        return HISTOGRAM

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Take in the values of one sample."""
        seen = np.asarray(values, np.float32)
        finite = self._seen.add(seen)
        if not finite:
            return
        room, old = histograms.empty(self._seen.low, self._seen.high), self._histogram
        if old is not None:
            fits = (old.exponent, old.start, old.end) == (room.exponent, room.start, room.end)
            room = old if fits else old.merge(room)
        some = histograms.spread(seen)
        histograms.count_into(room, some if finite == seen.size else some[np.isfinite(some)])
        self._histogram = room

    def stats(self) -> TensorStats:
        """Return what was seen so far."""
        if self._histogram is None:
            return self._seen.stats()
        counts = self._histogram.counts.copy()  # those of the observer go on counting
        counts.setflags(write=False)
        return replace(self._seen.stats(), histogram=replace(self._histogram, counts=counts))

    def merge(self, other: HistogramObserver) -> None:
        """Take in what another observer saw."""
        both = self.stats().merge(other.stats())
        self._seen, self._histogram = _Extremes.of(both), both.histogram


def require_sums(stats: TensorStats) -> int:
    """Return of how many samples the sums of extremes are.

    Raises:
        InternalError: They were not kept.
    """
    if not stats.samples:
        raise InternalError("statistics without the extremes of each sample came to a calibrator that needs them")
    return stats.samples


def require_histogram(stats: TensorStats) -> Histogram:
    """Return the histogram.

    Raises:
        InternalError: It was not kept.
    """
    if stats.histogram is None:
        raise InternalError("statistics without a histogram came to a calibrator that needs one")
    return stats.histogram


@dataclass(slots=True)
class _Extremes:
    """Counts and extremes that grow; statistics made anew for every sample would cost more than the looking."""

    each_sample: bool
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    not_finite: int = 0
    samples: int = 0
    low_sum: int = 0
    high_sum: int = 0

    @classmethod
    def of(cls, stats: TensorStats) -> _Extremes:
        """Return those of statistics."""
        sums = stats.samples, stats.low_sum, stats.high_sum
        return cls(stats.samples > 0, stats.count, stats.min, stats.max, stats.not_finite, *sums)

    def add(self, seen: npt.NDArray[np.float32]) -> int:
        """Take in the values of one sample, and return how many of them are finite."""
        count, low, high = _finite(seen)
        self.not_finite += seen.size - count
        if not count:
            return 0
        self.count += count
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.each_sample:
            self.samples += 1
            self.low_sum += int(low * 2.0**SUM_UNIT)
            self.high_sum += int(high * 2.0**SUM_UNIT)
        return count

    def stats(self) -> TensorStats:
        """Return them as statistics."""
        sums = self.samples, self.low_sum, self.high_sum
        return TensorStats(self.count, self.low, self.high, self.not_finite, *sums)


def _finite(seen: npt.NDArray[np.float32]) -> tuple[int, float, float]:
    """Return how many values are finite, and the smallest and largest of them."""
    if seen.size == 0:
        return 0, math.inf, -math.inf
    low, high, count = float(seen.min()), float(seen.max()), seen.size
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = seen[np.isfinite(seen)]
        count = finite.size
        if not count:
            return 0, math.inf, -math.inf
        low, high = float(finite.min()), float(finite.max())
    return count, low + 0.0, high + 0.0  # + 0.0: there is one zero
