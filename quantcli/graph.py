"""What the rest of the package asks of an onnx-ir graph: walking, constants, unique names, edits, sub-models.

Knows nothing of quantization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

ONNX_DOMAINS = ("", "ai.onnx")
MICROSOFT = "com.microsoft"


def is_onnx(node: ir.Node, *op_types: str) -> bool:
    """Tell whether the node is an operator of the ONNX domain, of one of the given types if any are given."""
    return node.domain in ONNX_DOMAINS and (not op_types or node.op_type in op_types)


def opset(model: ir.Model) -> int:
    """Return the version of the ONNX operator set that the model imports."""
    found = [model.opset_imports[d] for d in ONNX_DOMAINS if d in model.opset_imports]
    return max(found, default=1)


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the main graph and every subgraph of a node in it, outermost first."""
    yield model.graph
    yield from model.graph.subgraphs()


def constant(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    """Return the array of a constant value, or None when it is computed or fed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def real_constant(value: ir.Value | None) -> npt.NDArray[np.floating] | None:
    """Return the array of a constant of real numbers, or None."""
    array = constant(value) if is_constant(value) else None
    return cast("npt.NDArray[np.floating]", array) if array is not None and array.dtype.kind == "f" else None


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether the value is an initializer that nobody can feed."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def external_constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.ExternalTensor]]:
    """Yield every initializer, of subgraphs too, whose data lies in a file of its own."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value, value.const_value


def name_of(value: ir.Value) -> str:
    """Return the name of a value; every value of a loaded model has one."""
    if value.name is None:
        raise ValueError(f"a value of {value.producer()} has no name")
    return value.name


def node_name(node: ir.Node) -> str:
    """Return the name of a node; ``name_everything`` has given it one."""
    return node.name or ""


def input_at(node: ir.Node, index: int | None) -> ir.Value | None:
    """Return an input, or None where it is absent, empty or out of range."""
    return node.inputs[index] if index is not None and index < len(node.inputs) else None


def consumers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Return (node, input index) of every use, in subgraphs too."""
    return [(use.node, use.idx) for use in value.uses()]


def only_consumer(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads the value, if there is exactly one and it is no graph output."""
    uses = consumers(value)
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0][0]
    return node if node.graph is value_graph(value) else None


def value_graph(value: ir.Value) -> ir.Graph | None:
    """Return the graph in which the value is made."""
    producer = value.producer()
    graph = producer.graph if producer is not None else value.graph
    return graph if isinstance(graph, ir.Graph) else None


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """Return a list attribute, or None where it is absent."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())


class Names:
    """Gives out names that nothing in the model has: tensors and nodes, subgraphs included."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for graph in all_graphs(model):
            self._taken.update(name_of(v) for v in (*graph.inputs, *graph.initializers.values()) if v.name)
            for node in graph:
                self._taken.update(v.name for v in node.outputs if v.name)
                self._taken.update((node.name,) if node.name else ())

    def new(self, wanted: str, besides: Container[str] = ()) -> str:
        """Return ``wanted``, or the first of ``wanted_1``, ``wanted_2`` ... that is free, and take it.

        ``besides`` are names that are not taken yet but will be: only ``wanted`` itself may be one of them.
        """
        name, count = wanted, 0
        while name in self._taken or (name != wanted and name in besides):
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


def name_everything(model: ir.Model) -> None:
    """Give every node a unique name: ``Conv_3`` for the unnamed, a suffix for duplicates."""
    seen: set[str] = set()
    taken = {n.name for n in model.graph.all_nodes() if n.name}
    for index, node in enumerate(model.graph.all_nodes()):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem, count = node.name or f"{node.op_type}_{index}", 0
        name = stem
        while name in taken or name in seen:
            count += 1
            name = f"{stem}_{count}"
        node.name = name
        seen.add(name)


def part_names(model: ir.Model) -> None:
    """Give tensors of different bodies different names, so that a name says which tensor is meant."""
    names, taken = Names(model), set[str]()
    for part in all_graphs(model):
        own = dict.fromkeys((*part.inputs, *part.initializers.values(), *(v for node in part for v in node.outputs)))
        for value in own:
            if value.name and value.name in taken:
                value.name = names.new(value.name)
            taken.update((value.name,) if value.name else ())


def add_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Register a constant; the name must be free."""
    value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value


def set_initializer(value: ir.Value, array: npt.NDArray[np.generic]) -> None:
    """Give an initializer another array of the same shape and type."""
    value.const_value = ir.Tensor(array, name=value.name)


def set_own_constant(node: ir.Node, index: int, array: npt.NDArray[np.generic], names: Names) -> None:
    """Give a node another constant; the old name is kept where nobody else reads the old one, or its shape differs."""
    value = node.inputs[index]
    if value is None or not isinstance(node.graph, ir.Graph):
        raise ValueError(f"input {index} of {node.name!r} is no constant of a graph")
    if len(consumers(value)) == 1 and value.shape == array.shape and not value.is_graph_output():
        set_initializer(value, array)
    else:
        node.replace_input_with(index, add_initializer(node.graph, names.new(name_of(value)), array))


def replace_value(old: ir.Value, new: ir.Value, *, keep_name: bool = True) -> None:
    """Let every reader of ``old`` read ``new``, graph outputs included; ``new`` takes over the name if asked."""
    is_output = old.is_graph_output()
    if keep_name or is_output:
        old.name, new.name = f"{old.name}__replaced", old.name
    new.type = new.type or old.type
    new.shape = new.shape or old.shape
    if is_output:
        new.doc_string = old.doc_string
        new.metadata_props.update(old.metadata_props)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def remove_node(node: ir.Node) -> None:
    """Take a node out whose outputs nobody reads."""
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def remove_unused(model: ir.Model) -> list[str]:
    """Remove nodes that nothing reads and initializers that nothing uses; return the names of the nodes."""
    removed: list[str] = []
    todo = [model.graph]
    while todo:  # outermost first
        graph = todo.pop()
        for node in reversed(list(graph)):
            inner = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
            if not any(o.uses() or o.is_graph_output() for o in node.outputs):
                removed.append(node_name(node))
                for g in inner:
                    for n in g.all_nodes():
                        for i in range(len(n.inputs)):
                            n.replace_input_with(i, None)
                graph.remove(node, safe=True)
            else:
                todo.extend(inner)
    for graph in all_graphs(model):
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del graph.initializers[name]
    return removed


def named_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return every tensor of the graph by name: inputs, initializers, results."""
    values = {name_of(v): v for v in (*graph.inputs, *graph.initializers.values())}
    values.update({name_of(v): v for node in graph for v in node.outputs if v.name})
    return values


def describe_op(node: ir.Node) -> str:
    """Return ``Conv``, or ``domain:Name`` for an operator of another domain."""
    return node.op_type if is_onnx(node) else f"{node.domain}:{node.op_type}"


def _contradict(declared: ir.Shape | None, found: ir.Shape | None) -> bool:
    return declared is not None and found is not None and len(declared) != len(found)


def annotate(model: ir.Model, known: Mapping[str, ir.TypeAndShape]) -> None:
    """Write types and shapes onto the tensors of the main graph that lack them; inputs and outputs stay as they are."""
    for name, value in named_values(model.graph).items():
        info = known.get(name)
        if info is None or value.is_graph_input():
            continue
        if value.is_graph_output() and not _contradict(value.shape, info.shape):
            continue
        if value.is_graph_output():
            value.shape = info.shape  # declared with another rank than it has
        value.type = value.type or info.type
        value.shape = value.shape or info.shape
