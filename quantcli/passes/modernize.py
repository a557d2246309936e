"""Writes operators of old exports that no ONNX opset defines any more in operators that it does define.

onnxruntime still runs them, in models of opset 9 and below; what they compute was measured there. Its contrib operators
Affine, Crop, DynamicSlice, ImageScaler, ParametricSoftplus, Scale and ScaledTanh were experimental ones of ONNX, and
MeanVarianceNormalization had other attributes before opset 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph, runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from quantcli.state import State, Tick

FIRST_OPSET: Final = 7  # before it, operands are broadcast only where an attribute says how
LAST_OPSET: Final = 9  # of the operators of this module
_END: Final = 2**31 - 1  # an end that no axis reaches
Attributes = dict[str, ir.Attr]


@dataclass(frozen=True, slots=True)
class Modernize:
    """Rewrites them; a node whose operands are not constant where they have to be stays as it is."""

    whole_model: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Rewrite the prepared model."""
        del tick
        if not FIRST_OPSET <= graph.opset(state.model) <= LAST_OPSET or not any(_old(state.model)):
            return state
        model = state.model.clone()
        scribe, counts = _Scribe(graph.Names(model), _ranks(model)), dict[str, int]()
        for node in _old(model):
            made = _REWRITES[node.op_type](node, scribe)
            if made is not None:
                counts[node.op_type] = counts.get(node.op_type, 0) + 1
                _put(node, made)
        notes = (f"{count} {op_type} written in operators that ONNX defines" for op_type, count in counts.items())
        return replace(state, model=model).noted(notes=tuple(notes))


def _old(model: ir.Model) -> list[ir.Node]:
    defined = (_NORMALIZATION,) if graph.opset(model) == LAST_OPSET else ()
    return [n for n in model.graph.all_nodes() if graph.is_onnx(n, *_REWRITES) and n.op_type not in defined]


def _ranks(model: ir.Model) -> dict[str, int]:
    """Return the ranks that onnxruntime infers; only the normalization needs them."""
    if not any(graph.is_onnx(n, _NORMALIZATION) for n in _old(model)):
        return {}
    return {name: len(info.shape) for name, info in runtime.describe(model).items() if info.shape}


def _put(node: ir.Node, made: ir.Value) -> None:
    """Let a new value stand for the only result of a node, which goes."""
    last, result = made.producer(), node.outputs[0]
    name = node.name
    graph.replace_value(result, made)
    if isinstance(node.graph, ir.Graph):
        node.graph.remove(node, safe=True)
    if last is not None:
        last.name = name  # patterns and the ledger know the operator by it


@dataclass(slots=True)
class _Scribe:
    """Writes nodes before the one that they stand for."""

    names: graph.Names
    ranks: dict[str, int] = field(default_factory=dict)

    def emit(
        self, at: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Attributes | None = None
    ) -> ir.Value:
        """Insert an operator and return its result."""
        node = ir.Node("", op_type, inputs, (attributes or {}).values(), num_outputs=1)
        node.name = self.names.new(f"{at.name}_{op_type}")
        node.outputs[0].name = self.names.new(f"{at.outputs[0].name}_{op_type}")
        at.prepend(node)
        return node.outputs[0]

    def constant(self, at: ir.Node, array: npt.ArrayLike) -> ir.Value:
        """Insert a float32 constant."""
        tensor = ir.Tensor(np.asarray(array, np.float32))
        return self.emit(at, "Constant", [], {"value": ir.AttrTensor("value", tensor)})

    def scaled(self, at: ir.Node, value: ir.Value | None, factor: float) -> ir.Value | None:
        """Return a tensor times a number."""
        return value if factor == 1.0 else self.emit(at, "Mul", [value, self.constant(at, factor)])


def _affine(node: ir.Node, scribe: _Scribe) -> ir.Value:
    """``alpha x + beta``."""
    offset = scribe.constant(node, graph.float_attribute(node, "beta", 0.0))
    scaled = scribe.scaled(node, node.inputs[0], graph.float_attribute(node, "alpha", 1.0))
    return scribe.emit(node, "Add", [scaled, offset])


def _scale(node: ir.Node, scribe: _Scribe) -> ir.Value:
    """``scale x``."""
    factor = scribe.constant(node, graph.float_attribute(node, "scale", 1.0))
    return scribe.emit(node, "Mul", [node.inputs[0], factor])


def _image_scaler(node: ir.Node, scribe: _Scribe) -> ir.Value:
    """``scale x + bias``, with one bias for each channel of (N, C, H, W)."""
    attribute = node.attributes.get("bias")
    bias = np.asarray([] if attribute is None else attribute.as_floats(), np.float32).reshape(-1, 1, 1)
    scaled = scribe.scaled(node, node.inputs[0], graph.float_attribute(node, "scale", 1.0))
    return scribe.emit(node, "Add", [scaled, scribe.constant(node, bias)])


def _curve(op_type: str) -> _Rewrite:
    """``alpha f(beta x)``."""

    def rewrite(node: ir.Node, scribe: _Scribe) -> ir.Value:
        inner = scribe.scaled(node, node.inputs[0], graph.float_attribute(node, "beta", 1.0))
        factor = scribe.constant(node, graph.float_attribute(node, "alpha", 1.0))
        return scribe.emit(node, "Mul", [scribe.emit(node, op_type, [inner]), factor])

    return rewrite


def _crop(node: ir.Node, scribe: _Scribe) -> ir.Value:
    """Cut (N, C, H, W) at ``border`` = left, top, right, bottom; with ``scale`` = height, width from left and top."""
    left, top, right, bottom = graph.ints_attribute(node, "border") or (0, 0, 0, 0)
    size = graph.ints_attribute(node, "scale")
    ends = (top + size[0], left + size[1]) if size else tuple(-b if b else _END for b in (bottom, right))
    return _slice(node, scribe, (top, left), ends, (2, 3))


def _dynamic_slice(node: ir.Node, scribe: _Scribe) -> ir.Value | None:
    """Slice with operands; where these are constants they become attributes, as opset 9 and below have them."""
    operands = [_array(graph.input_at(node, i)) for i in (1, 2, 3)]
    starts, ends, axes = (None if a is None else tuple(int(i) for i in a.ravel()) for a in operands)
    if starts is None or ends is None or (axes is None and graph.input_at(node, 3) is not None):
        return None
    return _slice(node, scribe, starts, ends, axes or tuple(range(len(starts))))


def _slice(node: ir.Node, scribe: _Scribe, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> ir.Value:
    given = {"axes": axes, "starts": starts, "ends": ends}
    return scribe.emit(node, "Slice", [node.inputs[0]], {k: ir.AttrInt64s(k, v) for k, v in given.items()})


def _array(value: ir.Value | None) -> npt.NDArray[np.generic] | None:
    producer = value.producer() if value is not None else None
    if producer is not None and graph.is_onnx(producer, "Constant"):
        return producer.attributes["value"].as_tensor().numpy()
    return graph.constant(value)


def _normalization(node: ir.Node, scribe: _Scribe) -> ir.Value | None:
    """``(x - mean) / sqrt(variance)`` over all axes but that of the channels, or over all; without an epsilon."""
    source = node.inputs[0]
    rank = scribe.ranks.get(graph.name_of(source)) if source is not None else None
    if rank is None:
        return None
    everywhere = graph.int_attribute(node, "across_channels", 0)
    axes = [a for a in range(rank) if everywhere or a != 1]
    reduced: Attributes = {"axes": ir.AttrInt64s("axes", axes), "keepdims": ir.AttrInt64("keepdims", 1)}
    centred = scribe.emit(node, "Sub", [source, scribe.emit(node, "ReduceMean", [source], reduced)])
    if not graph.int_attribute(node, "normalize_variance", 1):
        return centred
    square = scribe.emit(node, "Mul", [centred, centred])
    deviation = scribe.emit(node, "Sqrt", [scribe.emit(node, "ReduceMean", [square], reduced)])
    return scribe.emit(node, "Div", [centred, deviation])


_Rewrite = Callable[[ir.Node, _Scribe], ir.Value | None]
_NORMALIZATION: Final = "MeanVarianceNormalization"
_REWRITES: Final[dict[str, _Rewrite]] = {
    "Affine": _affine,
    "Crop": _crop,
    "DynamicSlice": _dynamic_slice,
    "ImageScaler": _image_scaler,
    _NORMALIZATION: _normalization,
    "ParametricSoftplus": _curve("Softplus"),
    "Scale": _scale,
    "ScaledTanh": _curve("Tanh"),
}
