"""Lets the prepared float model be the result: the baseline that every other mode is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from quantcli import graph, patterns
from quantcli.report import FLOAT, UNTOUCHED, Entry
from quantcli.state import Quantized

if TYPE_CHECKING:
    from collections.abc import Container

    import onnx_ir as ir

    from quantcli.state import State, Tick

_NOTHING: Final = "the mode quantizes nothing"
_ASKED: Final = "kept float as asked"


@dataclass(frozen=True, slots=True)
class EmitFloat:
    """Emits the prepared model as it stands and enters every operator as float."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Emit the model."""
        del tick
        model = state.model.clone()
        matched = patterns.match_all(state.recipe.exclude, model, state.report.ledger)
        asked = {name for names in matched.values() for name in names}
        entries = {graph.node_name(n): _entry(n, asked) for n in model.graph}
        return replace(state, quantized=Quantized(model)).entered(entries)


def _entry(node: ir.Node, asked: Container[str]) -> Entry:
    floats = any(v is not None and v.dtype is not None and v.dtype.is_floating_point() for v in node.outputs)
    name, fate, reason = graph.node_name(node), FLOAT, _NOTHING
    if not floats:
        fate, reason = UNTOUCHED, "no float tensor"
    elif name in asked:
        reason = _ASKED
    return Entry(name, graph.describe_op(node), fate, reason=reason, by_design=reason is not _ASKED)
