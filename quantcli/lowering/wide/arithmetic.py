"""Arithmetic of int16 activations: every operand in float64 steps of the output's grid, one rounding at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli import graph
from quantcli.lowering.wide import requantize
from quantcli.writer import stem

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.writer import Writer


def add(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Add, Sub -> rint(q_a * (s_a / s_y) + q_b * (s_b / s_y))."""
    return _of_steps(writer, unit, node.op_type)


def mul(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Mul -> the product in float64, exact, times s_a * s_b / s_y."""
    del node
    name = stem(unit.node)
    factor = np.float64(1)
    operands = []
    for _, tensor in unit.inputs:
        factor = np.float64(factor * requantize.scale_of(writer, tensor))
        operands.append(requantize.doubles(writer, tensor))
    writer.kernels[unit.node] = "Mul of integers in float64"
    product = writer.emit("Mul", operands, name=f"{name}_product")
    factor = np.float64(factor / requantize.scale_of(writer, unit.output))
    return requantize.scaled_rounded(writer, unit, product, factor)


def where(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Where -> Where of steps."""
    writer.kernels[unit.node] = "Where of steps in float64"
    operands = [node.inputs[0], *(requantize.steps_of(writer, t, unit) for _, t in unit.inputs)]
    return requantize.rounded(writer, unit, writer.emit("Where", operands, name=f"{stem(unit.node)}_chosen"))


def extremum(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Max, Min -> the same of steps; rounding before or after makes no difference."""
    return _of_steps(writer, unit, node.op_type)


def concat(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Concat -> Concat of int16, after moving those operands that are on another grid."""
    parts = [_regrid(writer, tensor, unit) for _, tensor in unit.inputs]
    if all(tensor in writer.nonnegative for _, tensor in unit.inputs):
        writer.nonnegative.add(unit.output)
    writer.kernels[unit.node] = "Concat of int16"
    joined = writer.emit(
        "Concat", parts, {"axis": graph.int_attribute(node, "axis", 0)}, name=f"{stem(unit.node)}_int16",
        output_name=f"{stem(unit.output)}_quantized",
    )  # fmt: skip
    return requantize.clamped(writer, unit, joined)


def _of_steps(writer: Writer, unit: Unit, op_type: str) -> ir.Value:
    operands = [requantize.steps_of(writer, tensor, unit) for _, tensor in unit.inputs]
    writer.kernels[unit.node] = f"{op_type} of steps in float64"
    return requantize.rounded(writer, unit, writer.emit(op_type, operands, name=f"{stem(unit.node)}_{op_type}"))


def _regrid(writer: Writer, tensor: str, unit: Unit) -> ir.Value:
    """Return the integers of a tensor on the grid of the unit's result, rounding once more where it has another."""
    if writer.params_of(tensor).same_as(writer.params_of(unit.output)):
        return writer.quantized(tensor)
    name = f"{stem(tensor)}_on_{stem(unit.output)}"
    spec = writer.params_of(unit.output).spec
    steps = requantize.steps_of(writer, tensor, unit)
    return requantize.inside(writer, name, steps, (spec.qmin, spec.qmax))
