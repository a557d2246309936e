"""Gives back what the user's file says: shapes of inputs and outputs, other float types of them and of constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph, half, own_types

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy.typing as npt

    from quantcli.state import State, Tick

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
CAST: Final = "{count} constants are float16 as before, with a Cast that onnxruntime folds as it loads the model"


@dataclass(frozen=True, slots=True)
class RestoreTypes:
    """Puts Casts at the boundary, unless what is inside has that type already, and behind constants of float16.

    Integers at the boundary stay as the recipe asks. A constant is float16 again where that loses nothing. A shape is
    the user's word: what onnxruntime infers has names of its own, and is wrong for some operators of older opsets.
    """

    whole_model: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Restore the types in the quantized model."""
        del tick
        if state.quantized is None:
            return state
        types, halves = own_types.types_of(state.original), _halves(state.original)
        model = state.quantized.model.clone()
        _declare(model, state.original)
        if types:
            own_types.restore(model, types)
        count = _halve(model, halves)
        notes = (CAST.format(count=count),) if count else ()
        return replace(state, quantized=replace(state.quantized, model=model)).noted(notes=notes)


def _declare(model: ir.Model, original: ir.Model) -> None:
    """Give inputs and outputs the shapes that the original declares."""
    declared = {graph.name_of(v): v.shape for v in (*original.graph.inputs, *original.graph.outputs)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        shape = declared.get(graph.name_of(value))
        value.shape = shape.copy() if shape is not None else None


def _halves(model: ir.Model) -> set[str]:
    """Return the names of the user's float16 constants: initializers, and what Constant operators hold."""
    found = {n for part in graph.all_graphs(model) for n, v in part.initializers.items() if v.dtype == FLOAT16}
    return found | {graph.name_of(n.outputs[0]) for n in model.graph.all_nodes() if _holds_half(n)}


def _holds_half(node: ir.Node) -> bool:
    attribute = node.attributes.get("value") if graph.is_onnx(node, "Constant") else None
    held = attribute is not None and attribute.type == ir.AttributeType.TENSOR
    return attribute is not None and held and attribute.as_tensor().dtype == FLOAT16


def _halve(model: ir.Model, wanted: Container[str]) -> int:
    """Store float32 constants as float16 where every number stays and bytes are saved; return how many."""
    names, count = graph.Names(model), 0
    for part in graph.all_graphs(model):
        for name, value in list(part.initializers.items()):
            array = _exact(value) if name in wanted else None
            if array is None:
                continue
            stored = graph.add_initializer(part, names.new(f"{name}_float16"), array)
            node = ir.node("Cast", [stored], {"to": int(FLOAT)}, name=names.new(f"{name}_widened"))
            ir.convenience.replace_all_uses_with(value, node.outputs[0])
            del part.initializers[name]
            node.outputs[0].name = name
            part.insert_before(part[0], node)
            count += 1
    return count


def _exact(value: ir.Value) -> npt.NDArray[np.float16] | None:
    """Return the float16 form of a float32 constant that it holds exactly, where that saves bytes."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != FLOAT or half.saving(tensor.size) <= 0 or _is_boundary(value):
        return None
    array = tensor.numpy()
    found = half.halved(array)
    return found if np.array_equal(found.astype(np.float32), array, equal_nan=True) else None


def _is_boundary(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_graph_output()
