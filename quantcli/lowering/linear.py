"""Linear operators as integer kernels: QLinearConv, QGemm, QLinearMatMul; int32 accumulators, exact requantization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli import graph
from quantcli.writer import stem

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.writer import Attribute, Writer

_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def conv(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Conv -> QLinearConv."""
    weight, scale, zero = writer.weight(unit)
    bias, _ = writer.bias(unit, _channels(writer, unit))
    attributes: dict[str, Attribute] = {k: node.attributes[k].value for k in _CONV_ATTRIBUTES if k in node.attributes}
    source = unit.inputs[0][1]
    operands = [writer.quantized(source), *writer.grid(source), weight, scale, zero, *writer.grid(unit.output), bias]
    return writer.emit(
        "QLinearConv", operands, attributes, name=f"{stem(unit.node)}_QLinearConv", output_name=_integer(unit)
    )


def gemm(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Gemm -> QGemm."""
    return _qgemm(writer, unit, writer.quantized(unit.inputs[0][1]), graph.int_attribute(node, "transB", 0))


def matmul(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """MatMul (+ bias) -> QGemm on rows; the leading axes are folded before and unfolded after."""
    source = unit.inputs[0][1]
    weight = graph.constant(writer.values[unit.weight or ""])
    rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else None
    if rank == 2 or weight is None:
        return _qgemm(writer, unit, writer.quantized(source), 0)
    rows = writer.constant("rows_shape", np.asarray([-1, weight.shape[0]], np.int64))
    folded = writer.emit("Reshape", [writer.quantized(source), rows], name=f"{stem(unit.node)}_rows")
    result = _qgemm(writer, unit, folded, 0)
    shape = _result_shape(writer, unit, weight.shape[1])
    return writer.emit("Reshape", [result, shape], name=f"{stem(unit.node)}_unfolded", output_name=_integer(unit))


def product(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """MatMul of two activations -> QLinearMatMul."""
    del node
    operands: list[ir.Value] = []
    for _, tensor in unit.inputs:
        operands += [writer.quantized(tensor), *writer.grid(tensor)]
    operands += writer.grid(unit.output)
    return writer.emit("QLinearMatMul", operands, name=f"{stem(unit.node)}_QLinearMatMul", output_name=_integer(unit))


def _qgemm(writer: Writer, unit: Unit, rows: ir.Value, trans_b: int) -> ir.Value:
    weight, scale, zero = writer.weight(unit)
    bias, _ = writer.bias(unit, _channels(writer, unit))
    operands = [rows, *writer.grid(unit.inputs[0][1]), weight, scale, zero, bias, *writer.grid(unit.output)]
    return writer.emit(
        "QGemm", operands, {"transB": trans_b}, name=f"{stem(unit.node)}_QGemm", domain=graph.MICROSOFT,
        output_name=_integer(unit),
    )  # fmt: skip


def _result_shape(writer: Writer, unit: Unit, columns: int) -> ir.Value:
    shape = writer.emit("Shape", [writer.quantized(unit.inputs[0][1])], name=f"{stem(unit.node)}_shape")
    ends = [writer.constant("slice_end", np.asarray([v], np.int64)) for v in (0, -1)]
    leading = writer.emit("Slice", [shape, *ends], name=f"{stem(unit.node)}_leading")
    width = writer.constant("columns", np.asarray([columns], np.int64))
    return writer.emit("Concat", [leading, width], {"axis": 0}, name=f"{stem(unit.node)}_result_shape")


def _channels(writer: Writer, unit: Unit) -> int:
    weight = graph.constant(writer.values[unit.weight or ""])
    return 0 if weight is None else int(weight.shape[unit.axis])


def _integer(unit: Unit) -> str:
    return f"{stem(unit.output)}_quantized"
