"""What the encodings of one conversion imply, tensor by tensor: each operator on what it was really given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from conversion import on_grid, run_session, session, with_outputs
from integer_reference import Grid
from onnx import helper, numpy_helper
from steps_pointwise import JUMPING
from stored_reference import graphs_of, stored_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conversion import Converted
    from onnx import ModelProto

NUDGES = (-0.01, 0.0, 0.01)  # steps: a function that jumps may do so a little earlier or later
SMALLEST = 5e-7  # what float kernels lose where they add 1 on the way
MOST = 2.01  # steps: an operator rounds once; what several make of one tensor may round twice


def steps_off(c: Converted, feed: Mapping[str, np.ndarray], *, optimize: bool) -> tuple[dict[str, float], list[str]]:
    """Return the tensors that are further than rounding from what the float operators make of the tensors before.

    The prepared float model is cut at each tensor that has an encoding: readers get the integers of the quantized
    model as real numbers, and what the producer makes of its own inputs is compared with them. The second result are
    the float outputs that do not follow from the tensors before them.
    """
    made = _integers(c, feed, optimize=optimize)
    if not made:
        return {}, []
    model, raw = _cut(c, made)
    free = {o for n in model.graph.node for o in n.output if not any(a.HasField("g") for a in n.attribute)}
    ends = [o.name for o in model.graph.output if o.name in free - set(raw.values())]
    if not raw and not ends:
        return {}, []
    loaded = session(with_outputs(model, [*raw.values(), *ends]), optimize=False)
    near = [{n: np.asarray(x + np.float32(nudge * c.grids[n].scale)) for n, x in made.items()} for nudge in NUDGES]
    real = [run_session(loaded, _still_fed(model, {**feed, **n})) for n in near]
    floats = _floats(c, feed, made, optimize=optimize)  # what one float operator hands to the next
    floats |= {n: feed[n] for n, x in _fed(c, feed).items() if x.dtype.kind == "f"}
    real.append(run_session(loaded, _still_fed(model, {**feed, **made, **floats})))
    found = {n: _off(made[n], [r[raw[n]] for r in real], c.grids[n]) for n in raw}
    results = c.run(feed, optimize=optimize)
    if any(n.op_type.startswith("Dynamic") for n in c.model.graph.node):  # gates round their inputs at run time
        ends, gates = [], {o for n in c.prepared.graph.node if n.op_type == "LSTM" for o in n.output}
        found = {n: off for n, off in found.items() if n not in gates}
    apart = [n for n in ends if results[n].dtype == np.float32 and _beyond(results[n], [r[n] for r in real])]
    return {n: off for n, off in found.items() if off > MOST and n not in _jumps(c)}, apart


def _jumps(c: Converted) -> set[str]:
    """Return the results of regions that jump where a function before is nearly 0: kernels call that 0 earlier."""
    kinds = {n.name: n.op_type for n in c.prepared.graph.node}
    return {u.output for u in c.result.state.plan.units if any(kinds.get(m) in JUMPING for m in u.members[1:])}


def _beyond(found: np.ndarray, near: list[np.ndarray]) -> bool:
    """Tell whether a float result lies beyond what nearly the same integers give."""
    low, high = np.fmin.reduce(near), np.fmax.reduce(near)  # where a function is not defined there is NaN
    return drifts(np.clip(found, low, high), found)


def _floats(
    c: Converted, feed: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], *, optimize: bool
) -> dict[str, np.ndarray]:
    """Return those of the tensors on a grid that the quantized model also has as real numbers."""
    computed = {o for n in c.model.graph.node for o in n.output}
    rounded = {n.output[0]: n.input[0] for n in c.model.graph.node if n.op_type == "QuantizeLinear"}
    before = {n: rounded.get(c.result.state.quantized.tensors[n], "") for n in made}
    wanted = {n: b for n, b in before.items() if b in computed}
    if not wanted:
        return {}
    loaded = session(with_outputs(c.model, list(dict.fromkeys(wanted.values()))), optimize=optimize)
    results = run_session(loaded, _fed(c, feed))
    return {n: results[b] for n, b in wanted.items() if results[b].dtype == np.float32}


def _integers(c: Converted, feed: Mapping[str, np.ndarray], *, optimize: bool) -> dict[str, np.ndarray]:
    """Return the real values of every tensor that the quantized model keeps on a grid."""
    computed = {o for n in c.model.graph.node for o in n.output}
    tensors, grids = c.result.state.quantized.tensors, c.grids
    wanted = {u: n for u, n in tensors.items() if n in computed and u in grids and grids[u].scale.ndim == 0}
    if not wanted:
        return {}
    loaded = session(with_outputs(c.model, list(dict.fromkeys(wanted.values()))), optimize=optimize)
    results = dict(zip([o.name for o in loaded.get_outputs()], loaded.run(None, _fed(c, feed)), strict=True))
    integers = {u: results[n] for u, n in wanted.items()}
    return {u: _real(q, grids[u]) for u, q in integers.items() if q.dtype.kind in "iu"}


def _fed(c: Converted, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a sample as the quantized model is fed with it."""
    grids = c.grids
    fed = {n: x for n, x in feed.items() if n in {i.name for i in c.model.graph.input}}
    kinds = {i.name: i.type.tensor_type.elem_type for i in c.model.graph.input}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return {
        n: _integer(x, grids[n], kinds[n]) if x.dtype == np.float32 and kinds[n] not in floats else x
        for n, x in fed.items()
    }


def _integer(x: np.ndarray, grid: Grid, kind: int) -> np.ndarray:
    """Return what an integer input is fed."""
    limits = np.iinfo(grid.zero_point.dtype)
    q = np.rint(x / np.float32(grid.scale)) + int(grid.zero_point)
    return np.asarray(np.clip(q, limits.min, limits.max), helper.tensor_dtype_to_np_dtype(kind))


def _real(q: np.ndarray, grid: Grid) -> np.ndarray:
    """Return real numbers of integers; an int8 boundary holds the same numbers 128 lower."""
    shift = {("int8", "uint8"): -128, ("uint8", "int8"): 128}.get((q.dtype.name, grid.zero_point.dtype.name), 0)
    zero = int(grid.zero_point) + shift
    return np.asarray((q.astype(np.int64) - zero) * grid.scale.astype(np.float64), np.float32)


def _cut(c: Converted, made: Mapping[str, np.ndarray]) -> tuple[ModelProto, dict[str, str]]:
    """Return the prepared model with what is on a grid as inputs, and the name of what each producer makes."""
    model = c.prepared
    del model.graph.value_info[:]
    _give_constants(c, model)
    _give_weights(c, model)
    raw = {}
    outputs = {o for n in model.graph.node for o in n.output}
    for name in made:
        if name in outputs:
            raw[name] = f"{name}__raw of its producer"
    for node in model.graph.node:
        for index, output in enumerate(node.output):
            if output in raw:
                node.output[index] = raw[output]
    _round_others(c, model, made)
    fed = {i.name for i in model.graph.input}
    inputs = [helper.make_tensor_value_info(n, 1, [None] * np.ndim(made[n])) for n in made if n in raw and n not in fed]
    model.graph.input.extend(inputs)
    keep = {o.name: raw.get(o.name, o.name) for o in model.graph.output}
    for output in model.graph.output:
        output.name = keep[output.name]
    bodies = {o for n in model.graph.node if any(a.HasField("g") for a in n.attribute) for o in n.output}
    return model, {n: r for n, r in raw.items() if r not in bodies}  # inside bodies there are encodings of their own


def _round_others(c: Converted, model: ModelProto, made: Mapping[str, np.ndarray]) -> None:
    """Round what has a grid, but no integers of its own in the quantized model, to the grid."""
    nodes = []
    for node in list(model.graph.node):
        nodes.append(node)
        for index, name in enumerate(node.output):
            grid = c.grids.get(name)
            of_body = name in c.result.state.inner and name not in c.result.state.encodings.tensors
            if grid is None or grid.scale.ndim or name in made or of_body:
                continue
            scale, low, high, real, steps, whole, within = (f"{name}__{i} of rounding" for i in range(7))
            node.output[index] = real
            numbers = zip((scale, low, high), (grid.scale, *(e / grid.scale for e in _ends(grid))), strict=True)
            model.graph.initializer.extend(numpy_helper.from_array(np.asarray(x, np.float32), n) for n, x in numbers)
            nodes += [
                helper.make_node("Div", [real, scale], [steps]),
                helper.make_node("Round", [steps], [whole]),
                helper.make_node("Clip", [whole, low, high], [within]),
                helper.make_node("Mul", [within, scale], [name]),
            ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _ends(grid: Grid) -> tuple[float, float]:
    """Return the real numbers at the ends of a grid."""
    limits, scale, zero = np.iinfo(grid.zero_point.dtype), float(grid.scale), int(grid.zero_point)
    return (limits.min - zero) * scale, (limits.max - zero) * scale


def _give_constants(c: Converted, model: ModelProto) -> None:
    """Replace constants by what is written for them: integer operators may read other numbers than float ones."""
    own = []
    for tensor in model.graph.initializer:
        array = _written(c, tensor.name)
        if array is None:
            continue
        as_activation, plain = _as_activation(c, tensor), numpy_helper.to_array(tensor)
        both = any(a.dtype == np.float32 and np.array_equal(a, plain) for a in c.constants.values())
        if both or as_activation is not None:
            read = array if as_activation is None else as_activation
            own.append(numpy_helper.from_array(read, f"{tensor.name}__on its grid"))
            _reread(c, model, tensor.name, own[-1].name)
        if not both:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    model.graph.initializer.extend(own)


def _as_activation(c: Converted, tensor: onnx.TensorProto) -> np.ndarray | None:
    """Return a constant as integer operators read it, where something else is stored for float ones as well."""
    params = c.result.state.encodings.tensors.get(tensor.name)
    array = c.constants.get(c.result.state.quantized.tensors.get(tensor.name, ""))
    if params is None or array is None or array.dtype != params.zero_point.dtype or params.scale.ndim:
        return None
    return _dequantized(array, Grid(np.asarray(params.scale), np.asarray(params.zero_point)), 0)


def _reread(c: Converted, model: ModelProto, name: str, instead: str) -> None:
    for node in model.graph.node:
        entry = c.ledger.get(node.name)
        if entry is not None and entry.fate == "integer":
            for index, read in enumerate(node.input):
                node.input[index] = instead if read == name else read


def _give_weights(c: Converted, model: ModelProto) -> None:
    """Let linear operators read the weights that are written for them; others may read the same constant otherwise."""
    written = c.result.state.quantized.weights
    for (name, index), params in c.result.state.encodings.edges.items():
        node = next((n for n in model.graph.node if n.name == name), None)
        array = c.constants.get(written.get(name, ""))
        if node is None or array is None or index >= len(node.input):
            continue
        grid, own = Grid(np.asarray(params.scale), np.asarray(params.zero_point)), f"{name}__weight of its own"
        read = node.input[index].removesuffix("__on its grid")
        shape = next((t.dims for t in model.graph.initializer if t.name == read), None)
        if shape is not None and tuple(shape) == array.shape:
            real = _dequantized(array, grid, params.axis or 0)
            model.graph.initializer.append(numpy_helper.from_array(real, own))
            node.input[index] = own


def _written(c: Converted, name: str) -> np.ndarray | None:
    """Return the numbers that a constant of the prepared model has in the written one."""
    grid = c.grids.get(name)
    if grid is None:
        return None
    constants, where = c.constants, c.result.state.quantized.tensors.get(name, name)
    for candidate in (where, name):
        array = constants.get(candidate)
        if array is not None and array.dtype == grid.zero_point.dtype:
            return _dequantized(array, grid, c.axes[name])
    array = next(numpy_helper.to_array(t) for t in c.prepared.graph.initializer if t.name == name)
    return np.asarray(on_grid(array, grid, c.axes[name]), np.float32) if array.ndim else array


def _dequantized(q: np.ndarray, grid: Grid, axis: int) -> np.ndarray:
    if grid.scale.ndim > 1:  # by blocks along the axis
        block = np.arange(q.shape[axis]) // -(-q.shape[axis] // grid.scale.shape[axis])
        scale, zero = np.take(grid.scale, block, axis), np.take(grid.zero_point, block, axis).astype(np.int64)
        return ((q.astype(np.int64) - zero) * scale.astype(np.float64)).astype(np.float32)
    along = [-1 if a == axis else 1 for a in range(q.ndim)] if grid.scale.ndim else []
    scale, zero = grid.scale.astype(np.float64).reshape(along), grid.zero_point.astype(np.int64).reshape(along)
    return np.asarray((q.astype(np.int64) - zero) * scale, np.float32)


def _still_fed(model: ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    known = {i.name for i in model.graph.input}
    return {n: x for n, x in feed.items() if n in known}


def _off(found: np.ndarray, near: list[np.ndarray], grid: Grid) -> float:
    """Return how many steps the worst value is beyond all of several, apart from what float32 rounds on its own."""
    if any(found.shape != real.shape for real in near):
        return float("inf")
    scale, (low, high) = float(grid.scale), _ends(grid)
    real = np.clip(np.asarray(near, float), low, high)
    error = np.maximum(real.min(axis=0) - found, found - real.max(axis=0))[~np.isnan(real).any(axis=0)]
    return float((error.max(initial=0.0) - 1e-6 * max(abs(low), abs(high)) - SMALLEST) / scale)


# ---- stored weights --------------------------------------------------------------------------------------------------


def with_stored(c: Converted) -> ModelProto:
    """Return the prepared float model with the numbers that are stored, in bodies too."""
    model, numbers = onnx.ModelProto(), stored_numbers(c)
    model.CopyFrom(c.prepared)
    for part in graphs_of(model.graph):
        for tensor in part.initializer:
            if tensor.name in numbers:
                real = numbers[tensor.name][0]
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(real).reshape(tensor.dims), tensor.name))
    return model


def drifts(expected: np.ndarray, found: np.ndarray) -> bool:
    """Tell whether two float results differ by more than another order of summing up explains."""
    if expected.shape != found.shape:
        return True
    top = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    near = np.isclose(found, expected, rtol=1e-4, atol=1e-4 * max(top, 1e-30), equal_nan=True)
    return bool(near.mean() < 0.98) if near.size else False  # a jump of a function may fall on either side
