"""Products whose weights stay in blocks: DequantizeLinear and MatMul, which onnxruntime fuses into MatMulNBits.

It fuses neither Gemm (with transB, or before a Relu) nor a DequantizeLinear before a Transpose, so the integers are
transposed, at load time, and the bias is added by a Sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcli import graph
from quantcli.lowering.dynamic import settle, turned
from quantcli.quant import PerBlock, PerTensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.lowering.stored import WeightWriter
    from quantcli.plan import StoredWeight
    from quantcli.writer import Attribute


def product(writer: WeightWriter, node: ir.Node, weights: Mapping[int, StoredWeight]) -> None:
    """MatMul or Gemm -> DequantizeLinear, MatMul (, Add)."""
    weight = weights[1]
    params = writer.params_of(weight)
    grouping = params.spec.granularity
    grid = [writer.constant(params.scale)]
    if params.zero_point.any():
        grid.append(writer.zero_point(params.zero_point, params.spec.dtype))
    if isinstance(grouping, PerBlock):  # (blocks, N), as the weight is (K, N)
        grid = [turned(writer, node, value) for value in grid]
    attributes: dict[str, Attribute] = {"axis": 1}
    if isinstance(grouping, PerTensor):
        attributes = {}
    elif isinstance(grouping, PerBlock):
        attributes = {"axis": 0, "block_size": grouping.size}
    integers = turned(writer, node, writer.integers(weight))
    (real,) = writer.emit("DequantizeLinear", [integers, *grid], attributes)
    (result,) = writer.emit("MatMul", [node.inputs[0], real], name=node.name or "")
    bias = graph.input_at(node, 2)
    if bias is not None:
        (result,) = writer.emit("Sum", [result, bias])
    settle(node, result)
    _keep_apart(result)


def _keep_apart(product: ir.Value) -> None:
    """Let sums of a product be Sum: of MatMul and Add onnxruntime makes a Gemm, and dequantizes its weight each run."""
    for reader, _ in graph.consumers(product):
        if graph.is_onnx(reader, "Add"):
            reader.op_type = "Sum"
