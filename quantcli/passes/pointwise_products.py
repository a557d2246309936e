"""Writes a convolution of one tap between two transpositions as what it is: a matrix product along the last axis.

TensorFlow's exporters spell a dense layer over time, or a pointwise convolution, so. As a product it needs no
transposition, can leave its result in float, and can be quantized at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.report import FOLDED, Entry

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.state import State, Tick


@dataclass(frozen=True, slots=True)
class PointwiseProducts:
    """Rewrites the prepared model; the product has the name of the convolution."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Rewrite every such convolution."""
        del tick
        model = state.model.clone()
        names = graph.Names(model)
        entries: dict[str, Entry] = {}
        for last in [n for n in model.graph if graph.is_onnx(n, "Transpose")]:
            found = _found(last)
            if found is not None:
                name = graph.node_name(found.conv)
                folded = [n for n in (found.first, last) if n is last or graph.only_consumer(n.outputs[0]) is not None]
                _rewrite(found, last, model.graph, names)
                entries |= {
                    m: Entry(m, "Transpose", FOLDED, reason=f"folded into {name}") for n in folded if (m := n.name)
                }
        if not entries:
            return state
        graph.remove_unused(model)
        model.graph.sort()
        return replace(state, model=model).entered(entries)


@dataclass(frozen=True, slots=True)
class _Found:
    """A Transpose, the convolution behind it, and its constants."""

    first: ir.Node
    conv: ir.Node
    weight: npt.NDArray[np.generic]
    bias: ir.Value | None


def _found(last: ir.Node) -> _Found | None:
    conv = _maker(last, "Conv")
    first = _maker(conv, "Transpose", alone=False) if conv is not None else None
    if conv is None or first is None:
        return None
    weight, bias = graph.real_constant(conv.inputs[1]), graph.input_at(conv, 2)
    if weight is None or weight.dtype != np.float32 or (bias is not None and not graph.is_constant(bias)):
        return None
    rank = weight.ndim
    turns = [graph.ints_attribute(n, "perm") for n in (first, last)]
    if turns != [(0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)]:
        return None
    alone = weight.size == weight.shape[0] * weight.shape[1] and graph.int_attribute(conv, "group", 1) == 1
    plain = all(set(graph.ints_attribute(conv, a) or (d,)) == {d} for a, d in (("strides", 1), ("pads", 0)))
    return _Found(first, conv, weight, bias) if alone and plain else None


def _maker(node: ir.Node, op_type: str, *, alone: bool = True) -> ir.Node | None:
    """Return the operator that makes the first input, if it is of this type and nobody else reads its result."""
    value = node.inputs[0]
    maker = value.producer() if value is not None else None
    if maker is None or value is None or not graph.is_onnx(maker, op_type):
        return None
    return maker if not alone or graph.only_consumer(value) is node else None


def _rewrite(found: _Found, last: ir.Node, home: ir.Graph, names: graph.Names) -> None:
    conv = found.conv
    matrix = np.ascontiguousarray(found.weight.reshape(found.weight.shape[:2]).T)
    weight = graph.add_initializer(home, names.new(f"{graph.name_of(conv.inputs[1])}_matrix"), matrix)  # type: ignore[arg-type]
    product = ir.node("MatMul", [found.first.inputs[0], weight], name=graph.node_name(conv))
    result = product.outputs[0]
    last.prepend(product)
    if found.bias is not None:
        result.name = names.new(f"{graph.name_of(conv.outputs[0])}_product")
        add = ir.node("Add", [result, found.bias], name=names.new(f"{conv.name}_bias"))
        last.prepend(add)
        result = add.outputs[0]
    conv.name = names.new(f"{conv.name}_convolution")
    graph.replace_value(last.outputs[0], result)
    graph.remove_node(last)
