"""Random models that onnxruntime runs, always the same for a seed: what may be asked of a converter."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import onnx
from growth import IR, SAMPLES, DeadEndError, Growth, load, reads, step
from naming import STYLES, Names
from numbers_drawn import normal
from onnx import helper, numpy_helper, shape_inference
from steps_linear import LINEAR
from steps_nested import NESTED
from steps_pointwise import POINTWISE
from steps_shape import SHAPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto, ValueInfoProto

    Feed = dict[str, np.ndarray]

STEPS = [*LINEAR.values(), *POINTWISE.values(), *SHAPE.values(), *NESTED.values()]
TRIES = 12  # for each step that is wanted
OPSETS = [7, 8, 9, 10, 11, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21, 21, 22, 23]


@dataclass(frozen=True)
class Case:
    """A model, its samples, and what decided it."""

    seed: int
    model: ModelProto
    feeds: Sequence[Feed]


def cases(seed: int) -> Iterator[Case]:
    """Yield cases without end: those of the seeds from this one on that give a valid model."""
    while True:
        case = made(seed)
        if case is not None:
            yield case
        seed += 1


def made(seed: int) -> Case | None:
    """Return the case of a seed, or None where it gives no model that computes the same each time."""
    with np.errstate(all="ignore"):
        growth = _grown(seed)
    try:
        model = _assembled(growth)
    except DeadEndError:
        return None
    feeds = [{n: growth.values[n][i] for n in growth.inputs} for i in range(SAMPLES)]
    return Case(seed, model, feeds) if is_valid(model, feeds) else None


def _grown(seed: int) -> Growth:
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    names = Names(random, random.choice(["plain", "plain", *STYLES]), random.choice(["own", "own", "empty", "mixed"]))
    growth = Growth(random, np.random.default_rng(seed), random.choice(OPSETS), names)
    growth.free = {"N": random.choice([(1, 2, 3), (2, 2, 2), (3, 1, 2), (1, 1, 1)]), "длина t": (4, 4, 5)}
    growth.widths = random.choice([(1, 3, 8), (1, 3, 8, 40), (32, 64, 128)])
    for _ in range(random.choice([1, 1, 2])):
        growth.feed(_shape(growth), normal(growth))
    chosen = random.choice([STEPS, STEPS, [*LINEAR.values(), *POINTWISE.values()]])
    wanted = random.choice([1, 2, 3, 4, 5, 7, 10])
    for _ in range(wanted * TRIES):
        wanted -= step(growth, random.choice(chosen))
        if not wanted:
            break
    return growth


def _shape(growth: Growth) -> list[int | str]:
    random, wide = growth.random, [8, *growth.widths]
    batch = random.choice([1, 1, 2, "N", "N"])
    kinds = [
        [random.choice([1, 2, 3, 4, 8, 16]), *random.choice([[6, 6], [5, 7], [8, 8], [1, 4]])],
        [random.choice([3, "длина t"]), random.choice(wide)],
        [random.choice([6, 10, *wide])],
        random.choice([[], [4, 9], [3, 4, 4, 3]]),
    ]
    return [batch, *random.choices(kinds, [4, 3, 3, 1])[0]]


# ---- the model -------------------------------------------------------------------------------------------------------


def _assembled(growth: Growth) -> ModelProto:
    random = growth.random
    outputs = _outputs(growth)
    ir_version = IR.get(growth.opset, 10)
    listed = set(growth.constants) if ir_version < 4 else set(growth.overridable)
    stored = [numpy_helper.from_array(a, n) for n, a in growth.constants.items()]
    as_inputs = [_info(n, growth.constants[n], growth.constants[n].shape) for n in growth.constants if n in listed]
    inputs = [_info(n, growth.array(n), shape) for n, shape in growth.inputs.items()]
    results = [_info(n, growth.array(n), _declared(growth, n)) for n in outputs]
    graph = helper.make_graph(growth.nodes, "fuzzed", [*inputs, *as_inputs], results, stored)
    imports = [helper.make_opsetid("", growth.opset)]
    if random.random() < 0.1:
        imports.append(helper.make_opsetid("com.microsoft", 1))
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    if random.random() < 0.3:
        model = _with_types(model)
    return model


def _outputs(growth: Growth) -> list[str]:
    """Choose the outputs: what nothing reads, mostly; now and then what is read too, or an input."""
    random = growth.random
    if not growth.computed:
        raise DeadEndError
    read = {r for n in growth.nodes for r in reads(n)}
    ends = [n for n in growth.computed if n not in read]
    chosen = [n for n in ends if random.random() < 0.8] or [growth.computed[-1]]
    if random.random() < 0.25:
        chosen.append(random.choice(growth.computed))
    if random.random() < 0.04:
        chosen.append(random.choice([*growth.inputs]))
    if random.random() < 0.04 and growth.constants:
        chosen.append(random.choice([*growth.constants]))
    chosen = list(dict.fromkeys(chosen))
    random.shuffle(chosen)
    if not any(growth.array(n).dtype.kind == "f" for n in chosen):
        raise DeadEndError
    return chosen


def _declared(growth: Growth, name: str) -> tuple[int | str | None, ...] | None:
    """Return the shape that the model says an output has."""
    if growth.chance(0.05):
        return None
    if name in growth.constants or name in growth.inputs:
        return growth.inputs.get(name, growth.array(name).shape)
    shapes = list(zip(*(v.shape for v in growth.values[name]), strict=True))
    batch = {sizes: symbol for symbol, sizes in growth.free.items() if len(set(sizes)) > 1}
    free = any(isinstance(d, str) for shape in growth.inputs.values() for d in shape)
    if not free:
        return tuple(s[0] for s in shapes)
    return tuple(batch.get(s) for s in shapes)


def _info(name: str, array: np.ndarray, shape: Sequence[int | str | None] | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def _with_types(model: ModelProto) -> ModelProto:
    try:
        return shape_inference.infer_shapes(model)
    except Exception:  # noqa: BLE001 - it is a decoration; the runtime decides what is valid
        return model


def is_valid(model: ModelProto, feeds: Sequence[Feed]) -> bool:
    """Tell whether the checker accepts a model, and the runtime computes the same twice, optimized or not."""
    try:
        onnx.checker.check_model(model)
        loaded = [load(model, optimize=o) for o in (False, False, True)]
        for feed in feeds:
            plain, again, optimized = (s.run(None, feed) for s in loaded)
            if not all(_same(a, b, exact=True) for a, b in zip(plain, again, strict=True)):
                return False
            if not all(_same(a, b, exact=False) for a, b in zip(plain, optimized, strict=True)):
                return False
    except Exception:  # noqa: BLE001 - whatever refuses the float model, it is no model to convert
        return False
    return True


def _same(a: np.ndarray, b: np.ndarray, *, exact: bool) -> bool:
    if exact or a.dtype.kind != "f":
        return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    limit = 1e-4 * float(np.abs(a[np.isfinite(a)]).max(initial=1e-30))
    return bool(np.allclose(a, b, rtol=1e-3, atol=limit, equal_nan=True))
