"""Integer inputs and outputs: those of the graph's own type directly, int8 through a cast and an addition.

Adding 128 modulo 256 keeps every bit; the encodings of an int8 boundary are those of the uint8 tensor with the zero
point moved by 128. 16 bits at the boundary of an 8-bit graph are dequantized there, or quantized from the float values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from quantcli import affine, dtypes, graph
from quantcli.quant import QuantSpec
from quantcli.writer import stem

if TYPE_CHECKING:
    from quantcli.quant import QuantParams
    from quantcli.writer import Writer

_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8, "int16": ir.DataType.INT16}


def integer_inputs(writer: Writer, tensors: list[str], dtype: str) -> dict[str, QuantParams]:
    """Let the named float inputs be fed as integers; return the parameters to feed them with."""
    found: dict[str, QuantParams] = {}
    for tensor in tensors:
        value = writer.values[tensor]
        params = writer.params_of(tensor)
        if _is_wider(params, dtype):
            found[tensor] = _wider_input(writer, value, tensor, params)
            continue
        integers = writer.quantized(tensor)  # QuantizeLinear(value): its readers now read the boundary
        if any(reader is not integers.producer() for reader, _ in graph.consumers(value)):
            real = writer.dequantize(integers, tensor)
            for reader, index in graph.consumers(value):
                if reader is not integers.producer():
                    reader.replace_input_with(index, real)
        quantize = integers.producer()
        value.type = ir.TensorType(_TYPES[dtype])
        fed = _to_uint8(writer, value, tensor) if dtype == "int8" else value
        ir.convenience.replace_all_uses_with(integers, fed, replace_graph_outputs=True)
        if quantize is not None:
            writer.graph.remove(quantize, safe=True)
        writer.integers[tensor] = fed
        found[tensor] = _boundary_params(params, dtype)
    return found


def integer_outputs(writer: Writer, tensors: list[str], dtype: str) -> dict[str, QuantParams]:
    """Let the named outputs leave as integers; return the parameters to read them with."""
    found: dict[str, QuantParams] = {}
    for index, value in enumerate(list(writer.graph.outputs)):
        tensor = graph.name_of(value)
        if tensor not in tensors or value.is_graph_input():  # one name has one type: it leaves as it is fed
            continue
        found[tensor] = params = _boundary_params(writer.params_of(tensor), dtype)
        if _is_wider(writer.params_of(tensor), dtype):
            result = _scaling(writer, "QuantizeLinear", value, tensor, params)
        else:
            integers = writer.quantized(tensor)
            result = _to_int8(writer, integers, tensor) if dtype == "int8" else _alone(writer, integers, tensor)
        value.name, result.name = writer.names.new(f"{stem(tensor)}_float"), tensor
        result.type, result.shape = ir.TensorType(_TYPES[dtype]), value.shape
        result.doc_string = value.doc_string
        result.metadata_props.update(value.metadata_props)
        writer.graph.outputs[index] = result
    return found


def _is_wider(params: QuantParams, dtype: str) -> bool:
    return dtypes.BY_NAME[dtype].bits > params.spec.dtype.bits


def _wider_input(writer: Writer, value: ir.Value, tensor: str, params: QuantParams) -> QuantParams:
    """Let a tensor of an 8-bit graph be fed with 16 bits: it is dequantized, and whoever reads 8 bits quantizes it."""
    wide = _boundary_params(params, "int16")
    readers = graph.consumers(value)
    real = _scaling(writer, "DequantizeLinear", value, tensor, wide)
    for reader, index in readers:
        reader.replace_input_with(index, real)
    value.type = ir.TensorType(ir.DataType.INT16)
    return wide


def _scaling(writer: Writer, op_type: str, value: ir.Value, tensor: str, params: QuantParams) -> ir.Value:
    domain = graph.MICROSOFT if graph.opset(writer.model) < 21 else ""  # ONNX knows 16 bits since then
    operands = [value, *writer.scale_and_zero(tensor, params)]
    return writer.emit(op_type, operands, name=f"{stem(tensor)}_boundary", domain=domain)


def _boundary_params(params: QuantParams, dtype: str) -> QuantParams:
    if _is_wider(params, dtype):
        return affine.choose_params(params.low, params.high, QuantSpec(dtypes.BY_NAME[dtype], symmetric=True))
    return affine.shifted_to(params, replace(params.spec, dtype=dtypes.BY_NAME[dtype]))


def _to_uint8(writer: Writer, value: ir.Value, tensor: str) -> ir.Value:
    half = writer.constant("half_range", np.asarray(128, np.uint8))
    wrapped = writer.emit("Cast", [value], {"to": int(ir.DataType.UINT8)}, name=f"{stem(tensor)}_wrapped")
    return writer.emit("Add", [wrapped, half], name=f"{stem(tensor)}_to_uint8", output_name=f"{stem(tensor)}_uint8")


def _to_int8(writer: Writer, value: ir.Value, tensor: str) -> ir.Value:
    half = writer.constant("half_range", np.asarray(128, np.uint8))
    shifted = writer.emit("Add", [value, half], name=f"{stem(tensor)}_shifted")
    return writer.emit("Cast", [shifted], {"to": int(ir.DataType.INT8)}, name=f"{stem(tensor)}_to_int8")


def _alone(writer: Writer, value: ir.Value, tensor: str) -> ir.Value:
    """Return the value if an operator made it for this output alone, otherwise an Identity of it."""
    if value.producer() is not None and not value.is_graph_output():
        return value
    return writer.emit("Identity", [value], name=f"{stem(tensor)}_output")
