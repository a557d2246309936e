"""Gives inputs and outputs of a float32 model the float types that the user's model has there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from quantcli import graph

if TYPE_CHECKING:
    from collections.abc import Mapping

FLOAT: Final = ir.DataType.FLOAT
FED: Final = (ir.DataType.FLOAT16, ir.DataType.DOUBLE)  # numpy has no bfloat16, nor do samples


def types_of(model: ir.Model) -> dict[str, ir.DataType]:
    """Return the float types of the model's inputs and outputs that are not float32 and that samples come in."""
    ends = (*model.graph.inputs, *model.graph.outputs)
    return {graph.name_of(v): v.dtype for v in ends if isinstance(v.type, ir.TensorType) and v.dtype in FED}


def restore(model: ir.Model, types: Mapping[str, ir.DataType]) -> None:
    """Put a Cast at every float32 input and output that has another type by name, unless that type lies behind it."""
    names = graph.Names(model)
    for value in list(model.graph.inputs):
        wanted = types.get(graph.name_of(value))
        if wanted is not None and value.dtype == FLOAT and not value.is_graph_output():
            _restore_input(model.graph, value, wanted, names)
    for index, value in enumerate(list(model.graph.outputs)):
        wanted = types.get(graph.name_of(value))
        if wanted is not None and value.dtype == FLOAT and not value.is_graph_input():
            _restore_output(model.graph, index, wanted, names)
    graph.remove_unused(model)


def _restore_input(main: ir.Graph, value: ir.Value, wanted: ir.DataType, names: graph.Names) -> None:
    readers = graph.consumers(value)
    value.type = ir.TensorType(wanted)
    others = []
    for reader, index in readers:
        if _casts_to(reader, wanted) and not reader.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(reader.outputs[0], value)  # cast there and back: no rounding between
        else:
            others.append((reader, index))
    if not others:
        return
    cast = _cast(value, FLOAT, names.new(f"{value.name}_float32"), names)
    main.insert_before(main[0], cast)
    for reader, index in others:
        reader.replace_input_with(index, cast.outputs[0])


def _restore_output(main: ir.Graph, index: int, wanted: ir.DataType, names: graph.Names) -> None:
    value = main.outputs[index]
    name, made = graph.name_of(value), _without_cast(value, wanted)
    value.name = names.new(f"{name}_float32")
    if made is None:
        cast = _cast(value, wanted, name, names)
        main.append(cast)
        made = cast.outputs[0]
    made.name, made.type, made.shape = name, ir.TensorType(wanted), made.shape or value.shape
    made.doc_string = value.doc_string
    made.metadata_props.update(value.metadata_props)
    main.outputs[index] = made


def _without_cast(value: ir.Value, wanted: ir.DataType) -> ir.Value | None:
    """Return what was cast to float32 to make an output, if it has the wanted type and may have the output's name."""
    producer = value.producer()
    inside = producer.inputs[0] if producer is not None and _casts_to(producer, FLOAT) else None
    free = inside is not None and inside.producer() is not None and not inside.is_graph_output()
    return inside if inside is not None and free and inside.dtype == wanted else None


def _cast(value: ir.Value, wanted: ir.DataType, output: str, names: graph.Names) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(wanted)}, name=names.new(f"{value.name}_boundary"))
    node.outputs[0].name = output
    return node


def _casts_to(node: ir.Node, wanted: ir.DataType) -> bool:
    return graph.is_onnx(node, "Cast") and graph.int_attribute(node, "to", 0) == wanted
