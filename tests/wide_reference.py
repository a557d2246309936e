"""What a 16x8 model computes, in numpy: exact sums in int64, then one multiplication and one rounding in float64.

Arrays and scales in, int16 arrays out; knows nothing of ONNX graphs, of onnxruntime, of planes of bytes or of quantcli.
Every zero point is 0. `test_wide_kernels.py` compares what quantcli writes with it, bit for bit.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Ints = npt.NDArray[np.integer]
    Floats = npt.NDArray[np.float64]

LIMITS = (-32768, 32767)


class Tensor(NamedTuple):
    """Integers and their scale, a float32."""

    q: Ints
    scale: np.float32


class Window(NamedTuple):
    """How a kernel moves over the spatial axes; ``pads`` has the ONNX order, all begins and then all ends."""

    strides: Sequence[int]
    pads: Sequence[int]
    dilations: Sequence[int]

    @classmethod
    def of(cls, rank: int, attributes: dict[str, object]) -> Window:
        """Return what the attributes of a Conv or a pool say."""
        ones = [1] * rank
        return cls(
            attributes.get("strides", ones), attributes.get("pads", [0] * 2 * rank), attributes.get("dilations", ones)
        )


def rounded(steps: Floats, limits: tuple[int, int] = LIMITS) -> Ints:
    """Round half to even and saturate."""
    return np.clip(np.rint(steps), *limits).astype(np.int16)


def requantize(acc: Ints, factor: npt.ArrayLike, limits: tuple[int, int] = LIMITS) -> Ints:
    """Return ``clip(rint(acc * factor))``; sums below 2**53 are exact in float64."""
    return rounded(acc.astype(np.float64) * np.asarray(factor, np.float64), limits)


def factor(scale_x: npt.ArrayLike, scale_w: npt.ArrayLike, scale_y: npt.ArrayLike) -> Floats:
    """Return ``s_x * s_w / s_y`` in float64, from the left."""
    return np.float64(scale_x) * np.asarray(scale_w, np.float64) / np.float64(scale_y)


def conv_sums(x: Ints, w: Ints, window: Window, group: int = 1) -> Ints:
    """Return the sums (N, M, *out) of ``x`` (N, C, *spatial) with ``w`` (M, C / group, *kernel)."""
    taken = windows(x.astype(np.int64), w.shape[2:], window)  # (N, C, *out, kernel)
    n, _, *out, taps = taken.shape
    parts = taken.reshape(n, group, -1, *out, taps)
    kernels = w.astype(np.int64).reshape(group, len(w) // group, -1, taps)
    sums = np.einsum("ngc...t,gmct->ngm...", parts, kernels)
    return sums.reshape(n, len(w), *out)


def windows(x: Ints, kernel: Sequence[int], window: Window) -> Ints:
    """Return the padded windows of ``x`` (N, C, *spatial), one entry of the last axis for each tap."""
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(window.pads[:rank], window.pads[rank:], strict=True)])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, window.dilations, strict=True)]
    out = [(n - s) // t + 1 for n, s, t in zip(padded.shape[2:], spans, window.strides, strict=True)]
    taps = []
    for tap in itertools.product(*(range(k) for k in kernel)):
        starts = [t * d for t, d in zip(tap, window.dilations, strict=True)]
        cut = [slice(a, a + o * s, s) for a, o, s in zip(starts, out, window.strides, strict=True)]
        taps.append(padded[(slice(None), slice(None), *cut)])
    return np.stack(taps, axis=-1)


def add(a: Tensor, b: Tensor, scale: np.float32, sign: int = 1, limits: tuple[int, int] = LIMITS) -> Ints:
    """Add, or subtract, with numpy broadcasting."""
    return rounded(_steps(a, scale) + sign * _steps(b, scale), limits)


def mul(a: Tensor, b: Tensor, scale: np.float32) -> Ints:
    """Multiply with numpy broadcasting."""
    return requantize(a.q.astype(np.int64) * b.q, factor(a.scale, b.scale, scale))


def matmul(a: Tensor, b: Tensor, scale: np.float32) -> Ints:
    """Multiply matrices."""
    return requantize(a.q.astype(np.int64) @ b.q.astype(np.int64), factor(a.scale, b.scale, scale))


def regrid(x: Tensor, scale: np.float32) -> Ints:
    """Move integers to another grid."""
    return rounded(_steps(x, scale))


def mean(sums: Ints, count: int, scale: np.float32, scale_y: np.float32) -> Ints:
    """Return the mean of ``count`` values on the grid of the output (a sum for 1)."""
    return rounded(sums * (np.float64(scale) / np.float64(scale_y)) / count)


def softmax(x: Tensor, scale: np.float32, axis: int) -> Ints:
    """Return shares of integer exponentials, 30 bits for the largest, each from the powers of two digits."""
    high, low = np.divmod(x.q.max(axis, keepdims=True).astype(np.int64) - x.q, 256)
    step = np.float64(x.scale)
    powers = np.rint((np.exp(high * (-256 * step)) * 2.0**30) * np.exp(low * -step))
    total = powers.sum(axis, keepdims=True)
    return rounded(powers * (1 / np.float64(scale)) / total)


def function(f: Callable[[Floats], Floats], x: Tensor, scale: np.float32) -> Ints:
    """Apply a function of float64 numbers to the real numbers that the integers stand for."""
    return rounded(f(x.q * np.float64(x.scale)) / np.float64(scale))


def erf(x: Floats) -> Floats:
    """Return the error function."""
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _steps(x: Tensor, scale: np.float32) -> Floats:
    return x.q * (np.float64(x.scale) / np.float64(scale))
