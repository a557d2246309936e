"""Softmax of int16: a table of exponentials as integers, their exact sum, one division, one rounding.

E(d) = rint(exp(d * s) * 2**30) for the distance d <= 0 from the largest value; y = rint(E * (1 / s_y) / sum(E)).
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

_BITS: Final = 30


def softmax(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Softmax (opset 13) over one axis of any length below 2**23."""
    source, name = unit.inputs[0][1], stem(unit.node)
    axis = graph.int_attribute(node, "axis", -1)
    real = planes.real(writer, source)
    distance = writer.emit("Sub", [real, _reduced(writer, "ReduceMax", real, axis, name)], name=f"{name}_distance")
    powers = cast(writer, _looked_up(writer, source, distance, name), ir.DataType.DOUBLE, f"{name}_powers")
    whole = writer.constant(f"{name}_whole", np.asarray(1 / requantize.scale_of(writer, unit.output)))
    scaled = writer.emit("Mul", [powers, whole], name=f"{name}_scaled")
    total = _reduced(writer, "ReduceSum", powers, axis, name)
    writer.kernels[unit.node] = "table of exponentials"
    return requantize.rounded(writer, unit, writer.emit("Div", [scaled, total], name=f"{name}_share"))


def exponentials(scale: np.float64) -> npt.NDArray[np.int32]:
    """Return E(0), E(-1), ... up to the first 0, or for all distances that there are."""
    last = min(65535, int(np.ceil((_BITS + 2) * np.log(2) / scale)))
    return np.rint(np.exp(-np.arange(last + 1) * scale) * 2.0**_BITS).astype(np.int32)


def _looked_up(writer: Writer, source: str, distance: ir.Value, name: str) -> ir.Value:
    """Return the exponentials of non-positive float32 distances as int32; beyond the table all are its last entry."""
    table = exponentials(requantize.scale_of(writer, source))
    away = writer.emit("Neg", [distance], name=f"{name}_away")
    last = writer.constant(f"{name}_last", np.asarray(len(table) - 1, np.float32))
    index = cast(writer, writer.emit("Min", [away, last], name=f"{name}_near"), ir.DataType.INT32, f"{name}_index")
    flat = writer.constant("flat", np.asarray([-1], np.int64))
    row = writer.emit("Reshape", [index, flat], name=f"{name}_flat")
    entries = writer.constant(f"{name}_exponentials", table)
    found = writer.emit("GatherElements", [entries, row], {"axis": 0}, name=f"{name}_lookup")
    shape = writer.emit("Shape", [distance], name=f"{name}_shape")
    return writer.emit("Reshape", [found, shape], name=f"{name}_unflat")


def _reduced(writer: Writer, op_type: str, value: ir.Value, axis: int, name: str) -> ir.Value:
    """Reduce one axis and keep it; its place is an input since opset 13 for sums, 18 for the rest."""
    given = f"{name}_{op_type}"
    if graph.opset(writer.model) < (13 if op_type == "ReduceSum" else 18):
        return writer.emit(op_type, [value], {"keepdims": 1, "axes": [axis]}, name=given)
    axes = writer.constant("axes", np.asarray([axis], np.int64))
    return writer.emit(op_type, [value, axes], {"keepdims": 1}, name=given)
