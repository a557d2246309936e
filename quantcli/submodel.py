"""Models made of parts of a graph: other outputs, or some of its nodes with the constants that they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from quantcli import custom_ops, graph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence


def with_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy of the model whose outputs are the named tensors of the main graph."""
    copy = model.clone()
    values = graph.named_values(copy.graph)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values[n] for n in names)
    graph.remove_unused(copy)
    return copy


def sub_model(
    model: ir.Model, nodes: Collection[ir.Node], inputs: Mapping[str, ir.TypeAndShape], outputs: Sequence[str]
) -> ir.Model:
    """Return a model of some nodes of the main graph, fed with ``inputs`` (name -> type and shape).

    Constants that the nodes read come along, those read in their bodies (If, Loop) too. The nodes must be given in
    topological order.
    """
    part = _Part(inputs)
    copies = [part.copied(node) for node in nodes]
    for value in list(_read_in_bodies(nodes, model.graph)):
        part.local(value)
    made = ir.Graph(
        part.inputs,
        [part.named(n) for n in outputs],
        nodes=copies,
        initializers=part.initializers,
        opset_imports=dict(model.opset_imports),
        name="part",
    )
    found = ir.Model(made, ir_version=model.ir_version)
    custom_ops.carry(model, found)
    return found


def outer_reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, and what its bodies read that they do not define themselves."""
    yield from (v for v in node.inputs if v is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            own = defined(body)
            read = (v for inner in body.all_nodes() for v in inner.inputs)
            yield from (v for v in read if v is not None and v not in own)


def defined(body: ir.Graph) -> set[ir.Value]:
    """Return every value that a body, or a body inside it, defines."""
    found = set[ir.Value]()
    for part in (body, *body.subgraphs()):
        found.update((*part.inputs, *part.initializers.values()))
        found.update(v for node in part for v in node.outputs)
    return found


def _read_in_bodies(nodes: Collection[ir.Node], main: ir.Graph) -> Iterator[ir.Value]:
    for node in nodes:
        own = set(node.inputs)
        yield from (v for v in outer_reads(node) if v not in own and graph.value_graph(v) is main)


class _Part:
    """Values and nodes of a model in the making, by the values of the model that it is taken from."""

    def __init__(self, fed: Mapping[str, ir.TypeAndShape]) -> None:
        self._fed = fed
        self._local: dict[ir.Value, ir.Value] = {}
        self.inputs: list[ir.Value] = []
        self.initializers: list[ir.Value] = []

    def local(self, value: ir.Value | None) -> ir.Value | None:
        """Return the part's own version of a value: made before, fed, or a constant that comes along."""
        if value is None or value in self._local:
            return None if value is None else self._local[value]
        name = graph.name_of(value)
        known = self._fed.get(name)
        if known is not None:
            made = ir.Value(name=name, type=known.type, shape=known.shape)
            self.inputs.append(made)
        else:
            made = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
            self.initializers.append(made)
        self._local[value] = made
        return made

    def copied(self, node: ir.Node) -> ir.Node:
        """Return a copy of a node that reads the part's values."""
        copy = ir.Node(
            node.domain,
            node.op_type,
            [self.local(v) for v in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=node.name,
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = old.name
            self._local[old] = new
        return copy

    def named(self, name: str) -> ir.Value:
        """Return the part's value of that name."""
        return next(v for v in self._local.values() if v.name == name)
