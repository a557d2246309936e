"""The smallest and largest value seen: never clips what calibration showed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from quantcli.quant import NOTHING_SEEN, TensorStats

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.quant import QuantSpec


@dataclass(slots=True)
class MinMaxObserver:
    """Keeps four numbers; values that are not finite are counted and left out."""

    _stats: TensorStats = field(default=NOTHING_SEEN)

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Take in the values of one sample."""
        if values.size == 0:
            return
        low, high = values.min(), values.max()
        broken = 0
        if not (np.isfinite(low) and np.isfinite(high)):
            kept = values[np.isfinite(values)]
            broken = values.size - kept.size
            if kept.size == 0:
                self._stats = self._stats.merge(TensorStats(0, np.inf, -np.inf, broken))
                return
            low, high = kept.min(), kept.max()
        self._stats = self._stats.merge(TensorStats(values.size - broken, float(low), float(high), broken))

    def stats(self) -> TensorStats:
        """Return what was seen so far."""
        return self._stats

    def merge(self, other: MinMaxObserver) -> None:
        """Take in what another observer saw."""
        self._stats = self._stats.merge(other.stats())


@dataclass(frozen=True, slots=True)
class MinMax:
    """The range is what was seen."""

    def observer(self, spec: QuantSpec) -> MinMaxObserver:
        """Return a fresh observer for one tensor."""
        del spec
        return MinMaxObserver()

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high)."""
        del spec
        return stats.min, stats.max
