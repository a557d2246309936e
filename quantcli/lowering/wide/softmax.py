"""Softmax of int16: exponentials as integers, their exact sum, one division, one rounding.

E(d) = rint(T1[h] * T2[l]) for the distance d = 256 * h + l >= 0 from the largest value, with the float64 tables
T1[h] = exp(h * (-256 * s)) * 2**30 and T2[l] = exp(l * -s); y = rint(E * (1 / s_y) / sum(E)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.lowering.wide import planes, requantize
from quantcli.lowering.wide.requantize import cast
from quantcli.writer import stem

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.plan import Unit
    from quantcli.writer import Writer

    Floats = npt.NDArray[np.float64]

_BITS: Final = 30


def softmax(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Softmax (opset 13) over one axis of any length below 2**23."""
    source, name = unit.inputs[0][1], stem(unit.node)
    axis = graph.int_attribute(node, "axis", -1)
    real = planes.real(writer, source)
    distance = writer.emit("Sub", [_reduced(writer, "ReduceMax", real, axis, name), real], name=f"{name}_distance")
    powers = _looked_up(writer, source, distance, name)
    whole = writer.constant(f"{name}_whole", np.asarray(1 / requantize.scale_of(writer, unit.output)))
    scaled = writer.emit("Mul", [powers, whole], name=f"{name}_scaled")
    total = _reduced(writer, "ReduceSum", powers, axis, name)
    writer.kernels[unit.node] = "tables of exponentials"
    return requantize.rounded(writer, unit, writer.emit("Div", [scaled, total], name=f"{name}_share"))


def exponentials(scale: np.float64) -> tuple[Floats, Floats]:
    """Return T1 and T2 for all bytes."""
    digits = np.arange(256)
    return np.exp(digits * (-256 * scale)) * 2.0**_BITS, np.exp(digits * -scale)


def _looked_up(writer: Writer, source: str, distance: ir.Value, name: str) -> ir.Value:
    """Return the exponentials of distances, float32 from 0 to 65535, as float64 integers."""
    flat = writer.constant("flat", np.asarray([-1], np.int64))
    index = cast(writer, distance, ir.DataType.INT32, f"{name}_index")
    row = writer.emit("Reshape", [index, flat], name=f"{name}_flat")
    step = writer.constant("digit", np.asarray(256, np.int32))
    digits = [
        writer.emit("Div", [row, step], name=f"{name}_high"),
        cast(writer, cast(writer, row, ir.DataType.UINT8, f"{name}_low"), ir.DataType.INT32, f"{name}_low"),
    ]
    tables = exponentials(requantize.scale_of(writer, source))
    entries = [writer.constant(f"{name}_exponentials", t) for t in tables]
    found = [
        writer.emit("GatherElements", [table, digit], {"axis": 0}, name=f"{name}_lookup")
        for table, digit in zip(entries, digits, strict=True)
    ]
    power = writer.emit("Round", [writer.emit("Mul", found, name=f"{name}_power")], name=f"{name}_power")
    shape = writer.emit("Shape", [distance], name=f"{name}_shape")
    return writer.emit("Reshape", [power, shape], name=f"{name}_unflat")


def _reduced(writer: Writer, op_type: str, value: ir.Value, axis: int, name: str) -> ir.Value:
    """Reduce one axis and keep it; its place is an input since opset 13 for sums, 18 for the rest."""
    given = f"{name}_{op_type}"
    if graph.opset(writer.model) < (13 if op_type == "ReduceSum" else 18):
        return writer.emit(op_type, [value], {"keepdims": 1, "axes": [axis]}, name=given)
    axes = writer.constant("axes", np.asarray([axis], np.int64))
    return writer.emit(op_type, [value, axes], {"keepdims": 1}, name=given)
