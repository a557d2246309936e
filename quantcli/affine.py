"""Affine quantization in numpy: ranges to parameters, real numbers to integers and back.

Formulas are those of the ONNX QuantizeLinear operator and of LiteRT's 8-bit specification: zero is always exactly
representable, rounding is half to even. Knows nothing of ONNX graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from quantcli.dtypes import INT32, UINT8
from quantcli.quant import PerAxis, PerBlock, PerTensor, QuantParams, QuantSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.quant import Granularity

T = TypeVar("T", bound=np.generic)
Floor = Callable[["npt.NDArray[np.floating]", QuantSpec], "npt.NDArray[np.float32]"]
"""Gives the smallest scale(s) that a constant may have."""

# The smallest scale that is ever chosen: so far above the subnormals of float32 that products of two stay normal.
SMALLEST_SCALE: Final = np.float32(2.0**-60)
# int32 biases may use half of the range, as in LiteRT's bias overflow guard; the other half is for the accumulator.
BIAS_LIMIT: Final = 2**30
EIGHT_BIT: Final = QuantSpec(UINT8, symmetric=False)  # of an activation
# What is tried as the limit of a group when scales are searched, as a share of its extremes, by the bits of the type:
# 4 bits gain finer steps by cutting extremes off; 8 bits gain only by other roundings, near the extremes.
SEARCHED_SHARES: Final = {4: (0.6, 1.0), 8: (0.9, 1.1)}
SEARCHED: Final = (21, 201)  # how many shares are tried, at least and at most
SEARCHED_ELEMENTS: Final = 2**26  # and about how many elements are rounded in all
SEARCHED_AT_ONCE: Final = 2**21  # elements: bounds the memory, whatever the size of the weight


def choose_params(
    low: npt.ArrayLike, high: npt.ArrayLike, spec: QuantSpec, *, smallest_scale: npt.ArrayLike = SMALLEST_SCALE
) -> QuantParams:
    """Choose scale and zero point for the range ``[low, high]``, widened to hold zero.

    Args:
        low: Smallest value(s); rank 0 per tensor, one per index of the axis otherwise.
        high: Largest value(s), same shape.
        spec: What is wanted.
        smallest_scale: A lower bound on the scale(s), for example from the bias overflow guard.

    Returns:
        Parameters whose range holds ``[low, high]`` up to half a step. An empty range (all zero) gets scale 1; an empty
        block the smallest scale: onnxruntime's MatMulNBits takes the zero point off a sum, and what float32 loses there
        (1e-4 for inputs of a few) is multiplied by the scale.
    """
    lo = np.minimum(np.asarray(low, np.float64), 0.0)
    hi = np.maximum(np.asarray(high, np.float64), 0.0)
    if spec.symmetric:
        half = (spec.qmax - spec.qmin) / 2 if not spec.dtype.signed else spec.qmax
        span, steps = np.maximum(-lo, hi), float(half)
    else:
        span, steps = hi - lo, float(spec.qmax - spec.qmin)
    scale = np.where(span > 0, span / steps, SMALLEST_SCALE if isinstance(spec.granularity, PerBlock) else 1.0)
    scale32 = np.maximum(scale.astype(np.float32), np.asarray(smallest_scale, np.float32)).astype(np.float32)
    if spec.symmetric:
        zero = np.full(scale32.shape, 0 if spec.dtype.signed else (spec.qmax + 1) // 2, np.float64)
    else:
        zero = np.clip(np.rint(spec.qmin - lo / scale32.astype(np.float64)), spec.qmin, spec.qmax)
    return QuantParams(spec, _frozen(scale32.astype(np.float32)), _frozen(zero.astype(spec.dtype.storage)))


def weight_params(
    weight: npt.NDArray[np.floating], spec: QuantSpec, *, smallest_scale: npt.ArrayLike = 0
) -> QuantParams:
    """Choose the parameters of a constant from its own extremes; dead channels (all zero) get scale 1."""
    low, high = _extremes(weight, spec.granularity)
    floor = np.maximum(np.asarray(smallest_scale, np.float32), SMALLEST_SCALE) if weight.size else SMALLEST_SCALE
    return choose_params(low, high, spec, smallest_scale=floor)


def searched_params(
    weight: npt.NDArray[np.floating], spec: QuantSpec, *, mean: float = 0.0, floor: Floor | None = None
) -> QuantParams:
    """Choose the parameters of a constant whose rounding changes the products with it least, group by group.

    With inputs of variance 1 and mean m, rounding errors d change a product by ``sum(d**2) + m**2 * sum(d)**2`` in the
    square. Each group (tensor, channel or block) tries ``SEARCHED_SHARES`` of its range; of equals the first wins.

    Args:
        weight: The constant.
        spec: What is wanted.
        mean: ``m**2``; what comes out of a Relu has 0.47 (a rectified normal distribution).
        floor: Gives the smallest scales allowed; the search then begins at them where the extremes ask for less.
    """
    shares, grouping = _shares(spec, weight.size), spec.granularity
    axes = [a for a in range(weight.ndim) if not isinstance(grouping, PerBlock) or a != grouping.axis % weight.ndim]
    if isinstance(grouping, PerTensor) or not axes or not weight.size:
        return _searched(weight, spec, shares, mean, floor)
    axis = grouping.axis if isinstance(grouping, PerAxis) else axes[0]
    pieces = min(weight.shape[axis], -(-weight.size // SEARCHED_AT_ONCE))
    split = np.array_split(weight, pieces, axis)
    found = [_searched(np.ascontiguousarray(piece), spec, shares, mean, floor) for piece in split]
    along = 0 if isinstance(grouping, PerAxis) else axis
    scale = np.concatenate([p.scale for p in found], along)
    return QuantParams(spec, _frozen(scale), _frozen(np.concatenate([p.zero_point for p in found], along)))


def transposed_spec(spec: QuantSpec) -> QuantSpec:
    """Return the spec of the transpose of a matrix."""
    grouping = spec.granularity
    return (
        spec
        if isinstance(grouping, PerTensor)
        else replace(spec, granularity=replace(grouping, axis=1 - grouping.axis))
    )


def transposed(params: QuantParams) -> QuantParams:
    """Return the parameters of the transpose of a matrix."""
    return QuantParams(transposed_spec(params.spec), _frozen(params.scale.T), _frozen(params.zero_point.T))


def blocks_of(array: npt.NDArray[T], granularity: PerBlock) -> npt.NDArray[T]:
    """Return the array with its blocked axis in two, (blocks, size); the last block is filled up with zeros."""
    axis = granularity.axis % array.ndim
    count = -(-array.shape[axis] // granularity.size)
    missing = count * granularity.size - array.shape[axis]
    if missing:
        array = np.pad(array, [(0, missing if a == axis else 0) for a in range(array.ndim)])
    return array.reshape(*array.shape[:axis], count, granularity.size, *array.shape[axis + 1 :])


def quantize(real: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[np.integer]:
    """Round ``real`` to integers, half to even, and saturate: ``clip(rint(x / scale) + zero_point)``."""
    scale, zero = _aligned(params, real.shape)
    with np.errstate(over="ignore"):  # what overflows saturates
        steps = np.rint(np.asarray(real, np.float32) / scale).astype(np.float64) + zero
    # numpy turns rank 0 into scalars on the way
    return np.asarray(np.clip(steps, params.spec.qmin, params.spec.qmax), params.spec.dtype.storage)


def dequantize(integers: npt.NDArray[np.integer], params: QuantParams) -> npt.NDArray[np.float32]:
    """Return ``(integers - zero_point) * scale`` as float32."""
    scale, zero = _aligned(params, integers.shape)
    return np.asarray((integers.astype(np.float64) - zero).astype(np.float32) * scale, np.float32)


def fake_quantize(real: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[np.float32]:
    """Return the real numbers that quantization makes of ``real``."""
    return dequantize(quantize(real, params), params)


def bias_params(input_scale: npt.ArrayLike, weight: QuantParams) -> QuantParams:
    """Return the int32 parameters of a bias: scale ``s_in * s_w[c]`` in float32, zero point 0, along axis 0."""
    scale = (np.asarray(input_scale, np.float32) * weight.scale).astype(np.float32)
    spec = QuantSpec(INT32, symmetric=True, granularity=PerAxis(0) if scale.ndim else PerTensor())
    return QuantParams(spec, _frozen(scale), _frozen(np.zeros(scale.shape, np.int32)))


def quantize_bias(real: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[np.int32]:
    """Round a bias to int32 steps of ``s_in * s_w[c]``, half to even; float32 would lose the low bits of int32."""
    steps = np.rint(real.astype(np.float64) / params.scale.astype(np.float64))
    return np.clip(steps, -(2**31) + 1, 2**31 - 1).astype(np.int32)


def bias_scale_floor(bias: npt.NDArray[np.floating], input_scale: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the smallest weight scale(s) with which each bias stays within half of int32 (LiteRT's overflow guard)."""
    smallest = np.abs(bias.astype(np.float64)) / (BIAS_LIMIT * np.asarray(input_scale, np.float64))
    return smallest.astype(np.float32)


def shifted_to(params: QuantParams, spec: QuantSpec) -> QuantParams:
    """Return the same real grid for the other 8-bit sign: int8 zero point = uint8 zero point - 128."""
    shift = spec.dtype.qmin - params.spec.dtype.qmin
    zero = params.zero_point.astype(np.int64) + shift
    return QuantParams(spec, params.scale, _frozen(zero.astype(spec.dtype.storage)))


def with_scale(params: QuantParams, scale: npt.NDArray[np.float32]) -> QuantParams:
    """Return the same parameters with other steps, (C,) or rank 0 as theirs."""
    return QuantParams(params.spec, _frozen(scale.astype(np.float32)), params.zero_point)


def exact_grid(scale: float, zero_point: int, spec: QuantSpec = EIGHT_BIT) -> QuantParams:
    """Return parameters that were fixed beforehand, such as 1/256 and 0 for a Softmax output."""
    zero = np.asarray(zero_point, spec.dtype.storage)
    return QuantParams(spec, _frozen(np.asarray(scale, np.float32)), _frozen(zero))


def _frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    # np.ascontiguousarray would turn rank 0 into rank 1, which onnxruntime refuses for per-tensor scales
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy


def _aligned(params: QuantParams, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Return scale and zero point in a form that broadcasts against an array of ``shape``."""
    scale, zero, granularity = params.scale, params.zero_point.astype(np.float64), params.spec.granularity
    if isinstance(granularity, PerTensor):
        return scale, zero
    axis = granularity.axis % len(shape)
    if isinstance(granularity, PerBlock):
        ends = np.arange(shape[axis]) // granularity.size  # the block of each index
        return np.take(scale, ends, axis), np.take(zero, ends, axis)
    aligned = [-1 if a == axis else 1 for a in range(len(shape))]
    return scale.reshape(aligned), zero.reshape(aligned)


def _grouped(array: npt.NDArray[T], granularity: Granularity) -> tuple[npt.NDArray[T], tuple[int, ...] | None]:
    """Return the array and the axes along which values share a scale; None means all of them."""
    if isinstance(granularity, PerTensor):
        return array, None
    axis = granularity.axis % array.ndim
    if isinstance(granularity, PerBlock):
        return blocks_of(array, granularity), (axis + 1,)
    return array, tuple(a for a in range(array.ndim) if a != axis)


def _extremes(
    weight: npt.NDArray[np.floating], granularity: Granularity
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Return the smallest and the largest value of each group; zero is always among them."""
    grouped, axes = _grouped(weight, granularity)
    return np.asarray(grouped.min(axis=axes, initial=0)), np.asarray(grouped.max(axis=axes, initial=0))


def _searched(
    weight: npt.NDArray[np.floating], spec: QuantSpec, shares: list[float], mean: float, floor: Floor | None
) -> QuantParams:
    low, high = _extremes(weight, spec.granularity)
    smallest = np.asarray(SMALLEST_SCALE)
    if floor is not None:
        wanted = floor(weight, spec)
        smallest, widest = np.maximum(wanted, SMALLEST_SCALE), (wanted * (spec.qmax - spec.qmin) / 2).astype(low.dtype)
        low, high = np.minimum(low, -widest), np.maximum(high, widest)
    best = choose_params(low * shares[0], high * shares[0], spec, smallest_scale=smallest)
    least = _product_error(weight, best, mean)
    for share in shares[1:]:
        tried = choose_params(low * share, high * share, spec, smallest_scale=smallest)
        error = _product_error(weight, tried, mean)
        better = error < least
        least = np.where(better, error, least)
        scale = np.where(better, tried.scale, best.scale).astype(np.float32)
        zero = np.where(better, tried.zero_point, best.zero_point).astype(spec.dtype.storage)
        best = QuantParams(spec, _frozen(scale), _frozen(zero))
    return best


def _shares(spec: QuantSpec, size: int) -> list[float]:
    """Return the shares of the range to try; the whole range is the first."""
    fewest, most = SEARCHED
    count = int(np.clip(SEARCHED_ELEMENTS // max(size, 1), fewest, most))
    low, high = SEARCHED_SHARES[min(spec.dtype.bits, 8)]
    return [1.0, *(float(s) for s in np.linspace(low, high, count))]


def _product_error(weight: npt.NDArray[np.floating], params: QuantParams, mean: float) -> npt.NDArray[np.float64]:
    grouped, axes = _grouped(fake_quantize(weight, params).astype(np.float64) - weight, params.spec.granularity)
    squares = np.asarray(np.square(grouped).sum(axis=axes))
    return squares + mean * np.square(grouped.sum(axis=axes)) if mean else squares
