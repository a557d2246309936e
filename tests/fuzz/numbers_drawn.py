"""Numbers as trained networks have them, also at their worst: dead channels, outliers, next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from growth import Growth

EXTREMES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "dead channel": lambda a, _: _with_slice(a, 0, 0.0),
    "all zero": lambda a, _: a * 0,
    "next to nothing": lambda a, _: a * 1e-10,
    "one channel next to nothing": lambda a, rng: _with_slice(a, rng.integers(a.ndim), 1e-10),
    "subnormal": lambda a, _: _with_slice(a, 0, 1e-41),
    "outlier": lambda a, rng: _with_outlier(a, rng, 100.0),
    "large": lambda a, _: a * 100,
    "scaled channels": lambda a, _: a * _along(np.geomspace(0.001, 10, a.shape[0]), a.ndim),
    "one value": lambda a, _: np.full_like(a, 0.37),
    "positive": lambda a, _: np.abs(a),
    "whole numbers": lambda a, _: np.rint(a * 4),
    "beyond float16": lambda a, rng: _with_outlier(a, rng, 1e5),
    "minus zero": lambda a, _: _with_slice(a, 0, -0.0),
}


def weights(growth: Growth, *shape: int, fan: int = 0) -> str:
    """Add the weight of a linear operator; ``fan`` is how many of its values meet in one result."""
    array = growth.rng.normal(0, 1 / np.sqrt(max(fan, 1)), shape)
    if growth.chance(0.2) and array.ndim and array.size:
        array = EXTREMES[growth.random.choice([*EXTREMES])](array, growth.rng)
    return growth.constant(array.astype(np.float32))


def vector(growth: Growth, size: int, *, mean: float = 0.0, spread: float = 0.5) -> str:
    """Add a bias, gain or the like."""
    array = growth.rng.normal(mean, spread, size)
    if growth.chance(0.15) and size:
        array = EXTREMES[growth.random.choice([*EXTREMES])](array, growth.rng)
    return growth.constant(array.astype(np.float32))


def normal(growth: Growth, *, spread: float = 1.0, mean: float = 0.0) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Return what draws the samples of an input."""
    kind = growth.random.choice(["plain", "plain", "plain", "positive", "outlier", "zero", "pixels", "tiny"])

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        array = growth.rng.normal(mean, spread, shape)
        if kind == "outlier" and array.size:
            array = _with_outlier(array, growth.rng, 50.0)
        changed = {"positive": np.abs(array), "zero": array * 0, "pixels": growth.rng.integers(0, 256, shape)}
        return np.asarray({**changed, "tiny": array * 1e-6}.get(kind, array), np.float32)

    return draw


def _with_slice(array: np.ndarray, axis: int, factor: float) -> np.ndarray:
    array = array.copy()
    array[(slice(None),) * int(axis) + (0,)] *= factor
    return array


def _with_outlier(array: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    array = np.array(array)
    array.flat[rng.integers(array.size)] = factor
    return array


def _along(factors: np.ndarray, rank: int) -> np.ndarray:
    return factors.reshape(-1, *(1,) * (rank - 1))
