"""Steps that compute shapes, or hold other graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from growth import INT64, DeadEndError, with_axes
from numbers_drawn import weights
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from growth import Growth


def computed_shape(g: Growth) -> None:
    """What exporters of dynamic models write: sizes are read, joined, and reshaped to."""
    x = g.pick(rank=range(2, 6))
    shape = g.add("Shape", [x])
    first = g.add("Gather", [shape, g.constant(np.asarray(0, np.int64))], axis=0)
    if g.chance(0.5):
        row = with_axes(g, "Unsqueeze", first, [0], since=13)
        target = g.add("Concat", [row, g.ints(-1)], axis=0)
        g.add("Reshape", [x, target])
    elif g.opset >= 9:
        filled = g.add("ConstantOfShape", [shape], value=numpy_helper.from_array(np.asarray([0.25], np.float32)))
        g.add("Add", [x, filled])
    else:
        g.add("Mul", [x, g.add("Cast", [first], to=TensorProto.FLOAT)])


def positions(g: Growth) -> None:
    """A table of positions as long as the sequence is."""
    if g.opset < 11:
        raise DeadEndError
    x = g.pick(rank=3, fits=lambda n: g.fixed(n, 2))
    length = g.add("Gather", [g.add("Shape", [x]), g.constant(np.asarray(1, np.int64))], axis=0)
    numbers = g.add("Range", [g.constant(np.asarray(0, np.int64)), length, g.constant(np.asarray(1, np.int64))])
    table = weights(g, 64, g.shape(x)[2], fan=1)
    g.add("Add", [x, g.add("Gather", [table, numbers])])


def integers_read(g: Growth) -> None:
    """Integers that a graph made become real numbers again."""
    i = g.pick(INT64)
    g.add("Cast", [g.add("Add", [i, i])], to=TensorProto.FLOAT)


# ---- graphs in graphs ------------------------------------------------------------------------------------------------


def branch(g: Growth) -> None:
    """An If whose branches read tensors and constants from outside, one with a product."""
    x = g.pick(rank=range(2, 4), fits=lambda n: g.fixed(n, g.array(n).ndim - 1))
    depth = g.shape(x)[-1]
    w = weights(g, depth, depth, fan=depth)
    drawn = iter([True, False, True])
    flag = g.feed([], lambda _: np.asarray(next(drawn)))
    tags = [g.names.tensor("b") for _ in range(4)]
    scale = numpy_helper.from_array(g.rng.normal(0, 1, depth).astype(np.float32), tags[2])
    then = helper.make_graph([helper.make_node("MatMul", [x, w], [tags[0]])], "then", [], [_result(tags[0])])
    inner = [helper.make_node("Mul", [x, tags[2]], [tags[3]]), helper.make_node("Relu", [tags[3]], [tags[1]])]
    otherwise = helper.make_graph(inner, "else", [], [_result(tags[1])], [scale])
    g.add("If", [flag], then_branch=then, else_branch=otherwise)


def _result(name: str, rank: int | None = None) -> object:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None if rank is None else [None] * rank)


def loop(g: Growth) -> None:
    """A Loop that multiplies its state by a matrix from outside, twice."""
    x = g.pick(rank=2, fits=lambda n: g.fixed(n, 1))
    w = weights(g, g.shape(x)[1], g.shape(x)[1], fan=g.shape(x)[1])
    names = [g.names.tensor("l") for _ in range(6)]
    count, going, state, product, result, still = names
    body = helper.make_graph(
        [
            helper.make_node("Identity", [going], [still]),
            helper.make_node("MatMul", [state, w], [product]),
            helper.make_node("Tanh", [product], [result]),
        ],
        "body",
        [
            helper.make_tensor_value_info(count, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            _result(state, 2),
        ],
        [helper.make_tensor_value_info(still, TensorProto.BOOL, []), _result(result, 2)],
    )
    start = [g.constant(np.asarray(2, np.int64), plain=True), g.constant(np.asarray(True), plain=True)]  # noqa: FBT003
    g.add("Loop", [*start, x], body=body)


def scan(g: Growth) -> None:
    """A Scan that sums rows up, and gives each sum."""
    x = g.pick(rank=2, fits=lambda n: g.fixed(n, 1))
    if g.opset < 9:
        raise DeadEndError
    total, row, after, out = (g.names.tensor("s") for _ in range(4))
    body = helper.make_graph(
        [helper.make_node("Add", [total, row], [after]), helper.make_node("Identity", [after], [out])],
        "sums",
        [_result(total, 1), _result(row, 1)],
        [_result(after, 1), _result(out, 1)],
    )
    start = g.constant(np.zeros(g.shape(x)[1], np.float32), plain=True)
    g.extend("Scan", [start, x], 2, body=body, num_scan_inputs=1)


NESTED = {
    "computed shape": computed_shape, "positions": positions, "integers": integers_read, "branch": branch,
    "loop": loop, "scan": scan,
}  # fmt: skip
