"""Arithmetic of activations as integer kernels: sums, products, joins, means, selections, Softmax."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quantcli import affine, graph
from quantcli.applicability import reduced_axes
from quantcli.writer import stem

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.writer import Attribute, Writer


def add(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Add -> QLinearAdd, the smaller operand second: the other way round channels-last execution rounds differently."""
    sizes = [_size(v) for v in node.inputs]
    inputs = unit.inputs if sizes[0] >= sizes[1] else unit.inputs[::-1]
    return _binary(writer, replace(unit, inputs=inputs), "QLinearAdd")


def mul(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Mul -> QLinearMul."""
    del node
    return _binary(writer, unit, "QLinearMul")


def sub(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Sub -> QLinearAdd of the negated subtrahend: 255 - q with zero point 255 - z is exactly -(q - z)."""
    del node
    (_, left), (_, right) = unit.inputs
    params = writer.params_of(right)
    mirrored = replace(params, zero_point=np.asarray(255 - int(params.zero_point), np.uint8))
    top = writer.constant("top", np.asarray(255, np.uint8))
    negated = writer.emit("Sub", [top, writer.quantized(right)], name=f"{stem(unit.node)}_negated")
    operands = [writer.quantized(left), *writer.grid(left), negated, *writer.scale_and_zero(right, mirrored)]
    return _microsoft(writer, unit, "QLinearAdd", [*operands, *writer.grid(unit.output)])


def where(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Where -> QLinearWhere."""
    operands: list[ir.Value | None] = [node.inputs[0]]
    for _, tensor in unit.inputs:
        operands += [writer.quantized(tensor), *writer.grid(tensor)]
    return _microsoft(writer, unit, "QLinearWhere", [*operands, *writer.grid(unit.output)])


def concat(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Concat -> Concat where all operands are on one grid, QLinearConcat otherwise."""
    attributes = {"axis": graph.int_attribute(node, "axis", 0)}
    tensors = [t for _, t in unit.inputs]
    if _on_one_grid(writer, unit):
        return writer.emit(
            "Concat", [writer.quantized(t) for t in tensors], attributes, name=unit.node,
            output_name=f"{stem(unit.output)}_quantized",
        )  # fmt: skip
    operands: list[ir.Value] = [*writer.grid(unit.output)]
    for tensor in tensors:
        operands += [writer.quantized(tensor), *writer.grid(tensor)]
    return writer.emit(
        "QLinearConcat", operands, attributes, name=f"{stem(unit.node)}_QLinearConcat", domain=graph.MICROSOFT,
        output_name=f"{stem(unit.output)}_quantized",
    )  # fmt: skip


def extremum(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Max, Min -> the same on uint8, every operand on the grid of the result."""
    operands = [_regrid(writer, t, unit) for _, t in unit.inputs]
    return writer.emit(node.op_type, operands, name=unit.node, output_name=f"{stem(unit.output)}_quantized")


def global_average_pool(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """GlobalAveragePool -> QLinearGlobalAveragePool."""
    del node
    source = unit.inputs[0][1]
    return _mean(writer, unit, writer.quantized(source))


def global_max_pool(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """GlobalMaxPool -> ReduceMax over the spatial axes, keeping them."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axes = list(range(2, len(shape) if shape is not None else 4))
    attributes, operands = {"keepdims": 1}, [writer.quantized(unit.inputs[0][1])]
    if graph.opset(writer.model) >= 18:
        operands.append(writer.constant("spatial_axes", np.asarray(axes, np.int64)))
        return writer.emit(
            "ReduceMax", operands, attributes, name=unit.node, output_name=f"{stem(unit.output)}_quantized"
        )
    return writer.emit(
        "ReduceMax",
        operands,
        {**attributes, "axes": axes},
        name=unit.node,
        output_name=f"{stem(unit.output)}_quantized",
    )


def reduce_mean(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """ReduceMean that keeps two axes -> Transpose, QLinearGlobalAveragePool, Reshape."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    rank = len(shape) if shape is not None else 0
    axes = reduced_axes(node, rank) or ()
    kept = [a for a in range(rank) if a not in axes]
    moved = writer.quantized(unit.inputs[0][1])
    if [*kept, *axes] != list(range(rank)):
        moved = writer.emit("Transpose", [moved], {"perm": [*kept, *axes]}, name=f"{stem(unit.node)}_kept_first")
    mean = _mean(writer, unit, moved)
    keep = graph.int_attribute(node, "keepdims", 1)
    back = [1] * rank if keep else [0, 0]
    if keep:
        back[kept[0]], back[kept[1]] = (0 if kept[0] == 0 else -1), (0 if kept == [0, 1] else -1)
    if keep and kept == [0, 1]:
        return mean
    if keep and back.count(-1) > 1:
        order = [kept.index(a) if a in kept else 2 + list(axes).index(a) for a in range(rank)]
        return writer.emit(
            "Transpose", [mean], {"perm": order}, name=f"{stem(unit.node)}_back", output_name=_name(unit)
        )
    target = writer.constant("mean_shape", np.asarray(back, np.int64))
    return writer.emit("Reshape", [mean, target], name=f"{stem(unit.node)}_reshaped", output_name=_name(unit))


def average_pool(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """AveragePool -> QLinearAveragePool."""
    wanted = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
    attributes: dict[str, Attribute] = {k: node.attributes[k].value for k in wanted if k in node.attributes}
    source = unit.inputs[0][1]
    operands = [writer.quantized(source), *writer.grid(source), *writer.grid(unit.output)]
    return _microsoft(writer, unit, "QLinearAveragePool", operands, attributes)


def softmax(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Softmax -> QLinearSoftmax."""
    source = unit.inputs[0][1]
    attributes = {"axis": graph.int_attribute(node, "axis", -1), "opset": 13}
    operands = [writer.quantized(source), *writer.grid(source), *writer.grid(unit.output)]
    return _microsoft(writer, unit, "QLinearSoftmax", operands, attributes)


def _size(value: ir.Value | None) -> int:
    """Return the number of elements; a free dimension counts as large."""
    dims = value.shape.dims if value is not None and value.shape is not None else ()
    return int(np.prod([d if isinstance(d, int) else 1 << 16 for d in dims], dtype=object)) if dims else 0


def _binary(writer: Writer, unit: Unit, op_type: str) -> ir.Value:
    operands: list[ir.Value | None] = []
    for _, tensor in unit.inputs:
        operands += [writer.quantized(tensor), *writer.grid(tensor)]
    return _microsoft(writer, unit, op_type, [*operands, *writer.grid(unit.output)])


def _mean(writer: Writer, unit: Unit, integers: ir.Value) -> ir.Value:
    operands = [integers, *writer.grid(unit.inputs[0][1]), *writer.grid(unit.output)]
    return _microsoft(writer, unit, "QLinearGlobalAveragePool", operands, {"channels_last": 0})


def _microsoft(
    writer: Writer,
    unit: Unit,
    op_type: str,
    operands: list[ir.Value | None] | list[ir.Value],
    attributes: Mapping[str, Attribute] | None = None,
) -> ir.Value:
    return writer.emit(
        op_type, operands, attributes, name=f"{stem(unit.node)}_{op_type}", domain=graph.MICROSOFT,
        output_name=_name(unit),
    )  # fmt: skip


def _on_one_grid(writer: Writer, unit: Unit) -> bool:
    result = writer.params_of(unit.output)
    return all(writer.params_of(t).same_as(result) for _, t in unit.inputs)


def _regrid(writer: Writer, tensor: str, unit: Unit) -> ir.Value:
    """Return the integers of a tensor on the grid of the unit's result, rounding once more where it has another."""
    params, wanted = writer.params_of(tensor), writer.params_of(unit.output)
    if params.same_as(wanted):
        return writer.quantized(tensor)
    array = graph.constant(writer.values[tensor]) if graph.is_constant(writer.values[tensor]) else None
    if array is not None:
        return writer.constant(
            f"{stem(tensor)}_on_{stem(unit.output)}", affine.quantize(array.astype(np.float32), wanted)
        )
    operands = [writer.quantized(tensor), *writer.grid(tensor), *writer.grid(unit.output)]
    return writer.emit(
        "QLinearLeakyRelu", operands, {"alpha": 1.0}, name=f"{stem(tensor)}_regrid", domain=graph.MICROSOFT
    )


def _name(unit: Unit) -> str:
    return f"{stem(unit.output)}_quantized"
