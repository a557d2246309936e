"""Which float32 constants float16 can hold, and what storing one costs. numpy only; knows nothing of graphs.

float16 has 11 significant bits down to 2^-14 (relative error at most 2^-11), then steps of 2^-24, and ends at 65504.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.metrics import Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

LARGEST: Final = 65504.0
FEW: Final = 16  # values: each of them matters, such as an epsilon, a mean or a bound
MOST_RELATIVE: Final = 2.0**-10  # error of one of few values: twice that of a normal float16
ENOUGH_DB: Final = 60.0  # of many values: normal float16 gives 74 dB, half of the values being subnormal about 60
RESOLUTION: Final = 2.0**-24  # what is smaller, relative to the largest value, is below float32's own rounding
MOST_MOVED: Final = 512  # candidates in a row; the sum of K rounding errors needs about sqrt(K) moves
BLOCK: Final = 1 << 20  # values that are worked on at once, in double precision
SPARE: Final = 1 / 256  # of the constants' bytes, for which the smallest stay exact: biases and first layers
CAST_BYTES: Final = 35  # of a Cast in a file: operator, attribute and three short names; the user's name moves to it


def halved(array: Floats) -> npt.NDArray[np.float16]:
    """Return the constant in float16, rounded to nearest even; what is too large becomes infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(array, np.float32).astype(np.float16)


def balanced(array: Floats) -> npt.NDArray[np.float16]:
    """Return rows (C_out, K) in float16 whose sums stay: each value becomes one of its two float16 neighbours.

    Rounding to nearest leaves a random sum of errors in each row, which a layer whose inputs have a common mean turns
    into an offset of its channel; later layers magnify that. Starting from the nearest, those values move to their
    other neighbour that cost least, ``((e + d)^2 - e^2) / |d|``, while the row's sum of errors shrinks.
    """
    count = max(1, BLOCK // max(1, array.shape[1]))
    blocks = [_balanced(array[start : start + count]) for start in range(0, len(array), count)]
    return np.concatenate(blocks) if blocks else halved(array)


def refusal(array: Floats) -> str:
    """Return why float16 cannot hold a constant, or nothing where it can.

    The rule, in this order: every value is finite and within 65504; whole numbers stay exact; each of at most 16 values
    keeps a relative error of 2^-10; more of them keep 60 dB, and no slice along an axis becomes zero that is above
    2^-24 of the largest value.
    """
    broken = int(np.count_nonzero(~np.isfinite(array)))
    if broken:
        return f"{broken} of its values are NaN or infinite"
    peak = float(np.abs(array).max(initial=0.0))
    if peak > LARGEST:
        return f"it reaches {_largest(array):.4g}, beyond float16's {LARGEST:g}"
    half = halved(array).astype(np.float32)
    if np.array_equal(half, array):
        return ""
    if np.array_equal(np.rint(array), array):
        return f"it holds whole numbers up to {peak:.0f}; float16 is exact to 2048"
    return _few(array, half) if array.size <= FEW else _many(array, half)


def saving(size: int) -> int:
    """Return the bytes that halving a constant of ``size`` values saves, less the Cast that widens it again."""
    return 2 * size - CAST_BYTES


def spared(sizes: Sequence[int], total: int) -> set[int]:
    """Return which constants stay float32 although halving saves bytes: the smallest, while all cost at most 1/256.

    Args:
        sizes: Values of each constant that could be halved.
        total: Values of all constants.
    """
    left, found = 4 * total * SPARE, set()
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i], i)):
        left -= saving(sizes[index])
        if left < 0:
            break
        found.add(index)
    return found


def _balanced(array: Floats) -> npt.NDArray[np.float16]:
    nearest = halved(array)
    result, error = nearest.copy(), nearest.astype(np.float64) - array
    toward = np.where(error > 0, -np.inf, np.inf).astype(np.float16)
    other = np.where((error == 0) | (nearest == 0), nearest, np.nextafter(nearest, toward))
    step = other.astype(np.float64) - nearest
    total = error.sum(axis=1)
    helps = step * total[:, None] < 0
    price = np.where(helps, step + 2 * error, np.inf)  # ((e + d)^2 - e^2) / d
    order = np.argsort(np.abs(price), axis=1, kind="stable")[:, :MOST_MOVED]
    rows = np.arange(len(array))
    for column in order.T:
        moved = total + step[rows, column]
        taken = helps[rows, column] & (np.abs(moved) < np.abs(total))
        total = np.where(taken, moved, total)
        result[rows[taken], column[taken]] = other[rows[taken], column[taken]]
    return result


def _largest(array: Floats) -> float:
    return float(array.ravel()[np.abs(array).argmax()])


def _few(array: Floats, half: Floats) -> str:
    error = np.abs(half.astype(np.float64) - array)
    lost = error > MOST_RELATIVE * np.abs(array.astype(np.float64))
    return f"its value {array[lost].flat[0]:.4g} would become {half[lost].flat[0]:.4g}" if lost.any() else ""


def _sqnr_db(array: Floats, half: Floats) -> float:
    compared = Comparison()
    for start in range(0, array.size, BLOCK):
        compared = compared.add(array[start : start + BLOCK], half[start : start + BLOCK])
    return compared.sqnr_db


def _many(array: Floats, half: Floats) -> str:
    quality = _sqnr_db(array.ravel(), half.ravel())
    if quality < ENOUGH_DB:
        return f"its values are too small for float16: {quality:.1f} dB, expected {ENOUGH_DB:g}"
    for axis in range(array.ndim):
        others = tuple(a for a in range(array.ndim) if a != axis)
        before, after = (np.abs(a).max(axis=others) for a in (array, half))
        vanished = int(np.count_nonzero((after == 0) & (before > RESOLUTION * before.max())))
        if vanished:
            return f"{vanished} of its {array.shape[axis]} slices along axis {axis} would become zero"
    return ""
