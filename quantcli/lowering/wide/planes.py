"""The bytes of an int16 tensor as two tensors: x = 256 * high + low, shared by all who read the tensor.

Where x may be negative, high = floor(x / 256) in [-128, 127] and low in [0, 255]. Where it is not, the digits are
balanced: low in [-128, 127] is what a cast to int8 leaves, and high = floor((x + 128) / 256) in [0, 128].
High comes from a QuantizeLinear whose scale is a little off 256, so that no quotient lies halfway between two integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli.writer import stem

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.writer import Writer

SHIFT: Final = 32768 - 127
"""What the carrier of a signed tensor adds to its integers: all quotients by 256 are then at least -127/256."""
CARRIER: Final = "carrier"
_REAL: Final = "real"
_MAGIC_256: Final = 1.5 * 2.0**31  # neighbouring float32 numbers are 256 apart here: adding it rounds to multiples
_TILT: Final = 2.0**-18  # anything between 0 and 1.5e-5 parts the ties and nothing else: 255.5 * tilt < 1 / 256


@dataclass(frozen=True, slots=True)
class Planes:
    """Two tensors of one type with their zero points: x = 256 * (high - high_zero) + (low - low_zero)."""

    high: ir.Value
    high_zero: npt.NDArray[np.generic]
    low: ir.Value
    low_zero: npt.NDArray[np.generic]


def shift_of(writer: Writer, tensor: str) -> int:
    """Return what the carrier of a tensor adds to its integers."""
    return 0 if tensor in writer.nonnegative else SHIFT


def real(writer: Writer, tensor: str) -> ir.Value:
    """Return the integers of a tensor as float32 numbers."""
    if shift_of(writer, tensor) == 0 and (tensor, CARRIER) in writer.facets:
        return writer.facets[tensor, CARRIER]
    key = (tensor, _REAL)
    if key not in writer.facets:
        writer.facets[key] = _cast(writer, writer.quantized(tensor), ir.DataType.FLOAT, tensor)
    return writer.facets[key]


def keep_real(writer: Writer, tensor: str, value: ir.Value) -> None:
    """Remember that a value holds the integers of a tensor as float32 numbers."""
    writer.facets[tensor, _REAL] = value
    if tensor in writer.nonnegative:
        writer.facets[tensor, CARRIER] = value


def byte_planes(writer: Writer, tensor: str, *, signed: bool) -> Planes:
    """Return the planes of a tensor as int8 or as uint8."""
    dtype = ir.DataType.INT8 if signed else ir.DataType.UINT8
    integer = np.int8 if signed else np.uint8
    balanced = tensor in writer.nonnegative
    start = -1 if signed and balanced else 0  # of 0 .. 128
    if not balanced:
        start = -128 if signed else 0  # of 0 .. 255, which stand for -128 .. 127
    low_zero = (0 if signed else 128) if balanced else (-128 if signed else 0)
    low = _facet(writer, tensor, f"low {dtype.name}")
    if low is None:
        low = _cast(writer, writer.quantized(tensor), dtype, f"{stem(tensor)}_low")
        if low_zero:  # modulo 256, adding 128 is taking it away
            half = writer.constant("half_turn", np.asarray(128, np.uint8).astype(integer))
            low = writer.emit("Add", [low, half], name=f"{stem(tensor)}_low")
        writer.facets[tensor, f"low {dtype.name}"] = low
    high_zero = start if balanced else start + 128
    high = _high(writer, tensor, np.asarray(start, integer))
    return Planes(high, np.asarray(high_zero, integer), low, np.asarray(low_zero, integer))


def real_planes(writer: Writer, tensor: str) -> tuple[ir.Value, ir.Value]:
    """Return the nearest multiple of 256, and the rest, in [-128, 128], as float32; both are 0 where the tensor is."""
    raised, rest = ((tensor, form) for form in ("raised real", "rest real"))
    if raised not in writer.facets:
        x, name = real(writer, tensor), stem(tensor)
        magic = writer.constant("magic_256", np.asarray(_MAGIC_256, np.float32))
        shifted = writer.emit("Add", [x, magic], name=f"{name}_rounding_256")
        writer.facets[raised] = writer.emit("Sub", [shifted, magic], name=f"{name}_raised")
        writer.facets[rest] = writer.emit("Sub", [x, writer.facets[raised]], name=f"{name}_rest")
    return writer.facets[raised], writer.facets[rest]


def _facet(writer: Writer, tensor: str, form: str) -> ir.Value | None:
    return writer.facets.get((tensor, form))


def _high(writer: Writer, tensor: str, start: npt.NDArray[np.generic]) -> ir.Value:
    """Return the high digits, counted from ``start``."""
    form = f"high {start.dtype.name}"
    found = _facet(writer, tensor, form)
    if found is None:
        up = tensor in writer.nonnegative  # a tie belongs to the next higher digit, otherwise to the lower one
        step = np.asarray(256 * (1 - _TILT if up else 1 + _TILT), np.float32)
        operands = [_carrier(writer, tensor), writer.constant("high_step", step), writer.constant("high_start", start)]
        found = writer.emit("QuantizeLinear", operands, name=f"{stem(tensor)}_high")
        writer.facets[tensor, form] = found
    return found


def _carrier(writer: Writer, tensor: str) -> ir.Value:
    key = (tensor, CARRIER)
    if key not in writer.facets:
        made, shift = real(writer, tensor), shift_of(writer, tensor)
        if shift:
            offset = writer.constant("carrier_shift", np.asarray(shift, np.float32))
            made = writer.emit("Add", [made, offset], name=f"{stem(tensor)}_carrier")
        writer.facets[key] = made
    return writer.facets[key]


def _cast(writer: Writer, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    return writer.emit("Cast", [value], {"to": int(dtype)}, name=f"{stem(name)}_{dtype.name.lower()}")
