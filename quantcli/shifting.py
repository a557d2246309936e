"""Shifts the channels of a chain in a float model: off the biases of the makers, back through those of the readers.

The zeros that a convolution pads with are not shifted, so nothing that pads may read a shifted channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.chains import bias_holder, constant_at, weight_by_input

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.chains import Chain, Maker

    Floats = npt.NDArray[np.float64]

_RECTIFIERS: Final = ("Relu", "LeakyRelu", "PRelu", "Clip")


def obstacle(chain: Chain) -> str | None:
    """Return why the channels of a chain cannot be shifted, or None where they can be."""
    if any(_pads(r) for r in chain.readers) or any(_averages_zeros(n) for n in _between(chain)):
        return "zeros that are padded would not be shifted"
    if any(_may_rise(n) for n in _between(chain)):
        return "a negative slope makes negative values positive"
    holders = [*(m.holder for m in chain.makers), *map(bias_holder, chain.readers)]
    return None if all(map(_takes_bias, holders)) else "an operator has no bias for each channel"


def is_rectified(chain: Chain) -> bool:
    """Tell whether an activation cuts values off on the way: then only what it never cuts may be shifted."""
    return any(graph.is_onnx(n, *_RECTIFIERS) for n in _between(chain))


def shift(chain: Chain, shifts: Floats, names: graph.Names) -> None:
    """Take ``shifts``, (C,), off the channels of a chain: ``b1 -= c``, ``b2 += sum over inputs and taps of W2 . c``."""
    for maker in chain.makers:
        _add_to_bias(maker.holder, -shifts[maker.part], names)
    for reader in chain.readers:
        weight = weight_by_input(reader)
        back = np.einsum("grkt,gk->gr", weight, shifts.reshape(weight.shape[0], -1))
        _add_to_bias(bias_holder(reader), back.ravel(), names)


def _between(chain: Chain) -> set[ir.Node]:
    """Return what the channels run through from the makers to the ends."""
    producers = {p for v in (*chain.tensors, *chain.inner) if (p := v.producer()) is not None}
    return producers - {n for m in chain.makers for n in _nodes_of(m)}


def _nodes_of(maker: Maker) -> tuple[ir.Node, ir.Node]:
    return maker.node, maker.holder


def _pads(node: ir.Node) -> bool:
    if node.op_type != "Conv":
        return False
    weight = graph.real_constant(node.inputs[1])
    automatic = node.attributes.get("auto_pad")
    kind = automatic.as_string() if automatic is not None else "NOTSET"
    if kind.startswith("SAME"):
        return weight is None or any(k > 1 for k in weight.shape[2:])
    return kind == "NOTSET" and any(graph.ints_attribute(node, "pads") or ())


def _averages_zeros(node: ir.Node) -> bool:
    included = graph.int_attribute(node, "count_include_pad", 0) or graph.int_attribute(node, "ceil_mode", 0)
    return graph.is_onnx(node, "AveragePool") and bool(included)


def _may_rise(node: ir.Node) -> bool:
    if graph.is_onnx(node, "LeakyRelu"):
        return graph.float_attribute(node, "alpha", 0.01) < 0
    slope = graph.real_constant(node.inputs[1]) if graph.is_onnx(node, "PRelu") else None
    return graph.is_onnx(node, "PRelu") and (slope is None or bool((slope < 0).any()))


def _takes_bias(holder: ir.Node) -> bool:
    if holder.op_type in ("Add", "Conv"):
        return True
    bias, weight = graph.real_constant(graph.input_at(holder, 2)), graph.real_constant(holder.inputs[1])
    if holder.op_type != "Gemm" or weight is None:
        return False
    channels = weight.shape[0 if graph.int_attribute(holder, "transB", 0) else 1]
    return graph.input_at(holder, 2) is None or (bias is not None and bias.size in (1, channels) and bias.ndim < 2)


def _add_to_bias(holder: ir.Node, change: Floats, names: graph.Names) -> None:
    index = constant_at(holder) if holder.op_type == "Add" else 2
    old = graph.real_constant(graph.input_at(holder, index))
    new = ((0.0 if old is None else old.astype(np.float64)) + change).astype(np.float32)
    if old is not None and old.shape == new.shape:
        graph.set_own_constant(holder, index, new, names)
        return
    made = graph.add_initializer(holder.graph, names.new(f"{graph.name_of(holder.outputs[0])}_bias"), new)  # type: ignore[arg-type]
    if index >= len(holder.inputs):
        holder.resize_inputs(index + 1)
    holder.replace_input_with(index, made)
