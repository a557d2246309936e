"""Scales the channels of a chain in a float model: in what makes them, and back in the weights that read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli import graph
from quantcli.chains import constant_at, weight_by_input

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.bias_absorption import ChannelNormal
    from quantcli.chains import Chain, Maker
    from quantcli.equalization import ChannelStats

    Floats = npt.NDArray[np.float64]


def scale(chain: Chain, factors: Floats, names: graph.Names) -> None:
    """Multiply the channels of a chain by positive ``factors``, (C,), and divide the weights of its readers by them."""
    for maker in chain.makers:
        _scale_outputs(maker, factors[maker.part], names)
    for reader in chain.readers:
        old = graph.real_constant(reader.inputs[1])
        if old is None:
            continue
        scaled = weight_by_input(reader)
        scaled = scaled / factors.reshape(scaled.shape[0], 1, -1, 1)
        turned = reader.op_type != "Conv" and not graph.int_attribute(reader, "transB", 0)
        _set(reader, 1, scaled[0, :, :, 0].T if turned else scaled.reshape(old.shape), names)


def scaled_normals(
    normal: Mapping[str, ChannelNormal], scaled: Iterable[tuple[Chain, Floats]]
) -> dict[str, ChannelNormal]:
    """Return what is known of the tensors that makers write, with the factors of the chains that were scaled."""
    found = dict(normal)
    for chain, factors in scaled:
        for maker in chain.makers:
            name = graph.name_of(maker.holder.outputs[0])
            if name in found:
                found[name] = found[name].scaled(factors[maker.part])
    return found


def range_of(stats: ChannelStats, factors: Floats | float = 1.0) -> tuple[float, float]:
    """Return the range of a tensor whose channels are multiplied by positive factors."""
    return float((stats.low * factors).min()), float((stats.high * factors).max())


def _scale_outputs(maker: Maker, factors: Floats, names: graph.Names) -> None:
    node, holder = maker.node, maker.holder
    weight = graph.real_constant(node.inputs[1])
    if weight is None:
        return
    rows_first = node.op_type == "Conv" or graph.int_attribute(node, "transB", 0)
    shape = (-1, *(1,) * (weight.ndim - 1)) if rows_first else (1, -1)
    _set(node, 1, weight * factors.reshape(shape), names)
    at = 2 if holder is node else constant_at(holder)
    bias = graph.real_constant(graph.input_at(holder, at))
    if bias is not None:
        _set(holder, at, bias * factors, names)


def _set(node: ir.Node, index: int, array: npt.NDArray[np.floating], names: graph.Names) -> None:
    graph.set_own_constant(node, index, np.ascontiguousarray(array, np.float32), names)
