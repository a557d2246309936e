"""Finds what a model computes in float64 of sizes and counts alone, to make sizes and counts again.

``floor(size * scale)`` in float32 can miss a whole number that float64 hits; such arithmetic is cheap where it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from quantcli import graph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

DOUBLE, FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT
# Operators whose result has the type of their operands, as exporters use them on sizes.
ARITHMETIC: Final = frozenset(
    {"Abs", "Add", "Ceil", "Clip", "Concat", "Div", "Exp", "Floor", "Gather", "Identity", "Log", "Max", "Min", "Mod",
     "Mul", "Neg", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Slice",
     "Sqrt", "Squeeze", "Sub", "Unsqueeze", "Where"}
)  # fmt: skip
COUNTING: Final = frozenset({"ArgMax", "ArgMin", "NonZero", "Shape", "Size"})  # whatever they read, they make integers

Kept = dict[ir.Node | ir.Value, None]  # in the order in which they were found: names depend on it


def in_float64(model: ir.Model) -> Kept:
    """Return the nodes and initializers that have to stay float64 so that sizes, counts and indices stay the same.

    They are what a Cast to integers or a Range reads, back to integers and constants; where an operand of the model
    comes in, or an operator that learns, it is data and none of them.
    """
    found: Kept = {}
    for node in _nodes(model):
        if graph.is_onnx(node, "Range"):
            traced = _traced([*node.inputs, *node.outputs])
        elif graph.is_onnx(node, "Cast") and _cast_type(node).is_integer():
            traced = _traced(node.inputs)
        else:
            continue
        found |= traced or {}
    return {item: None for item in found if _is_kept(item)}


def separate(model: ir.Model, kept: Collection[object]) -> None:
    """Let everybody else read float32 of what stays float64; outputs of the model excepted, which keep their type."""
    names = graph.Names(model)
    outputs = set(model.graph.outputs)
    for value in [v for item in kept for v in _values_of(item)]:
        within = graph.value_graph(value)
        others = [(n, i) for n, i in graph.consumers(value) if n not in kept and not graph.is_onnx(n, "Cast")]
        leaves = within is not None and value not in outputs and value.is_graph_output()
        if within is None or not (others or leaves):
            continue
        cast = ir.node("Cast", [value], {"to": int(FLOAT)}, name=names.new(f"{value.name}_to_float32"))
        cast.outputs[0].name = names.new(f"{value.name}_float32")
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(FLOAT), value.shape
        _place(cast, value, within)
        for reader, index in others:
            reader.replace_input_with(index, cast.outputs[0])
        for index, output in enumerate(list(within.outputs) if leaves else ()):
            if output is value:
                within.outputs[index] = cast.outputs[0]


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _traced(values: Iterable[ir.Value | None]) -> Kept | None:
    """Return the nodes and initializers that make values, back to integers; None where data comes in."""
    found: Kept = {}
    todo = [v for v in values if v is not None]
    while todo:
        value = todo.pop()
        node = value.producer()
        if node in found or _is_integer(value):
            continue
        if graph.is_constant(value):
            found[value] = None
        elif node is not None and _computes_positions(node):
            found[node] = None
            todo.extend(v for v in node.inputs if v is not None)
        else:
            return None
    return found


def _computes_positions(node: ir.Node) -> bool:
    if graph.is_onnx(node, "Cast"):
        return _is_integer(node.inputs[0])
    return graph.is_onnx(node, "Constant", *ARITHMETIC)


def _is_integer(value: ir.Value | None) -> bool:
    """Tell whether a tensor holds integers, as far as its declaration or the operators before it say."""
    if value is None or value.dtype is not None:
        return value is not None and value.dtype is not None and not value.dtype.is_floating_point()
    node = value.producer()
    if node is None or not graph.is_onnx(node):
        return False
    if node.op_type in ("Cast", "Constant"):
        return not (_cast_type(node) if node.op_type == "Cast" else _constant_type(node)).is_floating_point()
    data = 1 if node.op_type == "Where" else 0
    return node.op_type in COUNTING or (node.op_type in ARITHMETIC and _is_integer(node.inputs[data]))


def _is_kept(item: ir.Node | ir.Value) -> bool:
    return any(_is_double(v) for v in _values_of(item))


def _is_double(value: ir.Value | None) -> bool:
    if value is None or value.dtype is not None:
        return value is not None and value.dtype == DOUBLE
    node = value.producer()
    if node is None:
        return value.const_value is not None and value.const_value.dtype == DOUBLE
    if node.op_type in ("Cast", "Constant"):
        return (_cast_type(node) if node.op_type == "Cast" else _constant_type(node)) == DOUBLE
    return node.op_type in ARITHMETIC and any(_is_double(v) for v in node.inputs)


def _values_of(item: object) -> tuple[ir.Value, ...]:
    if isinstance(item, ir.Node):
        return tuple(item.outputs)
    return (item,) if isinstance(item, ir.Value) else ()


def _cast_type(node: ir.Node) -> ir.DataType:
    attribute = node.attributes.get("to")
    told = attribute is not None and not attribute.is_ref()
    return ir.DataType(attribute.as_int()) if attribute is not None and told else ir.DataType.UNDEFINED


def _constant_type(node: ir.Node) -> ir.DataType:
    attribute = node.attributes.get("value")
    told = attribute is not None and attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()
    return attribute.as_tensor().dtype if attribute is not None and told else ir.DataType.UNDEFINED


def _place(cast: ir.Node, value: ir.Value, within: ir.Graph) -> None:
    producer = value.producer()
    if producer is not None:
        within.insert_after(producer, cast)
    elif len(within):
        within.insert_before(within[0], cast)
    else:
        within.append(cast)
