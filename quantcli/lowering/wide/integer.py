"""The wide integer form: each unit on int16 activations becomes operators that compute its integers exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantcli.lowering.wide import arithmetic, linear, movement, pointwise, reduction, softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir

    from quantcli.plan import Unit
    from quantcli.writer import Writer

    Lowering = Callable[[Writer, Unit, ir.Node], ir.Value]

LOWERINGS: Final[dict[str, Lowering]] = {
    "conv": linear.conv,
    "gemm": linear.gemm,
    "matmul": linear.matmul,
    "product": linear.product,
    "add": arithmetic.add,
    "sub": arithmetic.add,
    "mul": arithmetic.mul,
    "where": arithmetic.where,
    "concat": arithmetic.concat,
    "extremum": arithmetic.extremum,
    "global_average_pool": reduction.global_average_pool,
    "global_max_pool": movement.move,
    "average_pool": reduction.average_pool,
    "reduce_mean": reduction.reduce,
    "reduce_sum": reduction.reduce,
    "softmax": softmax.softmax,
    "move": movement.move,
    "pad": movement.pad,
    "source": movement.source,
    "table": pointwise.function,
}


def write(writer: Writer, unit: Unit) -> None:
    """Write one unit as operators on int16."""
    node = writer.nodes[unit.node]
    if unit.lowering == "read":
        movement.read(writer, unit, node)
        return
    writer.settle(unit.output, LOWERINGS[unit.lowering](writer, unit, node))
