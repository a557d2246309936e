"""Finds the nodes that a ``--float`` pattern names: ``op:Softmax``, a glob, ``re:...``, ``tensor:...``."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from quantcli import graph
from quantcli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx_ir as ir


def match_all(patterns: Iterable[str], model: ir.Model, folded: Iterable[str] = ()) -> dict[str, set[str]]:
    """Return the names of the nodes that each pattern matches.

    Args:
        patterns: The patterns.
        model: Prepared model.
        folded: Names of the user's nodes that preparation has folded away; a pattern may name them.

    Raises:
        UsageError: A pattern matches nothing, or is no regular expression.
    """
    nodes = {graph.node_name(n): n for n in model.graph}
    gone = set(folded)
    return {p: _match(p, nodes, gone, model) for p in patterns}


def _match(pattern: str, nodes: Mapping[str, ir.Node], gone: set[str], model: ir.Model) -> set[str]:
    kind, sign, rest = pattern.partition(":")
    known: Iterable[str] = [*nodes, *gone]
    if sign and kind == "op":
        found = {n for n, node in nodes.items() if rest in (node.op_type, graph.describe_op(node))}
        known = {node.op_type for node in nodes.values()}
    elif sign and kind == "tensor":
        found = _around(rest, model)
        known = graph.named_values(model.graph)
    elif sign and kind == "re":
        found = _search(rest, pattern, known)
    else:
        rest = pattern
        found = {n for n in known if n == pattern or fnmatchcase(n, pattern)}
    if not found and not sign and any(pattern == node.op_type for node in nodes.values()):
        raise UsageError(f"--float {pattern!r} matches no node name; did you mean 'op:{pattern}'?")
    if not found:
        raise UsageError(
            f"--float {pattern!r} matches nothing in the model{did_you_mean(rest, known)}",
            hint="quant convert --dry-run lists the nodes; patterns: op:TYPE, a glob, re:REGEX, tensor:NAME",
        )
    return found & set(nodes)


def _search(expression: str, pattern: str, names: Iterable[str]) -> set[str]:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--float {pattern!r} is no regular expression: {error}") from error
    return {n for n in names if compiled.search(n)}


def _around(tensor: str, model: ir.Model) -> set[str]:
    """Return the node that makes a tensor; for an input of the graph, the nodes that read it."""
    value = graph.named_values(model.graph).get(tensor)
    if value is None:
        return set()
    producer = value.producer()
    return {graph.node_name(producer)} if producer else {graph.node_name(n) for n, _ in graph.consumers(value)}
