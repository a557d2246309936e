"""What must hold of every file that a conversion writes. Each law yields what is broken, and the detail of it.

Knows no mode, and nothing of how a conversion is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from conversion import run
from encoded import drifts, steps_off, with_stored
from stored_reference import graphs_of, products

from quantcli import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from conversion import Converted

CLAIM_DB = 0.1
NOTHING = 1e-20  # what is left of a product with zeros


def boundary(c: Converted) -> Iterator[tuple[str, str]]:
    """Names, order, shapes and symbols of inputs and outputs are the user's; types too, unless they are integers."""
    stored = {t.name for t in c.float_model.graph.initializer}
    for kind in ("input", "output"):
        before = [v for v in getattr(c.float_model.graph, kind) if kind == "output" or v.name not in stored]
        after = list(getattr(c.model.graph, kind))
        if [v.name for v in before] != [v.name for v in after]:
            yield f"{kind}s keep their names", f"{[v.name for v in before]} became {[v.name for v in after]}"
            continue
        for a, b in zip(before, after, strict=True):
            if not _keeps(_dims(a), _dims(b)):
                yield f"{kind}s keep their shapes", f"{a.name!r}: {_dims(a)} became {_dims(b)}"
            changed = a.type.tensor_type.elem_type != b.type.tensor_type.elem_type
            if changed and a.name not in c.result.report["io"]:
                yield f"{kind}s keep their types", f"{a.name!r} is another type, and no I/O card says so"


def _keeps(before: list[object] | None, after: list[object] | None) -> bool:
    """Tell whether a shape says all that it said before; what was unknown may have become known."""
    if before is None or after is None:
        return before is None
    return len(before) == len(after) and all(a in (0, b) for a, b in zip(before, after, strict=True))


def _dims(value: onnx.ValueInfoProto) -> list[object] | None:
    tensor = value.type.tensor_type
    return [d.dim_param or d.dim_value for d in tensor.shape.dim] if tensor.HasField("shape") else None


def checker(c: Converted) -> Iterator[tuple[str, str]]:
    """onnx's checker accepts the file."""
    try:
        onnx.checker.check_model(c.model)
    except onnx.checker.ValidationError as error:
        yield "the checker accepts the file", str(error).splitlines()[0]


def accounts(c: Converted) -> Iterator[tuple[str, str]]:
    """Every node of the user's that has a name has an entry, and what stays float has a reason."""
    names = [n.name for n in c.float_model.graph.node if n.name]
    missing = [n for n in names if names.count(n) == 1 and n not in c.ledger]
    if missing:
        yield "every node is in the report", f"not there: {missing}"
    silent = [e for e in c.ledger.values() if e.fate == "float" and not e.reason]
    if silent:
        yield "what stays float has a reason", str(silent[0])


def executions(c: Converted) -> Iterator[tuple[str, str]]:
    """Optimized and plain execution differ by no more than the quantization itself, or two steps."""
    rounds = _rounds_activations(c.model)
    for feed in c.feeds:
        plain, optimized, real = c.run(feed, optimize=False), c.run(feed, optimize=True), run(c.float_model, feed)
        for name, expected in real.items():
            a, b = plain[name], optimized[name]
            if a.shape != expected.shape or b.shape != expected.shape:
                yield "shapes of results are the user's", f"{name!r}: {expected.shape} became {a.shape}, {b.shape}"
            elif expected.dtype.kind == "f":
                if np.isnan(a).any() and not np.isnan(expected).any():
                    yield "no NaN appears", f"{name!r} holds NaN"
                wanted = (2 * _step(c, name, a), 2 * _rms(a, expected), 1e-5 * _top(expected), NOTHING)
                apart, limit = _rms(a, b), max(wanted)
                if apart > limit and not rounds:
                    yield "optimizations change little", f"{name!r}: rms {apart:.3g}, at most {limit:.3g} is rounding"


def _rounds_activations(model: onnx.ModelProto) -> bool:
    """Tell whether there is MatMulNBits when optimized: its activations are int8 then, and no report says by how much.

    Tests of the products know it exactly; what reads them may magnify it.
    """
    return any(_has_blocks(part) for part in graphs_of(model.graph))


def _has_blocks(part: onnx.GraphProto) -> bool:
    weights = {n.output[0] for n in part.node if n.op_type == "DequantizeLinear"}
    return any(n.op_type == "MatMul" and n.input[1] in weights and n.input[0] not in weights for n in part.node)


def _step(c: Converted, name: str, array: np.ndarray) -> float:
    """Return the step of a result, or 1/255 of what it spans where it has none."""
    grid = c.grids.get(name)
    return float(np.max(grid.scale)) if grid is not None else float(np.ptp(_finite(array))) / 255


def declared(c: Converted) -> Iterator[tuple[str, str]]:
    """Sizes that the file declares for its results are those that they have, unless the user's file is wrong."""
    for feed in c.feeds:
        wrong = dict(_unfit(c.float_model, run(c.float_model, feed)))
        for name, detail in _unfit(c.model, c.run(feed)):
            if name not in wrong:
                yield "results have the shapes that are declared", detail


def _unfit(model: onnx.ModelProto, results: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Yield the results that have other sizes than the file declares, and how."""
    dims = {o.name: _dims(o) for o in model.graph.output}
    sizes: dict[object, int] = {}
    for name, array in results.items():
        said = dims[name]
        fits = said is None or (
            len(said) == array.ndim
            and all(
                sizes.setdefault(d, s) == s if isinstance(d, str) else d in (0, s)
                for d, s in zip(said, array.shape, strict=True)
            )
        )
        if not fits:
            yield name, f"{name!r}: {said} declared, {array.shape} computed"


def other_sizes(c: Converted) -> Iterator[tuple[str, str]]:
    """Free dimensions take other sizes than those of the samples, wherever the float model takes them."""
    feed = _resized(c)
    if feed is None:
        return
    try:
        expected = run(c.float_model, feed, optimize=False)
    except Exception:  # noqa: BLE001 - the float model takes none
        return
    for optimize in (False, True):
        try:
            found = c.run(feed, optimize=optimize)
        except Exception as error:  # noqa: BLE001 - that is the complaint
            yield "other sizes run as in float", f"{type(error).__name__}: {str(error)[:400]}"
            return
        for name, array in expected.items():
            if found[name].shape != array.shape:
                yield "other sizes give the shapes of float", f"{name!r}: {array.shape} became {found[name].shape}"
            elif array.dtype.kind == "f" and np.isnan(found[name]).any() and not np.isnan(array).any():
                yield "other sizes give numbers", f"{name!r} holds NaN"


def _resized(c: Converted) -> dict[str, np.ndarray] | None:
    """Return a sample whose free dimensions are longer than in any; None where the model has none."""
    stored = {t.name for t in c.float_model.graph.initializer}
    dims = {i.name: _dims(i) or [] for i in c.float_model.graph.input if i.name not in stored}
    symbols = dict.fromkeys(d for shape in dims.values() for d in shape if isinstance(d, str) and d)
    if not symbols:
        return None
    sizes = {symbol: 5 + i for i, symbol in enumerate(symbols)}
    longer = {n: tuple(sizes.get(d, s) for d, s in zip(dims[n], x.shape, strict=True)) for n, x in c.feeds[0].items()}
    return {n: np.resize(x, longer[n]) for n, x in c.feeds[0].items()}


def claims(c: Converted) -> Iterator[tuple[str, str]]:
    """The report claims no better figure than is measured on the same samples."""
    for name, quality in c.result.report["verification"]["outputs"].items():
        found = metrics.Comparison()
        for feed in c.feeds:
            found = found.add(run(c.float_model, feed)[name], c.run(feed)[name])
        claimed = quality["sqnr_db"]
        claimed = np.inf if claimed is None and found.noise == 0 else -np.inf if claimed is None else claimed
        if claimed > found.sqnr_db + CLAIM_DB:
            yield "the report claims what is measured", f"{name!r}: {claimed} dB claimed, {found.sqnr_db} dB measured"


def encoded(c: Converted) -> Iterator[tuple[str, str]]:
    """Each tensor on a grid is what its operators make of the tensors before it, to within their rounding."""
    if c.result.state.recipe.enabled("bias_correction"):  # then nodes have biases that the user's have not
        return
    for optimize in (False, True):
        for feed in c.feeds:
            off, apart = steps_off(c, feed, optimize=optimize)
            for name, steps in off.items():
                yield f"tensors are within rounding (optimize={optimize})", f"{name!r} is {steps:.3g} steps off"
            for name in () if optimize and _rounds_activations(c.model) else apart:
                yield f"float results follow from the integers (optimize={optimize})", f"{name!r} does not"


def stored(c: Converted) -> Iterator[tuple[str, str]]:
    """A model with smaller weights computes, unoptimized, what the numbers that it stores imply."""
    if c.result.state.quantized.tensors or products(c) or any("LSTM" in n.op_type for n in c.model.graph.node):
        return
    exact = with_stored(c)
    for feed in c.feeds:
        found, expected = c.run(feed, optimize=False), run(exact, feed, optimize=False)
        for name, computed in expected.items():
            array = computed.astype(found[name].dtype)  # the user's type at the boundary; prepared models are float32
            if array.dtype.kind == "f" and drifts(array, found[name]):
                db = metrics.sqnr_db(array, found[name])
                yield "what is stored is what computes", f"{name!r}: {db:.1f} dB"


def _finite(array: np.ndarray) -> np.ndarray:
    known = array[np.isfinite(array)]
    return known if known.size else np.zeros(1)


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    return float(np.sqrt(np.mean(np.square(a[known].astype(float) - b[known])))) if known.any() else 0.0


def _top(array: np.ndarray) -> float:
    return float(np.abs(_finite(array)).max())


LAWS = (boundary, checker, accounts, executions, declared, other_sizes, claims, encoded, stored)
