"""Which constants of a model become float16: those of bodies too. Says for each of the others why it stays float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import onnx_ir as ir

from quantcli import graph, half
from quantcli.lowering.half_types import FLOAT32_OPERANDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import numpy.typing as npt

ASKED: Final = "kept float as asked"
TOO_SMALL: Final = "a Cast would take more bytes than float16 saves"
SPARED: Final = "among the smallest, which stay exact for less than half a percent of the bytes"


@dataclass(frozen=True, slots=True)
class Constants:
    """The float32 constants of a model.

    Attributes:
        stored: Those that become float16.
        refused: Those that float16 cannot hold or that have to stay float32, with the reason.
        small: Those that are not worth a Cast, or exact for next to nothing, with the reason.
    """

    stored: tuple[ir.Value, ...]
    refused: Mapping[ir.Value, str]
    small: Mapping[ir.Value, str]

    def kept(self, value: ir.Value) -> str:
        """Return why a constant stays float32, or nothing."""
        return self.small.get(value) or self.refused.get(value, "")


def choose(model: ir.Model, asked: Collection[str], half_nodes: Collection[ir.Node]) -> Constants:
    """Choose the constants to store as float16.

    Args:
        model: The model.
        asked: Names of nodes whose constants stay float32.
        half_nodes: Nodes that compute in float16: what only they read needs no Cast.
    """
    kept = {v for node in model.graph if graph.node_name(node) in asked for v in read_by(node)}
    free, paid, refused = [], {}, {}
    sizes = {value: array.size for value, array in constants(model)}
    for value, array in constants(model):
        reason = ASKED if value in kept else _refusal(value, array, model)
        if reason:
            refused[value] = reason
        elif not value.is_graph_output() and all(node in half_nodes for node, _ in graph.consumers(value)):
            free.append(value)
        else:
            paid[value] = array.size
    small = _small(paid, sum(sizes.values()))
    stored = {v for v in (*free, *paid) if v not in small}
    return Constants(tuple(v for v in sizes if v in stored), refused, small)


def _small(sizes: Mapping[ir.Value, int], total: int) -> dict[ir.Value, str]:
    worth = [v for v, size in sizes.items() if half.saving(size) > 0]
    spared = half.spared([sizes[v] for v in worth], total)
    found = {v: TOO_SMALL for v, size in sizes.items() if half.saving(size) <= 0}
    return found | {worth[index]: SPARED for index in sorted(spared)}


def constants(model: ir.Model) -> Iterator[tuple[ir.Value, npt.NDArray[np.float32]]]:
    """Yield every float32 constant that is read: initializers, and the Constant nodes that are results of a body."""
    for within in graph.all_graphs(model):
        made = [n.outputs[0] for n in within if graph.is_onnx(n, "Constant")]
        for value in (*within.initializers.values(), *made):
            array = array_of(value)
            if array is not None and array.dtype == np.float32 and (value.uses() or value.is_graph_output()):
                yield value, cast("npt.NDArray[np.float32]", array)


def array_of(value: ir.Value) -> npt.NDArray[np.generic] | None:
    """Return the array of an initializer that nobody can feed, or of a Constant node."""
    producer = value.producer()
    if producer is None:
        return graph.constant(value)
    attribute = producer.attributes.get("value") if graph.is_onnx(producer, "Constant") else None
    return None if attribute is None else attribute.as_tensor().numpy()


def read_by(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node and the nodes in its bodies read, and the constants that its bodies return."""
    for inner in inside(node):
        yield from (v for v in inner.inputs if v is not None)
        for body in bodies(inner):
            yield from body.outputs


def inside(node: ir.Node) -> Iterator[ir.Node]:
    """Yield a node and every node in its bodies."""
    yield node
    for body in bodies(node):
        yield from body.all_nodes()


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node holds itself."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _refusal(value: ir.Value, array: npt.NDArray[np.float32], model: ir.Model) -> str:
    if any(value is output for output in model.graph.outputs):
        return "it is an output of the model"
    for node, index in graph.consumers(value):
        if graph.is_onnx(node) and index in FLOAT32_OPERANDS.get(node.op_type, ()):
            return f"operand {index} of {node.op_type} is float32 by definition"
    return half.refusal(array)
