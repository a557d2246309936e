"""Whether a model normalises its input itself: by which factor the first operators multiply what is fed.

The subject is the arithmetic at the beginning of a graph, so its operators are named here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph

if TYPE_CHECKING:
    import onnx_ir as ir

_PASSING: Final = ("Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Pad", "Resize")
_FACTORS: Final = ("Mul", "Div")
_OFFSETS: Final = ("Add", "Sub")
_NORM: Final = "BatchNormalization"


def own_factor(value: ir.Value) -> float | None:
    """Return the typical factor that a graph input is multiplied with before anything else happens to it.

    None where nothing scales it: the model takes what is fed as it is.
    """
    factor: float | None = None
    while True:
        node = graph.only_consumer(value)
        step = None if node is None else _step(node, value)
        if node is None or step is None:
            return factor
        if step != 1.0 or graph.is_onnx(node, *_FACTORS, _NORM):
            factor = (1.0 if factor is None else factor) * step
        value = node.outputs[0]


def _step(node: ir.Node, value: ir.Value) -> float | None:
    """Return the factor of one operator; None where it is none of normalisation."""
    if graph.is_onnx(node, *_PASSING):
        return 1.0
    if graph.is_onnx(node, _NORM):
        gamma, variance = (graph.real_constant(graph.input_at(node, i)) for i in (1, 4))
        epsilon = graph.float_attribute(node, "epsilon", 1e-5)
        return None if gamma is None or variance is None else _typical(gamma / np.sqrt(variance + epsilon))
    constant = graph.real_constant(next((v for v in node.inputs if v is not value), None))
    if constant is None or not constant.size or not graph.is_onnx(node, *_FACTORS, *_OFFSETS):
        return None
    return 1.0 if graph.is_onnx(node, *_OFFSETS) else _factor(node, value, _typical(constant))


def _factor(node: ir.Node, value: ir.Value, constant: float) -> float | None:
    if not graph.is_onnx(node, "Div"):
        return constant
    return 1.0 / constant if node.inputs[0] is value and constant else None


def _typical(values: np.ndarray) -> float:
    return float(np.median(np.abs(values.astype(np.float64))))
