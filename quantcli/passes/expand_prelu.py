"""Writes PRelu in operators that onnxruntime computes up to ten times faster in float, to the same numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from quantcli import graph

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.state import State, Tick


@dataclass(frozen=True, slots=True)
class ExpandPrelu:
    """Expands every PRelu of the main graph whose slopes are constants.

    With slopes of at most 1 it is ``max(x, slope * x)``, with slopes of at least 1 ``min(x, slope * x)``, otherwise
    ``relu(x) + slope * min(x, 0)``. As one function of its input it quantizes like the PRelu.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Rewrite the prepared model."""
        del tick
        if not any(graph.is_onnx(n, "PRelu") for n in state.model.graph):
            return state
        model = state.model.clone()
        names = graph.Names(model)
        for node in list(model.graph):
            slope = graph.real_constant(graph.input_at(node, 1)) if graph.is_onnx(node, "PRelu") else None
            if slope is not None and slope.size and slope.dtype == np.float32:
                _expand(node, slope, names)
        model.graph.sort()
        return replace(state, model=model)


def _expand(node: ir.Node, slope: npt.NDArray[np.floating], names: graph.Names) -> None:
    """Turn the node into the last operator of its spelling; new ones before it make its operands."""
    source, slopes = node.inputs
    if slope.max() <= 1 or slope.min() >= 1:
        operands = [source, _before(node, "Mul", [source, slopes], names)]
        node.op_type = "Max" if slope.max() <= 1 else "Min"
    else:
        zero = graph.add_initializer(_home(node), names.new("zero"), np.zeros((), np.float32))
        negative = _before(node, "Min", [source, zero], names)
        operands = [_before(node, "Relu", [source], names), _before(node, "Mul", [negative, slopes], names)]
        node.op_type = "Add"
    for index, value in enumerate(operands):
        node.replace_input_with(index, value)


def _before(node: ir.Node, op_type: str, inputs: list[ir.Value | None], names: graph.Names) -> ir.Value:
    name, result = f"{node.name}_{op_type}", node.outputs[0]
    made = ir.Value(name=names.new(name), type=result.type, shape=result.shape)
    _home(node).append(ir.Node("", op_type, inputs, outputs=[made], name=names.new(f"{name}_node")))
    return made


def _home(node: ir.Node) -> ir.Graph:
    if not isinstance(node.graph, ir.Graph):
        raise TypeError(f"{node.name!r} belongs to no graph")
    return node.graph
