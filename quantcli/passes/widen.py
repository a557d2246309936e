"""Brings float16, bfloat16 and float64 to float32, the one float type that quantization begins with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import onnx_ir as ir

from quantcli import graph, own_types, runtime, widening
from quantcli.report import FOLDED, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from quantcli.state import State, Tick


@dataclass(frozen=True, slots=True)
class Widen:
    """Widens every tensor, the inputs and outputs too; ``restore_types`` gives those their own types back."""

    whole_model: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Widen the model and take out the Casts between float types, which then change nothing."""
        del tick
        model, counted = widening.widened(state.model)
        model = model if counted else model.clone()
        removed = _without_casts(model)
        if not counted and not removed:
            return state
        entries = {n: Entry(n, "Cast", FOLDED, reason="its input is float32 already") for n in removed}
        state = replace(state, model=model).entered(entries).noted(notes=tuple(_said(state.original, counted)))
        return state.in_float32() if counted else state  # what the widened model takes


def _said(original: ir.Model, counted: Mapping[str, int]) -> Iterator[str]:
    yield from (f"{name} widened to float32: {count} tensors" for name, count in counted.items())
    ends = (*original.graph.inputs, *original.graph.outputs)
    others = [graph.name_of(v) for v in ends if v.dtype in widening.OTHERS]
    changed = [n for n in dict.fromkeys(others) if n not in own_types.types_of(original)]
    if changed:
        yield f"{', '.join(changed)}: float32 at the boundary, a type that samples come in"


def _without_casts(model: ir.Model) -> list[str]:
    """Take out every Cast of a float32 tensor to float32; an output of the model keeps its name."""
    casts = [n for n in model.graph if graph.is_onnx(n, "Cast") and graph.int_attribute(n, "to", 0) == widening.FLOAT]
    if not casts:
        return []
    infos = runtime.describe(model)
    removed = []
    for node in casts:
        source, result = node.inputs[0], node.outputs[0]
        info = infos.get(graph.name_of(source)) if source is not None else None
        if source is None or info is None or not info.is_float32 or _keeps_output_apart(source, result):
            continue
        if result.is_graph_output():
            graph.replace_value(result, source)
        else:
            ir.convenience.replace_all_uses_with(result, source)
        model.graph.remove(node, safe=True)
        removed.append(graph.node_name(node))
    return removed


def _keeps_output_apart(source: ir.Value, result: ir.Value) -> bool:
    """Tell whether the Cast is what gives a graph output its own name."""
    return result.is_graph_output() and (source.producer() is None or source.is_graph_output())
