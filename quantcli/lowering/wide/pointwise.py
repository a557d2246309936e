"""Functions of one variable on int16: computed in float64 where that is plain arithmetic, else looked up in a table.

Both give clip(rint(f(q * s) / s_y)) with f in float64. A table has 65,536 entries, made when the model is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.lowering.wide import requantize
from quantcli.lowering.wide.functions import evaluate
from quantcli.lowering.wide.requantize import cast, number
from quantcli.wide_applicability import ARITHMETIC
from quantcli.writer import stem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from quantcli.plan import Unit
    from quantcli.writer import Writer

    Floats = npt.NDArray[np.float64]

_MOST_CHANNELS: Final = 128  # each of which is tried with every int16
_PIECES: Final = 16  # in which they are tried, for the sake of memory
_END: Final = {1: -np.inf, 2: np.inf}  # of a Clip that has no limit on that side
_COMPOSED: Final = frozenset({"Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu"})


def function(writer: Writer, unit: Unit, node: ir.Node) -> ir.Value:
    """Pointwise region -> arithmetic in float64, or a table lookup."""
    del node
    members = [writer.nodes[m] for m in unit.members]
    return _computed(writer, unit, members) if _is_arithmetic(members) else _tabled(writer, unit, members)


def table_of(writer: Writer, unit: Unit, members: Sequence[ir.Node]) -> npt.NDArray[np.int16]:
    """Return the results for 0 ... 32767, -32768 ... -1: an index below zero counts from the end."""
    q = np.arange(65536, dtype=np.uint16).astype(np.int16)
    found = _results(members, q * requantize.scale_of(writer, unit.inputs[0][1]), evaluate).reshape(-1)
    with np.errstate(all="ignore"):
        steps = np.rint(found / requantize.scale_of(writer, unit.output))
    return np.asarray(np.clip(np.nan_to_num(steps), *requantize.limits_of(writer, unit)), np.int16)


def _tabled(writer: Writer, unit: Unit, members: Sequence[ir.Node]) -> ir.Value:
    source, name = writer.quantized(unit.inputs[0][1]), stem(unit.node)
    entries = table_of(writer, unit, members)
    if entries.min() >= 0:
        writer.nonnegative.add(unit.output)
    writer.kernels[unit.node] = "table of 65,536 entries"
    index = cast(writer, source, ir.DataType.INT32, f"{name}_index")
    row = writer.emit("Reshape", [index, writer.constant("flat", np.asarray([-1], np.int64))], name=f"{name}_flat")
    values = writer.constant(f"{name}_table", entries)
    found = writer.emit("GatherElements", [values, row], {"axis": 0}, name=f"{name}_lookup")
    shape = writer.emit("Shape", [source], name=f"{name}_shape")
    return writer.emit("Reshape", [found, shape], name=f"{name}_unflat", output_name=f"{stem(unit.output)}_quantized")


def _computed(writer: Writer, unit: Unit, members: Sequence[ir.Node]) -> ir.Value:
    source, name = unit.inputs[0][1], stem(unit.node)
    scale, target = (requantize.scale_of(writer, t) for t in (source, unit.output))
    form = _form(members, scale, target)
    integers = requantize.doubles(writer, source)
    start = writer.emit("Mul", [integers, number(writer, float(scale))], name=f"{name}_real")
    made: dict[ir.Value, ir.Value] = {}
    for member in members:
        operands = [
            number(writer, _END[i]) if v is None else _value(writer, v, made, start)
            for i, v in enumerate(member.inputs)
        ]
        made[member.outputs[0]] = _expressed(writer, form, member, operands)
    writer.kernels[unit.node] = f"{'+'.join(m.op_type for m in members)} in float64"
    return requantize.rounded(writer, unit, form.divided(writer, made[members[-1].outputs[0]], float(target)))


@dataclass(frozen=True, slots=True)
class _Form:
    """How divisions by constants are written: as they are, or as multiplications by the reciprocal."""

    by_reciprocal: bool

    def divided(self, writer: Writer, x: ir.Value, divisor: float) -> ir.Value:
        if self.by_reciprocal:
            return _emit(writer, "Mul", x, number(writer, 1 / divisor))
        return _emit(writer, "Div", x, number(writer, divisor))


def _form(members: Sequence[ir.Node], scale: np.float64, target: np.float64) -> _Form:
    """Multiply, which is five times as fast, where every int16 then gives the same; there are 65,536 of them to try."""
    constants = [graph.constant(v) for m in members for v in m.inputs if v is not None and graph.is_constant(v)]
    if max((a.size for a in constants if a is not None), default=1) > _MOST_CHANNELS:
        return _Form(by_reciprocal=False)
    with np.errstate(all="ignore"):
        for some in np.split(np.arange(-32768, 32768) * scale, _PIECES):
            exact = _results(members, some, evaluate) / target
            quick = _results(members, some, _evaluate_quickly) * (1 / target)
            if not np.array_equal(np.rint(exact), np.rint(quick)):
                return _Form(by_reciprocal=False)
    return _Form(by_reciprocal=True)


def _results(members: Sequence[ir.Node], start: Floats, evaluation: Callable[..., Floats]) -> Floats:
    """Return what a region makes of real numbers, with one row for each of its constants' entries."""
    made: dict[ir.Value, Floats] = {}
    for member in members:
        operands = [np.asarray(_END[i]) if v is None else _array(v, made, start) for i, v in enumerate(member.inputs)]
        made[member.outputs[0]] = evaluation(member.op_type, _attributes(member), operands)
    return made[members[-1].outputs[0]]


def _evaluate_quickly(op_type: str, attributes: Mapping[str, float | str], operands: list[Floats]) -> Floats:
    if op_type == "HardSwish":
        return operands[0] * np.clip(operands[0] * (1 / 6) + 0.5, 0, 1)
    return evaluate(op_type, attributes, operands)


def _expressed(writer: Writer, form: _Form, member: ir.Node, operands: list[ir.Value]) -> ir.Value:
    """Append the float64 operators of one member."""
    x, rest = operands[0], operands[1:]
    if member.op_type not in _COMPOSED:
        return _emit(writer, member.op_type, *operands)
    if member.op_type == "Clip":
        ends = _attributes(member)
        low = rest[0] if rest else number(writer, float(ends.get("min", -np.inf)))
        high = rest[1] if len(rest) > 1 else number(writer, float(ends.get("max", np.inf)))
        return _emit(writer, "Min", _emit(writer, "Max", x, low), high)
    if member.op_type == "HardSigmoid":
        alpha, beta = (graph.float_attribute(member, n, d) for n, d in (("alpha", 0.2), ("beta", 0.5)))
        return _hard_sigmoid(writer, _emit(writer, "Mul", x, number(writer, alpha)), beta)
    if member.op_type == "HardSwish":
        return _emit(writer, "Mul", x, _hard_sigmoid(writer, form.divided(writer, x, 6), 0.5))
    slope = rest[0] if rest else number(writer, graph.float_attribute(member, "alpha", 0.01))
    negative = _emit(writer, "Mul", _emit(writer, "Min", x, number(writer, 0)), slope)
    return _emit(writer, "Add", _emit(writer, "Relu", x), negative)


def _hard_sigmoid(writer: Writer, sloped: ir.Value, beta: float) -> ir.Value:
    raised = _emit(writer, "Add", sloped, number(writer, beta))
    return _emit(writer, "Clip", raised, number(writer, 0), number(writer, 1))


def _emit(writer: Writer, op_type: str, *operands: ir.Value) -> ir.Value:
    return writer.emit(op_type, operands, name=f"wide_{op_type}")


def _is_arithmetic(members: Sequence[ir.Node]) -> bool:
    return all(m.op_type in ARITHMETIC for m in members)


def _value(writer: Writer, value: ir.Value, made: dict[ir.Value, ir.Value], start: ir.Value) -> ir.Value:
    """Return the float64 version of an operand: made in the region, a constant, or the region's input."""
    array = graph.constant(value) if graph.is_constant(value) else None
    if array is not None:
        return writer.constant(f"{stem(graph.name_of(value))}_double", array.astype(np.float64))
    return made.get(value, start)


def _array(value: ir.Value, made: dict[ir.Value, Floats], start: Floats) -> Floats:
    array = graph.constant(value) if graph.is_constant(value) else None
    return made.get(value, start) if array is None else array.astype(np.float64)[..., None]


def _attributes(member: ir.Node) -> dict[str, float | str]:
    return {k: a.value for k, a in member.attributes.items() if isinstance(a.value, int | float | str)}
