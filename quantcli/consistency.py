"""Checks an emitted graph against its encodings: an integer tensor is written and read on one grid.

And its final weights and biases against what the operators that were chosen for them can sum exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import affine, graph
from quantcli.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

    from quantcli.encodings import Encodings
    from quantcli.plan import Plan
    from quantcli.quant import QuantParams
    from quantcli.state import Quantized

# For each operator: (integer operand, scale, zero point) by input index, and (scale, zero point) of its result.
_OPERANDS: Final[dict[str, tuple[tuple[tuple[int, int, int], ...], tuple[int, int] | None]]] = {
    "QuantizeLinear": ((), (1, 2)),
    "DequantizeLinear": (((0, 1, 2),), None),
    "QLinearConv": (((0, 1, 2), (3, 4, 5)), (6, 7)),
    "QLinearMatMul": (((0, 1, 2), (3, 4, 5)), (6, 7)),
    "QGemm": (((0, 1, 2), (3, 4, 5)), (7, 8)),
    "QLinearAdd": (((0, 1, 2), (3, 4, 5)), (6, 7)),
    "QLinearMul": (((0, 1, 2), (3, 4, 5)), (6, 7)),
    "QLinearWhere": (((1, 2, 3), (4, 5, 6)), (7, 8)),
    "QLinearSoftmax": (((0, 1, 2),), (3, 4)),
    "QLinearLeakyRelu": (((0, 1, 2),), (3, 4)),
    "QLinearAveragePool": (((0, 1, 2),), (3, 4)),
    "QLinearGlobalAveragePool": (((0, 1, 2),), (3, 4)),
}


def check_consistency(quantized: Quantized, plan: Plan, encodings: Encodings) -> None:
    """Raise for the first operand whose scale or zero point in the graph is not that of its encoding.

    Raises:
        InternalError: With the tensor and the operator; or with a linear operator whose weights have grown beyond what
            it was written for.
    """
    _check_bounds(quantized, plan)
    known = _known(quantized, plan, encodings)
    for node in [n for n in quantized.model.graph if n.name not in quantized.arithmetic]:
        for value, scale, zero in _uses(node):
            name, params = known.get(graph.name_of(value), ("", None))
            if params is None:
                continue
            found = [graph.constant(v) for v in (scale, zero)]
            wanted = (params.scale, params.zero_point)
            if not all(f is not None and np.array_equal(f, w) for f, w in zip(found, wanted, strict=True)):
                raise InternalError(
                    f"operator {node.name!r} ({node.op_type}) uses tensor {name!r} at scale {found[0]}, zero point "
                    f"{found[1]}; its encoding says {params.scale}, {params.zero_point}"
                )


def _check_bounds(quantized: Quantized, plan: Plan) -> None:
    initializers = quantized.model.graph.initializers
    for unit in [u for u in plan.linear_units() if u.node in quantized.bounds]:
        weight, bias = (graph.constant(initializers[n[unit.node]]) for n in (quantized.weights, quantized.biases))
        if weight is None or bias is None:
            raise InternalError(f"the weight or the bias of {unit.node!r} is no constant")
        rows = np.moveaxis(weight.astype(np.int64) - (128 if weight.dtype == np.uint8 else 0), unit.axis, 0)
        sums = np.abs(rows).reshape(len(rows), -1).sum(axis=1)
        totals = 32768 * sums + np.abs(bias.astype(np.int64))
        for what, found, most in zip(
            ("sum of |w|", "sum of |x w| + |b|"), (sums, totals), quantized.bounds[unit.node], strict=True
        ):
            if int(found.max(initial=0)) > most:
                raise InternalError(
                    f"linear operator {unit.node!r}: a channel's {what} may be {int(found.max())}; the operators that "
                    f"compute it are exact up to {most}"
                )


def _known(quantized: Quantized, plan: Plan, encodings: Encodings) -> dict[str, tuple[str, QuantParams]]:
    """Return, by name of an integer tensor, the user's tensor and its parameters."""
    params = encodings.tensors
    found = {integer: (user, params[user]) for user, integer in quantized.tensors.items()}
    for unit in plan.linear_units():
        weight = encodings.edges.get((unit.node, 1))
        if weight is None or unit.node not in quantized.biases:
            continue
        bias = affine.bias_params(params[unit.inputs[0][1]].scale, weight)
        found[quantized.weights[unit.node]] = (unit.weight or "", weight)
        found[quantized.biases[unit.node]] = (unit.bias or f"bias of {unit.node}", bias)
    return found


def _uses(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value | None, ir.Value | None]]:
    operands, result = _OPERANDS.get(node.op_type, ((), None))
    if node.op_type == "QLinearConcat":
        operands, result = tuple((i, i + 1, i + 2) for i in range(2, len(node.inputs), 3)), (0, 1)
    for value, scale, zero in operands:
        read = graph.input_at(node, value)
        if read is not None:
            yield read, graph.input_at(node, scale), graph.input_at(node, zero)
    if result is not None:
        yield node.outputs[0], graph.input_at(node, result[0]), graph.input_at(node, result[1])
