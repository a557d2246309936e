"""Data movement on uint8: the operator itself, reading integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from quantcli import affine, graph
from quantcli.writer import stem

if TYPE_CHECKING:
    from quantcli.plan import Unit
    from quantcli.writer import Writer


def move(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Return the first result of a copy of the node that reads integers; further results are settled here."""
    inputs = list(node.inputs)
    for index, tensor in unit.inputs:
        inputs[index] = writer.quantized(tensor)
    return _copy(writer, unit, node, inputs)


def pad(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Pad with the integer of the constant: the zero point for 0."""
    inputs = list(node.inputs)
    inputs[0] = writer.quantized(unit.inputs[0][1])
    filler = graph.constant(graph.input_at(node, 2)) if len(node.inputs) > 2 else None
    mode = node.attributes.get("mode")
    if mode is None or mode.as_string() == "constant":
        real = np.zeros(()) if filler is None else filler.reshape(())
        integer = affine.quantize(real.astype(np.float32), writer.params_of(unit.inputs[0][1]))
        inputs[2:3] = [writer.constant(f"{stem(unit.node)}_filler", integer)]
    return _copy(writer, unit, node, inputs)


def source(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Cast of uint8 to float -> the uint8 values themselves."""
    del unit
    value = node.inputs[0]
    if value is None:
        raise ValueError("a Cast without input")
    return writer.emit("Identity", [value], name=f"{stem(graph.name_of(value))}_integers")


def read(writer: Writer, unit: Unit, node: ir.Node) -> None:
    """Let a node that only reads (Shape, ArgMax) read the integers."""
    for index, tensor in unit.inputs:
        node.replace_input_with(index, writer.quantized(tensor))


def _copy(writer: Writer, unit: Unit, node: ir.Node, inputs: list[ir.Value | None]) -> ir.Value:
    outputs = [ir.Value(name=writer.names.new(f"{o.name}_quantized") if o.name else "") for o in node.outputs]
    writer.graph.append(
        ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs,
                name=writer.names.new(f"{stem(unit.node)}_integer"))
    )  # fmt: skip
    for old, new in zip(list(node.outputs)[1:], outputs[1:], strict=True):
        if old.name in unit.outputs:
            writer.settle(graph.name_of(old), new)
    return outputs[0]
