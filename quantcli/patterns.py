"""Finds the nodes that a ``--float`` pattern names: ``op:Softmax``, a glob, ``re:...``, ``tensor:...``."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from quantcli import graph
from quantcli.errors import RecipeError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx_ir as ir

    from quantcli.report import Entry


def match_all(
    patterns: Iterable[str], model: ir.Model, listed: Mapping[str, Entry] | None = None
) -> dict[str, set[str]]:
    """Return the names of the nodes that each pattern matches, those in bodies of control flow too.

    Args:
        patterns: The patterns.
        model: Prepared model.
        listed: The ledger: nodes that preparation has folded away, or converted already; a pattern may name them.

    Raises:
        UsageError: A pattern matches nothing, or is no regular expression.
    """
    nodes = {graph.node_name(n): n for n in model.graph.all_nodes()}
    gone = {name: entry.op_type for name, entry in (listed or {}).items()}
    return {p: _match(p, nodes, gone, model) for p in patterns}


def matches(pattern: str, model: ir.Model) -> bool:
    """Tell whether a pattern matches any node of a model.

    Raises:
        UsageError: It is no regular expression.
    """
    nodes = {graph.node_name(n): n for n in model.graph.all_nodes()}
    return bool(_found(pattern, nodes, {}, model)[0])


def among(pattern: str, names: Iterable[str]) -> set[str]:
    """Return the names that a pattern of names matches: a name, a glob or ``re:REGEX``.

    Raises:
        RecipeError: It is no regular expression.
    """
    known = set(names)
    if pattern in known:
        return {pattern}
    if not pattern.startswith("re:"):
        return {n for n in known if fnmatchcase(n, pattern)}
    try:
        compiled = re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise RecipeError(f"overrides: {pattern!r} is no regular expression: {error}") from error
    return {n for n in known if compiled.search(n)}


def _match(pattern: str, nodes: Mapping[str, ir.Node], gone: Mapping[str, str], model: ir.Model) -> set[str]:
    found, known = _found(pattern, nodes, gone, model)
    _kind, sign, rest = pattern.partition(":")
    if not found and not sign and any(pattern == node.op_type for node in nodes.values()):
        raise UsageError(f"--float {pattern!r} matches no node name; did you mean 'op:{pattern}'?")
    if not found:
        raise UsageError(
            f"--float {pattern!r} matches nothing in the model{did_you_mean(rest if sign else pattern, known)}",
            hint="quant convert --dry-run lists the nodes; patterns: op:TYPE, a glob, re:REGEX, tensor:NAME",
        )
    return found & set(nodes)


def _found(
    pattern: str, nodes: Mapping[str, ir.Node], gone: Mapping[str, str], model: ir.Model
) -> tuple[set[str], Iterable[str]]:
    """Return the names that a pattern matches, and those that it could have meant."""
    kind, sign, rest = pattern.partition(":")
    known: Iterable[str] = [*nodes, *gone]
    if sign and kind == "op":
        found = {n for n, node in nodes.items() if rest in (node.op_type, graph.describe_op(node))}
        found |= {n for n, op_type in gone.items() if rest == op_type}
        known = {node.op_type for node in nodes.values()}
    elif sign and kind == "tensor":
        found = _around(rest, model)
        known = [name for part in graph.all_graphs(model) for name in graph.named_values(part)]
    elif sign and kind == "re":
        found = _search(rest, pattern, known)
    else:
        found = {n for n in known if n == pattern or fnmatchcase(n, pattern)}
    return found, known


def _search(expression: str, pattern: str, names: Iterable[str]) -> set[str]:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--float {pattern!r} is no regular expression: {error}") from error
    return {n for n in names if compiled.search(n)}


def _around(tensor: str, model: ir.Model) -> set[str]:
    """Return the node that makes a tensor; for an input of the graph, the nodes that read it."""
    value = next((v for part in graph.all_graphs(model) if (v := graph.named_values(part).get(tensor))), None)
    if value is None:
        return set()
    producer = value.producer()
    return {graph.node_name(producer)} if producer else {graph.node_name(n) for n, _ in graph.consumers(value)}
