"""Which tensors share one scale and zero point, and which have theirs fixed beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcli import graph
from quantcli.applicability import Infos, is_float32, reason_against
from quantcli.kernels import KERNELS
from quantcli.oprules import OP_RULES, SELECTING, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from quantcli.oprules import OpRule
    from quantcli.plan import Unit
    from quantcli.quant import QuantSpec

Fixed = tuple[float, int]


def group_tensors(
    nodes: Sequence[ir.Node],
    infos: Infos,
    units: Sequence[Unit],
    tensors: Mapping[str, QuantSpec],
) -> tuple[tuple[frozenset[str], ...], dict[str, Fixed]]:
    """Return the groups of tensors on one grid, and the tensors whose grid is known.

    Data movement keeps the grid of its input. Operands of a Concat, Max or Min take that of the result where nobody
    else reads them. A result with a fixed range (Softmax, Sigmoid, Tanh ...) brings its own grid into its group.
    """
    joined = _Union(tensors, _fixed_results(nodes, infos, units, tensors))
    by_node = {u.node: u for u in units}
    values = {graph.name_of(o): o for n in nodes for o in n.outputs if o.name}
    values |= {graph.name_of(v): v for n in nodes for v in n.inputs if v is not None}
    for node in nodes:
        rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
        if rule is None:
            continue
        unit = by_node.get(graph.node_name(node))
        outputs = [graph.name_of(o) for o in node.outputs if o.name and is_float32(o, infos)]
        if rule.role is Role.SAME and (unit is not None or _lossless(node, infos)):
            for output in outputs:
                joined.union(graph.name_of(node.inputs[0]) if node.inputs[0] else "", output)
        elif rule.role is Role.JOIN and unit is not None:
            members = {n: joined.members(n) for _, n in unit.inputs}
            fixed = [{joined.fixed.get(m) for m in group} - {None} for group in members.values()]
            one_grid = all(len(f) == 1 and f == fixed[0] for f in fixed)  # Concat of two Sigmoids, say
            for name, group in members.items():
                free = not any(m in joined.fixed for m in group) and all(_alone(values.get(m)) for m in group)
                if free or one_grid:
                    joined.union(name, unit.output)
    return joined.groups(), joined.fixed_of_all()


def _lossless(node: ir.Node, infos: Infos) -> bool:
    """Data movement in float is exact on one grid too; not where onnxruntime would fuse it into a slow kernel."""
    if KERNELS[node.op_type].qdq.near_linear_only or node.op_type in SELECTING:
        return False
    return reason_against(node, OP_RULES[node.op_type], infos) is None


def _alone(value: ir.Value | None) -> bool:
    """Tell whether nobody but one reader sees the tensor, so that its grid may be chosen for that reader."""
    if value is None:
        return False
    return graph.is_constant(value) or (graph.only_consumer(value) is not None and not value.is_graph_input())


def _fixed_results(
    nodes: Sequence[ir.Node], infos: Infos, units: Sequence[Unit], tensors: Mapping[str, QuantSpec]
) -> dict[str, Fixed]:
    found: dict[str, Fixed] = {}
    inner = {m for u in units for m in u.members[:-1]}
    for node in nodes:
        rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
        if rule is None or (rule.fixed is None and rule.fixed16 is None) or graph.node_name(node) in inner:
            continue
        name = graph.name_of(node.outputs[0])
        if rule.role is Role.SOURCE and reason_against(node, rule, infos) is not None:
            continue
        grid = _grid(rule, tensors.get(name))
        if grid is not None:
            found[name] = grid
    return found


def _grid(rule: OpRule, spec: QuantSpec | None) -> Fixed | None:
    if spec is None:
        return None
    if spec.dtype.name == "int16":
        return None if rule.fixed16 is None else (rule.fixed16, 0)
    return rule.fixed if spec.dtype.name == "uint8" and not spec.symmetric else None


def useful_ranges(nodes: Sequence[ir.Node], tensors: Mapping[str, QuantSpec]) -> dict[str, tuple[float, float]]:
    """Return, for tensors read by nothing but saturating functions, the range outside of which these are flat."""
    found: dict[str, tuple[float, float]] = {}
    for node in nodes:
        for value in node.outputs:
            readers = [reader for reader, _ in graph.consumers(value)]
            if value.name not in tensors or value.is_graph_output() or not readers:
                continue
            flats = [_flat(reader, tensors) for reader in readers]
            known = [f for f in flats if f is not None]
            if len(known) == len(flats):
                found[graph.name_of(value)] = (min(low for low, _ in known), max(high for _, high in known))
    return found


def _flat(node: ir.Node, tensors: Mapping[str, QuantSpec]) -> tuple[float, float] | None:
    rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
    if rule is None:
        return None
    spec = tensors.get(graph.name_of(node.outputs[0]))
    flat = rule.flat16 if spec is not None and spec.dtype.bits > 8 else rule.flat
    if flat is None or (rule.fixed is not None and spec is None):
        return None  # only on its integer grid is the result constant there; a logarithm of it sees more
    if node.op_type == "HardSigmoid":
        alpha, beta = graph.float_attribute(node, "alpha", 0.2), graph.float_attribute(node, "beta", 0.5)
        return (-beta / alpha, (1.0 - beta) / alpha) if alpha > 0 else None
    return flat


class _Union:
    """Disjoint sets of tensor names, each with at most one fixed grid."""

    def __init__(self, tensors: Mapping[str, QuantSpec], fixed: Mapping[str, Fixed]) -> None:
        self._parent = {name: name for name in tensors}
        self._fixed = dict(fixed)
        self.fixed = dict(fixed)  # tensors whose own grid is known

    def union(self, a: str, b: str) -> None:
        if a not in self._parent or b not in self._parent:
            return
        root_a, root_b = self._find(a), self._find(b)
        grids = {self._fixed[r] for r in (root_a, root_b) if r in self._fixed}
        if root_a == root_b or len(grids) > 1:
            return
        self._parent[root_b] = root_a
        if grids:
            self._fixed[root_a] = grids.pop()

    def members(self, name: str) -> list[str]:
        if name not in self._parent:
            return []
        return [n for n in self._parent if self._find(n) == self._find(name)]

    def groups(self) -> tuple[frozenset[str], ...]:
        sets: dict[str, set[str]] = {}
        for name in self._parent:
            sets.setdefault(self._find(name), set()).add(name)
        return tuple(frozenset(s) for s in sets.values() if len(s) > 1)

    def fixed_of_all(self) -> dict[str, Fixed]:
        return {n: self._fixed[self._find(n)] for n in self._parent if self._find(n) in self._fixed}

    def _find(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name
