"""Finds where channels can be rescaled for free: linear operators, what passes channels on unchanged, linear readers.

A positive factor per channel commutes with Relu, LeakyRelu, PRelu, pooling and Concat; it goes into the weight of the
maker and its inverse into the weights of the readers. An InstanceNormalization takes it out by itself, but for epsilon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.absorption import clamp_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    Floats = npt.NDArray[np.float64]

_LINEAR: Final = ("Conv", "Gemm", "MatMul")
_BY_CHANNEL: Final = ("Relu", "LeakyRelu", "PRelu")  # f(k x) = k f(x) for k > 0, channel by channel
_NORMALIZING: Final = "InstanceNormalization"
_POOLS: Final = ("MaxPool", "AveragePool", "GlobalAveragePool")


@dataclass(frozen=True, slots=True)
class Maker:
    """A linear operator whose result is channels ``first`` and on of a chain.

    ``holder`` is the node whose constant is the bias: the operator itself, or the Add behind a MatMul.
    """

    node: ir.Node
    holder: ir.Node
    first: int
    channels: int

    @property
    def part(self) -> slice:
        """Where its channels are in those of the chain."""
        return slice(self.first, self.first + self.channels)


@dataclass(frozen=True, slots=True)
class Chain:
    """Makers, the tensors that their channels run through, and the linear readers.

    Attributes:
        makers: One, or one for each operand of a Concat.
        tensors: Tensors that carry all channels of the chain and have a range of their own.
        inner: All other tensors that get scaled.
        readers: Linear operators that read one of ``tensors``.
        bound: Where a Clip on the way cuts off, or None.
        axis: Axis of the channels.
        normalizers: Operators that normalize each channel of one of ``tensors`` by itself.
        epsilon: The largest that they do it with.
    """

    makers: tuple[Maker, ...]
    tensors: tuple[ir.Value, ...]
    inner: tuple[ir.Value, ...]
    readers: tuple[ir.Node, ...]
    bound: float | None
    axis: int
    normalizers: tuple[ir.Node, ...] = ()
    epsilon: float = 0.0

    @property
    def channels(self) -> int:
        """Number of channels."""
        return sum(m.channels for m in self.makers)

    @property
    def ends(self) -> tuple[ir.Node, ...]:
        """The operators that the chain ends in, biases and all: their results are what they were."""
        return (*dict.fromkeys((*map(bias_holder, self.readers), *self.normalizers)),)


def find_chains(model: ir.Model) -> list[Chain]:
    """Return the chains of the main graph, in topological order; no operator is a maker twice."""
    chains = [_joined(node) if graph.is_onnx(node, "Concat") else _single(node) for node in model.graph]
    return [c for c in chains if c is not None]


def is_linear(node: ir.Node) -> bool:
    """Tell whether the node is a linear operator with constants that can be scaled."""
    if not graph.is_onnx(node, *_LINEAR):
        return False
    weight, bias = graph.real_constant(graph.input_at(node, 1)), graph.input_at(node, 2)
    plain = all(graph.float_attribute(node, a, 1.0) == 1.0 for a in ("alpha", "beta"))
    if (
        weight is None
        or weight.dtype != np.float32
        or (weight.ndim < 3 if node.op_type == "Conv" else weight.ndim != 2)
    ):
        return False  # of stacked matrices each has channels of its own
    return plain and (bias is None or graph.is_constant(bias))


def constant_at(add: ir.Node) -> int:
    """Return which operand of an Add is the constant."""
    return 0 if graph.is_constant(add.inputs[0]) else 1


def bias_holder(node: ir.Node) -> ir.Node:
    """Return the node whose constant is the bias of a linear operator: itself, or the Add behind a MatMul."""
    weight = graph.real_constant(node.inputs[1])
    add = graph.only_consumer(node.outputs[0]) if node.op_type == "MatMul" else None
    if weight is None or add is None or not graph.is_onnx(add, "Add"):
        return node
    vector = graph.real_constant(add.inputs[constant_at(add)])
    return add if vector is not None and vector.shape == weight.shape[1:] else node


def weight_by_input(reader: ir.Node) -> Floats:
    """Return a linear operator's weight as (groups, rows of a group, inputs of a group, taps)."""
    weight = graph.real_constant(reader.inputs[1])
    if weight is None:
        raise ValueError(f"{reader.name!r} has no constant weight")
    if reader.op_type == "Conv":
        groups = graph.int_attribute(reader, "group", 1)
        return weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    rows = weight if graph.int_attribute(reader, "transB", 0) else weight.T
    return rows.astype(np.float64)[None, :, :, None]


def _single(node: ir.Node) -> Chain | None:
    maker = _maker(node, 0) if is_linear(node) else None
    return _onward((maker,), (maker.holder.outputs[0],), (), np.inf) if maker is not None else None


def _joined(concat: ir.Node) -> Chain | None:
    """Return the chain of a Concat along the channels whose operands are all made by convolutions for it alone."""
    if graph.int_attribute(concat, "axis", 0) != 1:
        return None
    makers: list[Maker] = []
    inner: list[ir.Value] = []
    bound, first = np.inf, 0
    for value in concat.inputs:
        node = value
        while node is not None and graph.only_consumer(node) is not None:
            inner.append(node)
            producer = node.producer()
            if producer is None or is_linear(producer):
                break
            clamp = clamp_of(producer) if graph.is_onnx(producer, "Clip") else None
            if not graph.is_onnx(producer, *_BY_CHANNEL, *_POOLS) and not (clamp and clamp[0] == 0.0):
                return None
            bound = min(bound, clamp[1]) if clamp else bound
            node = producer.inputs[0]
        maker_node = node.producer() if node is not None and graph.only_consumer(node) is not None else None
        maker = _maker(maker_node, first) if maker_node is not None and graph.is_onnx(maker_node, "Conv") else None
        if maker is None or maker_node is None or not is_linear(maker_node):
            return None
        makers.append(maker)
        first += maker.channels
    return _onward(tuple(makers), (concat.outputs[0],), tuple(inner), bound)


def _onward(
    makers: tuple[Maker, ...], starts: tuple[ir.Value, ...], inner: tuple[ir.Value, ...], bound: float
) -> Chain | None:
    """Follow the channels to their readers; None where anything else reads them."""
    convolution = makers[0].node.op_type == "Conv"
    tensors, readers, normalizers = list(starts), [], []
    for tensor in tensors:  # grows while it is walked
        if tensor.is_graph_output() or not tensor.uses():
            return None
        for reader, index in graph.consumers(tensor):
            clamp = clamp_of(reader) if graph.is_onnx(reader, "Clip") else None
            if reader.graph is not makers[0].node.graph:  # a body is quantized by itself
                return None
            if index == 0 and is_linear(reader) and (reader.op_type == "Conv") == convolution:
                readers.append(reader)
            elif index == 0 and clamp is not None and clamp[0] == 0.0:
                bound = min(bound, clamp[1])
                tensors.append(reader.outputs[0])
            elif index == 0 and graph.is_onnx(reader, *_BY_CHANNEL, *(_POOLS if convolution else ())):
                tensors.append(reader.outputs[0])
            elif index == 0 and convolution and graph.is_onnx(reader, _NORMALIZING):
                normalizers.append(reader)
            else:
                return None
    absorbed = {t for t in tensors if (r := graph.only_consumer(t)) is not None and clamp_of(r) is not None}
    return Chain(
        makers,
        tuple(t for t in tensors if t not in absorbed),
        (*inner, *absorbed),
        tuple(readers),
        bound if np.isfinite(bound) else None,
        1 if convolution else -1,
        tuple(normalizers),
        max((graph.float_attribute(n, "epsilon", 1e-5) for n in normalizers), default=0.0),
    )


def _maker(node: ir.Node, first: int) -> Maker | None:
    weight = graph.real_constant(node.inputs[1])
    if weight is None:
        return None
    rows_first = node.op_type == "Conv" or graph.int_attribute(node, "transB", 0)
    return Maker(node, bias_holder(node), first, weight.shape[0 if rows_first else 1])
