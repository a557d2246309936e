"""Data movement and selection on int16; through float32, which holds every int16, where there is no int16 kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import affine, graph
from quantcli.lowering.wide import planes, requantize
from quantcli.lowering.wide.requantize import cast
from quantcli.writer import stem

if TYPE_CHECKING:
    from quantcli.plan import Unit
    from quantcli.writer import Writer

_INT16_KERNELS: Final = frozenset(
    {"Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split", "Squeeze",
     "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip


def move(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Return the first result of a copy of the node on integers; further results are settled here."""
    through_float = node.op_type not in _INT16_KERNELS
    inputs = list(node.inputs)
    for index, tensor in unit.inputs:
        inputs[index] = planes.real(writer, tensor) if through_float else writer.quantized(tensor)
    return _copy(writer, unit, node, inputs, through_float=through_float)


def pad(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Pad with the integer of the constant."""
    inputs, source = list(node.inputs), unit.inputs[0][1]
    inputs[0] = planes.real(writer, source)
    filler = graph.constant(graph.input_at(node, 2)) if len(node.inputs) > 2 else None
    integer = np.zeros((), np.float32)
    if filler is not None:
        integer = affine.quantize(filler.reshape(()).astype(np.float32), writer.params_of(source)).astype(np.float32)
        inputs[2] = writer.constant(f"{stem(unit.node)}_filler", integer)
    return _copy(writer, unit, node, inputs, through_float=True)


def source(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Cast of uint8 to float -> the uint8 values themselves."""
    value = node.inputs[0]
    if value is None:
        raise ValueError("a Cast without input")
    writer.nonnegative.add(unit.output)
    writer.kernels[unit.node] = "Cast to int16"
    return cast(writer, value, ir.DataType.INT16, stem(graph.name_of(value)))


def read(writer: Writer, unit: Unit, node: ir.Node) -> None:
    """Let a node that only reads (Shape, ArgMax) read the integers; ArgMax has no int16 kernel, but a float32 one."""
    for index, tensor in unit.inputs:
        shape_only = node.op_type in ("Shape", "Size")
        node.replace_input_with(index, writer.quantized(tensor) if shape_only else planes.real(writer, tensor))


def _copy(writer: Writer, unit: Unit, node: ir.Node, inputs: list[ir.Value | None], *, through_float: bool) -> ir.Value:
    known = all(tensor in writer.nonnegative for _, tensor in unit.inputs) and not _brings_negatives(node, inputs)
    outputs = [ir.Value(name=writer.names.new(f"{o.name}_moved") if o.name else "") for o in node.outputs]
    writer.graph.append(
        ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs,
                name=writer.names.new(f"{stem(unit.node)}_integer"))
    )  # fmt: skip
    writer.kernels[unit.node] = f"{node.op_type} of {'float32 integers' if through_float else 'int16'}"
    integers = []
    for old, new in zip(node.outputs, outputs, strict=True):
        tensor = old.name or ""
        if known:
            writer.nonnegative.add(tensor)
        integers.append(new)
        if through_float and tensor:
            planes.keep_real(writer, tensor, new)
            integers[-1] = cast(writer, new, ir.DataType.INT16, f"{stem(tensor)}_quantized")
    for old, new in zip(list(node.outputs)[1:], integers[1:], strict=True):
        if old.name in unit.outputs:
            writer.settle(graph.name_of(old), new)
    return requantize.clamped(writer, unit, integers[0])


def _brings_negatives(node: ir.Node, inputs: list[ir.Value | None]) -> bool:
    filler = graph.real_constant(inputs[2]) if node.op_type == "Pad" and len(inputs) > 2 else None
    return filler is not None and bool((filler < 0).any())
