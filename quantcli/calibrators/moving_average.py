"""The mean of the smallest and of the largest value of each sample.

One outlier among many samples moves the range by its share of them. onnxruntime's ``CalibMovingAverage`` takes this
mean over the samples of one call, and an exponential average from call to call; the latter depends on the order of the
samples, so that here every sample counts alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli.observers import ExtremesObserver, require_sums
from quantcli.quant import SUM_UNIT

if TYPE_CHECKING:
    from quantcli.quant import QuantSpec, TensorStats


@dataclass(frozen=True, slots=True)
class MovingAverage:
    """The range is the mean of the ranges of the samples; a constant has its own."""

    def observer(self, spec: QuantSpec) -> ExtremesObserver:
        """Return a fresh observer for one tensor."""
        del spec
        return ExtremesObserver(each_sample=True)

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high).

        Raises:
            InternalError: The statistics hold no sums of the extremes of each sample.
        """
        del spec
        samples = require_sums(stats) << SUM_UNIT
        return stats.low_sum / samples, stats.high_sum / samples
