"""Steps that compute value by value: functions of one variable, arithmetic of several tensors, types, conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from growth import BOOL, DeadEndError
from numbers_drawn import normal
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Callable

    from growth import Growth

UNARY: dict[str, tuple[int, dict[str, list[object]]]] = {  # operator -> first opset, attribute -> what it may be
    "Relu": (1, {}), "Sigmoid": (1, {}), "Tanh": (1, {}), "LeakyRelu": (1, {"alpha": [None, 0.3, 0.0, 1.5, -0.5]}),
    "ThresholdedRelu": (10, {"alpha": [None, 0.1]}), "Elu": (1, {"alpha": [None, 0.4]}), "Selu": (1, {}),
    "Celu": (12, {"alpha": [None, 0.4]}), "Gelu": (20, {"approximate": [None, "tanh"]}),
    "HardSigmoid": (1, {"alpha": [None, 0.1667], "beta": [None, 0.4]}), "HardSwish": (14, {}), "Mish": (18, {}),
    "Softplus": (1, {}), "Softsign": (1, {}), "Abs": (1, {}), "Neg": (1, {}), "Exp": (1, {}), "Log": (1, {}),
    "Sqrt": (1, {}), "Reciprocal": (1, {}), "Erf": (9, {}), "Sign": (9, {}), "Floor": (1, {}), "Ceil": (1, {}),
    "Round": (11, {}), "Sin": (7, {}), "Cos": (7, {}), "Atan": (7, {}), "Sinh": (9, {}),
    "Cosh": (9, {}), "Asinh": (9, {}), "Dropout": (7, {}), "Identity": (1, {}), "Shrink": (9, {"lambd": [None, 0.2]}),
}  # fmt: skip
JUMPING = {"Sign", "Floor", "Ceil", "Round", "Shrink", "ThresholdedRelu"}


def unary(g: Growth) -> None:
    """Apply a function; what it is not defined for is kept away from it."""
    op = g.random.choice([n for n, (first, _) in UNARY.items() if first <= g.opset])
    x = g.pick(rank=range(6))
    if op in ("Log", "Sqrt", "Reciprocal") and np.min(g.array(x)) <= 0.0:
        x = g.add("Add", [g.add("Abs", [x]), g.number(g.random.choice([1.0, 0.01]))])
    g.add(op, [x], **{name: g.random.choice(choices) for name, choices in UNARY[op][1].items()})


def clip(g: Growth) -> None:
    x, low = g.pick(rank=range(6)), g.random.choice([None, 0.0, -1.0, 0.5])
    high = g.random.choice([None, 6.0, 1.0, 0.5])
    if g.opset < 11:
        g.add("Clip", [x], min=low, max=high)
    else:
        g.add("Clip", [x, *(None if v is None else g.number(v) for v in (low, high))])


def arithmetic(g: Growth) -> None:
    """Combine a tensor with another, with itself, or with a constant of some shape, in either order."""
    op = g.random.choice(["Add", "Add", "Sub", "Mul", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Mod"])
    x = g.pick(rank=range(6))
    if op in ("Max", "Min") and g.opset < 8:
        raise DeadEndError
    if op == "Pow":
        _power(g, x)
    elif op == "PRelu":
        g.add(op, [x, constant_for(g, x, mean=0.2)])
    elif op == "Mod":
        if g.opset < 10:
            raise DeadEndError
        g.add(op, [x, g.number(0.7)], fmod=1)
    else:
        y = _partner(g, x) if g.chance(0.5) else constant_for(g, x, mean=g.random.choice([0.0, 2.0]))
        if op == "Div" and np.abs(g.array(y)).min() < 1e-3:
            y = g.add("Add", [g.add("Abs", [y]), g.number(0.5)])
        pair = [x, y] if g.chance(0.7) else [y, x]
        if op == "Div" and pair[1] == x and np.abs(g.array(x)).min() < 1e-3:
            raise DeadEndError
        g.add(op, pair)


def _power(g: Growth, x: str) -> None:
    exponent = g.random.choice([2.0, 2.0, 3.0, 0.5, 1.0, -1.0])
    if exponent in (0.5, -1.0):
        x = g.add("Add", [g.add("Abs", [x]), g.number(0.1)])
    g.add("Pow", [x, g.constant(np.full(g.random.choice([(), (1,)]), exponent, np.float32))])


def _partner(g: Growth, x: str) -> str:
    """Return a tensor that broadcasts with another."""

    def fits(n: str) -> bool:
        pairs = zip(g.values.get(n, [g.array(n)] * 3), g.values.get(x, [g.array(x)] * 3), strict=True)
        return all(_broadcast(a.shape, b.shape) for a, b in pairs)

    return x if g.chance(0.1) else g.pick(rank=range(6), fits=fits)


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


def constant_for(g: Growth, x: str, *, mean: float = 0.0) -> str:
    """Add a constant that broadcasts to a tensor: a number, a value for each channel, one for everything."""
    shape = g.shape(x)
    rank = len(shape)
    choices: list[tuple[int, ...]] = [(), (1,), (1,) * rank]
    if rank and g.fixed(x, rank - 1):
        choices += [shape[-1:], (*(1,) * (rank - 1), shape[-1])]
    if rank >= 3 and g.fixed(x, 1):
        choices += [(shape[1], *(1,) * (rank - 2)), (1, shape[1], *(1,) * (rank - 2))]
    if g.all_fixed(x):
        choices += [shape, shape[1:]]
    array = g.rng.normal(mean, g.random.choice([0.1, 1.0]), g.random.choice(choices))
    return g.constant(np.asarray(array, np.float32))


def several(g: Growth) -> None:
    if g.opset < 8:
        raise DeadEndError
    x = g.pick()
    g.add(g.random.choice(["Sum", "Mean", "Max", "Min"]), [x, *(_partner(g, x) for _ in range(g.random.randint(0, 2)))])


def where(g: Growth) -> None:
    if g.opset < 9:
        raise DeadEndError
    x = g.pick()
    y = _partner(g, x) if g.chance(0.5) else constant_for(g, x)
    g.add("Where", [condition(g, x), *g.random.sample([x, y], 2)])


def condition(g: Growth, x: str) -> str:
    """Return a mask for a tensor: a constant, an input, or what a comparison says."""
    kind = g.random.choice(["constant", "input", "compared"])
    if kind == "constant" and g.all_fixed(x):
        return g.constant(g.rng.random(g.shape(x)) < 0.6)
    if kind == "input" and x in g.inputs:
        return g.feed(g.inputs[x], lambda s: np.asarray(g.rng.random(s) < 0.6))
    found = g.add(g.random.choice(["Greater", "Less"]), [x, g.number(float(np.median(g.array(x))))])
    return g.add("Not", [found]) if g.chance(0.3) else found


def cast(g: Growth) -> None:
    x = g.pick()
    through = g.random.choice([TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.BOOL])
    y = g.add("Cast", [x], to=through)
    if through == TensorProto.DOUBLE and g.chance(0.5):
        y = g.add("Mul", [y, y])
    g.add("Cast", [y], to=TensorProto.FLOAT)


def known_shapes(g: Growth) -> None:
    """Activations as exporters write them, of several operators."""
    x = g.pick()
    forms: list[Callable[[Growth, str], object]] = [_silu, _hard_swish, _gelu, _prelu, _hard_sigmoid, _mish]
    g.random.choice(forms)(g, x)


def _silu(g: Growth, x: str) -> None:
    g.add("Mul", g.random.sample([x, g.add("Sigmoid", [x])], 2))


def _hard_sigmoid(g: Growth, x: str) -> str:
    low, high = ([], {"min": 0.0, "max": 6.0}) if g.opset < 11 else ([g.number(0.0), g.number(6.0)], {})
    clipped = g.add("Clip", [g.add("Add", [x, g.number(3.0)]), *low], **high)
    return g.add("Div", [clipped, g.number(6.0)])


def _hard_swish(g: Growth, x: str) -> None:
    g.add("Mul", [x, _hard_sigmoid(g, x)])


def _gelu(g: Growth, x: str) -> None:
    if g.opset < 9:
        raise DeadEndError
    erf = g.add("Erf", [g.add("Div", [x, g.number(2**0.5)])])
    g.add("Mul", [g.add("Mul", [x, g.add("Add", [erf, g.number(1.0)])]), g.number(0.5)])


def _prelu(g: Growth, x: str) -> None:
    difference = g.add("Sub", [x, g.add("Abs", [x])])
    scaled = g.add("Mul", [g.add("Mul", [difference, constant_for(g, x, mean=0.2)]), g.number(0.5)])
    g.add("Add", [g.add("Relu", [x]), scaled])


def _mish(g: Growth, x: str) -> None:
    g.add("Mul", [x, g.add("Tanh", [g.add("Softplus", [x])])])


def logic(g: Growth) -> None:
    """Compare, combine, and count."""
    x = g.pick()
    a = g.add("Greater", [x, g.number(0.1)])
    b = g.pick(BOOL, fits=lambda n: g.shape(n) == g.shape(x)) if g.chance(0.5) else g.add("Less", [x, g.number(1.0)])
    g.add("Cast", [g.add(g.random.choice(["And", "Or", "Xor"]), [a, b])], to=TensorProto.FLOAT)


def scalar_fed(g: Growth) -> None:
    """A number that is fed scales a tensor."""
    x = g.pick()
    g.add(g.random.choice(["Mul", "Add"]), [x, g.feed([], normal(g))])


POINTWISE = {
    "unary": unary, "unary again": unary, "unary once more": unary, "clip": clip, "arithmetic": arithmetic,
    "arithmetic again": arithmetic, "arithmetic once more": arithmetic, "several": several, "where": where,
    "cast": cast, "known": known_shapes, "logic": logic, "scalar": scalar_fed,
}  # fmt: skip
