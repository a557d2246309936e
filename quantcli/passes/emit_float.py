"""Lets the prepared float model be the result: the baseline that every other mode is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from quantcli import graph
from quantcli.report import FLOAT, UNTOUCHED, Entry
from quantcli.state import Quantized

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.state import State, Tick

_ASKED: Final = "the mode quantizes nothing"


@dataclass(frozen=True, slots=True)
class EmitFloat:
    """Emits the prepared model as it stands and enters every operator as float."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Emit the model."""
        del tick
        model = state.model.clone()
        entries = {graph.node_name(n): _entry(n) for n in model.graph}
        return replace(state, quantized=Quantized(model)).entered(entries)


def _entry(node: ir.Node) -> Entry:
    floats = any(v is not None and v.dtype is not None and v.dtype.is_floating_point() for v in node.outputs)
    fate, reason = (FLOAT, _ASKED) if floats else (UNTOUCHED, "no float tensor")
    return Entry(graph.node_name(node), graph.describe_op(node), fate, reason=reason)
