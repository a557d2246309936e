"""The values that quantization speaks of: what is wanted, what was seen, what was chosen.

All are frozen; none of them computes (that is ``affine``) and none knows ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.dtypes import DType


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerAxis:
    """One scale for each index of ``axis``."""

    axis: int


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale for each run of ``size`` values along ``axis``."""

    axis: int
    size: int


Granularity = PerTensor | PerAxis | PerBlock


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """What is wanted for a tensor.

    ``narrow_range`` leaves out the most negative integer of a symmetric signed type, as LiteRT does for weights.
    """

    dtype: DType
    symmetric: bool
    granularity: Granularity = field(default_factory=PerTensor)
    narrow_range: bool = False

    @property
    def qmin(self) -> int:
        """The smallest integer that may be used."""
        return self.dtype.qmin + int(self.narrow_range)

    @property
    def qmax(self) -> int:
        """The largest integer that may be used."""
        return self.dtype.qmax


@dataclass(frozen=True, slots=True)
class TensorStats:
    """What was seen of a tensor: how many values, their extremes, and whether any was not finite."""

    count: int
    min: float
    max: float
    not_finite: int = 0

    def merge(self, other: TensorStats) -> TensorStats:
        """Return the statistics of both together; the order does not matter."""
        return TensorStats(
            self.count + other.count,
            min(self.min, other.min),
            max(self.max, other.max),
            self.not_finite + other.not_finite,
        )


NOTHING_SEEN = TensorStats(0, float("inf"), float("-inf"))


@dataclass(frozen=True, slots=True)
class QuantParams:
    """What was chosen for a tensor: real = (integer - zero_point) * scale.

    Per tensor both arrays are rank 0; per axis they are rank 1. ``scale`` is float32, ``zero_point`` has the storage
    type of ``spec.dtype``.
    """

    spec: QuantSpec
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.integer]

    @property
    def axis(self) -> int | None:
        """The axis that the scales run along, or None for one scale."""
        return None if isinstance(self.spec.granularity, PerTensor) else self.spec.granularity.axis

    def same_as(self, other: QuantParams) -> bool:
        """Tell whether both map every integer to the same real number."""
        return (
            self.spec.dtype == other.spec.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    @property
    def low(self) -> float:
        """The smallest real number that can be represented (per tensor)."""
        return float((self.spec.qmin - int(self.zero_point)) * np.float64(self.scale))

    @property
    def high(self) -> float:
        """The largest real number that can be represented (per tensor)."""
        return float((self.spec.qmax - int(self.zero_point)) * np.float64(self.scale))
