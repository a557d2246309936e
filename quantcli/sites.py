"""Finds activations whose channels may be rescaled: what products read them, and which constants before take it back.

A factor per channel runs backwards through what is linear in each channel (bias, Relu, a gate) to a constant that
makes the channels: a weight, the scale of a normalization, a constant that is multiplied. ``chains`` goes the other
way, from a linear operator to all its readers, and knows convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.chains import constant_at, is_linear

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

_PRODUCTS: Final = ("MatMul", "Gemm")
_BY_CHANNEL: Final = ("Relu", "LeakyRelu")  # f(k x) = k f(x) for k > 0
# Operators whose inputs 1 and 2 are scale and bias of each channel along the last axis.
_NORMALIZATIONS: Final = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_DEEPEST: Final = 8  # operators between the constants and the activation


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant that can take the inverse of a factor: input ``index`` of ``node``.

    Attributes:
        node: Who reads it.
        index: As which input.
        shape: In which (C,) factors broadcast against it.
    """

    node: ir.Node
    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """An activation, (..., C), that products with constant weights read.

    Attributes:
        home: The graph.
        activation: The tensor.
        readers: The products; each reads it as its input 0, and its weight alone.
        makers: The constants that can take the inverse of its factors; empty where only a Mul of its own can.
    """

    home: ir.Graph
    activation: ir.Value
    readers: tuple[ir.Node, ...]
    makers: tuple[Constant, ...] = ()

    @property
    def name(self) -> str:
        """Name of the activation."""
        return graph.name_of(self.activation)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(by_channel(self.readers[0], weight_of(self.readers[0])))


def find_sites(model: ir.Model) -> list[Site]:
    """Return the sites of the main graph, in the order in which the activations are made."""
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    return [site for value in values if (site := _site(value, model.graph)) is not None]


def weight_of(reader: ir.Node) -> npt.NDArray[np.floating]:
    """Return the weight of a product as it is stored."""
    weight = graph.real_constant(reader.inputs[1])
    if weight is None:
        raise ValueError(f"{reader.name!r} has no constant weight")
    return weight


def by_channel(reader: ir.Node, weight: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return a weight of a product as (C, outputs), or one that was so as it is stored."""
    return weight.T if graph.int_attribute(reader, "transB", 0) else weight


def _site(value: ir.Value, home: ir.Graph) -> Site | None:
    consumers = graph.consumers(value)
    readers = [node for node, index in consumers if index == 0 and node.graph is home and _is_product(node)]
    channels = {by_channel(r, weight_of(r)).shape[0] for r in readers}
    if len(channels) != 1 or len({id(r) for r in readers}) != len(readers):
        return None
    alone = len(readers) == len(consumers) and not value.is_graph_output()
    makers = _makers(value, channels.pop(), home, _DEEPEST) if alone else None
    return Site(home, value, tuple(readers), tuple(makers or ()))


def _is_product(node: ir.Node) -> bool:
    """Tell whether a node multiplies rows with a float32 matrix that it alone reads."""
    if not graph.is_onnx(node, *_PRODUCTS) or not is_linear(node) or graph.int_attribute(node, "transA", 0):
        return False
    weight = node.inputs[1]
    return weight is not None and weight_of(node).ndim == 2 and _is_own(weight)


def _makers(value: ir.Value, channels: int, home: ir.Graph, depth: int) -> list[Constant] | None:
    """Return the constants that scale the channels of a tensor that nothing else reads, or None."""
    node = value.producer()
    if node is None or node.graph is not home or value.is_graph_output() or not depth:
        return None
    if _is_product(node):
        return _of_product(node, channels)
    if graph.is_onnx(node, *_NORMALIZATIONS) and value is node.outputs[0]:
        return _of_normalization(node, channels)
    if graph.is_onnx(node, *_BY_CHANNEL):
        return _before(node.inputs[0], channels, home, depth)
    if graph.is_onnx(node, "Add", "Mul"):
        return _of_pair(node, channels, home, depth)
    return None


def _before(value: ir.Value | None, channels: int, home: ir.Graph, depth: int) -> list[Constant] | None:
    if value is None or len(graph.consumers(value)) != 1:
        return None
    return _makers(value, channels, home, depth - 1)


def _of_product(node: ir.Node, channels: int) -> list[Constant] | None:
    turned = bool(graph.int_attribute(node, "transB", 0))
    bias = graph.input_at(node, 2)
    weight = Constant(node, 1, (-1, 1) if turned else (1, -1))
    if by_channel(node, weight_of(node)).shape[1] != channels:
        return None
    if bias is None:
        return [weight]
    return [weight, Constant(node, 2, (-1,))] if _is_vector(bias, channels) else None


def _of_normalization(node: ir.Node, channels: int) -> list[Constant] | None:
    scale, bias = graph.input_at(node, 1), graph.input_at(node, 2)
    if not _is_vector(scale, channels) or (bias is not None and not _is_vector(bias, channels)):
        return None
    return [Constant(node, i, (-1,)) for i in (1, 2) if graph.input_at(node, i) is not None]


def _of_pair(node: ir.Node, channels: int, home: ir.Graph, depth: int) -> list[Constant] | None:
    """Return what makes a sum with a constant, or a product with one or of two tensors, one of which is scaled."""
    if not any(graph.is_constant(v) for v in node.inputs):
        if node.op_type == "Add":
            return None
        found = (_before(v, channels, home, depth) for v in reversed(node.inputs))
        return next((f for f in found if f is not None), None) if node.inputs[0] is not node.inputs[1] else None
    at = constant_at(node)
    if not _is_vector(node.inputs[at], channels):
        return None
    own = [Constant(node, at, (-1,))]
    if node.op_type == "Mul":
        return own
    rest = _before(node.inputs[1 - at], channels, home, depth)
    return None if rest is None else [*rest, *own]


def _is_vector(value: ir.Value | None, channels: int) -> bool:
    """Tell whether a value is a float32 constant with one element for each channel, along the last axis."""
    array = graph.real_constant(value)
    return array is not None and array.dtype == np.float32 and array.size == channels == (array.shape or (1,))[-1]


def _is_own(value: ir.Value) -> bool:
    return len(graph.consumers(value)) == 1 and not value.is_graph_output()
