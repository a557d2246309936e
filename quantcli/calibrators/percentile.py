"""The range that leaves out a given share of the values at each end.

AIMET's two-sided form (left ``1 - p``, right ``p``); of a symmetric grid the share is that of the absolute values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantcli import histograms
from quantcli.errors import RecipeError
from quantcli.observers import HistogramObserver, require_histogram

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.quant import QuantSpec, TensorStats


@dataclass(frozen=True, slots=True)
class Percentile:
    """The range leaves out ``100 - percentile`` percent of the values at each end, and never more.

    Attributes:
        percentile: More than 50, at most 100, where the range is what was seen.
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 50.0 < self.percentile <= 100.0:
            raise RecipeError(f"percentile is {self.percentile!r}, expected a number above 50 and at most 100")

    def observer(self, spec: QuantSpec) -> HistogramObserver:
        """Return a fresh observer for one tensor."""
        del spec
        return HistogramObserver()

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high): ends of bins, or the extremes where no value may be left out.

        Raises:
            InternalError: The statistics hold no histogram.
        """
        found = require_histogram(stats)
        if spec.symmetric:
            sizes = histograms.magnitudes(found)
            end = (sizes.counts.size - self._left_out(sizes.counts[::-1])) * 2.0**sizes.exponent
            return max(-end, stats.min), min(end, stats.max)
        low = (found.start + self._left_out(found.counts)) * 2.0**found.exponent
        high = (found.end - self._left_out(found.counts[::-1])) * 2.0**found.exponent
        return max(low, stats.min), min(high, stats.max)

    def _left_out(self, counts: npt.NDArray[np.int64]) -> int:
        """Return how many bins from the beginning together hold no more than may be left out."""
        seen = np.cumsum(counts)
        allowed = int(int(seen[-1]) * (100.0 - self.percentile) / 100.0)
        return int(np.searchsorted(seen, allowed, side="right")) if allowed else 0
