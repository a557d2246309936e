"""Loads and runs the quantized model, and compares it with the user's float model, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import affine, feeding, graph, portability, runtime
from quantcli.consistency import check_consistency
from quantcli.errors import InternalError, ModelError
from quantcli.metrics import Comparison
from quantcli.report import OutputQuality, Verification

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.data import Feed
    from quantcli.state import Quantized, State, Tick

    Arrays = Mapping[str, npt.NDArray[np.generic]]

# Optimized and plain execution round at different places: an integer kernel rounds once where Q, operator, DQ in float
# round elsewhere. Each tie that falls the other way is one step, and later layers carry it on.
MOST_STEPS: Final = 2.0  # rms difference of a tensor, in its own quantization steps
COARSE_DB: Final = 20.0  # an output whose step alone costs this much is worth a warning


@dataclass(frozen=True, slots=True)
class Verify:
    """Verifies on real samples.

    Attributes:
        samples: Compared with the float model, optimized.
        plain_samples: Compared with the same quantized model without onnxruntime's optimizations.
    """

    samples: int = 20
    plain_samples: int = 3
    whole_model: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "samples"})
    gives: ClassVar[frozenset[str]] = frozenset({"verified"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Verify the quantized model; raise where it does not load or its two executions disagree."""
        quantized = state.quantized
        if quantized is None or state.data is None:
            return state
        check_consistency(quantized, state.plan, state.encodings)
        products = portability.products(quantized, state.plan)
        if state.recipe.portable:
            portability.check_portable(products)
        few = list(state.data.take(self.plain_samples))
        # One session after the other: each may hold all weights once more.
        plain = _results(_loaded(state, quantized, optimize=False), few, quantized)
        optimized = _loaded(state, quantized)
        steps = _difference(_results(optimized, few, quantized), plain, quantized)
        if steps > MOST_STEPS:  # a float Softmax may magnify one step; what counts is where integers drift apart
            _refuse_drift(state, quantized)
        data = state.data.take(self.samples)
        texts: dict[str, list[bool]] = {}
        qualities = _qualities(state, optimized, data, texts, tick)
        del optimized
        some = feeding.to_integers(next(iter(data)), quantized.boundary)
        kernels = runtime.optimized_operators(quantized.model, feed=some)
        verification = Verification(len(data), qualities, steps, dict(sorted(kernels.items())))
        report = replace(state.report, verification=verification, products=products)
        said = portability.said(products)
        here = said if said and runtime.saturates() else ()
        warnings = (*_coarse(state, qualities), *_differing(texts), *(f"this CPU has none: {w}" for w in here))
        return replace(state, report=report).noted(
            warnings=warnings, notes=(*_mapped(state.model), *(() if here else said))
        )


def _qualities(
    state: State, session: runtime.Session, data: Iterable[Feed], texts: dict[str, list[bool]], tick: Tick
) -> dict[str, OutputQuality]:
    """Compare the float outputs; enter into ``texts``, sample by sample, whether those that hold strings are equal."""
    quantized = state.quantized
    boundary = quantized.boundary if quantized else {}
    reference = runtime.load(state.reference, threads=state.threads)
    floats = [o.name for o in reference.outputs if o.dtype is not None and o.dtype.kind == "f"]
    texts.update({o.name: [] for o in reference.outputs if o.dtype is not None and o.dtype.kind == "O"})
    sums = dict.fromkeys(floats, Comparison())
    agreed: dict[str, list[bool]] = {n: [] for n in floats}
    feeds = list(data) if not hasattr(data, "__len__") else data
    for done, feed in enumerate(feeds, 1):
        expected = reference.run(feed)
        found = feeding.to_floats(session.run(feeding.to_integers(feed, boundary)), boundary)
        for name in floats:
            sums[name] = sums[name].add(expected[name], found[name])
            agreed[name] += _same_class(expected[name], found[name])
        for name, equal in texts.items():
            equal.append(np.array_equal(expected[name], found[name]))
        tick(done, len(feeds))  # type: ignore[arg-type]
    return {
        n: OutputQuality(c.sqnr_db, c.cosine, c.largest, float(np.mean(agreed[n])) if agreed[n] else None)
        for n, c in sums.items()
    }


def _differing(texts: Mapping[str, list[bool]]) -> list[str]:
    return [
        f"output {name!r}: its text is that of the float model on {sum(equal)} of {len(equal)} samples only"
        for name, equal in texts.items()
        if not all(equal)
    ]


def _same_class(expected: npt.NDArray[np.generic], found: npt.NDArray[np.generic]) -> list[bool]:
    """Compare the winners of each row where the output is one vector of scores per sample."""
    if expected.ndim < 2 or expected.shape != found.shape:
        return []
    classes = max(expected.shape[1:])
    if classes < 2 or int(np.prod(expected.shape[1:])) != classes:
        return []
    rows = (a.reshape(-1, classes).argmax(axis=1) for a in (expected, found))
    first, second = rows
    return [bool(a == b) for a, b in zip(first, second, strict=True)]


def _mapped(model: ir.Model) -> tuple[str, ...]:
    if not runtime.is_large(model):
        return ()
    return ("the model is large: onnxruntime was run on weights in files, without packing or widening them beforehand",)


def _loaded(state: State, quantized: Quantized, *, optimize: bool = True) -> runtime.Session:
    try:
        return runtime.load(quantized.model, threads=state.threads, optimize=optimize)
    except ModelError as error:
        raise InternalError(f"the quantized model does not load: {error.message}") from error


def _results(session: runtime.Session, feeds: Iterable[Feed], quantized: Quantized) -> list[Arrays]:
    given = (feeding.to_integers(feed, quantized.boundary) for feed in feeds)
    return [feeding.to_floats(session.run(integers), quantized.boundary) for integers in given]


def _difference(optimized: Iterable[Arrays], plain: Iterable[Arrays], quantized: Quantized) -> float:
    """Return the largest rms difference between both executions over the outputs, in quantization steps."""
    squares: dict[str, list[float]] = {}
    for a, b in zip(optimized, plain, strict=True):
        for name, x in a.items():
            if x.dtype.kind == "f" and x.size:
                step = _step(name, quantized, x)
                known = np.isfinite(x) & np.isfinite(b[name])
                error = (x[known].astype(np.float64) - b[name][known].astype(np.float64)) / step
                squares.setdefault(name, []).append(float(np.mean(np.square(error))) if error.size else 0.0)
    return max((float(np.sqrt(np.mean(v))) for v in squares.values()), default=0.0)


def _step(name: str, quantized: Quantized, values: npt.NDArray[np.generic]) -> float:
    """Return the output's quantization step; for an output that float operators make, 1/255 of what it spans."""
    params = quantized.params.get(name)
    if params is not None:
        return float(np.max(params.scale))  # a weight that is an output too has one for each channel
    span = float(values.max()) - float(values.min())
    return span / 255 if np.isfinite(span) and span > 0 else 1.0


def _refuse_drift(state: State, quantized: Quantized) -> None:
    """Raise for the first integer tensor on which both executions differ by more than rounding, and name it.

    Rounding that later layers magnify is no fault: a difference counts where it is also larger than the error against
    the float model.
    """
    values = graph.named_values(quantized.model.graph)
    floats = graph.named_values(state.model.graph)
    users = {n: u for u, n in quantized.tensors.items() if values[n].producer() is not None and u in floats}
    if not users:
        return
    feed = next(iter(state.data or ()))
    sessions = [
        runtime.load(quantized.model, threads=state.threads, optimize=o, outputs=list(users)) for o in (True, False)
    ]
    optimized, plain = (s.run(feeding.to_integers(feed, quantized.boundary)) for s in sessions)
    computed = [u for u in users.values() if floats[u].producer() is not None]
    real = {**feed, **runtime.load(state.model, threads=state.threads, outputs=computed).run(feed)}
    for name, user in users.items():
        drift = _rms(optimized[name].astype(np.int64) - plain[name].astype(np.int64))
        params = state.encodings.tensors[user]
        error = _rms((affine.dequantize(plain[name], params) - real[user]) / params.scale)  # type: ignore[arg-type]
        if drift > MOST_STEPS and drift > error:
            raise InternalError(
                f"onnxruntime computes tensor {user!r} differently with and without optimizations: "
                f"{drift:.1f} steps on average",
                hint=f"keep its operator float: --float tensor:{user}",
            )


def _rms(values: npt.NDArray[np.generic]) -> float:
    known = values[np.isfinite(values)].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(known)))) if known.size else 0.0


def _coarse(state: State, qualities: Mapping[str, OutputQuality]) -> list[str]:
    found = []
    for name, quality in qualities.items():
        if quality.sqnr_db >= COARSE_DB:
            continue
        params = state.quantized.params.get(name) if state.quantized else None
        low, high = state.report.ranges.get(name, (0.0, 0.0))
        if params is not None:
            found.append(
                f"output {name!r}: {params.spec.dtype.bits} bits are coarse for it "
                f"(step {float(np.max(params.scale)):g} over {low:g}..{high:g}, "
                f"{quality.sqnr_db:.1f} dB); --output-type float32 with --float tensor:{name} keeps it exact"
            )
        else:
            found.append(
                f"output {name!r} has lost its signal: {quality.sqnr_db:.1f} dB against float; try more samples, or "
                "keep the operators before it float (--float PATTERN)"
            )
    return found
