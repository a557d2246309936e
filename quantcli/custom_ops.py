"""Libraries of custom operators: a model carries the names of those that its operators come from.

They belong to the model, so they go wherever a copy or a part of it goes, and every session of it registers them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantcli import graph
from quantcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import onnx_ir as ir

_KEY: Final = "quantcli.custom_op_libs"  # of the graph: a copy of a model keeps what its graph carries


def check_exist(paths: Iterable[Path]) -> None:
    """Raise for a library that is no file.

    Raises:
        UsageError: With its path.
    """
    for path in paths:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise UsageError(
                f"{path}: {kind}; expected a library of custom operators", hint="--custom-op-lib takes a shared library"
            )


def attach(model: ir.Model, paths: Iterable[Path]) -> None:
    """Let a model's operators come from these libraries too."""
    found = dict.fromkeys((*libraries(model), *(str(path.resolve()) for path in paths)))
    if found:
        model.graph.meta[_KEY] = tuple(found)


def libraries(model: ir.Model) -> tuple[str, ...]:
    """Return the paths of the libraries that a session of the model registers."""
    found = model.graph.meta.get(_KEY, ())
    return tuple(str(path) for path in found)


def carry(source: ir.Model, made: ir.Model) -> None:
    """Let a model that was made anew from another one carry what that one carries."""
    if libraries(source):
        made.graph.meta[_KEY] = libraries(source)


def missing(model: ir.Model, refusal: str) -> tuple[str, str] | None:
    """Return, if onnxruntime lacks an operator that is not ONNX's: which node is one, and what to do.

    Args:
        model: The model.
        refusal: What onnxruntime said.
    """
    for node in _nodes(model):
        own = (node.domain, node.op_type, node.overload) in model.functions
        if graph.is_onnx(node) or own or not _is_said(node, refusal):
            continue
        given = ", ".join(libraries(model))
        hint = "--custom-op-lib LIB names the shared library that registers it" + (
            f"; the given ones do not: {given}" if given else "")  # fmt: skip
        name = graph.node_name(node)
        return f"node {name!r} is a {node.op_type} of domain {node.domain!r}, which it does not know", hint
    return None


def _is_said(node: ir.Node, refusal: str) -> bool:
    return any(f"{known}{node.op_type}(" in refusal for known in (f"{node.domain}:", "implementation for "))


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()
