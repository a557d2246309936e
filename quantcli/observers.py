"""What watches the values of one tensor during calibration: its extremes alone, those of each sample, or how they lie.

The result does not depend on the order of the samples: sums are exact, histograms merge exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import histograms
from quantcli.errors import InternalError
from quantcli.quant import NOTHING_SEEN, SUM_UNIT, Histogram, TensorStats

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
    _stats: TensorStats = field(default=NOTHING_SEEN)

    @property
    def kind(self) -> str:
        """What it keeps."""
        return SAMPLE_EXTREMES if self.each_sample else EXTREMES

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Take in the values of one sample."""
        found = _extremes(np.asarray(values, np.float32))
        self._stats = self._stats.merge(_summed(found) if self.each_sample else found)

    def stats(self) -> TensorStats:
        """Return what was seen so far."""
        return self._stats

    def merge(self, other: ExtremesObserver) -> None:
        """Take in what another observer saw."""
        self._stats = self._stats.merge(other.stats())


@dataclass(slots=True)
class HistogramObserver:
    """Keeps, beside the extremes and their sums, a histogram of values at fixed, evenly spread positions."""

    _stats: TensorStats = field(default=NOTHING_SEEN)
    _histogram: Histogram | None = None

    @property
    def kind(self) -> str:
        """What it keeps."""
        return HISTOGRAM

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Take in the values of one sample."""
        seen = np.asarray(values, np.float32)
        found = _extremes(seen)
        self._stats = self._stats.merge(_summed(found))
        if not found.count:
            return
        room, old = histograms.empty(self._stats.min, self._stats.max), self._histogram
        if old is not None:
            fits = (old.exponent, old.start, old.end) == (room.exponent, room.start, room.end)
            room = old if fits else old.merge(room)
        some = histograms.spread(seen)
        histograms.count_into(room, some[np.isfinite(some)] if found.not_finite else some)
        self._histogram = room

    def stats(self) -> TensorStats:
        """Return what was seen so far."""
        if self._histogram is None:
            return self._stats
        counts = self._histogram.counts.copy()  # those of the observer go on counting
        counts.setflags(write=False)
        return replace(self._stats, histogram=replace(self._histogram, counts=counts))

    def merge(self, other: HistogramObserver) -> None:
        """Take in what another observer saw."""
        both = self.stats().merge(other.stats())
        self._stats, self._histogram = replace(both, histogram=None), both.histogram


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


def _extremes(seen: npt.NDArray[np.float32]) -> TensorStats:
    if seen.size == 0:
        return NOTHING_SEEN
    low, high, broken = seen.min(), seen.max(), 0
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = seen[np.isfinite(seen)]
        broken = seen.size - finite.size
        if finite.size == 0:
            return TensorStats(0, np.inf, -np.inf, broken)
        low, high = finite.min(), finite.max()
    return TensorStats(seen.size - broken, float(low) + 0.0, float(high) + 0.0, broken)  # + 0.0: there is one zero


def _summed(found: TensorStats) -> TensorStats:
    if not found.count:
        return found
    low, high = (int(end * 2.0**SUM_UNIT) for end in (found.min, found.max))
    return replace(found, samples=1, low_sum=low, high_sum=high)
