"""Writes the stored weights of a plan into a graph: each once, read in the form that the plan says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantcli import affine, graph, saturation
from quantcli.balance import balanced
from quantcli.lowering import blocked, dynamic
from quantcli.lowering.stored import WeightWriter
from quantcli.quant import PerAxis
from quantcli.storage import BLOCKED, DYNAMIC, FOLDED, RECURRENT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import StoredWeight
    from quantcli.quant import QuantParams

Form = Callable[[WeightWriter, "ir.Node", Mapping[int, "StoredWeight"]], None]
FORMS: Final[dict[str, Form]] = {
    DYNAMIC: dynamic.product,
    RECURRENT: dynamic.recurrent,
    BLOCKED: blocked.product,
}


@dataclass(frozen=True, slots=True)
class Rounding:
    """How weights become integers where no samples tell.

    Attributes:
        search: Whether scales are searched for the smallest error of products, instead of taken from the extremes.
        mean: Mean squared over variance of what the weights are multiplied with, as assumed by the search.
        balance: Whether kernels of convolutions are rounded so that they keep their sums.
        portable: Whether what is multiplied in integers stays so small that no two products saturate on any CPU.
    """

    search: bool = False
    mean: float = 0.0
    balance: bool = False
    portable: bool = False

    def __call__(
        self, real: npt.NDArray[np.floating], weight: StoredWeight, *, multiplied: bool = True
    ) -> tuple[npt.NDArray[np.integer], QuantParams]:
        """Return the integers of a weight and their grid; ``multiplied`` says whether an integer kernel takes them."""
        kernels = weight.kernels and weight.spec.granularity == PerAxis(0) and math.prod(real.shape[2:]) > 1
        balancing = self.balance and kernels
        mean = 0.0 if balancing and real.shape[1] > 1 else self.mean  # of a lone kernel the scale decides the sum
        floor = saturation.exact_scale if self.portable and multiplied else None
        if self.search:
            params = affine.searched_params(real, weight.spec, mean=mean, floor=floor)
        else:
            smallest = 0 if floor is None else floor(real, weight.spec)
            params = affine.weight_params(real, weight.spec, smallest_scale=smallest)
        return (balanced if balancing else affine.quantize)(real, params), params


def write(
    model: ir.Model, stored: tuple[StoredWeight, ...], rounding: Rounding, tick: Callable[[int, int], None]
) -> dict[str, QuantParams]:
    """Put the integers of weights in the place of their real numbers; change the model.

    Args:
        model: The model, its nodes named.
        stored: What is stored and how it is read.
        rounding: How.
        tick: Told of progress.

    Returns:
        The parameters of the integers that the model holds at the end, by name.
    """
    nodes = {graph.node_name(n): n for n in model.graph}
    multiplied = _multiplied(stored)
    writer = WeightWriter(model, lambda real, weight: rounding(real, weight, multiplied=weight.name in multiplied))
    by_node = _by_node(stored)
    for done, weight in enumerate(stored, 1):
        integers = writer.replace(weight)
        for reader, index in graph.consumers(integers):
            if graph.node_name(reader) not in by_node:
                reader.replace_input_with(index, writer.expanded(weight))
        tick(done, len(stored))
    for name, (form, weights) in by_node.items():
        FORMS[form](writer, nodes[name], weights)
    model.graph.sort()
    graph.remove_unused(model)
    present = {name for part in graph.all_graphs(model) for name in part.initializers}
    return {name: found for name, found in writer.params.items() if name in present}


def _multiplied(stored: tuple[StoredWeight, ...]) -> set[str]:
    """Return the names of the weights that integer kernels multiply, themselves or as their transpose."""
    return {w.twin or w.name for w in stored if any(u.form in (DYNAMIC, RECURRENT) for u in w.uses)}


def _by_node(stored: tuple[StoredWeight, ...]) -> dict[str, tuple[str, dict[int, StoredWeight]]]:
    """Return the nodes that read integers, with the form and the weight of each input."""
    found: dict[str, tuple[str, dict[int, StoredWeight]]] = {}
    for weight in stored:
        for use in weight.uses:
            if use.form != FOLDED:
                found.setdefault(use.node, (use.form, {}))[1][use.index] = weight
    return found
