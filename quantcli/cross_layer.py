"""How far to scale each channel between linear layers so that all of them need the same range of weights. numpy only.

Cross-layer equalization, Nagel et al. 2019 (1906.04721) section 4.1, in the form of aimet_onnx: one sweep over sets of
two layers, or of three with a depthwise convolution in the middle. A factor is what the channel is divided by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

DEAD: Final = 1e-4  # of the widest channel; what is below makes hardly any difference, and its bias would be blown up


def pair_factors(first: Floats, second: Floats) -> Floats:
    """Return ``s = r1 / sqrt(r1 r2)``: ``W1 / s`` and ``W2 * s`` both have the range ``sqrt(r1 r2)``.

    Args:
        first: ``r1``, (C,): largest magnitude of the weights that make each channel.
        second: ``r2``, (C,): the same of those that read it.

    Returns:
        (C,); 1 where a factor would be 0, infinite or no number, and for dead channels.
    """
    with np.errstate(all="ignore"):
        return _usable(first / np.sqrt(first * second), first, second)


def triplet_factors(first: Floats, middle: Floats, last: Floats) -> tuple[Floats, Floats]:
    """Return ``s12 = r1 / c`` and ``s23 = c / r3`` with ``c = (r1 r2 r3)^(1/3)``, the range of all three afterwards.

    ``W1 / s12``, ``W2 * s12 / s23`` and ``W3 * s23``, where the middle is a depthwise convolution.

    Args:
        first: ``r1``, (C,): largest magnitude of the weights that make each channel.
        middle: ``r2``, (C,): the same of the depthwise convolution's.
        last: ``r3``, (C,): the same of those that read its result.

    Returns:
        Two of (C,); 1 where a factor would be 0, infinite or no number, and for dead channels.
    """
    with np.errstate(all="ignore"):
        common = np.cbrt(first) * np.cbrt(middle) * np.cbrt(last)
        ranges = (first, middle, last)
        return _usable(first / common, *ranges), _usable(common / last, *ranges)


def _usable(factors: Floats, *ranges: Floats) -> Floats:
    alive = np.isfinite(factors) & (factors > 0)
    for r in ranges:
        alive &= r > DEAD * r.max(initial=0.0)
    return np.where(alive, factors, 1.0)
