"""The range whose grid has the smallest mean squared error: rounding inside, cutting off outside.

Both are computed from the histogram, each bin as its centre, on the very grid that the range leads to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import histograms
from quantcli.observers import HistogramObserver, require_histogram

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.histograms import Spread
    from quantcli.quant import QuantSpec, TensorStats

    Floats = npt.NDArray[np.float64]

COARSE: Final = 0.92 ** np.arange(48)  # shares of an extreme: 1 to 0.02
FINE: Final = 0.92 ** np.linspace(-1, 1, 17)  # around the best of those
GAIN: Final = 0.98
"""What was seen is the range unless another has at most this share of its errors: the histogram is no exact measure."""

_FINEST: Final = 2.0  # bins per step; with fewer, the centres say nothing of rounding


@dataclass(frozen=True, slots=True)
class Mse:
    """The range of the smallest mean squared error: both ends are searched together, then one after the other."""

    def observer(self, spec: QuantSpec) -> HistogramObserver:
        """Return a fresh observer for one tensor."""
        del spec
        return HistogramObserver()

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high).

        Raises:
            InternalError: The statistics hold no histogram.
        """
        spread = histograms.spread_of(require_histogram(stats), stats.min, stats.max)
        ends = np.array([min(stats.min, 0.0), max(stats.max, 0.0)])
        if not ends.any():
            return stats.min, stats.max
        whole = errors(spread, ends[None], spec)[:, 0]
        best, shares = whole[0], np.ones(2)
        sides = [np.ones(2)] if spec.symmetric else [np.ones(2), *np.eye(2)[::-1], *np.eye(2)[::-1]]
        for grid in (COARSE, FINE):
            for side in sides:
                tried = np.minimum(np.where(side, shares * grid[:, None] if grid is FINE else grid[:, None], shares), 1)
                found, expected = errors(spread, ends * tried, spec)
                found = np.where(expected <= GAIN * whole[1], found, np.inf)
                at = int(np.argmin(found))
                if found[at] < best:
                    best, shares = found[at], tried[at]
        if best > GAIN * whole[0]:
            return stats.min, stats.max
        low, high = ends * shares
        return max(float(low), stats.min), min(float(high), stats.max)


def errors(spread: Spread, ranges: Floats, spec: QuantSpec) -> Floats:
    """Return the mean squared error of the grid of each range, (2, R): of the centres of the bins, and as expected.

    Rounding is expected to lose ``step^2 / 12``, wherever in a bin the values lie. Where the bins are hardly finer than
    the steps, that is all there is to say.

    Args:
        spread: The values.
        ranges: (R, 2): low <= 0 <= high.
        spec: Of the grids.
    """
    low, high = ranges[:, :1], ranges[:, 1:]
    count = spec.qmax - spec.qmin
    if spec.symmetric:
        step = np.maximum(-low, high) / (spec.qmax if spec.dtype.signed else count / 2)  # (R, 1)
        first = np.full_like(step, spec.qmin if spec.dtype.signed else -(spec.qmax + 1) // 2)
    else:
        step = (high - low) / count
        first = -np.rint(-low / step)
    last = first + count
    centres = spread.centres[None]
    integers = np.clip(np.rint(centres / step), first, last)
    lost = np.square(centres - integers * step) @ spread.mass
    inside = spread.inside((first * step).ravel(), (last * step).ravel())
    cut = spread.cut_off((first * step).ravel(), (last * step).ravel())
    width = np.median(np.diff(spread.edges))
    modelled = cut + inside * np.square(step).ravel() / 12
    return np.stack([np.where(step.ravel() >= _FINEST * width, lost, modelled), modelled])
