"""Writes what exporters spell in several operators as the one operator that it is, where the runtime gains by it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.kernels import FORMS, KERNELS
from quantcli.report import FOLDED, Entry
from quantcli.spellings import meanings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from quantcli.meaning import Meaning
    from quantcli.state import State, Tick

_ROOT_OF_TWO: Final = math.sqrt(2)
_AXES_ARE_AN_INPUT: Final = 18  # of ReduceMean, from this opset on


@dataclass(frozen=True, slots=True)
class Recognize:
    """Replaces each group that stands for one operator by it; the last operator of the group becomes it.

    Where the model's opset has no such operator, the group takes the spelling that onnxruntime fuses. Where no float is
    allowed, normalizations stay as they are: operator by operator they may have an integer form.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Rewrite the main graph of the prepared model."""
        del tick
        model = state.model.clone()
        names, version = graph.Names(model), graph.opset(model)
        entries: dict[str, Entry] = {}
        found = [m for m in meanings(list(model.graph)) if _is_float32(m) and _is_wanted(m, state)]
        for meaning in found:
            operands = _operands(meaning, names)
            last, inner = meaning.cone.last, meaning.cone.members[:-1]
            if not _write(meaning, operands, version, names):
                continue
            for node in reversed(inner):
                name = graph.node_name(node)
                reason = f"part of {meaning.row.operator} {graph.node_name(last)!r}"
                entries[name] = Entry(name, node.op_type, FOLDED, reason=reason)
                graph.remove_node(node)
        if not entries:
            return state
        graph.remove_unused(model)
        model.graph.sort()
        return replace(state, model=model).entered(entries)


def _is_float32(meaning: Meaning) -> bool:
    return all(v.dtype in (None, ir.DataType.FLOAT) for v in (meaning.cone.source, meaning.cone.last.outputs[0]))


def _is_wanted(meaning: Meaning, state: State) -> bool:
    """Tell whether the operator is at least as good as its spelling: faster, or the only one with an integer form."""
    row, form = meaning.row, state.recipe.form
    kernel = KERNELS.get(row.operator)
    has_integers = form in FORMS and kernel is not None and kernel.cell(form).integer
    if not row.reduces or has_integers or state.recipe.fallback == "refuse":
        return not row.reduces or has_integers
    return not row.last_axis or meaning.axes == (len(meaning.cone.source.shape or ()) - 1,)


def _write(meaning: Meaning, operands: Sequence[ir.Value] | None, version: int, names: graph.Names) -> bool:
    """Turn the last operator into the operator, or into the end of the spelling that onnxruntime fuses."""
    row = meaning.row
    if row.since is not None and version >= row.since and operands is not None:
        attributes = dict(meaning.attributes)
        _become(meaning.cone.last, row.operator, [meaning.cone.source, *operands], attributes)
        return True
    types = tuple(m.op_type for m in meaning.cone.members)
    if not row.fused or types in row.fused or operands is None:
        return False
    if row.operator == "Gelu":
        return meaning.attributes["approximate"] != "tanh" and _plain_gelu(meaning, names)
    # onnxruntime's fusion wants every parameter that the operator has
    return len(_own(meaning)) == 1 + row.takes_bias and _plain_norm(meaning, operands, version, names)


def _own(meaning: Meaning) -> list[npt.NDArray[np.float32]]:
    return [p for p in (meaning.scale, meaning.bias) if p is not None]


def _become(last: ir.Node, op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, float | int | str]) -> None:
    last.op_type = op_type
    last.attributes.clear()
    for name, option in attributes.items():
        last.attributes[name] = ir.convenience.convert_attribute(name, option)
    last.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        last.replace_input_with(index, value)


def _operands(meaning: Meaning, names: graph.Names) -> list[ir.Value] | None:
    """Return the constants of a normalization, ones where the operator asks for a scale; None where it has no form."""
    if "epsilon" not in meaning.attributes:
        return []
    rank = len(meaning.cone.source.shape or ())
    planes = meaning.row.planes
    axes = (1,) if planes else meaning.axes
    sizes = _sizes(meaning, axes)
    if sizes is None or not (planes or axes == tuple(range(axes[0], rank))):
        return None  # a size is free; or the mean of channels at each place of a plane, for which there is no operator
    neutral = np.zeros((1,) * rank, np.float32)
    bias = neutral if planes and meaning.bias is None else meaning.bias
    parameters = {"scale": neutral + 1 if meaning.scale is None else meaning.scale}
    parameters |= {} if bias is None else {"bias": bias}
    return [
        _constant(meaning, role, np.array(np.broadcast_to(p.reshape([p.shape[a] for a in axes]), sizes)), names)
        for role, p in parameters.items()
    ]


def _sizes(meaning: Meaning, axes: Sequence[int]) -> list[int] | None:
    """Return the sizes of the axes along which scale and bias vary, or None where one is free."""
    shape = list(meaning.cone.source.shape or ())
    sizes = [max([p.shape[a] for p in _own(meaning)] + [d if isinstance(d := shape[a], int) else 0]) for a in axes]
    return sizes if all(size > 1 or shape[a] == 1 for size, a in zip(sizes, axes, strict=True)) else None


def _constant(meaning: Meaning, role: str, array: npt.NDArray[np.float32], names: graph.Names) -> ir.Value:
    """Return the user's own constant where it is the one, or a new one."""
    for node in meaning.cone.members:
        for value in node.inputs:
            own = graph.constant(value) if graph.is_constant(value) else None
            if value is not None and own is not None and own.shape == array.shape and np.array_equal(own, array):
                return value
    last = meaning.cone.last
    return graph.add_initializer(_home(last), names.new(f"{graph.name_of(last.outputs[0])}_{role}"), array)


def _plain_gelu(meaning: Meaning, names: graph.Names) -> bool:
    last, source = meaning.cone.last, meaning.cone.source
    root, one, half = (_scalar(last, n, v, names) for n, v in (("sqrt2", _ROOT_OF_TWO), ("one", 1.0), ("half", 0.5)))
    scaled = _before(last, "Div", [source, root], names)
    raised = _before(last, "Add", [_before(last, "Erf", [scaled], names), one], names)
    _become(last, "Mul", [_before(last, "Mul", [source, raised], names), half], {})
    return True


def _plain_norm(meaning: Meaning, operands: Sequence[ir.Value], version: int, names: graph.Names) -> bool:
    last, source = meaning.cone.last, meaning.cone.source
    axes = np.arange(int(meaning.attributes["axis"]), 0, dtype=np.int64)
    centred = source
    if meaning.row.takes_bias:
        centred = _before(last, "Sub", [source, _mean(last, source, axes, version, names)], names)
    two, epsilon = (
        _scalar(last, n, v, names) for n, v in (("two", 2.0), ("epsilon", float(meaning.attributes["epsilon"])))
    )
    square = _before(last, "Pow", [centred, two], names)
    variance = _before(last, "Add", [_mean(last, square, axes, version, names), epsilon], names)
    standard = _before(last, "Div", [centred, _before(last, "Sqrt", [variance], names)], names)
    scaled = [standard, operands[0]]
    if len(operands) > 1:
        _become(last, "Add", [_before(last, "Mul", scaled, names), operands[1]], {})
    else:
        _become(last, "Mul", scaled, {})
    return True


def _mean(last: ir.Node, value: ir.Value, axes: npt.NDArray[np.int64], version: int, names: graph.Names) -> ir.Value:
    if version < _AXES_ARE_AN_INPUT:
        return _before(last, "ReduceMean", [value], names, {"axes": axes.tolist()})
    given = graph.add_initializer(_home(last), names.new(f"{last.name}_axes"), axes)
    return _before(last, "ReduceMean", [value, given], names)


def _before(
    last: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    names: graph.Names,
    attributes: dict[str, list[int]] | None = None,
) -> ir.Value:
    name = names.new(f"{last.name}_{op_type}")
    made = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node(
        "",
        op_type,
        inputs,
        ir.convenience.convert_attributes(attributes or {}),
        outputs=[made],
        name=names.new(f"{name}_node"),
    )
    _home(last).append(node)
    return made


def _scalar(last: ir.Node, name: str, value: float, names: graph.Names) -> ir.Value:
    return graph.add_initializer(_home(last), names.new(f"{last.name}_{name}"), np.asarray(value, np.float32))


def _home(node: ir.Node) -> ir.Graph:
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"{node.name!r} belongs to no graph")
    return node.graph
