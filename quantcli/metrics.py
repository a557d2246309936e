"""How far two arrays are apart: SQNR in decibel, cosine, largest error. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Comparison:
    """Running sums over pairs of arrays (reference, other); ``add`` returns the sums with one more pair.

    The sum of fourth powers tells rare, large errors from many small ones that have the same sum of squares.
    """

    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    count: int = 0
    fourth: float = 0.0

    def add(self, reference: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> Comparison:
        """Take in one pair of arrays of equal shape."""
        a, b = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        known = np.isfinite(a) & np.isfinite(b)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        broken = float("inf") if np.any(~known & ~same) else 0.0
        a, b = a[known], b[known]
        error = a - b
        square = error * error
        return Comparison(
            self.signal + float(a @ a),
            self.noise + float(error @ error) + broken,
            self.other + float(b @ b),
            self.product + float(a @ b),
            max(self.largest, broken, float(np.abs(error).max(initial=0.0))),
            self.count + a.size,
            self.fourth + float(square @ square) + broken,
        )

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, ``10 log10(sum x^2 / sum (x - y)^2)``; infinite where nothing differs."""
        if not self.noise:
            return math.inf
        return 10.0 * math.log10(self.signal / self.noise) if self.signal and math.isfinite(self.noise) else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both; 1 where both are zero."""
        if not self.signal and not self.other:
            return 1.0
        return self.product / (math.sqrt(self.signal) * math.sqrt(self.other)) if self.signal and self.other else 0.0

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.noise / self.count if self.count else 0.0


def sqnr_db(reference: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    """Return the signal to quantization noise ratio of one pair, in decibel."""
    return Comparison().add(reference, other).sqnr_db


def cosine(reference: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    """Return the cosine similarity of one pair."""
    return Comparison().add(reference, other).cosine
