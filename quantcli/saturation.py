"""Where sums of two products of bytes leave 16 bits: x86 CPUs without VNNI. numpy only; knows no graphs.

Without VNNI, onnxruntime's kernels for uint8 x int8 (AVX2 and AVX512 alike) use ``vpmaddubsw``: it adds the products of
two neighbours along the summed axis and *saturates* at 16 bits, ``clip(x0 w0 + x1 w1, -32768, 32767)``. Bytes count as
they are stored: zero points are taken off the sums afterwards. With x in [0, 255], ``x0 w0 + x1 w1`` is largest where x
is 255 at positive weights and 0 elsewhere, and smallest the other way round. So nothing saturates where

    255 (max(w0, 0) + max(w1, 0)) <= 32767   and   255 (max(-w0, 0) + max(-w1, 0)) <= 32768,

which holds where two weights of one sign sum to at most 128 in size. Which weights of a channel are neighbours is the
kernel's affair: for onnxruntime 1.31 the first and the second, the third and the fourth along K, of a convolution in
the order kernel position, input channel. The bounds here hold for any two weights of a channel, in whatever order a
kernel packs them.

uint8 x uint8 and int8 x int8 are added in 32 bits on x86, which is exact. So is everything on VNNI, and so is uint8 on
Arm, where both factors are widened to 16 bits and added in 32 (``umlal``, ``udot``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from quantcli import affine
from quantcli.quant import PerAxis, PerBlock

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.quant import QuantSpec

    Ints = npt.NDArray[np.integer]

T = TypeVar("T", bound=np.generic)
LOWEST: Final = -(2**15)
HIGHEST: Final = 2**15 - 1
PAIR: Final = HIGHEST // 255
"""The most that two weights of one sign may sum to, in size, for activations in [0, 255]: 128."""


def pair_sums(rows: Ints, low: int, high: int) -> tuple[Ints, Ints]:
    """Return the smallest and the largest ``x0 w0 + x1 w1`` of each channel, over any two of its weights.

    Args:
        rows: Weights as stored, (channels, K).
        low: Smallest stored activation.
        high: Largest stored activation.

    Returns:
        int64, (channels,) each; the sum of a channel with one weight is its product.
    """
    ends = _ends(rows).astype(np.int64)  # a product grows or falls with its weight
    nothing = np.zeros((len(rows), 2), np.int64)  # of an activation that is 0
    sums = np.sort(np.concatenate((ends * low, ends * high, nothing), axis=1), axis=1)
    return sums[:, :2].sum(axis=1), sums[:, -2:].sum(axis=1)


def is_exact(sums: tuple[Ints, Ints]) -> npt.NDArray[np.bool_]:
    """Tell for each channel whether no sum of two products saturates, given ``pair_sums``."""
    lowest, highest = sums
    return (lowest >= LOWEST) & (highest <= HIGHEST)


def exact_scale(weight: npt.NDArray[np.floating], spec: QuantSpec) -> npt.NDArray[np.float32]:
    """Return the smallest scale(s) whose weights, rounded to nearest, saturate with no uint8 activations.

    Two weights of one sign that sum to 127 steps are rounded to at most 128.

    Args:
        weight: Real weights.
        spec: How they are quantized; any two that share a scale are taken to share a channel.

    Returns:
        In the shape of the scale(s); 0 where any scale will do, as for uint8 weights.
    """
    rows, shape = _grouped(weight, spec)
    if not spec.dtype.signed:
        return np.zeros(shape, np.float32)
    ends = np.sort(_ends(rows).astype(np.float64), axis=1)
    sums = np.maximum(np.maximum(ends[:, -2:], 0).sum(axis=1), np.maximum(-ends[:, :2], 0).sum(axis=1))
    return np.asarray((sums / (PAIR - 1)).reshape(shape), np.float32)


def limits(integers: Ints) -> tuple[Ints, Ints]:
    """Return how far the weights of channels may move so that no two sum to more than ``PAIR``, in size.

    A channel's largest weight may stay what it is; where it is more than half of ``PAIR``, the others share the rest.

    Args:
        integers: Weights of which no two of one sign sum to more, (..., K).

    Returns:
        Smallest and largest integer of each weight.
    """
    return -_limit(-integers.astype(np.int64)), _limit(integers.astype(np.int64))


def _limit(integers: Ints) -> Ints:
    """Return the largest integer that each weight may become."""
    top = integers.max(axis=-1, keepdims=True, initial=0)
    others = np.minimum(PAIR - top, PAIR // 2)
    found = np.maximum(np.broadcast_to(others, integers.shape), 0)
    first = np.arange(integers.shape[-1]) == integers.argmax(axis=-1)[..., None]
    return np.asarray(np.where((top > PAIR // 2) & first, top, found))


def _ends(rows: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return the two smallest and the two largest of each row, each once, or the whole of shorter rows."""
    if rows.shape[1] <= 4:
        return rows
    split = np.partition(rows, (1, rows.shape[1] - 2), axis=1)
    return np.concatenate((split[:, :2], split[:, -2:]), axis=1)


def _grouped(weight: npt.NDArray[np.floating], spec: QuantSpec) -> tuple[npt.NDArray[np.floating], tuple[int, ...]]:
    """Return the weights as (scales, weights of a scale), and the shape of the scales."""
    grouping = spec.granularity
    if isinstance(grouping, PerBlock):
        blocks = affine.blocks_of(weight, grouping)
        moved = np.moveaxis(blocks, grouping.axis % weight.ndim + 1, -1)
        return moved.reshape(-1, moved.shape[-1]), moved.shape[:-1]
    if isinstance(grouping, PerAxis):
        moved = np.moveaxis(weight, grouping.axis, 0)
        return moved.reshape(len(moved), -1), (len(moved),)
    return weight.reshape(1, -1), ()
