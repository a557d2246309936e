"""What onnxruntime's integer kernels compute, in numpy, bit for bit (CPU provider, x86-64 with FMA).

Arrays and parameters in, arrays out; knows nothing of ONNX graphs, of onnxruntime or of quantcli. Every step that
rounds is written out in float32, in the kernel's own order: a more exact formula would be a different one. Clip, Max,
Min and ReduceMax have no entry: they are numpy's own. `test_integer_kernels.py` proves the rest against the runtime.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Ints = npt.NDArray[np.integer]
    Floats = npt.NDArray[np.float32]

F32: Final = np.float32

# The rational approximation of tanh(x/2)/2 that onnxruntime shares with Eigen (MLAS logistic.cpp), highest power first.
_LOGISTIC_RANGE: Final = F32(18)
_LOGISTIC_ODD: Final = (
    4.37031012579801e-11,
    1.15627324459942e-07,
    6.08574864600143e-05,
    8.51377133304701e-03,
    2.48287947061529e-01,
)
_LOGISTIC_EVEN: Final = (
    6.10247389755681e-13,
    5.76102136993427e-09,
    6.29106785017040e-06,
    1.70198817374094e-03,
    1.16817656904453e-01,
    9.93151921023180e-01,
)


class Grid(NamedTuple):
    """An affine grid ``real = scale * (q - zero_point)``; the zero point's dtype is the tensor's.

    Both are rank 0 per tensor, or rank 1 with one entry per channel of a weight.
    """

    scale: Floats
    zero_point: Ints


# ---- rounding --------------------------------------------------------------------------------------------------------


def quantize_linear(x: Floats, grid: Grid, *, axis: int = 1) -> Ints:
    """Return ``saturate(rint(x / scale) + zero_point)``; NaN becomes the smallest integer."""
    scale, zero = _along(grid, axis, x.ndim)
    with np.errstate(over="ignore"):  # an infinity saturates like any other large number
        steps = x.astype(F32) / scale
    return _saturate(np.where(np.isnan(steps), F32(-np.inf), steps), zero, grid.zero_point.dtype)


def dequantize_linear(q: Ints, grid: Grid, *, axis: int = 1) -> Floats:
    """Return ``f32(q - zero_point) * scale``."""
    scale, zero = _along(grid, axis, q.ndim)
    return (q.astype(np.int64) - zero).astype(F32) * scale


def requantize(  # noqa: PLR0917 - the formula has six numbers
    acc: Ints,
    scale_x: npt.ArrayLike,
    scale_w: npt.ArrayLike,
    scale_y: npt.ArrayLike,
    zp_y: npt.ArrayLike,
    dtype: npt.DTypeLike,
) -> Ints:
    """Return an int32 accumulator on the grid of the output: the epilogue of every integer convolution and product.

    Args:
        acc: Accumulators; larger integers wrap to int32 first, as in the kernel.
        scale_x: Scale of the activation.
        scale_w: Scale of the weight, rank 0 or aligned with the last axis of ``acc``.
        scale_y: Scale of the output.
        zp_y: Zero point of the output.
        dtype: Type of the output.
    """
    ratio = F32(scale_x) * np.asarray(scale_w, F32) / F32(scale_y)
    return _saturate(acc.astype(np.int32).astype(F32) * ratio, np.asarray(zp_y, np.int64), np.dtype(dtype))


# ---- accumulating kernels --------------------------------------------------------------------------------------------


def qlinear_conv(
    x: Ints,
    w: Ints,
    bias: Ints | None,
    grids: tuple[Grid, Grid, Grid],
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> Ints:
    """Convolve ``x`` (N, C, *spatial) with ``w`` (M, C/group, *kernel); ``grids`` are those of x, w and the output.

    ``pads`` has the ONNX order (all begins, then all ends); padding stands for the real number zero. ``bias`` is
    int32 (M,). Sums wrap to int32.
    """
    grid_x, grid_w, _ = grids
    rank = x.ndim - 2
    padded = _padded(x.astype(np.int64) - int(grid_x.zero_point), pads, 0)
    patches = _windows(padded, w.shape[2:], strides or [1] * rank, dilations or [1] * rank)  # (N, C, *out, *kernel)
    weight = w.astype(np.int64) - _along(grid_w, 0, w.ndim)[1]
    over = [*range(1, 1 + rank + 1)]  # C/group and the kernel's axes, of the weight
    acc = np.concatenate(
        [
            np.tensordot(part, kernels, ([1, *range(2 + rank, 2 + 2 * rank)], over))  # (N, *out, M/group)
            for part, kernels in zip(np.split(patches, group, axis=1), np.split(weight, group), strict=True)
        ],
        axis=-1,
    )
    acc = acc if bias is None else acc + bias
    return np.moveaxis(_requantized(acc, grids), -1, 1)


def qlinear_matmul(a: Ints, b: Ints, grids: tuple[Grid, Grid, Grid]) -> Ints:
    """Multiply as ``np.matmul``; the grid of ``b`` may have one entry per column."""
    acc = (a.astype(np.int64) - int(grids[0].zero_point)) @ (b.astype(np.int64) - grids[1].zero_point)
    return _requantized(acc, grids)


def qgemm(
    a: Ints, b: Ints, bias: Ints | None, grids: tuple[Grid, Grid, Grid], *, trans_a: bool = False, trans_b: bool = False
) -> Ints:
    """Return ``a @ b + bias`` for matrices, each transposed first if asked; alpha is 1, ``bias`` int32."""
    left = (a.T if trans_a else a).astype(np.int64) - int(grids[0].zero_point)
    right = (b.T if trans_b else b).astype(np.int64) - grids[1].zero_point
    acc = left @ right
    return _requantized(acc if bias is None else acc + bias, grids)


# ---- element by element ----------------------------------------------------------------------------------------------


def qlinear_add(a: Ints, grid_a: Grid, b: Ints, grid_b: Grid, grid_y: Grid) -> Ints:
    """Add with numpy broadcasting, in two fused multiply-adds; not quite ``quantize(dequantize(a) + dequantize(b))``.

    The operand that the kernel walks through comes last: ``b`` where the innermost axis of ``a`` is broadcast, else
    ``a``. Hence the bits do not depend on the layout as long as the smaller operand is the second.
    """
    if _is_broadcast_inside(a.shape, b.shape):
        a, grid_a, b, grid_b = b, grid_b, a, grid_a
    ratio_a, ratio_b = grid_a.scale / grid_y.scale, grid_b.scale / grid_y.scale
    zeros = _fma(ratio_a, F32(grid_a.zero_point), ratio_b * F32(grid_b.zero_point))
    steps = _fma(a.astype(F32), ratio_a, _fma(b.astype(F32), ratio_b, F32(grid_y.zero_point) - zeros))
    return _saturate(steps, 0, grid_y.zero_point.dtype)


def qlinear_mul(a: Ints, grid_a: Grid, b: Ints, grid_b: Grid, grid_y: Grid) -> Ints:
    """Multiply with numpy broadcasting; the zero point is added in float32, before the rounding."""
    acc = (a.astype(np.int32) - int(grid_a.zero_point)) * (b.astype(np.int32) - int(grid_b.zero_point))
    ratio = grid_a.scale * grid_b.scale / grid_y.scale
    return _saturate(acc.astype(F32) * ratio + F32(grid_y.zero_point), 0, grid_y.zero_point.dtype)


def qlinear_concat(parts: Sequence[tuple[Ints, Grid]], grid_y: Grid, *, axis: int) -> Ints:
    """Concatenate, each part moved to the grid of the output (one that is there already does not change)."""
    return np.concatenate([_regrid(q, grid, grid_y) for q, grid in parts], axis=axis)


def qlinear_where(condition: npt.NDArray[np.bool_], x: tuple[Ints, Grid], y: tuple[Ints, Grid], grid_z: Grid) -> Ints:
    """Select with numpy broadcasting, each side moved to the grid of the output."""
    return np.where(condition, _regrid(*x, grid_z), _regrid(*y, grid_z))


def qlinear_leaky_relu(x: Ints, grid_x: Grid, grid_y: Grid, *, alpha: float) -> Ints:
    """Keep what is positive, scale the rest by ``alpha`` (0 makes it a Relu that requantizes)."""
    real = dequantize_linear(x, grid_x)
    return quantize_linear(np.where(real >= 0, real, F32(alpha) * real), grid_y)


def qlinear_sigmoid(x: Ints, grid_x: Grid, grid_y: Grid) -> Ints:
    """Return the logistic function by the kernel's own approximation, polynomials in x² with fused multiply-adds."""
    real = np.clip(dequantize_linear(x, grid_x), -_LOGISTIC_RANGE, _LOGISTIC_RANGE)
    odd = real * _polynomial(_LOGISTIC_ODD, real * real)
    even = _polynomial(_LOGISTIC_EVEN, real * real)
    return quantize_linear(np.maximum(odd / even + F32(0.5), F32(0)), grid_y)


def qlinear_softmax(x: Ints, grid_x: Grid, grid_y: Grid, *, axis: int = -1) -> Ints:
    """Return the softmax (opset 13) over ``axis`` of a uint8 tensor, from a table of 256 scaled exponentials.

    The kernel multiplies by ``floor(1 / scale_y)`` in float32: 1/256 is exact, 1/255 becomes 1/254. One value alone on
    its axis overflows to the zero point, and is not modelled.
    """
    rows = np.moveaxis(x, axis, -1)  # (..., D)
    table = _exponentials(float(grid_x.scale), rows.shape[-1])
    terms = table[rows.astype(np.int64) + (255 - rows.max(-1, keepdims=True).astype(np.int64))]
    total = np.cumsum(terms, axis=-1, dtype=F32)[..., -1:]  # one after the other: the order decides the rounding
    steps = np.rint(terms * np.floor(F32(1) / grid_y.scale) / total) + F32(grid_y.zero_point)
    return np.moveaxis(np.minimum(steps, 255).astype(np.uint8), -1, axis)


def pad(x: Ints, pads: Sequence[int], *, mode: str = "constant", value: int = 0) -> Ints:
    """Pad all axes; ``pads`` has the ONNX order, all begins and then all ends; ``mode`` as in ONNX and numpy."""
    widths = list(zip(pads[: x.ndim], pads[x.ndim :], strict=True))
    return np.pad(x, widths, mode, **({"constant_values": value} if mode == "constant" else {}))


def negate(q: Ints) -> Ints:
    """Return ``255 - q``, which is ``-real`` on the grid of the same scale and zero point ``255 - zero_point``."""
    return (255 - q.astype(np.int64)).astype(np.uint8)


def lookup(table: Ints, q: Ints) -> Ints:
    """Return ``table[q]`` for a table of 256 entries and uint8 ``q``."""
    return table[q]


# ---- pools -----------------------------------------------------------------------------------------------------------


def qlinear_global_average_pool(x: Ints, grid_x: Grid, grid_y: Grid) -> Ints:
    """Average over all spatial axes: an exact sum, then one multiplication."""
    axes = tuple(range(2, x.ndim))
    count = math.prod(x.shape[2:])
    acc = x.astype(np.int64).sum(axes, keepdims=True) - int(grid_x.zero_point) * count
    ratio = grid_x.scale / (grid_y.scale * F32(count))
    return _saturate(acc.astype(F32) * ratio, int(grid_y.zero_point), grid_y.zero_point.dtype)


def qlinear_average_pool(
    x: Ints,
    grids: tuple[Grid, Grid],
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Ints:
    """Average over windows: a float32 sum of dequantized values in row-major order.

    ``grids`` are those of x and the output. A window that covers the whole unpadded input is summed exactly instead, as
    by `qlinear_global_average_pool`. ``count_include_pad`` divides by the whole kernel even where ``ceil_mode`` lets a
    window hang over the padding, which is not what ONNX says: do not emit the two together.
    """
    grid_x, grid_y = grids
    rank = len(kernel)
    if tuple(kernel) == x.shape[2:] and not any(pads or []):
        return qlinear_global_average_pool(x, grid_x, grid_y)
    steps, ones = strides or [1] * rank, [1] * rank
    ends = _ceiled(x.shape[2:], kernel, steps, pads or [0] * (2 * rank)) if ceil_mode else pads
    real = _windows(_padded(dequantize_linear(x, grid_x), ends, 0), kernel, steps, ones)
    inside = _windows(_padded(np.ones(x.shape, np.int64), ends, 0), kernel, steps, ones)
    flat = real.reshape(*real.shape[: 2 + rank], -1)
    total = np.cumsum(flat, axis=-1, dtype=F32)[..., -1]  # padding adds zeros, which change no float32 sum
    count = math.prod(kernel) if count_include_pad else inside.sum(tuple(range(2 + rank, 2 + 2 * rank)))
    mean = total / np.asarray(count, F32)
    return _saturate(mean / grid_y.scale + F32(grid_y.zero_point), 0, grid_y.zero_point.dtype)


def max_pool(
    x: Ints,
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Ints:
    """Return the largest of each window; padding never wins."""
    rank = len(kernel)
    steps, gaps = strides or [1] * rank, dilations or [1] * rank
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
    ends = _ceiled(x.shape[2:], spans, steps, pads or [0] * (2 * rank)) if ceil_mode else pads
    windows = _windows(_padded(x, ends, np.iinfo(x.dtype).min), kernel, steps, gaps)
    return windows.max(axis=tuple(range(2 + rank, 2 + 2 * rank)))


# ---- shared steps ----------------------------------------------------------------------------------------------------


def _requantized(acc: Ints, grids: tuple[Grid, Grid, Grid]) -> Ints:
    grid_x, grid_w, grid_y = grids
    return requantize(acc, grid_x.scale, grid_w.scale, grid_y.scale, grid_y.zero_point, grid_y.zero_point.dtype)


def _saturate(steps: Floats, zero: npt.ArrayLike, dtype: np.dtype[np.integer]) -> Ints:
    limits = np.iinfo(dtype)
    rounded = np.rint(steps).astype(np.float64) + np.asarray(zero, np.float64)
    return np.clip(rounded, limits.min, limits.max).astype(dtype)


def _regrid(q: Ints, grid: Grid, target: Grid) -> Ints:
    return quantize_linear(dequantize_linear(q, grid), target)


def _along(grid: Grid, axis: int, rank: int) -> tuple[Floats, Ints]:
    shape = [-1 if i == axis % rank else 1 for i in range(rank)] if grid.scale.ndim else []
    return grid.scale.reshape(shape), grid.zero_point.astype(np.int64).reshape(shape)


def _padded(x: npt.NDArray[np.generic], pads: Sequence[int] | None, value: int) -> npt.NDArray[np.generic]:
    rank = x.ndim - 2
    ends = pads or [0] * (2 * rank)
    return np.pad(x, [(0, 0), (0, 0), *zip(ends[:rank], ends[rank:], strict=True)], constant_values=value)


def _ceiled(sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> list[int]:
    """Return ``pads`` with ends that let a last, partial window in, unless it would start beyond the input."""
    begins, ends = pads[: len(sizes)], []
    for size, span, stride, begin, end in zip(sizes, spans, strides, begins, pads[len(sizes) :], strict=True):
        last = -(-(size + begin + end - span) // stride)  # index of the last window
        last -= last * stride >= size + begin
        ends.append(max(last * stride + span - size - begin, 0))
    return [*begins, *ends]


def _windows(
    x: npt.NDArray[np.generic], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> npt.NDArray[np.generic]:
    """Return the windows of ``x`` (N, C, *spatial) as a view (N, C, *out, *kernel)."""
    rank = len(kernel)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, spans, axis=tuple(range(2, 2 + rank)))
    return view[(slice(None), slice(None), *(slice(None, None, s) for s in (*strides, *dilations)))]


def _is_broadcast_inside(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Tell whether ``shape`` has 1 and ``other`` more along the innermost axis that is not 1 in both."""
    pairs = itertools.zip_longest(reversed(shape), reversed(other), fillvalue=1)
    return next((own == 1 for own, others in pairs if own != 1 or others != 1), False)


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    value = np.full(x.shape, coefficients[0], F32)
    for coefficient in coefficients[1:]:
        value = _fma(value, x, F32(coefficient))
    return value


def _fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """Return ``a * b + c`` of float32, rounded once: float64 rounds to odd, so that float32 rounds it right."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # exact
    addend = np.asarray(c, np.float64)
    total = np.atleast_1d(product + addend)
    part = total - product
    error = (product - (total - part)) + (addend - part)  # what the float64 sum lost (Knuth's two-sum)
    towards = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    is_even = total.view(np.int64) % 2 == 0
    odd = np.where((error != 0) & is_even, towards, total)
    return odd.astype(F32).reshape(np.broadcast_shapes(product.shape, addend.shape))


def _exponentials(scale: float, count: int) -> Floats:
    """Return the exponentials of a softmax over ``count`` values, scaled so that float32 holds their sum."""
    room = F32(math.log(np.finfo(F32).max / F32(count)))
    shift = max(0.0, float(room) - 5) / scale
    return np.array([math.exp((i - 255 + shift) * scale) for i in range(256)], F32)
