"""The QDQ form: the operator stays, its operands come from DequantizeLinear and its results go to QuantizeLinear.

onnxruntime fuses DQ -> operator -> Q into the integer kernel; the result is the same bits as the QLinear operator's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcli import graph
from quantcli.quant import PerAxis
from quantcli.writer import stem

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.quant import QuantParams
    from quantcli.writer import Writer


def write(writer: Writer, unit: Unit) -> None:
    """Write one unit between DQ and Q."""
    node = writer.nodes[unit.node]
    for member in unit.members:
        _read_dequantized(writer, writer.nodes[member], unit.inputs[0][1])
    for index, tensor in () if unit.members else unit.inputs:
        node.replace_input_with(index, writer.dequantized(tensor))
    if unit.lowering == "read":
        return
    bits = writer.params_of(unit.output or unit.inputs[0][1]).spec.dtype.bits
    writer.kernels[unit.node] = f"{node.op_type} between DQ and Q" + (" of 16 bits, in float" if bits > 8 else "")
    raw = node.outputs[0] if unit.weight is None else _linear(writer, unit, node)
    if len(unit.outputs) > 1:
        for value in list(node.outputs):
            writer.quantize_result(graph.name_of(value), value)
        return
    writer.quantize_result(unit.output, raw, unit.clamp)


def _read_dequantized(writer: Writer, member: ir.Node, tensor: str) -> None:
    source = writer.values[tensor]
    for index, value in enumerate(member.inputs):
        if value is source:
            member.replace_input_with(index, writer.dequantized(tensor))


def _linear(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Give a linear operator its int8 weight and int32 bias; return the value before the absorbed activation."""
    weight, scale, zero = writer.weight(unit)
    params = writer.encodings.edges[(unit.node, 1)]
    name = unit.weight or ""
    node.replace_input_with(1, _dequantize(writer, weight, scale, zero, params, name))
    channels = _channels(writer, unit)
    bias, bias_params = writer.bias(unit, channels)
    source = unit.bias or f"{unit.output}_bias"
    real = _dequantize(writer, bias, *writer.scale_and_zero(source, bias_params), bias_params, source)
    if node.op_type != "MatMul":
        node.resize_inputs(3)
        node.replace_input_with(2, real)
        return node.outputs[0]
    # a fresh MatMul: whoever reads the old one, the absorbed nodes included, shall read the dequantized result
    product = writer.emit("MatMul", list(node.inputs), name=unit.node, output_name=f"{stem(unit.output)}_product")
    return writer.emit("Add", [product, real], name=f"{stem(unit.node)}_bias", output_name=f"{stem(unit.output)}_sum")


def _dequantize(  # noqa: PLR0913, PLR0917 - the operands of a DequantizeLinear
    writer: Writer, integers: ir.Value, scale: ir.Value, zero: ir.Value, params: QuantParams, name: str
) -> ir.Value:
    attributes = {"axis": params.spec.granularity.axis} if isinstance(params.spec.granularity, PerAxis) else {}
    return writer.emit(
        "DequantizeLinear", [integers, scale, zero], attributes, name=f"{stem(name)}_DequantizeLinear",
        output_name=f"{stem(name)}_dequantized",
    )  # fmt: skip


def _channels(writer: Writer, unit: Unit) -> int:
    weight = graph.constant(writer.values[unit.weight or ""])
    return 0 if weight is None else int(weight.shape[unit.axis])
