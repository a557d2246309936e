"""Writes a float graph whose weights are integers: each stored once, read in the form that the plan says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from onnx_ir.passes import common as ir_passes

from quantcli import affine, graph
from quantcli.balance import balanced
from quantcli.lowering import blocked, dynamic
from quantcli.lowering.stored import WeightWriter
from quantcli.quant import PerAxis
from quantcli.state import Quantized
from quantcli.storage import BLOCKED, DYNAMIC, FOLDED, RECURRENT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import StoredWeight
    from quantcli.quant import QuantParams
    from quantcli.state import State, Tick

Form = Callable[[WeightWriter, "ir.Node", Mapping[int, "StoredWeight"]], None]
FORMS: Final[dict[str, Form]] = {
    DYNAMIC: dynamic.product,
    RECURRENT: dynamic.recurrent,
    BLOCKED: blocked.product,
}
_BLOCK_OPSET: Final = 21  # DequantizeLinear by blocks, Cast of 4-bit integers; of IR version 10
_SMALL_CONSTANT: Final = 64  # elements


@dataclass(frozen=True, slots=True)
class EmitWeights:
    """Emits the plan.

    Attributes:
        search: Whether scales are searched for the smallest error of products, instead of taken from the extremes.
        mean: Mean squared over variance of what the weights are multiplied with, as assumed by the search.
        balance: Whether kernels of convolutions are rounded so that they keep their sums.
    """

    search: bool = False
    mean: float = 0.0
    balance: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"plan"})
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Write the model."""
        model = state.model.clone()
        nodes = {graph.node_name(n): n for n in model.graph}
        writer = WeightWriter(model, self._rounded)
        by_node = _by_node(state.plan.stored)
        for done, weight in enumerate(state.plan.stored, 1):
            integers = writer.replace(weight)
            for reader, index in graph.consumers(integers):
                if graph.node_name(reader) not in by_node:
                    reader.replace_input_with(index, writer.expanded(weight))
            tick(done, len(state.plan.stored))
        for name, (form, weights) in by_node.items():
            FORMS[form](writer, nodes[name], weights)
        _tidy(model, state.original)
        present = {name for part in graph.all_graphs(model) for name in part.initializers}
        params = {name: found for name, found in writer.params.items() if name in present}
        return replace(state, quantized=Quantized(model=model, params=params))

    def _rounded(
        self, real: npt.NDArray[np.floating], weight: StoredWeight
    ) -> tuple[npt.NDArray[np.integer], QuantParams]:
        kernels = weight.kernels and weight.spec.granularity == PerAxis(0) and math.prod(real.shape[2:]) > 1
        balancing = self.balance and kernels
        mean = 0.0 if balancing and real.shape[1] > 1 else self.mean  # of a lone kernel the scale decides the sum
        searched = partial(affine.searched_params, mean=mean)
        params = (searched if self.search else affine.weight_params)(real, weight.spec)
        return (balanced if balancing else affine.quantize)(real, params), params


def _by_node(stored: tuple[StoredWeight, ...]) -> dict[str, tuple[str, dict[int, StoredWeight]]]:
    """Return the nodes that read integers, with the form and the weight of each input."""
    found: dict[str, tuple[str, dict[int, StoredWeight]]] = {}
    for weight in stored:
        for use in weight.uses:
            if use.form != FOLDED:
                found.setdefault(use.node, (use.form, {}))[1][use.index] = weight
    return found


def _tidy(model: ir.Model, original: ir.Model) -> None:
    """Put the nodes in order, share small constants, and leave out the shapes that the user's file does not hold."""
    model.graph.sort()
    graph.remove_unused(model)
    ir_passes.DeduplicateInitializersPass(size_limit=_SMALL_CONSTANT)(model)
    declared = {v.name for n in original.graph.all_nodes() for v in n.outputs if v.type is not None}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name not in declared and not value.is_graph_output():
                value.type = value.shape = None
    if graph.opset(model) >= _BLOCK_OPSET:
        model.ir_version = max(model.ir_version, 10)
