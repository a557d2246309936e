"""Decides a plan: graph x op table x kernel table x recipe -> who becomes integer, with which specs, and why not.

No numbers are needed: types and shapes come from loading the model, ranges come later.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantcli import dtypes, graph
from quantcli.absorption import absorb
from quantcli.applicability import Infos, data_inputs, is_float32, reason_against
from quantcli.bodies import bodies_of
from quantcli.grouping import group_tensors, useful_ranges
from quantcli.kernels import KERNELS, NO_KERNEL, POINTWISE, Kernel
from quantcli.oprules import OP_RULES, OpRule, Role
from quantcli.plan import Plan, Unit
from quantcli.quant import PerAxis, PerTensor, QuantSpec
from quantcli.regions import Region, alone, find_regions, is_region_worth
from quantcli.wide_applicability import reason_against_region, reason_against_wide
from quantcli.worth import reasons_against

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.recipe import Recipe, TensorScheme


@dataclass(slots=True)
class _Draft:
    """What has been decided so far, while deciding."""

    candidates: dict[str, Unit] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    untouched: set[str] = field(default_factory=set)
    absorbed: set[str] = field(default_factory=set)


def make_plan(model: ir.Model, infos: Infos, recipe: Recipe, kept_float: Mapping[str, str]) -> Plan:
    """Plan the quantization of the main graph.

    Args:
        model: Prepared float model, topologically sorted, every node named.
        infos: Type and shape of every tensor.
        recipe: What is wanted.
        kept_float: Node name -> reason, for nodes that must stay float (asked for, or not calibrated).
    """
    nodes = list(model.graph)
    draft = _Draft()
    _candidates(nodes, infos, recipe, kept_float, draft)
    if recipe.fallback == "float":
        _release_readers(nodes, draft)
        if recipe.form != "wide":  # asked for its accuracy: whatever has a 16-bit form takes it
            _drop_unworthy(nodes, recipe, draft)
    units = _with_float_results(_in_order(nodes, draft), model, infos, recipe)
    return _with_specs(model, infos, recipe, units, draft)


def _candidates(
    nodes: list[ir.Node], infos: Infos, recipe: Recipe, kept_float: Mapping[str, str], draft: _Draft
) -> None:
    roots = absorb(nodes, infos, kept_float)
    draft.absorbed.update(name for swallowed in roots.values() for name in swallowed.nodes)
    claimed = {*draft.absorbed, *roots, *kept_float}
    regions = {}
    for region in find_regions(nodes, infos, claimed=claimed):
        for part in _parts(region, infos, recipe):
            regions.update({graph.node_name(m): part for m in part.members})
    for node in nodes:
        name = graph.node_name(node)
        if name in draft.absorbed or name in draft.skipped:  # it belongs to an operator that was decided on before
            continue
        if name in kept_float:
            draft.skipped[name] = kept_float[name]
        elif name in regions:
            _region(node, regions[name], recipe, draft)
        else:
            _single(node, infos, recipe, draft)
        if name in draft.candidates and name in roots:
            draft.candidates[name] = roots[name].applied(draft.candidates[name])
        elif name in roots:
            _release(nodes, roots[name].nodes, draft)


def _parts(region: Region, infos: Infos, recipe: Recipe) -> list[Region]:
    """Return what becomes of a region: one function, its operators one by one, or none of it."""
    if recipe.form != "wide":
        return [region] if is_region_worth(region) else []
    if reason_against_region(region.members, region.channel) is None:
        return [region]
    return [part for member in region.members if (part := alone(member, infos)) is not None]


def _region(node: ir.Node, region: Region, recipe: Recipe, draft: _Draft) -> None:
    name = graph.node_name(node)
    single = len(region.members) == 1 and OP_RULES[node.op_type].role is Role.POINTWISE
    against = _against_format(KERNELS.get(node.op_type, POINTWISE) if single else POINTWISE, recipe)
    if recipe.form == "wide":
        against = against or reason_against_region(region.members, region.channel)
    if against is not None:
        draft.skipped[name] = against
    elif node is region.members[-1]:
        members = tuple(graph.node_name(m) for m in region.members)
        draft.absorbed.update(members[:-1])
        source = graph.name_of(region.source)
        result = graph.name_of(region.result)
        draft.candidates[name] = Unit(
            name, POINTWISE.lowering, ((0, source),), result, members=members, channel=region.channel
        )


def _single(node: ir.Node, infos: Infos, recipe: Recipe, draft: _Draft) -> None:
    name = graph.node_name(node)
    if not _touches_float(node, infos) or (bodies_of(node) and recipe.fallback == "float"):
        draft.untouched.add(name)
        return
    reason, rule, kernel = _verdict(node, infos, recipe)
    if reason is not None or rule is None:
        draft.skipped[name] = reason or "no rule"
        return
    unit = _unit(node, rule, kernel, infos)
    against = reason_against_wide(unit, {name: node}) if recipe.form == "wide" else None
    if against is None:
        draft.candidates[name] = unit
    else:
        draft.skipped[name] = against


def _verdict(node: ir.Node, infos: Infos, recipe: Recipe) -> tuple[str | None, OpRule | None, Kernel]:
    rule = OP_RULES.get(node.op_type) if graph.is_onnx(node) else None
    if bodies_of(node):
        return "control flow passes float tensors between graphs", None, NO_KERNEL
    if rule is None:
        return f"{graph.describe_op(node)} has no rule in the op table", None, NO_KERNEL
    kernel = KERNELS.get(node.op_type, POINTWISE if rule.role is Role.POINTWISE else NO_KERNEL)
    against = _against_format(kernel, recipe) or reason_against(node, rule, infos, wide=recipe.form == "wide")
    return against, rule, kernel


def _against_format(kernel: Kernel, recipe: Recipe) -> str | None:
    """Return why the format has no integer form of an operator.

    Where no float is allowed, Q and DQ around an operator state integers for other runtimes, even where this one gains
    nothing by them.
    """
    cell = kernel.cell(recipe.form)
    stated = recipe.form == "qdq" and recipe.fallback == "refuse" and kernel.integer.integer
    return None if cell.integer or stated else cell.reason


def _unit(node: ir.Node, rule: OpRule, kernel: Kernel, infos: Infos) -> Unit:
    name, lowering = graph.node_name(node), kernel.lowering
    constant_weight = rule.weight is not None and graph.is_constant(graph.input_at(node, rule.weight))
    indices = data_inputs(node, rule)
    if rule.role is Role.LINEAR and not constant_weight:
        indices, lowering = (0, 1), "product"
    inputs = tuple((i, graph.name_of(v)) for i in indices if (v := node.inputs[i]) is not None)
    outputs = tuple(graph.name_of(o) for o in node.outputs if o.name and is_float32(o, infos))  # indices are on no grid
    if lowering == "read":
        outputs = ()
    weight = graph.input_at(node, rule.weight) if constant_weight else None
    if weight is not None and weight.shape is not None and node.op_type == "MatMul" and len(weight.shape) != 2:
        inputs = ((0, inputs[0][1]), (1, graph.name_of(weight)))
        weight, lowering = None, "product"
    bias = graph.input_at(node, rule.bias) if weight is not None else None
    return Unit(
        name,
        lowering,
        inputs,
        outputs[0] if outputs else "",
        outputs=outputs,
        members=(name,) if rule.role is Role.POINTWISE else (),
        weight=graph.name_of(weight) if weight is not None else None,
        bias=graph.name_of(bias) if bias is not None else None,
        axis=_channel_axis(node, rule),
    )


def _channel_axis(node: ir.Node, rule: OpRule) -> int:
    if node.op_type == "Gemm":
        return 0 if graph.int_attribute(node, "transB", 0) else 1
    return 1 if rule.axis == -1 else rule.axis


def _touches_float(node: ir.Node, infos: Infos) -> bool:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
    return any(is_float32(v, infos) for v in values) or any(_is_unknown(v, infos) for v in values)


def _is_unknown(value: ir.Value, infos: Infos) -> bool:
    info = infos.get(graph.name_of(value))
    return info is not None and (info.dtype is None or (info.dtype.kind == "f" and not info.is_float32))


def _release(nodes: list[ir.Node], names: tuple[str, ...], draft: _Draft) -> None:
    """What a node that stays float would have absorbed stays float with it."""
    for node in nodes:
        name = graph.node_name(node)
        if name in names:
            draft.absorbed.discard(name)
            draft.skipped[name] = "belongs to an operator that stays float"


def _release_readers(nodes: list[ir.Node], draft: _Draft) -> None:
    """Take back the candidates that only read: reading costs a DequantizeLinear at most."""
    for node in nodes:
        name = graph.node_name(node)
        if name in draft.candidates and OP_RULES[node.op_type].role is Role.OPAQUE:
            del draft.candidates[name]
            draft.untouched.add(name)


def _drop_unworthy(nodes: list[ir.Node], recipe: Recipe, draft: _Draft) -> None:
    """Take back the candidates that do not pay."""
    for name, reason in reasons_against(nodes, draft.candidates, recipe.format).items():
        unit = draft.candidates.pop(name)
        draft.skipped[name] = reason
        _release(nodes, (*unit.absorbed, *unit.members[:-1]), draft)


def _in_order(nodes: list[ir.Node], draft: _Draft) -> tuple[Unit, ...]:
    return tuple(draft.candidates[n] for node in nodes if (n := graph.node_name(node)) in draft.candidates)


def _with_float_results(units: tuple[Unit, ...], model: ir.Model, infos: Infos, recipe: Recipe) -> tuple[Unit, ...]:
    """Leave the result of a matrix product in float where only float operators read it: the kernel can give both."""
    if recipe.form != "qdq" or recipe.fallback == "refuse":
        return units
    values = graph.named_values(model.graph)
    kept = {tensor for unit in units for _, tensor in unit.inputs} | set(_integer_boundary(model, infos, recipe))
    kept.update(name for name, value in values.items() if not graph.consumers(value))
    products = ("matmul", "product")  # a Gemm, the head of a classifier, was measured to be no better for it
    return tuple(replace(u, float_result=u.lowering in products and u.output not in kept) for u in units)


def _with_specs(model: ir.Model, infos: Infos, recipe: Recipe, units: tuple[Unit, ...], draft: _Draft) -> Plan:
    activation = _spec(recipe.scheme.activations, PerTensor())
    tensors: dict[str, QuantSpec] = {}
    weights: dict[str, QuantSpec] = {}
    for unit in units:
        tensors.update((t, activation) for _, t in unit.inputs)
        made = () if unit.float_result else unit.outputs or (unit.output,)
        tensors.update((t, activation) for t in made if t)
        if unit.weight is not None:
            per_channel = recipe.scheme.weights.granularity == "per-channel"
            weights[unit.node] = _spec(recipe.scheme.weights, PerAxis(unit.axis) if per_channel else PerTensor())
    tensors.update((t, activation) for t in _integer_boundary(model, infos, recipe))
    groups, fixed = group_tensors(list(model.graph), infos, units, tensors)
    return Plan(
        units=units,
        activations=tensors,
        weights=weights,
        groups=groups,
        fixed=fixed,
        skipped=draft.skipped,
        untouched=frozenset(draft.untouched),
        useful=useful_ranges(list(model.graph), tensors),
    )


def _integer_boundary(model: ir.Model, infos: Infos, recipe: Recipe) -> list[str]:
    """Return the float inputs and outputs that the recipe wants as integers, whoever reads or makes them."""
    inputs = list(model.graph.inputs) if recipe.inputs != "float32" else []
    outputs = list(model.graph.outputs) if recipe.outputs != "float32" else []
    return [graph.name_of(v) for v in (*inputs, *outputs) if is_float32(v, infos)]


def _spec(scheme: TensorScheme, granularity: PerTensor | PerAxis) -> QuantSpec:
    return QuantSpec(dtypes.BY_NAME[scheme.dtype], scheme.symmetric, granularity, scheme.narrow_range)
