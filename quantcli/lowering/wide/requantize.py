"""The end of every wide operator: float64 steps of the output's grid -> rounded half to even, limited, int16.

Rounding is an addition: at 1.5 * 2**52 neighbouring float64 numbers are one apart, so that adding this constant and
taking it away again is rint, exactly, for everything below 2**51; what is larger saturates. It takes a third of the
time of the Round operator, and a BatchNormalization adds it while it multiplies by a factor per channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.lowering.wide.planes import CARRIER, SHIFT, keep_real, shift_of
from quantcli.wide_applicability import ARITHMETIC
from quantcli.writer import stem

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.plan import Unit
    from quantcli.writer import Writer

    Floats = npt.NDArray[np.float64]

_DOUBLE: Final = "double"
_SHIFTED: Final = "shifted"
_ENDS: Final = ("smallest", "largest")
_IN_FLOAT64: Final = ARITHMETIC | {"GlobalAveragePool", "ReduceMean", "ReduceSum", "Where"}

MAGIC: Final = 1.5 * 2.0**52
Limits = tuple[int, int]


def limits_of(writer: Writer, unit: Unit) -> Limits:
    """Return the smallest and largest integer of a unit's output: its absorbed clamp, or the ends of its grid."""
    spec = writer.params_of(unit.output).spec
    return writer.limits(unit.output, unit.clamp) or (spec.qmin, spec.qmax)


def cast(writer: Writer, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """Append a Cast; integers wrap."""
    return writer.emit("Cast", [value], {"to": int(dtype)}, name=f"{name}_{dtype.name.lower()}")


def number(writer: Writer, value: float) -> ir.Value:
    """Return a float64 constant of rank 0."""
    return writer.constant(f"double_{value:.6g}", np.asarray(value, np.float64))


def scale_of(writer: Writer, tensor: str) -> np.float64:
    """Return the scale of an activation as float64."""
    return np.float64(writer.params_of(tensor).scale)


def ratio(writer: Writer, tensor: str, unit: Unit) -> np.float64:
    """Return how many steps of the unit's output one step of a tensor is."""
    return np.float64(scale_of(writer, tensor) / scale_of(writer, unit.output))


def doubles(writer: Writer, tensor: str) -> ir.Value:
    """Return the integers of a tensor as float64 numbers.

    Where only float64 arithmetic reads the tensor they are taken before the cast to int16, which nobody then needs.
    """
    key = (tensor, _DOUBLE)
    if key not in writer.facets:
        if (tensor, _SHIFTED) in writer.facets and _is_read_in_float64(writer, tensor):
            shifted, low, high = (writer.facets[tensor, form] for form in (_SHIFTED, *_ENDS))
            steps = writer.emit("Sub", [shifted, number(writer, MAGIC)], name=f"{stem(tensor)}_whole")
            writer.facets[key] = writer.emit("Clip", [steps, low, high], name=f"{stem(tensor)}_within")
        else:
            writer.facets[key] = cast(writer, writer.quantized(tensor), ir.DataType.DOUBLE, stem(tensor))
    return writer.facets[key]


def steps_of(writer: Writer, tensor: str, unit: Unit) -> ir.Value:
    """Return the float64 steps of the unit's output that the integers of a tensor stand for: q * (s / s_y)."""
    name, factor = stem(tensor), ratio(writer, tensor, unit)
    real = doubles(writer, tensor)
    return real if factor == 1 else writer.emit("Mul", [real, number(writer, float(factor))], name=f"{name}_steps")


def channels_rounded(writer: Writer, unit: Unit, total: ir.Value, factors: Floats) -> ir.Value:
    """Return int16 of float64 sums (N, C, ...) times one factor for each channel."""
    name, count = stem(unit.node), len(factors)
    ones, zeros = np.ones(count), np.zeros(count)
    statistics = [np.asarray(factors, np.float64), np.full(count, MAGIC), zeros, ones]
    operands = [total, *(writer.constant(f"{name}_{w}", a) for w, a in zip(_BATCH_NORM, statistics, strict=True))]
    shifted = writer.emit("BatchNormalization", operands, {"epsilon": 0.0}, name=f"{name}_requantize")
    return _from_shifted(writer, unit.output, shifted, limits_of(writer, unit))


def scaled_rounded(writer: Writer, unit: Unit, total: ir.Value, factors: Floats | np.float64) -> ir.Value:
    """Return int16 of float64 sums times a factor, or one for each index of the last axis."""
    factor = writer.constant(f"{stem(unit.node)}_ratio", np.asarray(factors, np.float64))
    steps = writer.emit("Mul", [total, factor], name=f"{stem(unit.node)}_requantize")
    return rounded(writer, unit, steps)


def rounded(writer: Writer, unit: Unit, steps: ir.Value) -> ir.Value:
    """Return int16 of float64 steps of the unit's output."""
    return tensor_rounded(writer, unit.output, steps, limits_of(writer, unit))


def tensor_rounded(writer: Writer, tensor: str, steps: ir.Value, limits: Limits) -> ir.Value:
    """Return int16 of float64 steps of a tensor's grid, within limits."""
    shifted = writer.emit("Add", [steps, number(writer, MAGIC)], name=f"{stem(tensor)}_rounding")
    return _from_shifted(writer, tensor, shifted, limits)


def inside(writer: Writer, name: str, steps: ir.Value, limits: Limits) -> ir.Value:
    """Return int16 of float64 steps that belong to no tensor of the model."""
    magic = number(writer, MAGIC)
    shifted = writer.emit("Add", [steps, magic], name=f"{name}_rounding")
    whole = writer.emit("Sub", [shifted, magic], name=f"{name}_steps")
    real = _clipped(writer, name, cast(writer, whole, ir.DataType.FLOAT, name), limits)
    return cast(writer, real, ir.DataType.INT16, name)


def clamped(writer: Writer, unit: Unit, integers: ir.Value) -> ir.Value:
    """Return int16 within the unit's limits."""
    limits = writer.limits(unit.output, unit.clamp)
    if limits is None:
        return integers
    if limits[0] >= 0:
        writer.nonnegative.add(unit.output)
    real = cast(writer, integers, ir.DataType.FLOAT, stem(unit.output))
    within = _clipped(writer, stem(unit.output), real, limits)
    keep_real(writer, unit.output, within)
    return cast(writer, within, ir.DataType.INT16, f"{stem(unit.output)}_clamped")


def _from_shifted(writer: Writer, tensor: str, shifted: ir.Value, limits: Limits) -> ir.Value:
    """Take the rounding constant off again, limit, make int16; the float32 numbers on the way serve the planes too."""
    name = stem(tensor)
    if limits[0] >= 0:
        writer.nonnegative.add(tensor)
    offset = shift_of(writer, tensor)
    writer.facets[tensor, _SHIFTED] = shifted
    for form, limit in zip(_ENDS, limits, strict=True):
        writer.facets[tensor, form] = number(writer, limit)
    steps = writer.emit("Sub", [shifted, number(writer, MAGIC - offset)], name=f"{name}_steps")
    real = cast(writer, steps, ir.DataType.FLOAT, name)
    if offset == 0 or limits != (-32768, 32767):
        real = _clipped(writer, name, real, (limits[0] + offset, limits[1] + offset))
    writer.facets[tensor, CARRIER] = real
    if offset == 0:
        return cast(writer, real, ir.DataType.INT16, f"{name}_quantized")
    back = [
        writer.constant("scale_1", np.asarray(1, np.float32)),
        writer.constant(f"shift_{SHIFT}", np.asarray(-offset, np.int16)),
    ]
    domain = graph.MICROSOFT if graph.opset(writer.model) < 21 else ""
    saturated = writer.emit(
        "QuantizeLinear", [real, *back], name=f"{name}_saturate", domain=domain, output_name=f"{name}_quantized"
    )
    producer = saturated.producer()
    writer.arithmetic.update([producer.name] if producer is not None and producer.name else [])
    return saturated


def _clipped(writer: Writer, name: str, real: ir.Value, limits: Limits) -> ir.Value:
    ends = [writer.constant(f"limit_{v}", np.asarray(v, np.float32)) for v in limits]
    return writer.emit("Clip", [real, *ends], name=f"{name}_clip")


def _is_read_in_float64(writer: Writer, tensor: str) -> bool:
    readers = {n.op_type for n, _ in graph.consumers(writer.values[tensor])}
    return readers <= _IN_FLOAT64 and writer.values[tensor] not in writer.graph.outputs


_BATCH_NORM: Final = ("ratios", "magic", "zeros", "ones")
