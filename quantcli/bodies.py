"""A body of If, Loop or Scan as a model of its own, and back into the operator that it belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from quantcli import custom_ops, graph
from quantcli.submodel import defined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONTROL: Final = ("If", "Loop", "Scan")
_SHARED_BYTES: Final = 1024  # of a constant that is worth a search for its like


@dataclass(frozen=True, slots=True)
class Body:
    """One body.

    Attributes:
        node: The operator that it belongs to.
        attribute: Which attribute of it: ``then_branch``, ``else_branch`` or ``body``.
        captured: What it reads of the graphs around it and is computed there, or fed: in order of first use.
    """

    node: ir.Node
    attribute: str
    captured: tuple[ir.Value, ...]

    @property
    def graph(self) -> ir.Graph:
        """The body as it stands in the operator."""
        return self.node.attributes[self.attribute].as_graph()

    @property
    def place(self) -> str:
        """Where it is, for messages: ``If_0.then_branch``."""
        return f"{graph.node_name(self.node)}.{self.attribute}"


def bodies_of(node: ir.Node) -> list[Body]:
    """Return the bodies of an operator of ONNX's control flow; none for any other operator."""
    if not graph.is_onnx(node, *CONTROL):
        return []
    names = [n for n, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH]
    return [Body(node, n, _captured(node.attributes[n].as_graph())) for n in names]


def as_model(body: Body, model: ir.Model) -> ir.Model:
    """Return a copy of a body as a model: its inputs are those of the body, then what it captures.

    Constants of the graphs around it come along. Types are those that the model's tensors are annotated with.

    Args:
        body: The body.
        model: The model that it belongs to.
    """
    made = body.graph.clone(allow_outer_scope_values=True)
    _type_formal(body, made)
    fed = {v: ir.Value(name=v.name, type=v.type, shape=v.shape) for v in body.captured}
    local: dict[ir.Value, ir.Value] = dict(fed)
    own = defined(made)
    for node in list(made.all_nodes()):
        for index, value in enumerate(node.inputs):
            if value is None or value in own:
                continue
            if value not in local:
                local[value] = _copied(value, made)
            node.replace_input_with(index, local[value])
    made.inputs.extend(fed.values())
    made.opset_imports.clear()
    made.opset_imports.update(model.opset_imports)
    made.name = made.name or body.attribute
    found = ir.Model(made, ir_version=max(model.ir_version, 8))
    custom_ops.carry(model, found)
    return found


def put_back(body: Body, converted: ir.Model, names: graph.Names, into: ir.Model) -> None:
    """Put a converted body in the place of the one that it was made from.

    What is new in it gets names that nothing in the model has; a constant of the graphs around it that it still reads
    as it was is read from there again.

    Args:
        body: Where it goes.
        converted: The body as ``as_model`` gave it, converted.
        names: The names of the model.
        into: The model.
    """
    old, new = body.graph, converted.graph
    outer = {graph.name_of(v): v for v in body.captured}
    for value in [v for v in new.inputs if v.name in outer]:
        ir.convenience.replace_all_uses_with(value, outer[graph.name_of(value)])
        new.inputs.remove(value)
    _share(new, _outer_constants(old))
    _rename(new, _names(old), names)
    for was, now in zip(old.outputs, new.outputs, strict=True):
        now.type, now.shape = now.type or was.type, now.shape or was.shape
    new.name = old.name
    for domain, version in converted.graph.opset_imports.items():
        into.opset_imports.setdefault(domain, version)
    into.ir_version = max(into.ir_version, converted.ir_version)
    body.node.attributes[body.attribute] = ir.AttrGraph(body.attribute, new)
    for node in old.all_nodes():  # it reads nothing any more
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def share_equal(model: ir.Model, names: graph.Names) -> None:
    """Keep one copy, in the main graph, of each large constant that two bodies or a body and the main graph hold.

    What a DequantizeLinear reads stays where it is: onnxruntime fuses one only with constants of its own graph.

    Args:
        model: The model, changed.
        names: Its names.
    """
    known: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
    for part in graph.all_graphs(model):
        for name, value in list(part.initializers.items()):
            tensor = value.const_value
            bound = value.is_graph_input() or value.is_graph_output()
            if tensor is None or tensor.nbytes < _SHARED_BYTES or bound or _is_dequantized(value):
                continue
            key = (tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(tensor.tobytes()).digest())
            first = known.setdefault(key, value)
            if first is value or part is model.graph:
                continue
            home = graph.value_graph(first)
            if home is not model.graph and home is not None:
                del home.initializers[graph.name_of(first)]
                first.name = names.new(graph.name_of(first))
                model.graph.register_initializer(first)
            del part.initializers[name]
            ir.convenience.replace_all_uses_with(value, first)


def _is_dequantized(value: ir.Value) -> bool:
    return any(reader.op_type == "DequantizeLinear" for reader, _ in graph.consumers(value))


def _captured(inner: ir.Graph) -> tuple[ir.Value, ...]:
    own = defined(inner)
    read = (v for node in inner.all_nodes() for v in node.inputs if v is not None and v not in own)
    return tuple(dict.fromkeys(v for v in read if not graph.is_constant(v)))


def _outer_constants(inner: ir.Graph) -> dict[str, ir.Value]:
    own = defined(inner)
    read = (v for node in inner.all_nodes() for v in node.inputs if v is not None and v not in own)
    return {graph.name_of(v): v for v in read if graph.is_constant(v)}


def _copied(value: ir.Value, into: ir.Graph) -> ir.Value:
    made = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)
    into.register_initializer(made)
    return made


def _type_formal(body: Body, made: ir.Graph) -> None:
    """Give the inputs of a body the types of what is handed to them; their shapes may change from turn to turn."""
    given: list[ir.Value | None] = list(body.node.inputs)
    if graph.is_onnx(body.node, "Loop"):
        for value, kind in zip(made.inputs, (ir.DataType.INT64, ir.DataType.BOOL), strict=False):
            value.type, value.shape = ir.TensorType(kind), ir.Shape([])
        given = given[2:]
        formal = list(made.inputs)[2:]
    else:
        formal = list(made.inputs)
    for value, source in zip(formal, given, strict=False):
        value.type = value.type or (source.type if source is not None else None)


def _share(new: ir.Graph, outer: Mapping[str, ir.Value]) -> None:
    for name, value in list(new.initializers.items()):
        if name in outer and value.const_value is outer[name].const_value:
            ir.convenience.replace_all_uses_with(value, outer[name])
            del new.initializers[name]


def _rename(new: ir.Graph, kept: set[str], names: graph.Names) -> None:
    """Rename what is new: what had its name in the old body keeps it."""
    inside = _names(new)
    for part in (new, *new.subgraphs()):
        for value in _values(part):
            if value.name and value.name not in kept:
                value.name = names.new(value.name, inside)
        for node in part:
            if node.name and node.name not in kept:
                node.name = names.new(node.name, inside)


def _values(part: ir.Graph) -> Iterator[ir.Value]:
    yield from part.inputs
    yield from list(part.initializers.values())
    yield from (v for node in part for v in node.outputs)


def _names(inner: ir.Graph) -> set[str]:
    found = {v.name for part in (inner, *inner.subgraphs()) for v in _values(part) if v.name}
    return found | {n.name for n in inner.all_nodes() if n.name}
