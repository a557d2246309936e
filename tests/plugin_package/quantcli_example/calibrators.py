"""Ranges of so many standard deviations."""

from dataclasses import dataclass

import numpy as np

from quantcli.observers import HistogramObserver
from quantcli.quant import QuantSpec, TensorStats


@dataclass(frozen=True)
class Sigmas:
    """The range is the mean and some standard deviations to each side, within what was seen.

    Attributes:
        sigmas: How many.
    """

    sigmas: float = 4.0

    def observer(self, spec: QuantSpec) -> HistogramObserver:
        del spec
        return HistogramObserver()

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        del spec
        seen = stats.histogram
        if seen is None or not seen.counts.sum():
            return stats.min, stats.max
        middles = (seen.start + np.arange(seen.counts.size) + 0.5) * 2.0**seen.exponent
        mean = float(np.average(middles, weights=seen.counts))
        spread = self.sigmas * float(np.sqrt(np.average((middles - mean) ** 2, weights=seen.counts)))
        return max(stats.min, mean - spread), min(stats.max, mean + spread)
