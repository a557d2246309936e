"""The smallest and largest value seen: never clips what calibration showed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli.observers import ExtremesObserver

if TYPE_CHECKING:
    from quantcli.quant import QuantSpec, TensorStats


@dataclass(frozen=True, slots=True)
class MinMax:
    """The range is what was seen."""

    def observer(self, spec: QuantSpec) -> ExtremesObserver:
        """Return a fresh observer for one tensor."""
        del spec
        return ExtremesObserver()

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return (low, high)."""
        del spec
        return stats.min, stats.max
