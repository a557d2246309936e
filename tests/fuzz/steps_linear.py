"""Steps with weights: convolutions, products, recurrent layers, normalizations, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from growth import DeadEndError
from numbers_drawn import normal, vector, weights

if TYPE_CHECKING:
    from growth import Growth

MOST_SPATIAL = 3


def conv(g: Growth) -> None:
    x = g.pick(rank=range(3, 6), fits=lambda n: g.fixed(n, 1))
    channels, spatial = g.shape(x)[1], g.array(x).ndim - 2
    kernel = [g.random.choice([1, 1, 2, 3, 3, 5]) for _ in range(spatial)]
    group = g.random.choice([d for d in (1, 1, 1, 2, 4, channels) if channels % d == 0])
    wide = group * g.random.choice([1, 1, 2, 3, max(g.widths) // 4])
    attributes = _windows(g, kernel)
    if g.chance(0.5):
        attributes["kernel_shape"] = kernel
    w = weights(g, wide, channels // group, *kernel, fan=channels // group * int(np.prod(kernel)))
    bias = vector(g, wide) if g.chance(0.6) else None
    y = g.add("Conv", [x, w, bias], group=group if group > 1 or g.chance(0.3) else None, **attributes)
    _after(g, y, wide)


def _windows(g: Growth, kernel: list[int]) -> dict[str, object]:
    found: dict[str, object] = {}
    rank = len(kernel)
    kind = g.random.choice(["none", "pads", "pads", "same", "lower", "valid"])
    if kind == "pads":
        found["pads"] = [g.random.randint(0, k - 1) for k in kernel * 2]
    if kind in ("same", "lower", "valid"):
        found["auto_pad"] = {"same": "SAME_UPPER", "lower": "SAME_LOWER", "valid": "VALID"}[kind]
    if g.chance(0.3):
        found["strides"] = [g.random.choice([1, 2, 3]) for _ in range(rank)]
    if g.chance(0.2) and kind not in ("same", "lower"):
        found["dilations"] = [g.random.choice([1, 2]) for _ in range(rank)]
    return found


def _after(g: Growth, y: str, channels: int) -> None:
    """Go on as exporters do: normalization, then an activation."""
    if g.chance(0.3):
        y = _batch_norm(g, y, channels)
    if g.chance(0.4):
        limits = (g.number(0.0), g.number(6.0)) if g.opset >= 11 else ()
        attributes = {"min": 0.0, "max": 6.0} if g.opset < 11 else {}
        kind = g.random.choice(["Relu", "Clip", "Sigmoid", "PRelu"])
        if kind == "PRelu":
            g.add(kind, [y, g.constant(_slopes(g, y, channels))])
        else:
            g.add(kind, [y, *limits] if kind == "Clip" else [y], **(attributes if kind == "Clip" else {}))


def _slopes(g: Growth, y: str, channels: int) -> np.ndarray:
    return g.rng.normal(0.2, 0.1, (channels, *(1,) * (g.array(y).ndim - 2))).astype(np.float32)


def _batch_norm(g: Growth, x: str, channels: int) -> str:
    parts = [vector(g, channels, mean=1), vector(g, channels), vector(g, channels)]
    variance = g.constant(np.asarray(g.rng.uniform(0.2, 2, channels), np.float32))
    return g.add("BatchNormalization", [x, *parts, variance], epsilon=g.random.choice([None, 1e-3, 1e-12]))


def batch_norm(g: Growth) -> None:
    x = g.pick(rank=range(2, 6), fits=lambda n: g.fixed(n, 1))
    _batch_norm(g, x, g.shape(x)[1])


def conv_transpose(g: Growth) -> None:
    x = g.pick(rank=range(3, 6), fits=lambda n: g.fixed(n, 1))
    channels, rank = g.shape(x)[1], g.array(x).ndim - 2
    group = g.random.choice([d for d in (1, 1, 2, channels) if channels % d == 0])
    kernel = [g.random.choice([1, 2, 3]) for _ in range(rank)]
    strides = [g.random.choice([1, 2]) for _ in range(rank)]
    wide = g.random.choice([1, 2, 3])
    w = weights(g, channels, wide, *kernel, fan=channels)
    bias = vector(g, wide * group) if g.chance(0.5) else None
    pads = [g.random.randint(0, k - 1) for k in kernel * 2] if g.chance(0.5) else None
    extra = [s - 1 for s in strides] if g.chance(0.3) else None
    g.add("ConvTranspose", [x, w, bias], group=group, strides=strides, pads=pads, output_padding=extra)


def gemm(g: Growth) -> None:
    x = g.pick(rank=2)
    turned = int(g.chance(0.2))
    if not g.fixed(x, 1 - turned):
        raise DeadEndError
    rows, depth = g.shape(x)[::-1] if turned else g.shape(x)
    wide, trans = g.random.choice(g.widths), int(g.chance(0.5))
    w = weights(g, *((wide, depth) if trans else (depth, wide)), fan=depth)
    attributes = {"alpha": g.random.choice([None, 0.5, 2.0]), "beta": g.random.choice([None, None, 0.25, 0.0])}
    shapes = [(wide,), (wide,), (1, wide), (1,), (), (1, 1), (rows, 1), (rows, wide)]
    shape = g.random.choice(shapes if g.fixed(x, turned) else shapes[:6])
    bias = g.constant(g.rng.normal(0, 1, shape).astype(np.float32)) if g.chance(0.7) or g.opset < 11 else None
    if bias is not None and g.chance(0.1):
        bias = g.pick(rank=range(1, 3), fits=lambda n: g.shape(n)[-1] in (1, wide))
    y = g.add("Gemm", [x, w, bias], transA=turned or None, transB=trans or None, **attributes)
    if g.chance(0.3):
        g.add("Relu", [y])


def matmul(g: Growth) -> None:
    x = g.pick(rank=range(1, 6), fits=lambda n: g.fixed(n, g.array(n).ndim - 1))
    shape = g.shape(x)
    depth, wide = shape[-1], g.random.choice(g.widths)
    kind = g.random.choice(["right", "right", "right", "bias", "bias", "vector", "batched", "left"])
    if kind == "left":
        if len(shape) < 2 or not g.fixed(x, len(shape) - 2):
            raise DeadEndError
        g.add("MatMul", [weights(g, g.random.choice([1, 4]), shape[-2], fan=shape[-2]), x])
        return
    own = {"vector": (depth,), "batched": (*(1,) * g.random.choice([1, 2]), depth, wide)}.get(kind, (depth, wide))
    y = g.add("MatMul", [x, weights(g, *own, fan=depth)])
    if kind == "bias":
        pair = [y, vector(g, wide)]
        g.add("Add", pair if g.chance(0.5) else pair[::-1])


def product(g: Growth) -> None:
    a = g.pick(rank=range(2, 5))
    b = g.pick(rank=range(2, 5), fits=lambda n: g.shape(n)[-2] == g.shape(a)[-1] or g.shape(n)[-1] == g.shape(a)[-1])
    if g.shape(b)[-2] != g.shape(a)[-1]:
        rank = g.array(b).ndim
        b = g.add("Transpose", [b], perm=[*range(rank - 2), rank - 1, rank - 2])
    g.add("MatMul", [a, b])


def einsum(g: Growth) -> None:
    x = g.pick(rank=range(2, 5), fits=lambda n: g.fixed(n, g.array(n).ndim - 1))
    rank, depth = g.array(x).ndim, g.shape(x)[-1]
    letters = "abcd"[: rank - 1]
    kind = g.random.choice(["weight", "weight", "gram", "swap", "ellipsis"])
    if kind == "weight":
        g.add("Einsum", [x, weights(g, depth, 5, fan=depth)], equation=f"{letters}k,kn->{letters}n")
    elif kind == "ellipsis":
        g.add("Einsum", [x, weights(g, depth, 5, fan=depth)], equation="...k,kn->...n")
    elif kind == "gram":
        g.add("Einsum", [x, x], equation=f"{letters}k,{letters[:-1]}zk->{letters}z")
    else:
        g.add("Einsum", [x], equation=f"{letters}k->k{letters}")


def embedding(g: Growth) -> None:
    rows, wide = g.random.choice([5, 30]), g.random.choice([4, *g.widths])
    shape = [g.random.choice([*g.free, 1, 3]), g.random.choice([2, 5])][: g.random.choice([1, 2])]
    low = g.random.choice([0, 0, -rows])
    dtype = g.random.choice([np.int64, np.int32])
    i = g.feed(shape, lambda s: g.rng.integers(low, rows, s).astype(dtype))
    table = weights(g, rows, wide, fan=1)
    e = g.add("Gather", [table, i])
    if g.chance(0.3):  # the table is the output layer too
        turned = g.add("Transpose", [table], perm=[1, 0])
        g.add("MatMul", [e, turned])


def recurrent(g: Growth) -> None:
    kind = g.random.choice(["LSTM", "GRU", "RNN"])
    x = g.pick(rank=3, fits=lambda n: g.fixed(n, 2))
    direction = g.random.choice([None, "forward", "reverse", "bidirectional"])
    ways, gates = 2 if direction == "bidirectional" else 1, {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    hidden, depth = g.random.choice([2, 4, 16, max(g.widths)]), g.shape(x)[2]
    w = weights(g, ways, gates * hidden, depth, fan=depth)
    r = weights(g, ways, gates * hidden, hidden, fan=hidden)
    bias = g.constant(g.rng.normal(0, 0.3, (ways, 2 * gates * hidden)).astype(np.float32)) if g.chance(0.6) else None
    inputs: list[str | None] = [x, w, r, bias]
    if g.fixed(x, 1) and g.chance(0.4):
        state = g.rng.normal(0, 0.3, (ways, g.shape(x)[1], hidden)).astype(np.float32)
        inputs += [None, *(g.constant(state) for _ in range(1 + (kind == "LSTM")))]
    extra = {"linear_before_reset": g.random.choice([None, 1])} if kind == "GRU" else {}
    made = g.extend(kind, inputs, g.random.choice([1, 2]), hidden_size=hidden, direction=direction, **extra)
    if g.chance(0.7):
        y = g.add("Transpose", [made[0]], perm=[0, 2, 1, 3])
        shape = g.ints(0, 0, -1)
        g.add("Reshape", [y, shape]) if g.chance(0.5) else _squeeze(g, y)


def _squeeze(g: Growth, y: str) -> None:
    if g.shape(y)[1] != 1:
        raise DeadEndError
    if g.opset >= 13:
        g.add("Squeeze", [y, g.ints(1)])
    else:
        g.add("Squeeze", [y], axes=[1])


def normalization(g: Growth) -> None:
    x = g.pick(rank=range(2, 6), fits=lambda n: g.fixed(n, 1) and g.fixed(n, g.array(n).ndim - 1))
    shape = g.shape(x)
    kind = g.random.choice(["Layer", "Layer", "Instance", "Group", "RMS", "LRN", "MeanVariance", "written out"])
    if kind == "Layer" and g.opset >= 17:
        bias = vector(g, shape[-1]) if g.chance(0.6) else None
        g.add("LayerNormalization", [x, vector(g, shape[-1], mean=1), bias], axis=g.random.choice([None, -1]))
    elif kind == "Instance":
        g.add("InstanceNormalization", [x, vector(g, shape[1], mean=1), vector(g, shape[1])])
    elif kind == "Group" and g.opset >= 21:
        groups = g.random.choice([d for d in (1, 2, shape[1]) if shape[1] % d == 0])
        g.add("GroupNormalization", [x, vector(g, shape[1], mean=1), vector(g, shape[1])], num_groups=groups)
    elif kind == "RMS" and g.opset >= 23:
        g.add("RMSNormalization", [x, vector(g, shape[-1], mean=1)])
    elif kind == "LRN":
        g.add("LRN", [x], size=3)
    elif kind == "MeanVariance":
        g.add("MeanVarianceNormalization", [x], axes=g.random.choice([[0, 2, 3], [1]]))
    else:
        _written_out(g, x)


def _written_out(g: Growth, x: str) -> None:
    axes = {"axes": [-1]} if g.opset < 18 else {}
    last = [] if g.opset < 18 else [g.ints(-1)]
    mean = g.add("ReduceMean", [x, *last], **axes)
    centred = g.add("Sub", [x, mean])
    squares = g.add("Pow", [centred, g.number(2.0)]) if g.chance(0.5) else g.add("Mul", [centred, centred])
    variance = g.add("ReduceMean", [squares, *last], **axes)
    root = g.add("Sqrt", [g.add("Add", [variance, g.number(g.random.choice([1e-5, 1e-12, 1e-3]))])])
    scaled = g.add("Div", [centred, root])
    width = g.shape(x)[-1]
    g.add("Add", [g.add("Mul", [scaled, vector(g, width, mean=1)]), vector(g, width)])


def attention(g: Growth) -> None:
    x = g.pick(rank=3, fits=lambda n: g.fixed(n, 2))
    depth = g.shape(x)[2]
    q, k, v = (g.add("MatMul", [x, weights(g, depth, 8, fan=depth)]) for _ in range(3))
    scores = g.add("MatMul", [q, g.add("Transpose", [k], perm=[0, 2, 1])])
    scores = g.add(*g.random.choice([("Mul", [scores, g.number(0.35)]), ("Div", [scores, g.number(2.8)])]))
    if g.chance(0.6):
        scores = masked(g, scores)
    y = g.add("MatMul", [g.add("Softmax", [scores], axis=-1 if g.opset >= 13 else 2), v])
    g.add("MatMul", [y, weights(g, 8, depth, fan=8)])


def masked(g: Growth, scores: str) -> str:
    """Return scores of which a mask leaves only some."""
    least = g.random.choice([-np.inf, -3.4028235e38, -1e9, -1e4, -100.0])
    queries, keys = g.shape(scores)[-2:]
    if g.all_fixed(scores) and g.chance(0.5):
        hidden = np.triu(np.ones((queries, keys), bool), 1)
        if g.chance(0.5) or g.opset < 9:
            return g.add("Add", [scores, g.constant(np.where(hidden, least, 0).astype(np.float32))], infinite=True)
        return g.add("Where", [g.constant(~hidden), scores, g.number(least)], infinite=True)
    kept = [np.asarray(g.rng.random(v.shape[-1:]) < 0.7) for v in g.values[scores]]
    for row in kept:
        row[0] = True
    drawn = iter(kept)
    if not g.fixed(scores, g.array(scores).ndim - 1):
        raise DeadEndError
    mask = g.feed([keys], lambda _: next(drawn))
    return g.add("Where", [mask, scores, g.number(least)], infinite=True)


def fed(g: Growth) -> None:
    """Feed another tensor to a model that has some already."""
    like = g.pick()
    shape = list(g.inputs[like]) if like in g.inputs else None
    if shape is None:
        raise DeadEndError
    g.feed(shape, normal(g, spread=g.random.choice([0.1, 1, 10])))


def bytes_fed(g: Growth) -> None:
    """Pixels that the graph itself makes real."""
    shape = [g.random.choice([*g.free, 1, 2]), 3, 6, 5][: g.random.choice([2, 3, 4])]
    dtype = g.random.choice([np.uint8, np.uint8, np.int8, np.int32, np.int64])
    low, high = (-128, 128) if dtype == np.int8 else (0, 256)
    x = g.feed(shape, lambda s: g.rng.integers(low, high, s).astype(dtype))
    y = g.add("Cast", [x], to=1)
    if g.chance(0.6):
        y = g.add("Div", [y, g.number(255.0)])
    if g.chance(0.4):
        g.add("Sub", [y, g.number(0.5)])


LINEAR = {
    "conv": conv, "conv again": conv, "conv once more": conv, "conv transposed": conv_transpose, "gemm": gemm,
    "matmul": matmul, "matmul again": matmul, "product": product, "einsum": einsum, "embedding": embedding,
    "recurrent": recurrent, "normalization": normalization, "attention": attention, "batch norm": batch_norm,
    "fed": fed, "bytes": bytes_fed,
}  # fmt: skip
