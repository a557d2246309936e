"""Weight and bias of a linear operator on int16, and what is known of the sums that they can make.

Later passes round weights and biases anew; ``fits`` says how far they may go in the form that was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from quantcli import affine, graph
from quantcli.lowering.wide import requantize
from quantcli.writer import stem

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.writer import Writer

    Floats = npt.NDArray[np.float64]

Form = Literal["int32", "float32", "float64"]
"""The type that products are summed in."""

ROOM: Final = 2
"""A form is chosen only where sums this much larger than those of the weights as they are would be exact too."""

_INT32: Final = 2**31 - 1
_FLOAT32: Final = 2**24 - 1
_FLOAT64: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Weight:
    """The int8 weight and integer bias of a unit, and what is known of their sums."""

    value: ir.Value
    bias: ir.Value
    factors: Floats  # (C,) steps of the output for one of the accumulator
    products: int  # summed for one output
    weight_sum: int  # largest sum of |w| of a channel
    bias_size: int  # largest |b|

    @property
    def sums_fit_int32(self) -> bool:
        """Tell whether 256 * high + low is sure to stay within int32."""
        return ROOM * self.weight_sum << 15 <= _INT32

    @property
    def total_fits_int32(self) -> bool:
        """Tell whether the sum with the bias is sure to stay within int32."""
        return ROOM * ((self.weight_sum << 15) + self.bias_size) <= _INT32

    @property
    def fits_float32(self) -> bool:
        """Tell whether float32 sums over each byte plane are sure to be exact."""
        return ROOM * 256 * self.weight_sum <= _FLOAT32

    @property
    def fits_float32_with_bias(self) -> bool:
        """Tell whether they are even when each plane's sum takes its digits of the bias along."""
        return self.total_fits_int32 and ROOM * (256 * (self.weight_sum + 1) + (self.bias_size >> 8)) <= _FLOAT32

    def capacity(self, form: Form) -> tuple[int, int]:
        """Return the largest sum of |w|, and the largest 32768 * sum + |b|, of a channel that stay exact in a form.

        Digits of the bias in float32 need no limit of their own: a plane holds 255 * (sum + 1), or in units of 256
        128 * sum + |b| / 256 + 1; both are below 2**24 where the sum is below 2**16 - 2 and the total below 2**31.
        """
        if form == "float64":
            return _FLOAT64 >> 15, _FLOAT64
        total = _INT32 if self.total_fits_int32 else _FLOAT64
        if form == "float32":
            return 2**16 - 3, total
        return _INT32 >> (15 if self.sums_fit_int32 else 8), total


def weight_of(writer: Writer, unit: Unit) -> Weight:
    """Write the weight and the bias of a unit and return them."""
    value = writer.weight(unit)[0]
    params = writer.encodings.edges[(unit.node, 1)]
    integers = graph.constant(value)
    if integers is None:
        raise ValueError(f"{unit.weight!r} is no constant")
    rows = np.moveaxis(integers.astype(np.int64), unit.axis, 0)
    rows = rows.reshape(len(rows), -1)
    bias, size = _bias(writer, unit, len(rows))
    scale = np.broadcast_to(params.scale.astype(np.float64), (len(rows),))
    factors = requantize.scale_of(writer, unit.inputs[0][1]) * scale / requantize.scale_of(writer, unit.output)
    largest = int(np.abs(rows).sum(axis=1).max(initial=0))
    return Weight(value, bias, np.asarray(factors, np.float64), rows.shape[1], largest, size)


def _bias(writer: Writer, unit: Unit, channels: int) -> tuple[ir.Value, int]:
    """Return the bias in steps of s_in * s_w[c], zeros where there is none, and its largest size.

    It is stored as int32 where half of that type holds it, so that later passes have room, otherwise as int64.
    """
    scale = writer.params_of(unit.inputs[0][1]).scale
    params = affine.bias_params(scale, writer.encodings.edges[(unit.node, 1)])
    array = graph.constant(writer.values[unit.bias]) if unit.bias else None
    given = np.zeros(channels) if array is None else np.broadcast_to(array.astype(np.float64).ravel(), (channels,))
    steps = np.clip(np.rint(given / params.scale.astype(np.float64)), -(2.0**52), 2.0**52).astype(np.int64)
    size = int(np.abs(steps).max(initial=0))
    stored = steps.astype(np.int32) if size < affine.BIAS_LIMIT else steps
    value = writer.own_constant(f"{stem(unit.bias or f'{unit.output}_bias')}_quantized", stored)
    writer.biases[unit.node] = graph.name_of(value)
    if unit.bias:
        writer.params.setdefault(unit.bias, params)
    return value, size
