"""The range with the best signal-to-noise ratio, where cutting values off counts three times.

AIMET's ``tf_enhanced`` (``TfEnhancedEncodingAnalyzer``): ``3 * (cut off below + cut off above) + step^2 / 12``, the
least of 17 steps by 21 offsets and of what was seen; of symmetric grids, of 101 steps.
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

STEPS: Final = 17
OFFSETS: Final = 20  # and the offset of what was seen
SYMMETRIC_STEPS: Final = 101


@dataclass(frozen=True, slots=True)
class Sqnr:
    """The range of the smallest cost.

    Attributes:
        cutting: How much more an error counts that cutting off makes.
    """

    cutting: float = 3.0

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
        low, high = min(stats.min, 0.0), max(stats.max, 0.0)
        if low == high:
            return stats.min, stats.max
        steps = spec.qmax - spec.qmin
        ranges = _symmetric(max(-low, high)) if spec.symmetric else _asymmetric(low, high, steps)  # what was seen first
        width = np.square((ranges[:, 1] - ranges[:, 0]) / steps)
        ends = ranges[:, 0], ranges[:, 1]
        costs = self.cutting * spread.cut_off(*ends) + spread.inside(*ends) * width / 12
        best = ranges[int(np.argmin(costs))]
        return max(float(best[0]), stats.min), min(float(best[1]), stats.max)


def _symmetric(largest: float) -> Floats:
    shares = np.arange(SYMMETRIC_STEPS, 0, -1) / (SYMMETRIC_STEPS - 1)
    ends = np.concatenate([[1.0], shares]) * largest
    return np.stack([-ends, ends], axis=1)


def _asymmetric(low: float, high: float, steps: int) -> Floats:
    """Return the ranges of all steps and offsets, cut to what was seen."""
    whole = (high - low) / steps
    tried = whole * np.arange(1, STEPS + 1) / (STEPS - 1)
    offsets = np.append(np.rint(-steps * np.arange(OFFSETS) / (OFFSETS - 1)), np.rint(low / whole))
    begins = (tried[:, None] * offsets[None]).ravel()
    ends = begins + np.repeat(tried * steps, offsets.size)
    cut = np.stack([np.maximum(begins, low), np.minimum(ends, high)], axis=1)
    return np.concatenate([[[low, high]], cut[cut[:, 1] > cut[:, 0]]])
