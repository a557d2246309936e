"""Writes the quantized graph: every unit in the recipe's format, then the inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from quantcli import graph
from quantcli.kernels import is_fused
from quantcli.lowering import boundary, integer, qdq
from quantcli.lowering.wide import integer as wide
from quantcli.report import INTEGER, Entry
from quantcli.state import Quantized
from quantcli.writer import Writer

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.plan import Plan, Unit
    from quantcli.quant import QuantParams
    from quantcli.state import State, Tick

Write = Callable[["Writer", "Unit"], None]

FORMS: Final[dict[tuple[str, bool], Write]] = {  # by format, and whether activations have 16 bits
    ("qdq", False): qdq.write,
    ("integer", False): integer.write,
    ("qdq", True): qdq.write,
    ("integer", True): wide.write,
}
_WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_IN_FLOAT: Final = "onnxruntime's CPU provider computes 16-bit Q and DQ in float; other runtimes may not"


@dataclass(frozen=True, slots=True)
class Emit:
    """Emits the plan with its encodings."""

    needs: ClassVar[frozenset[str]] = frozenset({"plan", "encodings"})
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Write the quantized model."""
        writer = Writer(state.model.clone(), state.encodings)
        is_wide = state.recipe.form == "wide"
        write = FORMS[state.recipe.format, is_wide]
        for done, unit in enumerate(state.plan.units, 1):
            write(writer, unit)
            tick(done, len(state.plan.units))
        _keep_float(writer, state.plan)
        fed = _io(state, [graph.name_of(v) for v in state.model.graph.inputs])
        left = _io(state, [graph.name_of(v) for v in state.model.graph.outputs])
        at_edge: dict[str, QuantParams] = {}
        if state.recipe.inputs != "float32":
            at_edge |= boundary.integer_inputs(writer, fed, state.recipe.inputs)
        if state.recipe.outputs != "float32":
            at_edge |= boundary.integer_outputs(writer, left, state.recipe.outputs)
        notes = (_IN_FLOAT,) if is_wide and state.recipe.format == "qdq" else ()
        keep = is_wide and state.recipe.format == "integer"  # integers that nobody reads: later passes look at them
        return (
            replace(state, quantized=_finished(writer, at_edge, keep_integers=keep))
            .entered(_kernels(state, writer))
            .noted(notes=notes)
        )


def _keep_float(writer: Writer, plan: Plan) -> None:
    """Part from its DQ each operator that is to compute in float but that onnxruntime would fuse into a kernel.

    A Sum of one operand is a copy that no optimization of onnxruntime removes; it costs less than the kernel would.
    """
    for node in [n for n in writer.graph if graph.node_name(n) in plan.skipped]:
        weighted = graph.is_onnx(node, *_WEIGHTED)  # onnxruntime would round the weight of one, too
        value = next((v for v in node.inputs if v is not None and _is_dequantized(v)), None)
        if value is None or not (weighted or (is_fused(node.op_type) and _is_quantized_again(node))):
            continue
        apart = writer.emit("Sum", [value], name=f"{node.name}_in_float", output_name=f"{value.name}_in_float")
        node.replace_input_with(node.inputs.index(value), apart)


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _is_quantized_again(node: ir.Node) -> bool:
    return any(r.op_type == "QuantizeLinear" for o in node.outputs for r, _ in graph.consumers(o))


def _io(state: State, names: list[str]) -> list[str]:
    return [n for n in names if n in state.encodings.tensors]


def _finished(writer: Writer, at_edge: dict[str, QuantParams], *, keep_integers: bool) -> Quantized:
    writer.graph.sort()  # unused nodes are found from the end backwards
    outputs = len(writer.graph.outputs)
    if keep_integers:
        writer.graph.outputs.extend(v for v in writer.integers.values() if v.producer() is not None)
    graph.remove_unused(writer.model)
    del writer.graph.outputs[outputs:]
    present = graph.named_values(writer.graph)
    return Quantized(
        model=writer.model,
        tensors={t: n for t, v in writer.integers.items() if (n := graph.name_of(v)) in present},
        biases=writer.biases,
        weights=writer.weights,
        bounds=writer.bounds,
        params={**writer.params, **at_edge},
        boundary=at_edge,
        kernels=writer.kernels,
        arithmetic=frozenset(writer.arithmetic),
    )


def _kernels(state: State, writer: Writer) -> dict[str, Entry]:
    ledger = state.report.ledger
    return {
        n: replace(ledger[n], kernel=k) for n, k in writer.kernels.items() if n in ledger and ledger[n].fate == INTEGER
    }
