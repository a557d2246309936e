"""Histograms of values: which bins, how many values in each, and what a range cuts off. numpy only.

Bins are aligned to multiples of a power of two, so that bins of any two histograms nest and merging is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.quant import MOST_BINS, Histogram

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

MOST_POSITIONS: Final = 1 << 15
"""Of each index of the first axis at most this many values are counted: 0.01 % of them are still three."""

_MANTISSA: Final = 23  # bits after the leading one of a float32
_SMALLEST: Final = -149  # exponent of the smallest float32
_BLOCK: Final = 1 << 16  # values that are counted at once, while they are in the processor's cache
_EXACT_IN_FLOAT32: Final = -120  # from this exponent up to 0, dividing a float32 by a bin width loses nothing


def exponent_for(low: float, high: float) -> int:
    """Return the smallest exponent whose bins cover a range with at most ``MOST_BINS`` of them.

    Bins are never narrower than the distance of float32 numbers at the larger end.
    """
    largest = max(abs(low), abs(high))
    if not largest:
        return _SMALLEST
    finest = max(math.frexp(largest)[1] - 1 - _MANTISSA, _SMALLEST)
    if low == high:
        return finest
    exponent = max(math.frexp(high - low)[1] - MOST_BINS.bit_length(), finest)
    while _bin_of(high, exponent) - _bin_of(low, exponent) >= MOST_BINS:
        exponent += 1
    return exponent


def empty(low: float, high: float) -> Histogram:
    """Return the histogram that covers a range and counts nothing."""
    exponent = exponent_for(low, high)
    start = _bin_of(low, exponent)
    return Histogram(exponent, start, np.zeros(_bin_of(high, exponent) - start + 1, np.int64))


def count_into(histogram: Histogram, values: npt.NDArray[np.float32]) -> None:
    """Count finite values that lie in the bins of a histogram; its counts are changed."""
    flat = values.ravel()
    exact = _EXACT_IN_FLOAT32 <= histogram.exponent <= 0
    width = np.float32(2.0**-histogram.exponent) if exact else np.float64(2.0**-histogram.exponent)
    for begin in range(0, flat.size, _BLOCK):
        bins = np.floor(flat[begin : begin + _BLOCK] * width)
        bins -= histogram.start
        histogram.counts[:] += np.bincount(bins.astype(np.intp), minlength=histogram.counts.size)


def of(values: npt.NDArray[np.float32]) -> Histogram:
    """Return the histogram of all of some finite values, at least one."""
    made = empty(float(values.min()), float(values.max()))
    count_into(made, values)
    return made


def spread(values: npt.NDArray[np.float32], most: int = MOST_POSITIONS) -> npt.NDArray[np.float32]:
    """Return values at evenly spread positions: at most ``most`` for each index of the first axis.

    The positions depend on the other axes alone, so that a batch gives what its samples give. The distance between two
    has no divisor in common with the length of any axis: none is seen at some of its indices only.
    """
    inner = math.prod(values.shape[1:])
    if inner <= most:
        return values
    distance = -(-inner // most)
    while math.gcd(distance, inner) > 1:
        distance += 1
    return values.reshape(-1, inner)[:, ::distance]


@dataclass(frozen=True, slots=True)
class Spread:
    """What a histogram says of the cost of a range: bins as numbers in their centres.

    Attributes:
        edges: Ends of the bins, ascending; one more than there are bins. The outer ones are the extremes seen.
        centres: Middles of the bins.
        mass: Share of the values in each bin.
    """

    edges: Floats
    centres: Floats
    mass: Floats

    def cut_off(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Floats:
        """Return the mean square of what values lose when they are cut to ``[low, high]``, for each pair of ends."""
        first, second = self.mass * self.centres, self.mass * np.square(self.centres)
        sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in (self.mass, first, second)]
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        below, above = np.searchsorted(self.centres, low), np.searchsorted(self.centres, high, side="right")
        under = [part[below] for part in sums]
        over = [part[-1] - part[above] for part in sums]
        lost = (m2 - 2 * end * m1 + end**2 * m0 for (m0, m1, m2), end in ((under, low), (over, high)))
        return np.maximum(np.asarray(sum(lost), np.float64), 0.0)

    def inside(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Floats:
        """Return the share of the values in ``[low, high]``, for each pair of ends."""
        sums = np.concatenate([[0.0], np.cumsum(self.mass)])
        below, above = np.searchsorted(self.centres, low), np.searchsorted(self.centres, high, side="right")
        return np.asarray(sums[above] - sums[below], np.float64)


def spread_of(histogram: Histogram, low: float, high: float) -> Spread:
    """Return the spread of a histogram of values between the extremes ``low`` and ``high``."""
    edges = np.arange(histogram.start, histogram.end + 1, dtype=np.float64) * 2.0**histogram.exponent
    edges[0], edges[-1] = max(edges[0], low), min(edges[-1], high)
    return Spread(edges, (edges[1:] + edges[:-1]) / 2, histogram.counts / max(int(histogram.counts.sum()), 1))


def magnitudes(histogram: Histogram) -> Histogram:
    """Return the histogram of the absolute values, from zero on."""
    counts = np.zeros(max(histogram.end, -histogram.start), np.int64)
    numbers = np.arange(histogram.start, histogram.end)
    np.add.at(counts, np.where(numbers < 0, -numbers - 1, numbers), histogram.counts)
    return Histogram(histogram.exponent, 0, counts)


def _bin_of(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
