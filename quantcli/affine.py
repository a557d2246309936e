"""Affine quantization in numpy: ranges to parameters, real numbers to integers and back.

Formulas are those of the ONNX QuantizeLinear operator and of LiteRT's 8-bit specification: zero is always exactly
representable, rounding is half to even. Knows nothing of ONNX graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from quantcli.dtypes import INT32, UINT8
from quantcli.quant import PerAxis, PerTensor, QuantParams, QuantSpec

if TYPE_CHECKING:
    import numpy.typing as npt

T = TypeVar("T", bound=np.generic)

# The smallest scale that is ever chosen: so far above the subnormals of float32 that products of two stay normal.
SMALLEST_SCALE: Final = np.float32(2.0**-60)
# int32 biases may use half of the range, as in LiteRT's bias overflow guard; the other half is for the accumulator.
BIAS_LIMIT: Final = 2**30


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
        Parameters whose range holds ``[low, high]`` up to half a step. An empty range (all zero) gets scale 1.
    """
    lo = np.minimum(np.asarray(low, np.float64), 0.0)
    hi = np.maximum(np.asarray(high, np.float64), 0.0)
    if spec.symmetric:
        half = (spec.qmax - spec.qmin) / 2 if not spec.dtype.signed else spec.qmax
        span, steps = np.maximum(-lo, hi), float(half)
    else:
        span, steps = hi - lo, float(spec.qmax - spec.qmin)
    scale = np.where(span > 0, span / steps, 1.0)
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
    axis = spec.granularity.axis if isinstance(spec.granularity, PerAxis) else None
    if not weight.size:
        none = np.zeros(() if axis is None else weight.shape[axis])
        return choose_params(none, none, spec)
    rest = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    floor = np.maximum(np.asarray(smallest_scale, np.float32), SMALLEST_SCALE)
    return choose_params(weight.min(axis=rest), weight.max(axis=rest), spec, smallest_scale=floor)


def quantize(real: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[np.integer]:
    """Round ``real`` to integers, half to even, and saturate: ``clip(rint(x / scale) + zero_point)``."""
    scale, zero = _aligned(params, real.ndim)
    with np.errstate(over="ignore"):  # what overflows saturates
        steps = np.rint(np.asarray(real, np.float32) / scale).astype(np.float64) + zero
    # numpy turns rank 0 into scalars on the way
    return np.asarray(np.clip(steps, params.spec.qmin, params.spec.qmax), params.spec.dtype.storage)


def dequantize(integers: npt.NDArray[np.integer], params: QuantParams) -> npt.NDArray[np.float32]:
    """Return ``(integers - zero_point) * scale`` as float32."""
    scale, zero = _aligned(params, integers.ndim)
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


def exact_grid(scale: float, zero_point: int) -> QuantParams:
    """Return uint8 parameters that were fixed beforehand, such as 1/256 and 0 for a Softmax output."""
    spec = QuantSpec(UINT8, symmetric=False)
    return QuantParams(spec, _frozen(np.asarray(scale, np.float32)), _frozen(np.asarray(zero_point, np.uint8)))


def _frozen(array: npt.NDArray[T]) -> npt.NDArray[T]:
    # np.ascontiguousarray would turn rank 0 into rank 1, which onnxruntime refuses for per-tensor scales
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy


def _aligned(params: QuantParams, rank: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    scale, zero = params.scale, params.zero_point.astype(np.float64)
    if params.axis is None:
        return scale, zero
    shape = [1] * rank
    shape[params.axis] = -1
    return scale.reshape(shape), zero.reshape(shape)
