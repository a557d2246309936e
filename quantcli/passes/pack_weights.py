"""Stores the weights of 4 bits in 4 bits: two in a byte, and a Cast to int8 that the runtime evaluates when it loads.

No kernel multiplies integers of 4 bits by quantized activations; with the Cast the same 8-bit kernels run, and the file
holds half the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.scratch import Scratch

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.state import State, Tick

OPSET: Final = 21  # brought integers of 4 bits, IR version 10 their storage
_IR_VERSION: Final = 10


@dataclass(frozen=True, slots=True)
class PackWeights:
    """Packs the weights of linear operators whose encodings say 4 bits; others stay as they are."""

    needs: ClassVar[frozenset[str]] = frozenset({"plan", "encodings", "quantized"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Replace the initializers; tensors keep their names."""
        del tick
        if state.quantized is None:
            return state
        names = _narrow(state)
        if not names or graph.opset(state.quantized.model) < OPSET:
            return state
        model = state.quantized.model.clone()
        scratch, free = Scratch(), graph.Names(model)
        for name in names:
            _pack(model, name, scratch, free)
        model.ir_version = max(model.ir_version or 0, _IR_VERSION)
        return replace(state, quantized=replace(state.quantized, model=model))


def _narrow(state: State) -> list[str]:
    """Return the names of the stored weights of 4 bits, as int8 that no operator's bounds are checked on."""
    quantized = state.quantized
    if quantized is None:
        return []
    units = [u for u in state.plan.linear_units() if u.node in quantized.weights and u.node not in quantized.bounds]
    narrow = [u for u in units if state.encodings.edges[u.node, 1].spec.dtype.bits == 4]
    names = dict.fromkeys(quantized.weights[u.node] for u in narrow)
    return [n for n in names if quantized.model.graph.initializers[n].dtype == ir.DataType.INT8]


def _pack(model: ir.Model, name: str, scratch: Scratch, free: graph.Names) -> None:
    value = model.graph.initializers[name]
    array = graph.constant(value)
    if array is None:
        raise ValueError(f"{name!r} is no constant")
    stored = ir.Value(
        name=free.new(f"{name}_int4"),
        const_value=None,
        type=ir.TensorType(ir.DataType.INT4),
        shape=ir.Shape(array.shape),
    )
    stored.const_value = scratch.packed(_pairs(array), ir.DataType.INT4, array.shape, graph.name_of(stored))
    readers = graph.consumers(value)
    del model.graph.initializers[name]
    wide = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT8), shape=ir.Shape(array.shape))
    model.graph.register_initializer(stored)
    attributes = ir.convenience.convert_attributes({"to": ir.DataType.INT8.value})
    cast = ir.Node("", "Cast", [stored], attributes, outputs=[wide], name=free.new(f"{name}_Cast"))
    model.graph.insert_before(model.graph[0], cast)
    for reader, index in readers:
        reader.replace_input_with(index, wide)


def _pairs(array: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Return two integers in a byte, the first in the low half, as ONNX packs them."""
    flat = array.ravel().astype(np.uint8) & 15
    pairs = np.append(flat, np.zeros(flat.size % 2, np.uint8)).reshape(-1, 2)
    return np.asarray(pairs[:, 0] | pairs[:, 1] << 4, np.uint8)
