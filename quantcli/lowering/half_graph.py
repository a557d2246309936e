"""Writes float16 into a graph: tensors have a type, operators compute in a type, one Cast stands where they differ.

Bodies of If, Loop and Scan compute in float32; their constants may be float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import onnx_ir as ir

from quantcli import graph, half
from quantcli.lowering.half_constants import array_of, bodies
from quantcli.lowering.half_types import (
    FLOAT32_OPERANDS,
    FLOAT32_RESULTS,
    TENSOR_ATTRIBUTE,
    TYPE_ATTRIBUTE,
)
from quantcli.oprules import OP_RULES, Role
from quantcli.scratch import Scratch
from quantcli.writer import stem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import numpy.typing as npt

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
NAMES = {"float32": FLOAT, "float16": FLOAT16}


class HalfGraph:
    """An editor of one model, with the tensors that it made float16 and the Casts between both types."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = graph.Names(model)
        self._halves: set[ir.Value] = set()
        self._scratch = Scratch()
        self._casts: dict[ir.Value, ir.Value] = {}
        self._made: set[ir.Node] = set()
        self._first = {g: next(iter(g), None) for g in graph.all_graphs(model)}

    def store(self, constants: Iterable[ir.Value]) -> None:
        """Make constants float16."""
        for value in constants:
            array = array_of(value)
            if array is None:
                raise ValueError(f"{value.name!r} is no constant")
            self._set(value, _rounded(value, cast("npt.NDArray[np.float32]", array)))

    def compute(self, nodes: Iterable[ir.Node]) -> None:
        """Let the results of operators be float16."""
        for node in nodes:
            fixed = FLOAT32_RESULTS.get(node.op_type, frozenset())
            for index, value in enumerate(node.outputs):
                if value.dtype == FLOAT and index not in fixed:
                    self._retype(value)
            _retype_attributes(node)

    def feed(self, dtype: str) -> None:
        """Let the float inputs of the model have a type."""
        for value in self._model.graph.inputs:
            if value.dtype == FLOAT and NAMES[dtype] == FLOAT16 and not value.is_graph_output():
                self._retype(value)

    def give(self, dtype: str) -> None:
        """Let the float outputs of the model have a type; the tensor that is cast gets another name."""
        wanted = NAMES[dtype]
        for index, value in enumerate(list(self._model.graph.outputs)):
            if value.dtype not in (FLOAT, FLOAT16) or value.is_graph_input():
                continue
            mine = FLOAT16 if value in self._halves else FLOAT
            if wanted != mine and (value in self._halves or value.dtype == FLOAT):
                self._model.graph.outputs[index] = self._given(value, wanted)

    def connect(self, half_nodes: Collection[ir.Node]) -> None:
        """Let every operator read the type that it computes in; those in bodies and all others read float32."""
        for node in list(self._model.graph.all_nodes()):
            if node in self._made:
                continue
            fixed = FLOAT32_OPERANDS.get(node.op_type, frozenset()) if graph.is_onnx(node) else frozenset()
            for index, value in enumerate(node.inputs):
                if value is not None:
                    wanted = FLOAT16 if node in half_nodes and index not in fixed else FLOAT
                    node.replace_input_with(index, self._as(value, wanted))
            for body in bodies(node):
                for index, value in enumerate(list(body.outputs)):
                    if value in self._halves:
                        body.outputs[index] = _described(self._as(value, FLOAT), value)

    def _as(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        mine = FLOAT16 if value in self._halves else FLOAT if value.dtype == FLOAT else None
        return value if mine is None or mine == wanted else self._cast(value, wanted)

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """Return the one Cast of a tensor. Of a constant it keeps the user's name: the stored one has a short name."""
        if value in self._casts:
            return self._casts[value]
        name = graph.name_of(value)
        if value in self._halves and array_of(value) is not None:
            value.name = self._names.new(f"h{len(self._made)}")
        else:
            name = self._names.new(f"{stem(name)}_{wanted.name.lower()}")
        return self._append(value, name, wanted)

    def _given(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name, old = graph.name_of(value), FLOAT16 if wanted == FLOAT else FLOAT
        value.name = self._names.new(f"{stem(name)}_{old.name.lower()}")
        return _described(self._append(value, name, wanted), value, wanted)

    def _append(self, value: ir.Value, name: str, wanted: ir.DataType) -> ir.Value:
        """Insert a Cast after the operator that makes a tensor; before all others for a constant or an input."""
        producer, within = value.producer(), graph.value_graph(value)
        if within is None:
            raise ValueError(f"{value.name!r} belongs to no graph")
        result = ir.Value(name=name)  # its type follows from the Cast: saying it again costs bytes
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(wanted))], outputs=[result])
        node.name = self._names.new(f"c{len(self._made)}")
        first = self._first[within]
        if producer is not None:
            within.insert_after(producer, node)
        elif first is not None:
            within.insert_before(first, node)
        else:
            within.append(node)
        self._made.add(node)
        self._casts[value] = result
        return result

    def _retype(self, value: ir.Value) -> None:
        value.type = ir.TensorType(FLOAT16)
        self._halves.add(value)

    def _set(self, value: ir.Value, array: npt.NDArray[np.float16]) -> None:
        producer, tensor = value.producer(), self._scratch.tensor(array, graph.name_of(value))
        if producer is None:
            value.const_value = tensor
        else:
            producer.attributes["value"] = ir.AttrTensor("value", tensor)
        self._retype(value)


def _described(result: ir.Value, value: ir.Value, dtype: ir.DataType = FLOAT) -> ir.Value:
    """Say of an output of a graph what was said of the tensor that is cast to it: there it has to be said."""
    result.type, result.shape, result.doc_string = ir.TensorType(dtype), value.shape, value.doc_string
    result.metadata_props.update(value.metadata_props)
    return result


def _rounded(value: ir.Value, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Round a constant; the weight of a linear operator so that the sum over what each output channel reads is kept."""
    axes = {_channel_axis(node, index, array.ndim) for node, index in graph.consumers(value)}
    axis = axes.pop() if len(axes) == 1 else None
    if axis is None or not array.size:
        return half.halved(array)
    first = np.moveaxis(array, axis, 0)
    rows = half.balanced(first.reshape(len(first), -1))
    return np.ascontiguousarray(np.moveaxis(rows.reshape(first.shape), 0, axis))


def _channel_axis(node: ir.Node, index: int, rank: int) -> int | None:
    """Return the axis of the output channels if the operand is the weight of a linear operator of one group."""
    rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
    if rule is None or rule.role is not Role.LINEAR or index != rule.weight or rank < 2:
        return None
    if rule.axis == 1 and graph.int_attribute(node, "group", 1) != 1:
        return None  # the channels of a ConvTranspose in groups are spread over two axes
    return 0 if graph.int_attribute(node, "transB", 0) else rule.axis


def _retype_attributes(node: ir.Node) -> None:
    """Let the attribute that names a type, or holds a value of it, say float16."""
    named = TYPE_ATTRIBUTE.get(node.op_type, "")
    if named and graph.int_attribute(node, named, 0) == FLOAT:
        node.attributes[named] = ir.AttrInt64(named, int(FLOAT16))
    held = TENSOR_ATTRIBUTE.get(node.op_type, "")
    if not held:
        return
    attribute = node.attributes.get(held)
    array = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    if array.dtype == np.float32:
        node.attributes[held] = ir.AttrTensor(held, ir.Tensor(half.halved(array)))
