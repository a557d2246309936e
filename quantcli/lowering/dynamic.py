"""Operators whose activations are quantized at run time, in the portable spelling that onnxruntime fuses.

``y = (x_uint8 - zero) @ w_int8 * (s_x * s_w[n]) + b``: DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Add become one
DynamicQuantizeMatMul. ONNX has no such spelling of an LSTM: onnxruntime's own operator is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph
from quantcli.lowering.stored import shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from quantcli.lowering.stored import WeightWriter
    from quantcli.plan import StoredWeight

_LSTM_INPUTS: Final = 8  # X, W, R, B, sequence_lens, initial_h, initial_c, P: the same as those of LSTM


def product(writer: WeightWriter, node: ir.Node, weights: Mapping[int, StoredWeight]) -> None:
    """MatMul or Gemm -> DynamicQuantizeLinear, MatMulInteger, Cast, Mul (, Add)."""
    weight, source = weights[1], node.inputs[0]
    if source is None:
        raise ValueError(f"{node.name!r} has no input")
    params = writer.params_of(weight)
    integers, scale, zero = writer.quantized(source)
    right = turned(writer, node, writer.integers(weight))
    operands = [integers, right, zero]
    if params.zero_point.any():
        operands.append(writer.zero_point(params.zero_point, params.spec.dtype))
    (sums,) = writer.emit("MatMulInteger", operands, name=graph.node_name(node))
    (real,) = writer.emit("Cast", [sums], {"to": int(ir.DataType.FLOAT)})
    (step,) = writer.emit("Mul", [scale, writer.constant(params.scale)])
    (result,) = writer.emit("Mul", [real, step])
    bias = graph.input_at(node, 2)
    if bias is not None:
        (result,) = writer.emit("Add", [result, bias])
    settle(node, result)


def recurrent(writer: WeightWriter, node: ir.Node, weights: Mapping[int, StoredWeight]) -> None:
    """LSTM -> DynamicQuantizeLSTM, which takes W and R as (directions, inputs, 4 * hidden)."""
    operands = [*node.inputs, *(None,) * (_LSTM_INPUTS - len(node.inputs))]
    grids: list[ir.Value | None] = []
    for index in (1, 2):
        integers = writer.integers(weights[index])
        (operands[index],) = writer.emit("Transpose", [integers], {"perm": [0, 2, 1]})
        params, (directions, gates, _) = writer.params_of(weights[index]), shape_of(integers)
        rows = (directions, gates)
        zero = writer.zero_point(np.array(_per_gate(params.zero_point, rows)), params.spec.dtype)
        grids += [writer.constant(np.array(_per_gate(params.scale, rows))), zero]
    made = ir.Node(
        graph.MICROSOFT,
        "DynamicQuantizeLSTM",
        [*operands, *grids],
        [a for n, a in node.attributes.items() if n != "layout"],  # which onnxruntime takes as 0 only
        num_outputs=len(node.outputs),
        name=node.name,
    )
    writer.model.graph.append(made)
    writer.model.opset_imports.setdefault(graph.MICROSOFT, 1)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.name = writer.short_name() if old.name else ""
        graph.replace_value(old, new)
    graph.remove_node(node)


def turned(writer: WeightWriter, node: ir.Node, value: ir.Value) -> ir.Value:
    """Return a constant of a Gemm as (K, N); onnxruntime transposes it when it loads the model."""
    if not graph.int_attribute(node, "transB", 0):
        return value
    return writer.emit("Transpose", [value], {"perm": [1, 0]})[0]


def settle(node: ir.Node, result: ir.Value) -> None:
    """Let ``result`` be what the node computed."""
    graph.replace_value(node.outputs[0], result)
    graph.remove_node(node)


def _per_gate(array: npt.NDArray[np.generic], rows: tuple[int, int]) -> npt.NDArray[np.generic]:
    """Return scales or zero points as (directions, 4 * hidden)."""
    return np.broadcast_to(array.reshape(array.shape[:2]) if array.ndim == 3 else array, rows)
