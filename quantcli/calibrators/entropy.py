"""The range whose values lose least information when they are counted in as many levels as there are integers.

Kullback-Leibler divergence as TensorRT defines it and NVIDIA modelopt's ``calib/histogram.py`` spells out: absolute
values in up to 2048 bins, of which the first takes the count of the second; values above the range are counted in its
last bin; of equal divergences the widest range wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import histograms
from quantcli.observers import HistogramObserver, require_histogram

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.quant import QuantSpec, TensorStats

    Floats = npt.NDArray[np.float64]

BINS: Final = 2048
_AT_ONCE: Final = 64  # candidates, so that memory stays small
_DIGITS: Final = 12  # behind these, the last bits of a sum differ from processor to processor


@dataclass(frozen=True, slots=True)
class Entropy:
    """The range ends where the divergence is smallest, on both sides alike; never beyond what was seen.

    The levels are those of the integers for absolute values: 128 of 8 bits, and 256 where all values have one sign and
    the grid may begin at zero. With 16 bits there are more levels than bins: the range is what was seen.
    """

    def observer(self, spec: QuantSpec) -> HistogramObserver:
        """Return a fresh observer for one tensor."""
        del spec
        return HistogramObserver()

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high).

        Raises:
            InternalError: The statistics hold no histogram.
        """
        sizes = histograms.magnitudes(require_histogram(stats))
        while sizes.counts.size > BINS:
            sizes = sizes.coarsened(sizes.exponent + 1)
        one_sided = (stats.min >= 0.0 or stats.max <= 0.0) and not spec.symmetric
        levels = 2 ** (spec.dtype.bits - 1 + one_sided)
        if sizes.counts.size <= levels:
            return stats.min, stats.max
        end = kept_bins(sizes.counts, levels) * 2.0**sizes.exponent
        return max(-end, stats.min), min(end, stats.max)


def kept_bins(counts: npt.NDArray[np.int64], levels: int) -> int:
    """Return how many of the first bins the range with the smallest divergence has, at least ``levels``.

    Args:
        counts: Absolute values by size, more bins than levels.
        levels: How many groups the bins of a range are counted in.
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    sizes = np.arange(levels, bins.size + 1)
    parts = [divergences(bins, some, levels) for some in np.array_split(sizes, -(-sizes.size // _AT_ONCE))]
    found = np.round(np.concatenate(parts), _DIGITS)
    return int(sizes[found.size - 1 - np.argmin(found[::-1])])


def divergences(bins: Floats, sizes: npt.NDArray[np.int64], levels: int) -> Floats:
    """Return KL(p || q) for each candidate: the first ``size`` bins, in ``levels`` groups.

    p are the bins with all values above in the last of them; q spreads the count of each group evenly over those of its
    bins that are not empty. Both are normalized. Where p has values and q has none it is infinite.

    Args:
        bins: Values in each bin, (N,).
        sizes: Bins of each candidate, (C,).
        levels: Number of groups.
    """
    total = bins.sum()
    if not total:
        return np.zeros(sizes.size)
    counted, filled = (np.concatenate([[0.0], np.cumsum(x)]) for x in (bins, bins > 0))
    entropies = np.concatenate([[0.0], np.cumsum(_x_log_x(bins))])
    bounds = -(-np.arange(levels + 1)[None, :] * sizes[:, None] // levels)  # (C, levels + 1)
    mass, full = np.diff(counted[bounds], axis=1), np.diff(filled[bounds], axis=1)
    kept, last = counted[sizes], bins[sizes - 1]
    outside = total - kept
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(mass / full)  # of each group, before q is normalized
        expected = np.where(mass > 0, mass * level, 0.0).sum(axis=1) + np.where(
            outside > 0, outside * level[:, -1], 0.0
        )
        found = entropies[sizes] - _x_log_x(last) + _x_log_x(last + outside) - expected
        found = found / total - np.log(total) + np.log(kept)
    return np.where((kept > 0) & ~((outside > 0) & (last == 0)), found, np.inf)


def _x_log_x(x: Floats) -> Floats:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)))
