"""Folds BatchNormalization, and the Mul and Add that exporters leave of it, into the linear operator before it.

``W' = W * gamma / sqrt(var + eps)``, ``b' = (b - mean) * gamma / sqrt(var + eps) + beta``, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from quantcli import graph
from quantcli.bias_absorption import ChannelNormal
from quantcli.oprules import OP_RULES
from quantcli.report import FOLDED, Entry

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.state import State, Tick

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FoldBatchNorm:
    """Folds per-channel affine operators into Conv, ConvTranspose and Gemm; tensor names stay those of the last one."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Fold wherever the linear operator has no other reader."""
        del tick
        model = state.model.clone()
        names = graph.Names(model)
        entries: dict[str, Entry] = {}
        normal = dict(state.normal)
        for node in list(model.graph):
            name, op_type = graph.node_name(node), node.op_type
            linear = _foldable_into(node)
            affine = _affine(node, linear) if linear is not None else None
            if linear is None or affine is None:
                continue
            before = normal.pop(graph.name_of(linear.outputs[0]), None)
            known = _normal_of(node) if node.op_type == "BatchNormalization" else before and before.scaled(*affine)
            _fold(linear, affine, names, offset_of=node)
            graph.replace_value(node.outputs[0], linear.outputs[0])
            if known is not None:
                normal[graph.name_of(linear.outputs[0])] = known
            graph.remove_node(node)
            entries[name] = Entry(name, op_type, FOLDED, reason=f"folded into {graph.node_name(linear)}")
        graph.remove_unused(model)
        return replace(state, model=model, normal=normal).entered(entries)


def _normal_of(node: ir.Node) -> ChannelNormal | None:
    """Return what a BatchNormalization says of its result: mean beta and standard deviation ``|gamma|``."""
    scale, offset = (graph.constant(v) for v in node.inputs[1:3])
    if scale is None or offset is None:
        return None
    return ChannelNormal(offset.astype(np.float64), np.abs(scale.astype(np.float64)))


def _foldable_into(node: ir.Node) -> ir.Node | None:
    """Return the linear operator that alone feeds this one, and whose result nobody else reads."""
    if not graph.is_onnx(node, "BatchNormalization", "Mul", "Add") or any(
        o.uses() or o.is_graph_output() for o in node.outputs[1:]
    ):
        return None
    for value in node.inputs[:2]:
        linear = value.producer() if value is not None else None
        if linear is None or not graph.is_onnx(linear, "Conv", "ConvTranspose", "Gemm"):
            continue
        constants = [graph.input_at(linear, i) for i in (1, 2)]
        weight = graph.real_constant(graph.input_at(linear, 1))
        if weight is None or weight.dtype != np.float32 or not _bias_per_channel(linear):
            return None
        if graph.only_consumer(linear.outputs[0]) is node and all(c is None or graph.is_constant(c) for c in constants):
            plain = linear.op_type != "Gemm" or graph.float_attribute(linear, "beta", 1.0) == 1.0
            return linear if plain and graph.float_attribute(linear, "alpha", 1.0) == 1.0 else None
    return None


def _bias_per_channel(linear: ir.Node) -> bool:
    """Tell whether the bias, if any, is one number per output channel; a Gemm may add one per row instead."""
    bias = graph.constant(graph.input_at(linear, 2))
    return bias is None or bias.size == 1 or bias.size == bias.shape[-1] == _channels(linear)


def _channels(linear: ir.Node) -> int:
    weight = graph.constant(linear.inputs[1])
    if weight is None:
        return 0
    groups = graph.int_attribute(linear, "group", 1) if linear.op_type == "ConvTranspose" else 1
    return int(weight.shape[_axis(linear)] * groups)


def _axis(linear: ir.Node) -> int:
    if linear.op_type == "Gemm":
        return 0 if graph.int_attribute(linear, "transB", 0) else 1
    return OP_RULES[linear.op_type].axis


def _affine(node: ir.Node, linear: ir.Node) -> tuple[Floats, Floats] | None:
    """Return (factor, offset) per output channel, or None where the operator is not per channel or not constant."""
    if node.op_type == "BatchNormalization":
        arrays = [graph.constant(v) for v in node.inputs[1:5]]
        if any(a is None for a in arrays) or graph.int_attribute(node, "training_mode", 0):
            return None
        scale, offset, mean, variance = (a.astype(np.float64) for a in arrays if a is not None)
        factor = scale / np.sqrt(variance + graph.float_attribute(node, "epsilon", 1e-5))
        return factor, offset - mean * factor
    channels = _channels(linear)
    other = node.inputs[1] if node.inputs[0] is linear.outputs[0] else node.inputs[0]
    spatial = 0 if linear.op_type == "Gemm" else _spatial_axes(linear)
    per_channel = _per_channel(graph.constant(other) if graph.is_constant(other) else None, channels, spatial)
    if per_channel is None:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    return (per_channel, zeros) if node.op_type == "Mul" else (ones, per_channel)


def _spatial_axes(linear: ir.Node) -> int:
    weight = graph.constant(linear.inputs[1])
    return 0 if weight is None else weight.ndim - 2


def _per_channel(array: npt.NDArray[np.generic] | None, channels: int, spatial: int) -> Floats | None:
    if array is None or array.dtype != np.float32 or array.ndim > spatial + 2:
        return None
    if array.size == 1:
        return np.full(channels, array.astype(np.float64).item())
    shape = (1,) * (spatial + 2 - array.ndim) + array.shape
    expected = (1, channels, *(1,) * spatial)
    return array.astype(np.float64).reshape(channels) if shape == expected else None


def _fold(linear: ir.Node, affine: tuple[Floats, Floats], names: graph.Names, *, offset_of: ir.Node) -> None:
    factor, offset = affine
    weight = graph.constant(linear.inputs[1])
    if weight is None or linear.graph is None:
        return
    bias = graph.constant(graph.input_at(linear, 2))
    old = np.zeros(len(factor)) if bias is None else np.broadcast_to(bias.astype(np.float64).ravel(), factor.shape)
    _set(linear, 1, weight.astype(np.float64) * _shaped(factor, weight, linear), names, offset_of)
    if bias is None:
        _adopt_offset(linear, offset_of, len(factor))
    _set(linear, 2, old * factor + offset, names, offset_of)


def _adopt_offset(linear: ir.Node, node: ir.Node, channels: int) -> None:
    """Let the offset of a BatchNormalization be the bias of an operator without one: it keeps its name."""
    value = graph.input_at(node, 2) if node.op_type == "BatchNormalization" else None
    alone = value is not None and len(graph.consumers(value)) == 1 and not value.is_graph_output()
    if value is not None and alone and value.shape == (channels,):
        linear.resize_inputs(3)
        linear.replace_input_with(2, value)


def _shaped(factor: Floats, weight: npt.NDArray[np.generic], linear: ir.Node) -> Floats:
    if linear.op_type == "ConvTranspose":  # (C_in, C_out / group, ...): the factor depends on the input's group too
        groups = graph.int_attribute(linear, "group", 1)
        by_group = factor.reshape(groups, 1, -1)
        each = np.broadcast_to(by_group, (groups, weight.shape[0] // groups, weight.shape[1]))
        return each.reshape(weight.shape[:2] + (1,) * (weight.ndim - 2))
    shape = [1] * weight.ndim
    shape[_axis(linear)] = -1
    return factor.reshape(shape)


def _set(linear: ir.Node, index: int, array: Floats, names: graph.Names, folded: ir.Node) -> None:
    """Give the operator a constant of its own; it keeps the user's name where nobody else reads the old one."""
    value = graph.input_at(linear, index)
    new = array.astype(np.float32)
    readers = {reader for reader, _ in graph.consumers(value)} - {linear, folded} if value is not None else set()
    if value is not None and value.shape == new.shape and not readers and not value.is_graph_output():
        graph.set_initializer(value, new)  # the operator that is being folded reads it no more
        return
    name = names.new(graph.name_of(value) if value is not None else f"{graph.name_of(linear.outputs[0])}_bias")
    graph_of = linear.graph
    if index >= len(linear.inputs):
        linear.resize_inputs(index + 1)
    linear.replace_input_with(index, graph.add_initializer(graph_of, name, new))  # type: ignore[arg-type]
