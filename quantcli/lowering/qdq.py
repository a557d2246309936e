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
    bits = writer.params_of(unit.inputs[0][1] if unit.inputs else unit.output).spec.dtype.bits
    if unit.float_result:
        writer.kernels[unit.node] = f"{node.op_type} of DQ, result in float"
        _with_float_result(writer, unit, node)
        return
    writer.kernels[unit.node] = f"{node.op_type} between DQ and Q" + (" of 16 bits, in float" if bits > 8 else "")
    raw = node.outputs[0] if unit.weight is None else _linear(writer, unit, node)
    if len(unit.outputs) > 1:
        for value in list(node.outputs):
            writer.quantize_result(graph.name_of(value), value)
        return
    writer.quantize_result(unit.output, raw, unit.clamp)


def _with_float_result(writer: Writer, unit: Unit, node: ir.Node) -> None:
    """Give a product its integer weight and bias; what it is followed by stays as it is."""
    if node.op_type == "MatMul":
        _part_from_sums(writer, unit, node)
    if unit.weight is None:
        return
    node.replace_input_with(1, _weight(writer, unit))
    if node.op_type == "Gemm":
        node.resize_inputs(3)
        node.replace_input_with(2, _bias(writer, unit))
    elif unit.bias is not None:
        add = writer.nodes[unit.absorbed[0]]
        add.replace_input_with(add.inputs.index(writer.values[unit.bias]), _bias(writer, unit))


def _part_from_sums(writer: Writer, unit: Unit, node: ir.Node) -> None:
    """Put a copy between a product and the sums that read it: onnxruntime would make one float Gemm of both."""
    sums = [(n, i) for n, i in graph.consumers(node.outputs[0]) if n.op_type == "Add" and n.name not in unit.absorbed]
    if sums:
        apart = writer.emit(
            "Sum", [node.outputs[0]], name=f"{stem(unit.node)}_product", output_name=f"{stem(unit.output)}_product"
        )
        for reader, index in sums:
            reader.replace_input_with(index, apart)


def _read_dequantized(writer: Writer, member: ir.Node, tensor: str) -> None:
    source = writer.values[tensor]
    for index, value in enumerate(member.inputs):
        if value is source:
            member.replace_input_with(index, writer.dequantized(tensor))


def _linear(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Give a linear operator its int8 weight and int32 bias; return the value before the absorbed activation."""
    node.replace_input_with(1, _weight(writer, unit))
    real = _bias(writer, unit)
    if node.op_type != "MatMul":
        node.resize_inputs(3)
        node.replace_input_with(2, real)
        return node.outputs[0]
    # a fresh MatMul: whoever reads the old one, the absorbed nodes included, shall read the dequantized result
    product = writer.emit("MatMul", list(node.inputs), name=unit.node, output_name=f"{stem(unit.output)}_product")
    return writer.emit("Add", [product, real], name=f"{stem(unit.node)}_bias", output_name=f"{stem(unit.output)}_sum")


def _weight(writer: Writer, unit: Unit) -> ir.Value:
    weight, scale, zero = writer.weight(unit)
    return _dequantize(writer, weight, scale, zero, writer.encodings.edges[(unit.node, 1)], unit.weight or "")


def _bias(writer: Writer, unit: Unit) -> ir.Value:
    """Return the dequantized bias of a linear unit, zeros where it has none."""
    bias, params = writer.bias(unit, _channels(writer, unit))
    source = unit.bias or f"{unit.output}_bias"
    return _dequantize(writer, bias, *writer.scale_and_zero(source, params), params, source)


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
