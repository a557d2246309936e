"""Writes the quantized graph: every unit in the recipe's format, then the inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph
from quantcli.bodies import bodies_of
from quantcli.kernels import is_fused
from quantcli.lowering import boundary, integer, qdq
from quantcli.lowering.wide import integer as wide
from quantcli.oprules import OP_RULES, Role
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
        writer = Writer(state.model.clone(), state.encodings, portable=state.recipe.portable)
        is_wide = state.recipe.form == "wide"
        write = FORMS[state.recipe.format, is_wide]
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
        _keep_float(writer, state.plan)  # after the boundary, which has Q and DQ of its own
        _part_bodies(writer)
        _hold_layout(writer)
        notes = (_IN_FLOAT,) if is_wide and state.recipe.format == "qdq" else ()
        keep = is_wide and state.recipe.format == "integer"  # integers that nobody reads: later passes look at them
        inner = {t: p for t, p in state.inner.items() if t not in writer.params}  # a body may read a tensor otherwise
        return (
            replace(state, quantized=_finished(writer, {**inner, **at_edge}, at_edge, keep_integers=keep))
            .entered(_kernels(state, writer))
            .noted(notes=notes)
        )


def _keep_float(writer: Writer, plan: Plan) -> None:
    """Part from its DQ each operator that is to compute in float but that onnxruntime would fuse into a kernel.

    A Sum of one operand is a copy that no optimization of onnxruntime removes; it costs less than the kernel would.
    """
    for node in [n for n in writer.graph if graph.node_name(n) in plan.skipped]:
        weighted = graph.is_onnx(node, *_WEIGHTED)  # onnxruntime would round the weight of one, too
        value = next((v for v in node.inputs if v is not None and (_is_dequantized(v) or _is_moved(v))), None)
        if value is None or not (weighted or (is_fused(node.op_type) and _is_quantized_again(node))):
            continue
        apart = writer.emit("Sum", [value], name=f"{node.name}_in_float", output_name=f"{value.name}_in_float")
        node.replace_input_with(node.inputs.index(value), apart)


def _part_bodies(writer: Writer) -> None:
    """Part from its DQ what a body reads behind data movement: onnxruntime 1.31 aborts as it moves the DQ along."""
    for node in list(writer.graph):
        for value in dict.fromkeys(v for body in bodies_of(node) for v in body.captured if _is_moved(v)):
            apart = writer.emit("Sum", [value], name=f"{value.name}_for_bodies", output_name=f"{value.name}_for_bodies")
            for reader, index in graph.consumers(value):
                if reader.graph is not writer.graph:
                    reader.replace_input_with(index, apart)


def _hold_layout(writer: Writer) -> None:
    """Keep onnxruntime from turning a cubic Resize channels-last between integer convolutions: it has no such kernel.

    A Reshape to its own shape stops the transpositions that it would move along.
    """
    for node in [n for n in writer.graph if graph.is_onnx(n, "Resize")]:
        mode, shape = node.attributes.get("mode"), node.outputs[0].shape
        if mode is None or mode.as_string() != "cubic" or shape is None:
            continue
        result = node.outputs[0]
        readers = graph.consumers(result)
        same = writer.constant(f"{len(shape)}_axes", np.zeros(len(shape), np.int64))
        held = writer.emit("Reshape", [result, same], name=f"{node.name}_held", output_name=f"{result.name}_held")
        for reader, index in readers:
            reader.replace_input_with(index, held)


def _is_moved(value: ir.Value) -> bool:
    """Tell whether a tensor is what data movement makes of a dequantized one."""
    maker = value.producer()
    source = maker.inputs[0] if maker is not None and _moves(maker) else None
    return source is not None and (_is_dequantized(source) or _is_moved(source))


def _moves(node: ir.Node) -> bool:
    rule = OP_RULES.get(node.op_type)
    return graph.is_onnx(node) and rule is not None and rule.role is Role.SAME


def _is_dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _is_quantized_again(node: ir.Node) -> bool:
    """Tell whether a result is quantized, at once or behind data movement, which onnxruntime moves Q across."""
    return any(
        r.op_type == "QuantizeLinear" or (_moves(r) and _is_quantized_again(r))
        for o in node.outputs
        for r, _ in graph.consumers(o)
    )


def _io(state: State, names: list[str]) -> list[str]:
    return [n for n in names if n in state.encodings.tensors]


def _finished(
    writer: Writer, others: dict[str, QuantParams], at_edge: dict[str, QuantParams], *, keep_integers: bool
) -> Quantized:
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
        params={**writer.params, **others},
        boundary=at_edge,
        kernels=writer.kernels,
        arithmetic=frozenset(writer.arithmetic),
    )


def _kernels(state: State, writer: Writer) -> dict[str, Entry]:
    ledger = state.report.ledger
    return {
        n: replace(ledger[n], kernel=k) for n, k in writer.kernels.items() if n in ledger and ledger[n].fate == INTEGER
    }
