"""Steps that move, select, pool and reduce values."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from growth import DeadEndError, with_axes

if TYPE_CHECKING:
    from growth import Growth


def reshape(g: Growth) -> None:
    x = g.pick(rank=range(1, 6))
    shape = g.shape(x)
    kind = g.random.choice(["flat", "rows", "split", "merge", "Flatten", "zero"])
    if kind == "Flatten":
        g.add("Flatten", [x], axis=g.random.randint(0 if g.opset < 11 else -1, len(shape)))
        return
    if kind == "zero" and len(shape) > 2:
        target = [0, 0, -1]
    elif kind == "split" and g.fixed(x, len(shape) - 1) and shape[-1] % 2 == 0:
        target = [*(0,) * (len(shape) - 1), 2, -1]
    elif kind == "merge" and len(shape) > 2 and g.fixed(x, 1) and g.fixed(x, 2):
        target = [0, shape[1] * shape[2], *(0 for _ in shape[3:])]
        target = [0, -1] if len(shape) > 3 else target
    else:
        target = {"flat": [-1], "rows": [0, -1]}.get(kind, [1, -1])
    g.add("Reshape", [x, g.ints(*target)])


def squeeze(g: Growth) -> None:
    x = g.pick(rank=range(1, 6))
    rank = g.array(x).ndim
    ones = [a for a in range(rank) if g.shape(x)[a] == 1 and g.fixed(x, a)]
    if ones and g.chance(0.6):
        axes, op = [g.random.choice(ones)], "Squeeze"
    else:
        axes, op = [g.random.randint(0, rank)], "Unsqueeze"
    with_axes(g, op, x, axes, since=13)


def transpose(g: Growth) -> None:
    x = g.pick(rank=range(2, 6))
    rank = g.array(x).ndim
    g.add("Transpose", [x], perm=None if g.chance(0.2) else g.random.sample(range(rank), rank))


def cut(g: Growth) -> None:
    x = g.pick(rank=range(1, 6))
    axis = g.random.randrange(g.array(x).ndim)
    size = min(v.shape[axis] for v in g.values[x])
    start, end, step = g.random.choice([(0, max(1, size - 1), 1), (1, 2**31 - 1, 1), (-1, 2**31 - 1, 1), (0, size, 2)])
    if g.opset < 10:
        g.add("Slice", [x], starts=[start], ends=[end], axes=[axis])
        return
    if g.chance(0.2):
        start, end, step = 2**31 - 1, -(2**31), -1
    g.add("Slice", [x, g.ints(start), g.ints(end), g.ints(axis), g.ints(step)])


def split(g: Growth) -> None:
    x = g.pick(rank=range(1, 6))
    axis = g.random.randrange(g.array(x).ndim)
    size = g.shape(x)[axis]
    if size < 2 or not g.fixed(x, axis):
        raise DeadEndError
    parts = [1, size - 1] if g.chance(0.5) or size % 2 else [size // 2] * 2
    if g.opset < 13:
        made = g.extend("Split", [x], 2, axis=axis, split=parts)
    elif g.opset >= 18 and parts[0] == parts[1]:
        made = g.extend("Split", [x], 2, axis=axis, num_outputs=2)
    else:
        made = g.extend("Split", [x, g.ints(*parts)], 2, axis=axis)
    if g.chance(0.4) and parts[0] == parts[1]:
        g.add("Mul", [made[0], g.add("Sigmoid", [made[1]])])


def concat(g: Growth) -> None:
    x = g.pick(rank=range(1, 6))
    axis = g.random.randrange(g.array(x).ndim)
    others = [x]
    alike = partial(_joins, g, b=x, axis=axis)
    others += [g.pick(rank=g.array(x).ndim, fits=alike) for _ in range(g.random.randint(0, 2))]
    if g.all_fixed(x) and g.chance(0.2):
        others.append(g.constant(g.rng.normal(0, 1, g.shape(x)).astype(np.float32)))
    g.add("Concat", g.random.sample(others, len(others)), axis=axis)


def _joins(g: Growth, a: str, b: str, axis: int) -> bool:
    pairs = zip(g.values[a], g.values[b], strict=True)
    return all(m.shape[:axis] + m.shape[axis + 1 :] == n.shape[:axis] + n.shape[axis + 1 :] for m, n in pairs)


def repeat(g: Growth) -> None:
    x = g.pick(rank=range(1, 5))
    rank = g.array(x).ndim
    if g.chance(0.5) or g.opset < 8:
        g.add("Tile", [x, g.ints(*(g.random.choice([1, 1, 2]) for _ in range(rank)))])
    else:
        g.add("Expand", [x, g.ints(*(2 if s == 1 and g.fixed(x, a) else 1 for a, s in enumerate(g.shape(x))))])


def gather(g: Growth) -> None:
    x = g.pick(rank=range(1, 5))
    rank = g.array(x).ndim
    axis = g.random.randrange(rank)
    size = min(v.shape[axis] for v in g.values[x])
    kind = g.random.choice(["Gather", "Gather", "GatherElements", "GatherND"])
    if kind == "Gather":
        index = g.rng.integers(-size, size, g.random.choice([(), (1,), (2,), (2, 2)]))
        g.add("Gather", [x, g.constant(np.asarray(index, np.int64))], axis=axis)
    elif kind == "GatherElements" and g.opset >= 11 and g.all_fixed(x):
        shape = list(g.shape(x))
        g.add(kind, [x, g.constant(g.rng.integers(0, size, shape))], axis=axis)
    elif kind == "GatherND" and g.opset >= 11:
        g.add(kind, [x, g.constant(np.zeros((2, 1), np.int64))])
    else:
        raise DeadEndError


def pad(g: Growth) -> None:
    x = g.pick(rank=range(1, 6))
    rank = g.array(x).ndim
    mode = g.random.choice([None, "constant", "constant", "reflect", "edge", "wrap"])
    before = [g.random.choice([0, 0, 1]) if a >= rank - 2 else 0 for a in range(rank)]
    after = [g.random.choice([0, 1, 2, -1]) if a >= rank - 2 else 0 for a in range(rank)]
    if mode == "wrap" and g.opset < 19:
        raise DeadEndError
    value = g.random.choice([None, 0.0, 1.5, -np.inf]) if mode in (None, "constant") else None
    if g.opset < 11:
        g.add("Pad", [x], pads=[*before, *after], mode=mode, value=value, infinite=True)
        return
    fill = None if value is None else g.number(value)
    y = g.add("Pad", [x, g.ints(*before, *after), fill], mode=mode, infinite=True)
    if value == -np.inf and rank == 4:
        g.add("MaxPool", [y], kernel_shape=[3, 3])
    elif value == -np.inf:
        raise DeadEndError


def blocks(g: Growth) -> None:
    x = g.pick(rank=4)
    if g.chance(0.5):
        mode = g.random.choice([None, "CRD"]) if g.opset >= 11 else None
        g.add("DepthToSpace", [x], blocksize=2, mode=mode)
    else:
        g.add("SpaceToDepth", [x], blocksize=2)


def pool(g: Growth) -> None:
    x = g.pick(rank=range(3, 6))
    rank = g.array(x).ndim - 2
    op = g.random.choice(
        ["MaxPool", "MaxPool", "AveragePool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"]
    )
    if op.startswith("Global"):
        g.add(op, [x])
        return
    kernel = [g.random.choice([1, 2, 3]) for _ in range(rank)]
    if g.chance(0.15):
        kernel = list(g.shape(x)[2:])
    attributes: dict[str, object] = {"kernel_shape": kernel}
    if g.chance(0.5):
        attributes["strides"] = [g.random.choice([1, 2]) for _ in range(rank)]
    if g.chance(0.4):
        attributes["pads"] = [g.random.randint(0, k - 1) for k in kernel * 2]
    elif g.chance(0.2):
        attributes["auto_pad"] = g.random.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    if op != "LpPool" and g.opset >= 10 and g.chance(0.3):
        attributes["ceil_mode"] = 1
    if op == "AveragePool" and g.chance(0.4):
        attributes["count_include_pad"] = 1
    if op == "MaxPool" and g.opset >= 10 and g.chance(0.2):
        attributes["dilations"] = [g.random.choice([1, 2]) for _ in range(rank)]
    g.extend(op, [x], 2 if op == "MaxPool" and g.chance(0.1) else 1, **attributes)


REDUCING = [
    "ReduceMean", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceProd",
    "ReduceSumSquare", "ReduceLogSumExp",
]  # fmt: skip


def reduce(g: Growth) -> None:
    x = g.pick(rank=range(1, 6))
    rank = g.array(x).ndim
    op = g.random.choice(REDUCING)
    axes = sorted(g.random.sample(range(rank), g.random.randint(1, min(2, rank))))
    axes = [2, 3] if rank == 4 and g.chance(0.4) else [a - rank if g.opset >= 11 and g.chance(0.3) else a for a in axes]
    keep = g.random.choice([None, 0, 1])
    if g.chance(0.1):
        g.add(op, [x], keepdims=keep)
        return
    with_axes(g, op, x, axes, since=13 if op == "ReduceSum" else 18, keepdims=keep)


def along(g: Growth) -> None:
    """Functions along an axis."""
    x = g.pick(rank=range(1, 6))
    rank = g.array(x).ndim
    op = g.random.choice(["Softmax", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "CumSum", "Trilu"])
    axis = g.random.randint(-rank if g.opset >= 11 else 0, rank - 1)
    if op == "CumSum" and g.opset >= 11:
        g.add(op, [x, g.constant(np.asarray(axis, np.int64))], reverse=g.random.choice([None, 1]))
    elif op == "Trilu" and g.opset >= 14 and rank >= 2:
        g.add(op, [x], upper=g.random.choice([None, 0]))
    elif op in ("CumSum", "Trilu"):
        raise DeadEndError
    else:
        g.add(op, [x], axis=None if g.chance(0.2) else axis)


def select(g: Growth) -> None:
    x = g.pick(rank=range(1, 5))
    axis = g.random.randrange(g.array(x).ndim)
    if g.chance(0.5):
        g.add(g.random.choice(["ArgMax", "ArgMin"]), [x], axis=axis, keepdims=g.random.choice([None, 0]))
        return
    k = g.random.randint(1, min(v.shape[axis] for v in g.values[x]))
    if g.opset < 10:
        g.extend("TopK", [x], 2, axis=axis, k=k)
    else:
        g.extend("TopK", [x, g.ints(k)], 2, axis=axis)


def resize(g: Growth) -> None:
    x = g.pick(rank=range(3, 6))
    rank = g.array(x).ndim
    scales = np.asarray([1, 1, *(g.random.choice([1.0, 2.0, 0.5, 1.5]) for _ in range(rank - 2))], np.float32)
    mode = g.random.choice(["nearest", "nearest", "linear", "cubic"])
    if g.opset < 9:
        g.add("Upsample", [x], scales=[float(max(s, 1)) for s in scales], mode="nearest")
    elif g.opset == 9:
        g.add("Upsample", [x, g.constant(np.maximum(scales, 1), plain=True)], mode=mode)
    elif g.opset == 10:
        g.add("Resize", [x, g.constant(scales, plain=True)], mode=mode)
    else:
        attributes = {"coordinate_transformation_mode": g.random.choice([None, "asymmetric", "align_corners"])}
        if mode == "nearest":
            attributes["nearest_mode"] = g.random.choice([None, "floor", "ceil"])
        if g.all_fixed(x) and g.chance(0.4):
            sizes = g.ints(*(int(np.ceil(s * f)) for s, f in zip(g.shape(x), scales, strict=True)))
            roi, none = (None, None) if g.opset >= 13 else (g.constant(np.zeros(0, np.float32), plain=True),) * 2
            g.add("Resize", [x, roi, none, sizes], mode=mode, **attributes)
            return
        roi = None if g.opset >= 13 else g.constant(np.zeros(0, np.float32), plain=True)
        g.add("Resize", [x, roi, g.constant(scales, plain=True)], mode=mode, **attributes)


def reversed_sequence(g: Growth) -> None:
    x = g.pick(rank=range(2, 5), fits=lambda n: g.fixed(n, 0))
    lengths = g.constant(g.rng.integers(1, min(v.shape[1] for v in g.values[x]) + 1, g.shape(x)[0]))
    g.add("ReverseSequence", [x, lengths], batch_axis=0, time_axis=1)


SHAPE = {
    "reshape": reshape, "squeeze": squeeze, "transpose": transpose, "slice": cut, "split": split, "concat": concat,
    "concat again": concat, "repeat": repeat, "gather": gather, "pad": pad, "blocks": blocks, "pool": pool,
    "pool again": pool, "reduce": reduce, "reduce again": reduce, "along": along, "along again": along,
    "select": select, "resize": resize, "reversed": reversed_sequence,
}  # fmt: skip
