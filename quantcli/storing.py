"""Decides which weights of a model are stored in integers, once for all their readers, and the fate of every node.

Walks the graph and asks the storage table; knows no numbers and writes nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import affine, graph
from quantcli.bodies import bodies_of
from quantcli.ledger import CONTROL_FLOW
from quantcli.plan import Plan, StoredUse, StoredWeight
from quantcli.report import FLOAT, INTEGER, STORED, UNTOUCHED, Entry
from quantcli.storage import (
    DYNAMIC,
    FOLDED,
    RECURRENT,
    STORAGE,
    form_of,
    kernel_of,
    reason_against,
    rule_of,
    spec_of,
    takes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.applicability import Infos
    from quantcli.quant import QuantSpec
    from quantcli.storage import Wish

Reading = tuple["ir.Node", int]
_ELSEWHERE: Final = "only the weights of MatMul, Gemm and Gather are stored smaller here"
_NO_WEIGHT: Final = "has no weight that could be stored smaller"


def plan_storage(
    model: ir.Model, infos: Infos, wish: Wish, kept_float: Mapping[str, str]
) -> tuple[Plan, dict[str, Entry]]:
    """Return what is stored, and the fate of every node.

    Args:
        model: Prepared float model, every node named.
        infos: Type and shape of every tensor of the main graph.
        wish: What is wanted.
        kept_float: Node name -> reason, for nodes whose weights must stay float.
    """
    holders = _holders(model)
    found: list[tuple[int, ir.Value, list[Reading]]] = []
    against: dict[str, str] = {}  # node -> why a weight of it stays float
    for scope, part in enumerate(graph.all_graphs(model)):
        for value in part.initializers.values():
            readers = graph.consumers(value)
            reason = _against(value, readers, holders, wish, kept_float)
            if reason is None:
                found.append((scope, value, readers))
            else:
                names = {holders.get(n, graph.node_name(n)) for n, i in readers if rule_of(n, i) is not None}
                against.update(dict.fromkeys(names, reason))
    storable = {value for _, value, _ in found}
    stored = [_stored(s, v, _Readers(r, holders, storable), infos, wish) for s, v, r in found]
    entries = _Fates(model, infos, _twinned(_together(stored), model), against, kept_float)
    return Plan(stored=entries.stored), entries.ledger()


def _against(
    value: ir.Value, readers: list[Reading], holders: Mapping[ir.Node, str], wish: Wish, kept: Mapping[str, str]
) -> str | None:
    """Return why a constant stays float, or None."""
    reason = _against_itself(value, readers, wish)
    if reason is not None:
        return reason
    name = graph.name_of(value)
    for node, index in readers:
        owner = holders.get(node, graph.node_name(node))
        if owner in kept:
            return kept[owner] if len(readers) == 1 else f"weight {name!r} is shared with {owner!r}: {kept[owner]}"
        if rule_of(node, index) is None:
            return f"weight {name!r} is also read by {node.op_type} {owner!r}, which takes it in float"
    return next((r for n, i in readers if (r := reason_against(n, i)) is not None), None)


def _against_itself(value: ir.Value, readers: list[Reading], wish: Wish) -> str | None:
    """Return why a constant stays float whoever reads it, or None."""
    array, rules = graph.real_constant(value), [rule for n, i in readers if (rule := rule_of(n, i)) is not None]
    if array is None or array.dtype != np.float32 or not rules:
        return "its weight is not a float32 constant"
    if array.size < wish.smallest:
        return f"weight of {array.size} elements is under {wish.smallest}"
    if value.is_graph_output():
        return f"weight {value.name!r} is an output of the model"
    if not np.isfinite(array).all():
        return f"weight {value.name!r} holds values that are NaN or infinite"
    return None if wish.everywhere or any(rule.always for rule in rules) else _ELSEWHERE


@dataclass(frozen=True, slots=True)
class _Readers:
    """Who reads a weight, which nodes of the main graph hold the bodies, and which weights are stored at all."""

    readings: list[Reading]
    holders: Mapping[ir.Node, str]
    storable: set[ir.Value]


def _stored(scope: int, value: ir.Value, readers: _Readers, infos: Infos, wish: Wish) -> StoredWeight:
    forms = [_form(node, index, readers, infos, wish) for node, index in readers.readings]
    specs = [spec_of(node, index, form, wish) for (node, index), (form, _) in zip(readers.readings, forms, strict=True)]
    spec = _chosen(specs, [form for form, _ in forms])
    uses = [
        _use(node, index, form if own == spec else (FOLDED, _unlike(form)), readers)
        for (node, index), form, own in zip(readers.readings, forms, specs, strict=True)
    ]
    kernels = all(graph.is_onnx(node, "Conv") for node, _ in readers.readings)
    return StoredWeight(graph.name_of(value), spec, tuple(uses), scope, kernels=kernels)


def _form(node: ir.Node, index: int, readers: _Readers, infos: Infos, wish: Wish) -> tuple[str, str]:
    if node in readers.holders:
        return FOLDED, "in the body of a control flow operator"
    form, reason = form_of(node, index, infos, wish)
    if form == RECURRENT and any(node.inputs[i] not in readers.storable for i in STORAGE[node.op_type].weights):
        return FOLDED, "DynamicQuantizeLSTM takes both weights in integers; the other one stays float"
    return form, reason


def _chosen(specs: list[QuantSpec], forms: list[str]) -> QuantSpec:
    """Return the spec of the first reader with a kernel, or of the first reader: the folded form takes any."""
    return specs[next((i for i, form in enumerate(forms) if form != FOLDED), 0)]


def _unlike(form: tuple[str, str]) -> str:
    return form[1] or "shares its weight with an operator that has other output channels"


def _use(node: ir.Node, index: int, form: tuple[str, str], readers: _Readers) -> StoredUse:
    return StoredUse(readers.holders.get(node, graph.node_name(node)), index, *form)


def _together(stored: list[StoredWeight]) -> tuple[StoredWeight, ...]:
    """Let an LSTM read both weights folded where one of them is."""
    folded = {u.node for w in stored for u in w.uses if u.form == FOLDED}
    reason = "DynamicQuantizeLSTM takes both weights in integers; the other one is shared with another operator"

    def settled(use: StoredUse) -> StoredUse:
        return replace(use, form=FOLDED, reason=reason) if use.form == RECURRENT and use.node in folded else use

    return tuple(replace(w, uses=tuple(settled(u) for u in w.uses)) for w in stored)


def _twinned(stored: tuple[StoredWeight, ...], model: ir.Model) -> tuple[StoredWeight, ...]:
    """Let a matrix that is the transpose of another one, such as a tied embedding, be read from that one's integers."""
    nodes = {graph.node_name(n): n for n in model.graph}
    known: dict[tuple[tuple[int, ...], bytes], StoredWeight] = {}
    result: list[StoredWeight] = []
    for weight in sorted(stored, key=lambda w: not any(_is_table(nodes, u) for u in w.uses)):
        array = graph.real_constant(model.graph.initializers[weight.name]) if not weight.scope else None
        if array is None or array.ndim != 2:
            result.append(weight)
            continue
        other = known.get((array.T.shape, _digest(array.T)))
        spec = affine.transposed_spec(other.spec) if other is not None else weight.spec
        if other is not None and all(spec == weight.spec or takes(nodes[u.node], u, spec) for u in weight.uses):
            result.append(replace(weight, spec=spec, twin=other.name))
            continue
        known.setdefault((array.shape, _digest(array)), weight)
        result.append(weight)
    return tuple(result)


def _is_table(nodes: Mapping[str, ir.Node], use: StoredUse) -> bool:
    rule = rule_of(nodes[use.node], use.index)
    return rule is not None and rule.table


def _digest(array: npt.NDArray[np.floating]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


@dataclass(frozen=True, slots=True)
class _Fates:
    """What the ledger is made of."""

    model: ir.Model
    infos: Infos
    stored: tuple[StoredWeight, ...]
    against: Mapping[str, str]
    kept: Mapping[str, str]

    def ledger(self) -> dict[str, Entry]:
        """Return the fate of every node of the main graph."""
        uses: dict[str, list[tuple[StoredWeight, StoredUse]]] = {}
        for weight in self.stored:
            for use in weight.uses:
                uses.setdefault(use.node, []).append((weight, use))
        return {graph.node_name(n): self._entry(n, uses.get(graph.node_name(n), [])) for n in self.model.graph}

    def _entry(self, node: ir.Node, uses: list[tuple[StoredWeight, StoredUse]]) -> Entry:
        name, op_type = graph.node_name(node), graph.describe_op(node)
        if uses:
            weight, use = uses[0]
            fate = INTEGER if use.form in (DYNAMIC, RECURRENT) else STORED
            return Entry(
                name, op_type, fate, kernel_of(use.form, weight.spec), use.reason or self.against.get(name, "")
            )
        if bodies_of(node):
            return Entry(name, op_type, UNTOUCHED, reason=CONTROL_FLOW)
        if not self._touches_float(node):
            return Entry(name, op_type, UNTOUCHED, reason="no float32 tensor")
        reason = self.kept.get(name) or self.against.get(name) or self._why(node)
        return Entry(name, op_type, FLOAT, reason=reason, by_design=name not in self.kept)

    def _touches_float(self, node: ir.Node) -> bool:
        infos = [self.infos.get(graph.name_of(v)) for v in (*node.inputs, *node.outputs) if v is not None and v.name]
        return any(i is not None and (i.dtype is None or i.dtype.kind == "f") for i in infos)

    def _why(self, node: ir.Node) -> str:
        if not graph.is_onnx(node):
            return f"{graph.describe_op(node)} has no rule in the table of stored weights"
        rule = STORAGE.get(node.op_type)
        return "its weight is computed, not a constant" if rule is not None else _NO_WEIGHT


def _holders(model: ir.Model) -> dict[ir.Node, str]:
    """Return, for every node inside a body, the name of the node of the main graph that holds it."""
    held: dict[ir.Node, str] = {}
    for node in model.graph:
        for inner in _inside(node):
            held[inner] = graph.node_name(node)
    return held


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            yield from attribute.as_graph().all_nodes()
