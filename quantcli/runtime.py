"""The only door to onnxruntime: sessions, what types a model's tensors have, what a constant expression evaluates to.

Sessions are deterministic: sequential execution, no spinning, an explicit number of threads.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: without it, files appear in the home folder
import onnxruntime as ort

from quantcli import graph, submodel
from quantcli.errors import ModelError

Array = npt.NDArray[np.generic]
Feed = Mapping[str, Array]

SLICE_SECONDS: Final = 0.01  # one turn of a model in a race
MOST_ROUNDS: Final = 30
BY_REFERENCE_BYTES: Final = 1 << 16  # larger constants are handed over in memory instead of being serialized
_BY_REFERENCE_TYPES: Final = frozenset(
    {ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT16}
)
_TYPES: Final = {
    "float": np.float32, "double": np.float64, "float16": np.float16, "int8": np.int8, "uint8": np.uint8,
    "int16": np.int16, "uint16": np.uint16, "int32": np.int32, "uint32": np.uint32, "int64": np.int64,
    "uint64": np.uint64, "bool": np.bool_, "string": np.object_,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Type and shape of a tensor as onnxruntime sees them; dtype None is no tensor, shape None is an unknown rank."""

    name: str
    dtype: np.dtype[np.generic] | None
    shape: tuple[int | str | None, ...] | None

    @property
    def is_float32(self) -> bool:
        """Tell whether the tensor holds float32 numbers."""
        return self.dtype == np.float32


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that one run takes, over several rounds."""

    minimum: float
    median: float


class Session:
    """A loaded model."""

    def __init__(self, session: ort.InferenceSession, held: Sequence[object] = ()) -> None:
        self._session = session
        self._held = held  # constants handed over by reference must outlive the session
        self.inputs = tuple(_info(i) for i in session.get_inputs())
        self.outputs = tuple(_info(o) for o in session.get_outputs())
        self._names = [o.name for o in self.outputs]
        self._wanted = {i.name for i in self.inputs}
        self._halves = {i.name for i in self.inputs if i.dtype == np.float16}

    def run(self, feed: Feed) -> dict[str, Array]:
        """Run one sample; what the model does not read is left out, float32 is rounded where it takes float16."""
        fed = {k: v.astype(np.float16) if k in self._halves else v for k, v in feed.items() if k in self._wanted}
        try:
            results = self._session.run(self._names, fed)
        except Exception as error:
            raise ModelError(f"onnxruntime could not run the model: {one_line(error)}") from error
        return dict(zip(self._names, results, strict=True))


def load(
    model: ir.Model, *, threads: int = 1, optimize: bool = True, keep: Path | None = None, outputs: Sequence[str] = ()
) -> Session:
    """Load a model into onnxruntime's CPU provider.

    Args:
        model: The model.
        threads: Threads within an operator.
        optimize: All of onnxruntime's graph optimizations, or none.
        keep: Where to write the optimized model, for inspection.
        outputs: Tensors to return instead of the model's outputs.

    Raises:
        ModelError: onnxruntime refuses the model; the message is its own, on one line.
    """
    if outputs:
        model = submodel.with_outputs(model, outputs)
    options = _options(threads, optimize=optimize)
    if keep is not None:
        options.optimized_model_filepath = str(keep)
    try:
        data, big = _serialized(model)
    except Exception as error:
        raise ModelError(f"the model cannot be serialized: {one_line(error.__cause__ or error)[:200]}") from error
    if big:
        options.add_external_initializers(list(big), list(big.values()))
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"onnxruntime does not load the model: {one_line(error)}") from error
    return Session(session, [options, big])


def describe(model: ir.Model) -> dict[str, TensorInfo]:
    """Return type and shape of every tensor of the main graph, inferred by onnxruntime without running it."""
    names = [n for n, v in graph.named_values(model.graph).items() if v.producer() is not None]
    tapped = submodel.with_outputs(model, names) if names else model
    for value in tapped.graph.outputs if names else ():
        value.shape = None  # what the file declares may be wrong; onnxruntime infers it anew
    session = load(tapped, optimize=False)
    found = {i.name: i for i in (*session.inputs, *session.outputs)}
    for name, value in model.graph.initializers.items():
        array = graph.constant(value)
        if array is not None:
            found[name] = TensorInfo(name, array.dtype, array.shape)
    return found


def annotate(model: ir.Model) -> dict[str, TensorInfo]:
    """Write onto every tensor of the main graph the type and shape that onnxruntime infers; return them."""
    infos = describe(model)
    known = {n: t for n, i in infos.items() if (t := _type_and_shape(i)) is not None}
    graph.annotate(model, known)
    return infos


def _type_and_shape(info: TensorInfo) -> ir.TypeAndShape | None:
    if info.dtype is None or info.dtype.kind == "O":
        return None
    shape = ir.Shape(info.shape) if info.shape else None
    return ir.TypeAndShape(ir.TensorType(ir.DataType.from_numpy(info.dtype)), shape)


def evaluate(model: ir.Model, feed: Feed | None = None) -> dict[str, Array]:
    """Run a small model once, unoptimized, and return its outputs."""
    return load(model, optimize=False).run(feed or {})


def race(sessions: Mapping[str, Session], feeds: Mapping[str, Feed], *, seconds: float = 2.0) -> dict[str, Latency]:
    """Measure several models in turns, so that what slows the machine down slows all of them.

    Args:
        sessions: The models.
        feeds: What each is fed with.
        seconds: About as long for all; at least three rounds.
    """
    costs = {name: min(_seconds(sessions[name], feeds[name], 1) for _ in range(2)) for name in sessions}
    repeats = {name: max(1, round(SLICE_SECONDS / max(cost, 1e-6))) for name, cost in costs.items()}
    rounds = max(3, int(seconds / sum(costs[name] * repeats[name] for name in sessions)))
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(min(rounds, MOST_ROUNDS)):
        for name, session in sessions.items():
            taken[name].append(_seconds(session, feeds[name], repeats[name]))
    return {name: Latency(min(times), float(np.median(times))) for name, times in taken.items()}


def _seconds(session: Session, feed: Feed, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        session.run(feed)
    return (time.perf_counter() - began) / repeats


def optimized_operators(model: ir.Model, *, threads: int = 1) -> Counter[str]:
    """Return how often each operator stands in the model after onnxruntime's optimizations: the truth about fusion."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        load(model, threads=threads, keep=path)
        return Counter(node.op_type for node in ir.load(path).graph.all_nodes())


def usable_threads() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version() -> str:
    """Return onnxruntime's version."""
    return str(ort.__version__)


def one_line(error: BaseException) -> str:
    """Return the message of an onnxruntime error without its code prefix, source path and line breaks."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", text)
    text = re.sub(r"/\S+\.(?:cc|h):\d+ ?", "", text)
    return text[:400]


def _options(threads: int, *, optimize: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimize else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.enable_mem_pattern = False  # shapes may change from sample to sample
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _info(arg: ort.NodeArg) -> TensorInfo:
    match = re.fullmatch(r"tensor\((\w+)\)", arg.type)
    if match is None or match[1] not in _TYPES:
        return TensorInfo(arg.name, None, None)
    # a rank that was never inferred arrives as an empty shape, which a scalar has too
    return TensorInfo(arg.name, np.dtype(_TYPES[match[1]]), tuple(arg.shape))


def _serialized(model: ir.Model) -> tuple[bytes, dict[str, ort.OrtValue]]:
    big = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and (value.const_value.nbytes >= BY_REFERENCE_BYTES or isinstance(value.const_value, ir.ExternalTensor))
        and not value.is_graph_input()
        and not value.is_graph_output()
        and value.const_value.dtype in _BY_REFERENCE_TYPES
    }
    others = {v: t for v, t in graph.external_constants(model) if v.name not in big or v.graph is not model.graph}
    stand_ins: dict[ir.Value, ir.TensorProtocol] = {v: ir.Tensor(t.numpy(), name=v.name) for v, t in others.items()}
    stand_ins |= {model.graph.initializers[name]: _placeholder(name, tensor) for name, tensor in big.items()}
    with _standing_in(stand_ins):
        data = ir.to_proto(model).SerializeToString()
    return data, {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(t.numpy())) for name, t in big.items()}


def _placeholder(name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("in-memory", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)


@contextmanager
def _standing_in(stand_ins: Mapping[ir.Value, ir.TensorProtocol]) -> Iterator[None]:
    """Give constants other tensors for as long as the model is serialized."""
    kept = {value: value.const_value for value in stand_ins}
    for value, tensor in stand_ins.items():
        value.const_value = tensor
    try:
        yield
    finally:
        for value, old in kept.items():
            value.const_value = old
