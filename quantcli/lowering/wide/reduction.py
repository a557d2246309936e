"""Sums and means of int16: exact sums in float64, or in float32 where they stay below 2**24; one rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.applicability import reduced_axes
from quantcli.lowering.wide import planes, requantize
from quantcli.lowering.wide.requantize import cast, number
from quantcli.writer import stem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantcli.plan import Unit
    from quantcli.writer import Attribute, Writer

_WINDOW_ATTRIBUTES: Final = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


def reduce(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """ReduceMean, ReduceSum -> rint(sum(q) * (s / s_y) / n), n being 1 for a sum."""
    axes = reduced_axes(node, _rank(node)) or ()
    keep = graph.int_attribute(node, "keepdims", 1)
    return _reduced(writer, unit, axes, keep=keep, mean=node.op_type == "ReduceMean")


def global_average_pool(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """GlobalAveragePool -> the mean over the spatial axes."""
    return _reduced(writer, unit, range(2, _rank(node)), keep=1, mean=True)


def average_pool(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """AveragePool -> sums of windows by a depthwise float32 Conv with ones, exact; then the mean of all of them."""
    source, name = unit.inputs[0][1], stem(unit.node)
    window = graph.ints_attribute(node, "kernel_shape") or ()
    channels = _channels(node)
    attributes: dict[str, Attribute] = {k: node.attributes[k].value for k in _WINDOW_ATTRIBUTES if k in node.attributes}
    ones = writer.constant(f"{name}_ones", np.ones((channels, 1, *window), np.float32))
    operands = [planes.real(writer, source), ones]
    total = writer.emit("Conv", operands, {**attributes, "group": channels}, name=f"{name}_sums")
    writer.kernels[unit.node] = "float32 Conv with ones, exact"
    count = number(writer, float(np.prod(window)))
    return _mean(writer, unit, cast(writer, total, ir.DataType.DOUBLE, name), count)


def _reduced(writer: Writer, unit: Unit, axes: Sequence[int], *, keep: int, mean: bool) -> ir.Value:
    source, name = writer.quantized(unit.inputs[0][1]), stem(unit.node)
    real = requantize.doubles(writer, unit.inputs[0][1])
    writer.kernels[unit.node] = "ReduceSum in float64"
    if graph.opset(writer.model) >= 13:
        listed = writer.constant("axes", np.asarray(axes, np.int64))
        total = writer.emit("ReduceSum", [real, listed], {"keepdims": keep}, name=f"{name}_sums")
    else:
        total = writer.emit("ReduceSum", [real], {"keepdims": keep, "axes": list(axes)}, name=f"{name}_sums")
    return _mean(writer, unit, total, _count(writer, name, source, total) if mean else None)


def _mean(writer: Writer, unit: Unit, total: ir.Value, count: ir.Value | None) -> ir.Value:
    name = stem(unit.node)
    factor = number(writer, float(requantize.ratio(writer, unit.inputs[0][1], unit)))
    steps = writer.emit("Mul", [total, factor], name=f"{name}_scaled")
    if count is not None:
        steps = writer.emit("Div", [steps, count], name=f"{name}_mean")
    return requantize.rounded(writer, unit, steps)


def _count(writer: Writer, name: str, source: ir.Value, total: ir.Value) -> ir.Value:
    """Return how many values make one sum; sizes may be free, so it is counted when the model runs."""
    sizes = [
        cast(writer, writer.emit("Size", [v], name=f"{name}_size"), ir.DataType.DOUBLE, f"{name}_size")
        for v in (source, total)
    ]
    return writer.emit("Div", sizes, name=f"{name}_count")


def _rank(node: ir.Node) -> int:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return 4 if shape is None else len(shape)


def _channels(node: ir.Node) -> int:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    channels = None if shape is None else shape[1]
    if not isinstance(channels, int):
        raise TypeError(f"{node.name!r} pools a free number of channels")
    return channels
