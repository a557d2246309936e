"""The values that quantization speaks of: what is wanted, what was seen, what was chosen.

All are frozen; none of them computes more than what two of them are together (that is ``affine``), none knows ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.dtypes import DType


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerAxis:
    """One scale for each index of ``axis``."""

    axis: int


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale for each run of ``size`` values along ``axis``."""

    axis: int
    size: int


Granularity = PerTensor | PerAxis | PerBlock


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """What is wanted for a tensor.

    ``narrow_range`` leaves out the most negative integer of a symmetric signed type, as LiteRT does for weights.
    """

    dtype: DType
    symmetric: bool
    granularity: Granularity = field(default_factory=PerTensor)
    narrow_range: bool = False

    @property
    def qmin(self) -> int:
        """The smallest integer that may be used."""
        return self.dtype.qmin + int(self.narrow_range)

    @property
    def qmax(self) -> int:
        """The largest integer that may be used."""
        return self.dtype.qmax


MOST_BINS: Final = (
    4096  # of a histogram: at least half as many cover the range, unless float32 tells fewer numbers apart
)
SUM_UNIT: Final = 149  # sums of extremes count in units of 2**-149, of which every float32 is a multiple


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often values were seen: bin k holds those of ``[k * 2**exponent, (k + 1) * 2**exponent)``.

    The bins begin with that of the smallest value and end with that of the largest. Two histograms are merged exactly,
    because the bins of the coarser one are unions of bins of the finer; the result depends on the values alone.

    Attributes:
        exponent: The bin width is ``2**exponent``.
        start: Number k of the first bin.
        counts: int64, one per bin.
    """

    exponent: int
    start: int
    counts: npt.NDArray[np.int64]

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both together; bins double until there are at most ``MOST_BINS``."""
        exponent = max(self.exponent, other.exponent)
        parts = [h.coarsened(exponent) for h in (self, other)]
        start, end = min(h.start for h in parts), max(h.end for h in parts)
        counts = np.zeros(end - start, np.int64)
        for part in parts:
            counts[part.start - start : part.end - start] += part.counts
        return Histogram(exponent, start, counts).coarsened(exponent)

    def coarsened(self, exponent: int) -> Histogram:
        """Return the histogram with bins of at least ``2**exponent``, and at most ``MOST_BINS`` of them."""
        found = self
        while found.exponent < exponent or found.counts.size > MOST_BINS:
            before, after = found.start % 2, found.end % 2
            pairs = np.pad(found.counts, (before, after)).reshape(-1, 2)
            found = Histogram(found.exponent + 1, found.start // 2, pairs.sum(axis=1))
        return found

    @property
    def end(self) -> int:
        """Number of the bin after the last one."""
        return self.start + self.counts.size

    def __eq__(self, other: object) -> bool:
        """Tell whether both count the same."""
        if not isinstance(other, Histogram):
            return NotImplemented
        same = (self.exponent, self.start) == (other.exponent, other.start)
        return same and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        """Return a hash that equal histograms share."""
        return hash((self.exponent, self.start, self.counts.tobytes()))


@dataclass(frozen=True, slots=True)
class TensorStats:
    """What was seen of a tensor; how much depends on who observed it.

    Attributes:
        count: How many finite values.
        min: The smallest of them.
        max: The largest of them.
        not_finite: How many values were not finite.
        samples: Of how many samples the sums are; 0 where they were not kept.
        low_sum: Sum of the smallest value of each sample, in units of ``2**-SUM_UNIT``: exact in any order.
        high_sum: Sum of the largest value of each sample, likewise.
        histogram: How the values are spread; None where that was not kept.
    """

    count: int
    min: float
    max: float
    not_finite: int = 0
    samples: int = 0
    low_sum: int = 0
    high_sum: int = 0
    histogram: Histogram | None = None

    def merge(self, other: TensorStats) -> TensorStats:
        """Return the statistics of both together; the order does not matter. What only one of them kept is dropped."""
        seen = [s for s in (self, other) if s.count]
        summed = [s for s in seen if s.samples]
        kept = summed if len(summed) == len(seen) else []
        histograms = [s.histogram for s in seen if s.histogram is not None]
        return TensorStats(
            self.count + other.count,
            min(self.min, other.min),
            max(self.max, other.max),
            self.not_finite + other.not_finite,
            sum(s.samples for s in kept),
            sum(s.low_sum for s in kept),
            sum(s.high_sum for s in kept),
            reduce(Histogram.merge, histograms) if histograms and len(histograms) == len(seen) else None,
        )


NOTHING_SEEN = TensorStats(0, float("inf"), float("-inf"))


@dataclass(frozen=True, slots=True)
class QuantParams:
    """What was chosen for a tensor: real = (integer - zero_point) * scale.

    Per tensor both arrays are rank 0; per axis they are rank 1. ``scale`` is float32, ``zero_point`` has the storage
    type of ``spec.dtype``.
    """

    spec: QuantSpec
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.integer]

    @property
    def axis(self) -> int | None:
        """The axis that the scales run along, or None for one scale."""
        return None if isinstance(self.spec.granularity, PerTensor) else self.spec.granularity.axis

    def same_as(self, other: QuantParams) -> bool:
        """Tell whether both map every integer to the same real number."""
        return (
            self.spec.dtype == other.spec.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    @property
    def low(self) -> float:
        """The smallest real number that can be represented (per tensor)."""
        return float((self.spec.qmin - int(self.zero_point)) * np.float64(self.scale))

    @property
    def high(self) -> float:
        """The largest real number that can be represented (per tensor)."""
        return float((self.spec.qmax - int(self.zero_point)) * np.float64(self.scale))
