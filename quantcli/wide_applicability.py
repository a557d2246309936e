"""When 16-bit activations cannot be had although the kernel table says they can, and why: structure, not numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from quantcli.plan import Unit

ARITHMETIC: Final = frozenset(
    {"Abs", "Add", "Clip", "Div", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "Min", "Mul", "Neg",
     "PRelu", "Relu", "Sub"}
)  # fmt: skip
"""Pointwise operators that are computed in float64, whatever varies per channel."""

TABLED: Final = frozenset(
    {"Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "Log", "Mish", "Pow", "Reciprocal", "Round", "Selu",
     "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"}
)  # fmt: skip
"""Pointwise operators that need a table of 65,536 entries."""

MOST_PRODUCTS: Final = 1 << 16
"""Products of a byte and an int8 weight whose sum is sure to fit int32."""

LARGEST_WINDOW: Final = 511
"""int16 values whose sum is sure to stay below 2**24, where float32 is exact."""


def reason_against_wide(unit: Unit, nodes: Mapping[str, ir.Node]) -> str | None:
    """Return why a unit has no wide integer form, or None; ``nodes`` are those of the graph by name."""
    node = nodes[unit.node]
    if unit.lowering == "table":
        return reason_against_region([nodes[m] for m in unit.members], unit.channel)
    if unit.weight is not None and unit.lowering in ("conv", "gemm", "matmul"):
        return _linear(node, unit)
    if unit.lowering == "average_pool":
        return _average_pool(node)
    if unit.lowering == "pad":
        filler = graph.input_at(node, 2)
        return None if filler is None or graph.is_constant(filler) else "the value that it pads with is computed"
    if unit.lowering in ("global_average_pool", "reduce_mean", "reduce_sum"):
        return _reduction(node)
    return None


def reason_against_region(members: Sequence[ir.Node], channel: int | None) -> str | None:
    """Return why a pointwise region has no wide integer form, or None."""
    unknown = sorted({m.op_type for m in members} - ARITHMETIC - TABLED)
    if unknown:
        return f"no float64 definition of {', '.join(unknown)}"
    tabled = sorted({m.op_type for m in members} & TABLED)
    if channel is not None and tabled:
        return f"{', '.join(tabled)} with constants per channel would need a table of 65,536 entries for each"
    for member in members:
        for index, value in enumerate(member.inputs):
            array = graph.real_constant(value)
            limit = member.op_type == "Clip" and index > 0
            divisor = member.op_type == "Div" and index == 1
            if array is not None and (np.isnan(array).any() or not (limit or np.isfinite(array).all())):
                return "a constant is infinite or not a number"
            if array is not None and divisor and not array.all():
                return "a constant divisor is zero"
    return None


def _linear(node: ir.Node, unit: Unit) -> str | None:
    weight = graph.constant(node.inputs[1])
    if weight is None:
        return "the weight is computed, not a constant"
    products = weight.size // max(weight.shape[unit.axis], 1)
    return None if products <= MOST_PRODUCTS else f"{products} products per output may overflow int32"


def _average_pool(node: ir.Node) -> str | None:
    shape = _shape(node)
    if len(shape) < 3 or not isinstance(shape[1], int):
        return "its rank or number of channels is unknown"
    automatic = node.attributes.get("auto_pad")
    padded = any(graph.ints_attribute(node, "pads") or ()) or (
        automatic is not None and automatic.as_string().startswith("SAME")
    )
    if padded and not graph.int_attribute(node, "count_include_pad", 0):
        return "its windows at the border hold fewer values than the others"
    if graph.int_attribute(node, "ceil_mode", 0):
        return "ceil_mode lets windows hang over the border"
    window = int(np.prod(graph.ints_attribute(node, "kernel_shape") or ()))
    return None if window <= LARGEST_WINDOW else f"a sum of {window} values may not be exact in float32"


def _reduction(node: ir.Node) -> str | None:
    if not _shape(node):
        return "the rank of its input is unknown"
    axes = graph.input_at(node, 1)
    if axes is not None and not graph.is_constant(axes):
        return "the reduced axes are computed, not constant"
    given = axes is not None or "axes" in node.attributes
    if node.op_type.startswith("Reduce") and not given and graph.int_attribute(node, "noop_with_empty_axes", 0):
        return "it reduces nothing"
    return None


def _shape(node: ir.Node) -> list[object]:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return [] if shape is None else list(shape)
