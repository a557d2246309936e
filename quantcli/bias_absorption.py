"""How far each channel of an activation can be shifted towards zero, and how far it pays. numpy only.

High-bias absorption, Nagel et al. 2019 (1906.04721) section 4.1.3: what a channel never falls below is taken off the
bias before it and comes back through the bias behind it, so the range of the tensor gets narrower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

SIGMAS: Final = 3.0  # a normal distribution is below its mean by more with a probability of 0.13 %
WORTH: Final = 0.99  # a range that does not become narrower by 1 % is left alone


@dataclass(frozen=True, slots=True)
class ChannelNormal:
    """Mean and standard deviation of each channel of a tensor, each (C,), as a BatchNormalization made them."""

    mean: Floats
    deviation: Floats

    def scaled(self, factor: Floats, offset: Floats | float = 0.0) -> ChannelNormal:
        """Return the same for ``factor * x + offset``."""
        return ChannelNormal(self.mean * factor + offset, self.deviation * np.abs(factor))


def high_bias(normal: ChannelNormal) -> Floats:
    """Return what a channel hardly ever falls below, where that is above zero: ``max(0, beta - 3 |gamma|)``."""
    return np.maximum(normal.mean - SIGMAS * normal.deviation, 0.0)


def rectified_shifts(high: Floats, most: Floats) -> Floats | None:
    """Return the smallest shifts that make the range ``[0, max(high)]`` as narrow as can be, or None for no gain.

    Args:
        high: Largest value of each channel.
        most: How far each may be shifted down, at least 0.
    """
    top = max(float((high - most).max(initial=0.0)), 0.0)
    shifts = np.clip(high - top, 0.0, most)
    return shifts if top < WORTH * float(high.max(initial=0.0)) else None


def free_shifts(low: Floats, high: Floats) -> Floats | None:
    """Return the smallest shifts that bring all channels into one range no wider than the widest of them, or None.

    The range holds zero and is near where most channels are. Shifts are positive or negative; None is for no gain.

    Args:
        low: Smallest value of each channel.
        high: Largest value of each channel.
    """
    if not low.size:
        return None
    width = float((high - low).max())
    start = float(np.clip(np.median((low + high) / 2) - width / 2, -width, 0.0))
    shifts = np.minimum(low - start, 0.0) + np.maximum(high - (start + width), 0.0)
    before = max(float(high.max()), 0.0) - min(float(low.min()), 0.0)
    return shifts if width < WORTH * before else None
