"""The integer form: each unit becomes integer operators, and no float tensor flows between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from quantcli.lowering import arithmetic, linear, movement, pointwise

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.writer import Writer

Lowering = Callable[["Writer", "Unit", "ir.Node"], "ir.Value"]

LOWERINGS: Final[dict[str, Lowering]] = {
    "conv": linear.conv,
    "gemm": linear.gemm,
    "matmul": linear.matmul,
    "product": linear.product,
    "add": arithmetic.add,
    "sub": arithmetic.sub,
    "mul": arithmetic.mul,
    "where": arithmetic.where,
    "concat": arithmetic.concat,
    "extremum": arithmetic.extremum,
    "global_average_pool": arithmetic.global_average_pool,
    "global_max_pool": arithmetic.global_max_pool,
    "average_pool": arithmetic.average_pool,
    "reduce_mean": arithmetic.reduce_mean,
    "softmax": arithmetic.softmax,
    "move": movement.move,
    "pad": movement.pad,
    "source": movement.source,
    "table": pointwise.table,
}


def write(writer: Writer, unit: Unit) -> None:
    """Write one unit as integer operators."""
    node = writer.nodes[unit.node]
    if unit.lowering == "read":
        movement.read(writer, unit, node)
        return
    integers = LOWERINGS[unit.lowering](writer, unit, node)
    producer = integers.producer()
    writer.kernels[unit.node] = producer.op_type if producer is not None else unit.lowering
    limits = writer.limits(unit.output, unit.clamp)
    writer.settle(unit.output, integers if limits is None else writer.clamped(unit.output, integers, limits))
