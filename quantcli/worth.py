"""What is worth computing in integers where float is allowed: what stands between products, or moves data there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantcli import graph
from quantcli.applicability import CORE
from quantcli.kernels import KERNELS, POINTWISE
from quantcli.oprules import OP_RULES, SELECTING, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from quantcli.plan import Unit

    Candidates = Mapping[str, Unit]

_BESIDE: Final = "no integer operator beside it: quantizing it alone would only cost"
_STAY_CHANNELS_LAST: Final = frozenset({"Add", "Mul", "Concat", "MaxPool", "AveragePool", "LeakyRelu", "Resize"})
_STREAM: Final = "float operators beside it: between matrix products float keeps its accuracy at no cost"
_OUTPUT: Final = "\0output"  # of the graph, among the readers of a tensor
_TAIL: Final = "nothing after it multiplies matrices: float keeps its accuracy at no cost"


def reasons_against(nodes: Sequence[ir.Node], candidates: Candidates, output_format: str) -> dict[str, str]:
    """Return the candidates that would only add Q and DQ, with the reason: no product before, or none after them.

    What stays float may leave others alone among float operators, so they are looked at until nothing changes.

    Args:
        nodes: The nodes of the graph in topological order.
        candidates: Units that could be integer, by the name of their node.
        output_format: ``qdq`` or ``integer``.
    """
    against: dict[str, str] = {}
    while True:
        left = {name: unit for name, unit in candidates.items() if name not in against}
        found = _once(nodes, left, output_format)
        if not found:
            return against
        against.update(found)


def _once(nodes: Sequence[ir.Node], candidates: Candidates, output_format: str) -> dict[str, str]:
    useful = _before_products(nodes, candidates)
    moving = _leading_into(nodes, candidates)
    readers = _readers(nodes, candidates)
    convolved: set[str] = set()
    produced: dict[str, str] = {}
    against: dict[str, str] = {}
    for node in nodes:
        unit = candidates.get(graph.node_name(node))
        if unit is None:
            continue
        reason = None if unit.node in moving else _not_worth(node, unit, produced, useful, output_format)
        drawn = node.op_type == "Conv" or any(t in convolved for _, t in unit.inputs)
        if reason is None and unit.node not in moving and not drawn:
            reason = _STREAM if _is_in_float_stream(node, unit, produced, readers[unit.node]) else None
        if reason is not None:
            against[unit.node] = reason
            continue
        inside = node.op_type in _STAY_CHANNELS_LAST and any(produced.get(t) == "Conv" for _, t in unit.inputs)
        made = unit.outputs or (unit.output,)
        convolved.update(made if drawn else ())
        produced.update(dict.fromkeys(made, "Conv" if inside else node.op_type))
    return against


def _not_worth(
    node: ir.Node, unit: Unit, produced: Mapping[str, str], useful: set[str], output_format: str
) -> str | None:
    rule = OP_RULES[node.op_type]
    cell = KERNELS.get(node.op_type, POINTWISE).cell(output_format)
    if rule.role in CORE or rule.role is Role.SOURCE:
        return None
    feeders = [produced[t] for _, t in unit.inputs if t in produced]
    if not feeders:
        return _BESIDE
    if cell.near_linear_only and "Conv" not in feeders:
        return cell.reason
    if rule.role is not Role.SAME and unit.node not in useful:
        return _TAIL
    return None


def _is_in_float_stream(node: ir.Node, unit: Unit, produced: Mapping[str, str], readers: set[str]) -> bool:
    """Tell whether what is no product has float neighbours; no convolution is before it.

    Residual sums, masked scores and gates are wide: their 8 bits would cost more than the matrix products around them.
    """
    role = OP_RULES[node.op_type].role
    if role in {*CORE, Role.SOURCE}:
        return False
    if role is Role.SAME:
        return readers == {""}
    read = {v.name: v for v in node.inputs if v is not None}
    fed = [t in produced or _is_given(read.get(t)) for _, t in unit.inputs]
    return not all(fed) or bool({"", _OUTPUT} & readers)


def _is_given(value: ir.Value | None) -> bool:
    """Tell whether a value comes from outside of the graph, or is a constant of it."""
    return value is not None and value.producer() is None


def _readers(nodes: Sequence[ir.Node], candidates: Candidates) -> dict[str, set[str]]:
    """Return, for each candidate, the candidates that read its results; ``""`` for other operators, and ``_OUTPUT``."""
    owners = {name: unit.node for unit in candidates.values() for name in (unit.node, *unit.absorbed, *unit.members)}
    found: dict[str, set[str]] = {name: set() for name in candidates}
    for node in nodes:
        owner = owners.get(graph.node_name(node))
        if owner is None:
            continue
        own = {owners.get(graph.node_name(r), "") for o in node.outputs for r, _ in graph.consumers(o)} - {owner}
        found[owner].update(own, (_OUTPUT,) if any(o.is_graph_output() for o in node.outputs) else ())
    return found


def _leading_into(nodes: Sequence[ir.Node], candidates: Candidates) -> set[str]:
    """Return the data movement all of whose readers are linear operators, or move data into them in turn."""
    found: set[str] = set()
    for node in reversed(nodes):
        name = graph.node_name(node)
        readers = [n for o in node.outputs for n, _ in graph.consumers(o)]
        if name not in candidates or OP_RULES[node.op_type].role is not Role.SAME or not readers:
            continue
        if KERNELS[node.op_type].qdq.near_linear_only or any(o.is_graph_output() for o in node.outputs):
            continue
        if node.op_type in SELECTING and not graph.is_constant(node.inputs[0]):
            continue  # what it selects may be much narrower: better quantized behind it
        if all(_takes(reader, found, candidates) for reader in readers):
            found.add(name)
    return found


def _takes(reader: ir.Node, moving: set[str], candidates: Candidates) -> bool:
    name = graph.node_name(reader)
    return name in moving or (name in candidates and OP_RULES[reader.op_type].role in CORE)


def _before_products(nodes: Sequence[ir.Node], candidates: Candidates) -> set[str]:
    """Return the names of nodes from whose results a linear operator or a product is reached."""
    useful: set[str] = set()
    for node in reversed(nodes):
        readers = [n for o in node.outputs for n, _ in graph.consumers(o)]
        for reader in readers:
            unit = candidates.get(graph.node_name(reader))
            core = unit is not None and OP_RULES[reader.op_type].role in CORE
            if core or graph.node_name(reader) in useful:
                useful.add(graph.node_name(node))
                break
    absorbers = {a: u.node for u in candidates.values() for a in u.absorbed}
    useful.update(absorbers[name] for name in list(useful) if name in absorbers)
    return useful
