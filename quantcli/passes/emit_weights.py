"""Writes a float graph whose weights are integers: each stored once, read in the form that the plan says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from onnx_ir.passes import common as ir_passes

from quantcli import graph
from quantcli.lowering import stored_graph
from quantcli.state import Quantized

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.state import State, Tick

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
        rounding = stored_graph.Rounding(self.search, self.mean, self.balance, state.recipe.portable)
        params = stored_graph.write(model, state.plan.stored, rounding, tick)
        _tidy(model, state.original)
        return replace(state, quantized=Quantized(model=model, params={**state.inner, **params}))


def _tidy(model: ir.Model, original: ir.Model) -> None:
    """Share small constants, and leave out the shapes that the user's file does not hold."""
    ir_passes.DeduplicateInitializersPass(size_limit=_SMALL_CONSTANT)(model)
    declared = {v.name for n in original.graph.all_nodes() for v in n.outputs if v.type is not None}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name not in declared and not value.is_graph_output():
                value.type = value.shape = None
    if graph.opset(model) >= _BLOCK_OPSET:
        model.ir_version = max(model.ir_version, 10)
