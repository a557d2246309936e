"""How much of the unevenness of activations to move into the weights that read them. numpy only.

SmoothQuant (Xiao et al. 2022, 2211.10438): ``s = max|X| ** a / max|W| ** (1 - a)`` evens out what is rounded to one
range. AWQ (Lin et al. 2023, 2306.00978): ``s = mean|X| ** a`` keeps the weights of loud channels exact. Both divide
the activation and multiply the weight by s; here a is searched by the error of the products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Floats = npt.NDArray[np.float64]
Round = Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]]
"""Returns what rounding to integers and back makes of an array."""

STEEPEST: Final = 1024.0  # the ratio of the largest to the smallest factor: channels that are nearly dead stay so


class Rounds(NamedTuple):
    """How both sides of a product are rounded: the activation, (rows, C), and the weight, (C, outputs)."""

    activation: Round
    weight: Round


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of an activation: of each channel, (C,), the extremes and the mean magnitude; and rows, (R, C)."""

    low: Floats
    high: Floats
    mean: Floats
    rows: npt.NDArray[np.float32]

    @property
    def largest(self) -> Floats:
        """Largest magnitude of each channel."""
        return np.maximum(self.high, -self.low)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of an activation: with rows to choose factors by, and with others to judge them by."""

    chosen: Sight
    judged: Sight


class Trial:
    """Rows of an activation, (R, C), the weights that read it, (C, outputs) each, and their exact products."""

    def __init__(self, rows: npt.NDArray[np.float32], weights: Sequence[Floats]) -> None:
        self._rows = rows
        self._weights = [w.astype(np.float32) for w in weights]
        self._exact = [rows @ w for w in self._weights]
        self._signals = [float(np.square(e, dtype=np.float64).sum()) for e in self._exact]

    def noise(self, factors: Floats, rounds: Sequence[Rounds]) -> float:
        """Return the mean of the products' noise, each relative to its signal: ``|Q(X/s) Q(sW) - XW|^2 / |XW|^2``.

        Args:
            factors: s, (C,).
            rounds: How the sides of each product are rounded.
        """
        narrow, total = factors.astype(np.float32), 0.0
        scaled = self._rows / narrow
        for weight, exact, signal, (round_rows, round_weight) in zip(
            self._weights, self._exact, self._signals, rounds, strict=True
        ):
            error = round_rows(scaled) @ round_weight(weight * narrow[:, None]) - exact
            total += float(np.square(error, dtype=np.float64).sum()) / signal if signal else 0.0
        return total / max(len(self._weights), 1)


Noise = Callable[[Floats], float]
"""Returns the noise of what reads an activation, if its channels are divided by factors."""


def smooth_factors(activation: Floats, weight: Floats, alpha: float) -> Floats:
    """Return the factors of SmoothQuant, with a geometric mean of one.

    Args:
        activation: Largest magnitude of each channel, (C,).
        weight: Largest magnitude of the weights of each channel, (C,).
        alpha: Share of the unevenness that goes into the weights, 0 to 1.
    """
    alive = (activation > 0) & (weight > 0)
    a, w = np.where(alive, activation, 1.0), np.where(alive, weight, 1.0)
    return _even(np.where(alive, alpha * np.log2(a) - (1.0 - alpha) * np.log2(w), np.nan))


def aware_factors(activation: Floats, alpha: float) -> Floats:
    """Return the factors of AWQ, with a geometric mean of one.

    Args:
        activation: Mean magnitude of each channel, (C,).
        alpha: Strength, 0 to 1.
    """
    alive = activation > 0
    return _even(np.where(alive, alpha * np.log2(np.where(alive, activation, 1.0)), np.nan))


def _even(logs: Floats) -> Floats:
    """Return the factors of these logarithms to base 2, with a geometric mean of one and a bounded ratio.

    NaN marks channels that are left alone.
    """
    alive = np.isfinite(logs)
    if not alive.any():
        return np.ones_like(logs)
    half = np.log2(STEEPEST) / 2
    return np.exp2(np.where(alive, np.clip(logs - logs[alive].mean(), -half, half), 0.0))


def best_factors(candidates: Mapping[float, Floats], noise: Noise) -> tuple[float, Floats] | None:
    """Return the exponent and the factors with the least noise, or None where leaving all channels alone has it."""
    if not candidates:
        return None
    least = noise(np.ones_like(next(iter(candidates.values()))))
    best: tuple[float, Floats] | None = None
    for alpha, factors in candidates.items():
        found = noise(factors)
        if found < least:
            least, best = found, (alpha, factors)
    return best


def factors_that_pay(candidates: Mapping[float, Floats], chosen: Noise, judged: Noise, gain: float) -> Floats | None:
    """Return the best factors, or None where they do not pay on values that they were not chosen on.

    Args:
        candidates: Factors by exponent.
        chosen: Noise by which the best are chosen.
        judged: Noise of other values: it must fall by a share of ``gain`` against no factors at all.
        gain: 0 to 1.
    """
    best = best_factors(candidates, chosen)
    if best is None:
        return None
    before, after = judged(np.ones_like(best[1])), judged(best[1])
    return best[1] if after <= (1.0 - gain) * before and after < before else None


def spread(weight: Floats, most: int) -> Floats:
    """Return at most ``most`` evenly spread outputs of a weight, (C, outputs)."""
    outputs = weight.shape[1]
    return weight if outputs <= most else weight[:, np.arange(most) * outputs // most]
