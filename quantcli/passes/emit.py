"""Writes the quantized graph: every unit in the recipe's format, then the inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from quantcli import graph
from quantcli.lowering import boundary, integer, qdq
from quantcli.report import INTEGER, Entry
from quantcli.state import Quantized
from quantcli.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantcli.plan import Unit
    from quantcli.quant import QuantParams
    from quantcli.state import State, Tick

FORMS: Final[dict[str, Callable[[Writer, Unit], None]]] = {"qdq": qdq.write, "integer": integer.write}


@dataclass(frozen=True, slots=True)
class Emit:
    """Emits the plan with its encodings."""

    needs: ClassVar[frozenset[str]] = frozenset({"plan", "encodings"})
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Write the quantized model."""
        writer = Writer(state.model.clone(), state.encodings)
        write = FORMS[state.recipe.format]
        for done, unit in enumerate(state.plan.units, 1):
            write(writer, unit)
            tick(done, len(state.plan.units))
        fed = _io(state, [graph.name_of(v) for v in state.model.graph.inputs])
        left = _io(state, [graph.name_of(v) for v in state.model.graph.outputs])
        at_edge: dict[str, QuantParams] = {}
        if state.recipe.inputs != "float32":
            at_edge |= boundary.integer_inputs(writer, fed, state.recipe.inputs)
        if state.recipe.outputs != "float32":
            at_edge |= boundary.integer_outputs(writer, left, state.recipe.outputs)
        return replace(state, quantized=_finished(writer, at_edge)).entered(_kernels(state, writer))


def _io(state: State, names: list[str]) -> list[str]:
    return [n for n in names if n in state.encodings.tensors]


def _finished(writer: Writer, at_edge: dict[str, QuantParams]) -> Quantized:
    writer.graph.sort()  # unused nodes are found from the end backwards
    graph.remove_unused(writer.model)
    present = graph.named_values(writer.graph)
    return Quantized(
        model=writer.model,
        tensors={t: n for t, v in writer.integers.items() if (n := graph.name_of(v)) in present},
        biases=writer.biases,
        weights=writer.weights,
        params={**writer.params, **at_edge},
        boundary=at_edge,
        kernels=writer.kernels,
    )


def _kernels(state: State, writer: Writer) -> dict[str, Entry]:
    ledger = state.report.ledger
    return {
        n: replace(ledger[n], kernel=k) for n, k in writer.kernels.items() if n in ledger and ledger[n].fate == INTEGER
    }
