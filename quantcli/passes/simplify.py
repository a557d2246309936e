"""Makes an exporter's graph plain: functions inlined, constants folded, no-ops and dead parts gone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from quantcli import graph, runtime, submodel
from quantcli.oprules import NO_OPS
from quantcli.report import FOLDED, Entry

if TYPE_CHECKING:
    from quantcli.state import State, Tick

_LARGEST_FOLDED: Final = 1 << 24  # elements; folding an Expand of a scalar must not blow the model up
_LARGE_TWIN: Final = 1024  # elements; folding the transpose of fewer costs nothing
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True, slots=True)
class Simplify:
    """Folds what is constant and removes what changes nothing; tensor names that remain are the user's.

    A transposition of a large constant that others read as it is stays: folded, the constant would be stored twice.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Simplify the prepared model and enter the nodes that disappeared into the ledger."""
        del tick
        model = state.model.clone()
        users = {graph.node_name(n): n for n in state.model.graph}
        ir_passes.InlinePass()(model)
        ir_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        ir_passes.RemoveInitializersFromInputsPass()(model)
        graph.name_everything(model)
        graph.part_names(model)
        present = {graph.node_name(n) for n in model.graph}
        entries = {n: _lifted(n, node) for n, node in users.items() if n not in present}
        entries |= {n: Entry(n, op, FOLDED, reason="changes nothing at inference") for n, op in _remove_no_ops(model)}
        entries |= {n: Entry(n, op, FOLDED, reason="constant") for n, op in _fold(model)}
        before = {graph.node_name(n): graph.describe_op(n) for n in model.graph.all_nodes()}
        dead = graph.remove_unused(model)
        entries |= {n: Entry(n, before[n], FOLDED, reason="nothing reads it") for n in dead}
        model.graph.sort()
        model.ir_version = max(model.ir_version, 8)  # before IR 4 a constant had to be an input too
        runtime.annotate(model)
        return replace(state, model=model).entered(entries)


def _lifted(name: str, node: ir.Node) -> Entry:
    reason = "constant" if graph.is_onnx(node, "Constant") else "function, inlined"
    return Entry(name, graph.describe_op(node), FOLDED, reason=reason)


def _remove_no_ops(model: ir.Model) -> list[tuple[str, str]]:
    removed = []
    for node in list(model.graph):
        if not graph.is_onnx(node, *NO_OPS) or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source is None or graph.int_attribute(node, "training_mode", 0) or _keeps_output_apart(source, result):
            continue
        if result.is_graph_output():
            graph.replace_value(result, source)
        else:
            ir.convenience.replace_all_uses_with(result, source)
        model.graph.remove(node, safe=True)
        removed.append((graph.node_name(node), node.op_type))
    return removed


def _keeps_output_apart(source: ir.Value, result: ir.Value) -> bool:
    """Tell whether an Identity is what gives a graph output its own name."""
    fixed = source.is_graph_input() or source.is_graph_output() or graph.is_constant(source)
    return result.is_graph_output() and (fixed or source.producer() is None)


def _fold(model: ir.Model) -> list[tuple[str, str]]:
    """Evaluate, in one run of the runtime, every node whose inputs are all constants."""
    foldable: list[ir.Node] = []
    known: set[ir.Value] = {v for v in model.graph.initializers.values() if graph.is_constant(v)}
    for node in model.graph:
        if _is_foldable(node, known) and not _is_turned_copy(node):
            foldable.append(node)
            known.update(node.outputs)
    if not foldable:
        return []
    inside = set(foldable)
    edge = [
        o
        for node in foldable
        for o in node.outputs
        if o.name and (o.is_graph_output() or any(reader not in inside for reader, _ in graph.consumers(o)))
    ]
    arrays = runtime.evaluate(submodel.sub_model(model, foldable, {}, [graph.name_of(o) for o in edge])) if edge else {}
    for value in edge:
        name = graph.name_of(value)
        value.name = f"{name}__folded"
        made = graph.add_initializer(model.graph, name, arrays[name])
        made.doc_string = value.doc_string
        ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)
    gone = [n for n in reversed(foldable) if not any(o.uses() for o in n.outputs)]
    for node in gone:
        model.graph.remove(node, safe=True)
    return [(graph.node_name(n), n.op_type) for n in gone]


def _is_foldable(node: ir.Node, known: set[ir.Value]) -> bool:
    if not graph.is_onnx(node) or node.op_type in _RANDOM or not node.outputs:
        return False
    if any(v is not None and v not in known for v in node.inputs):
        return False
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return False
    return not (node.op_type in ("Expand", "Tile", "ConstantOfShape") and _may_be_large(node))


def _is_turned_copy(node: ir.Node) -> bool:
    """Tell whether a node transposes a large constant that others read too, as tied embeddings do."""
    array = graph.constant(node.inputs[0]) if graph.is_onnx(node, "Transpose") else None
    if (
        array is None
        or array.size < _LARGE_TWIN
        or not all(graph.is_onnx(r, "MatMul", "Gemm") for r, _ in graph.consumers(node.outputs[0]))
    ):
        return False
    return len(graph.consumers(node.inputs[0])) > 1  # type: ignore[arg-type]


def _may_be_large(node: ir.Node) -> bool:
    array = graph.constant(node.inputs[-1]) if node.inputs else None
    return array is not None and int(abs(array.astype("int64")).clip(1).prod()) > _LARGEST_FOLDED
