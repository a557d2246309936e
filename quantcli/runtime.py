"""The only door to onnxruntime: sessions, what types a model's tensors have, what a constant expression evaluates to.

Sessions are deterministic: sequential execution, no spinning, an explicit number of threads.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: without it, files appear in the home folder
import onnxruntime as ort

from quantcli import custom_ops, graph, serialization, submodel
from quantcli.errors import InputError, ModelError
from quantcli.scratch import Scratch

Array = npt.NDArray[np.generic]
Feed = Mapping[str, Array]

BY_REFERENCE_BYTES: Final = 1 << 16  # larger constants are handed over in memory instead of being serialized
FRUGAL_BYTES: Final = 1 << 29  # of float32 constants, from which on a session must do without copies of its own
_NAMES: Final = (
    "FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"
)  # fmt: skip
_NATIVE: Final = frozenset(ir.DataType[name] for name in _NAMES)
_SIZES: Final = "correct the shapes that the file declares: two tensors have one symbolic size there, but differ in it"
_REFUSED: Final = "see whether onnxruntime loads the float model by itself; if not, export it again"
_BY_REFERENCE_TYPES: Final = _NATIVE | {ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.UINT4}
_COPYING: Final = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")  # optimizations that make constants
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


class Session:
    """A loaded model."""

    def __init__(self, session: ort.InferenceSession, held: Sequence[object] = ()) -> None:
        self._session = session
        self._held = held  # constants handed over by reference must outlive the session
        self.inputs = tuple(_info(i) for i in session.get_inputs())
        self.outputs = tuple(_info(o) for o in session.get_outputs())
        self._names = [o.name for o in self.outputs]
        self._wanted = {i.name for i in self.inputs}
        self._floats = {i.name: i.dtype for i in self.inputs if i.dtype is not None and i.dtype.kind == "f"}

    def run(self, feed: Feed) -> dict[str, Array]:
        """Run one sample; what the model does not read is left out, floats are rounded to the type that it takes."""
        fed = {k: self._fitting(k, v) for k, v in feed.items() if k in self._wanted}
        try:
            results = self._session.run(self._names, fed)
        except Exception as error:
            hint = _SIZES if "attempting to re-use buffer" in str(error) else None
            raise ModelError(f"onnxruntime could not run the model: {one_line(error)}", hint=hint) from error
        return dict(zip(self._names, results, strict=True))

    def end_profiling(self) -> Path:
        """Return where onnxruntime wrote what it ran, if that was asked for."""
        return Path(self._session.end_profiling())

    def _fitting(self, name: str, array: Array) -> Array:
        wanted = self._floats.get(name)
        return array if wanted is None or array.dtype.kind != "f" else array.astype(wanted, copy=False)


def load(
    model: ir.Model, *, threads: int = 1, optimize: bool = True, keep: Path | None = None, outputs: Sequence[str] = ()
) -> Session:
    """Load a model into onnxruntime's CPU provider, with the libraries of custom operators that it carries.

    A session of many float weights keeps no constants of its own: it computes with those that it is given, which may
    be mapped from a file. It neither packs them for its kernels nor evaluates beforehand what follows from them alone.
    Integers are packed as usual: products by MatMulNBits would compute with other activations without.

    Args:
        model: The model.
        threads: Threads within an operator.
        optimize: All of onnxruntime's graph optimizations, or none.
        keep: Where to write the optimized model, for inspection.
        outputs: Tensors to return instead of the model's outputs.

    Raises:
        ModelError: onnxruntime refuses the model; the message is its own, on one line.
        InputError: A library of custom operators is none.
    """
    if outputs:
        model = submodel.with_outputs(model, outputs)
    options = _options(threads, optimize=optimize)
    if keep is not None:
        options.optimized_model_filepath = str(keep)
    return _started(model, options)


def _started(model: ir.Model, options: ort.SessionOptions) -> Session:
    for path in custom_ops.libraries(model):
        _register(options, path)
    frugal, widened = is_large(model), 4 * serialization.elements(model) >= FRUGAL_BYTES
    options.enable_cpu_mem_arena = not widened  # it would keep what one weight after the other was widened into
    if frugal:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        spooled = _spooled(model)
        with serialization.standing_in(spooled):
            parts = serialization.parted(model, BY_REFERENCE_BYTES, _BY_REFERENCE_TYPES, sorted_for_memory=widened)
    except Exception as error:
        raise ModelError(f"the model cannot be serialized: {one_line(error.__cause__ or error)[:200]}") from error
    given = {name: _by_reference(tensor) for name, tensor in parts.given.items()}
    if given:
        options.add_external_initializers(list(given), list(given.values()))
    if parts.folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", parts.folder)
    try:
        session = ort.InferenceSession(
            parts.graph,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(_COPYING) if frugal else [],
        )
    except Exception as error:
        said, hint = custom_ops.missing(model, str(error)) or (one_line(error), _REFUSED)
        raise ModelError(f"onnxruntime does not load the model: {said}", hint=hint) from error
    return Session(session, [options, given, spooled])


def is_large(model: ir.Model) -> bool:
    """Tell whether a session of a model must do without copies of its weights.

    Floats count as float32, to which float16 is widened; integers, packed into as many bytes, do not count.
    """
    return 4 * serialization.floats(model) >= FRUGAL_BYTES


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


def optimized_operators(model: ir.Model, *, threads: int = 1, feed: Feed | None = None) -> Counter[str]:
    """Return how often each operator stands in the model after onnxruntime's optimizations: the truth about fusion.

    Args:
        model: The model.
        threads: Threads within an operator.
        feed: A sample. With one, those operators of a large model are counted that compute it: onnxruntime can write
            its optimized model only where memory holds that twice.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        if feed is not None and (is_large(model) or serialization.constant_bytes(model) >= FRUGAL_BYTES):
            options = _options(threads, optimize=True)
            options.enable_profiling, options.profile_file_prefix = True, str(path)
            return _profiled(_started(model, options), feed)
        load(model, threads=threads, keep=path)
        return Counter(node.op_type for node in ir.load(path).graph.all_nodes())


def _profiled(session: Session, feed: Feed) -> Counter[str]:
    session.run(feed)
    events = json.loads(session.end_profiling().read_text("utf-8"))
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return Counter({(e["args"]["node_index"], e["name"]): e["args"]["op_name"] for e in kernels}.values())


def saturates() -> bool:
    """Tell whether this CPU adds pairs of uint8 x int8 products in 16 bits, and saturates: x86 without VNNI does."""
    weight = ir.Value(name="w", const_value=ir.Tensor(np.full((4, 16), 127, np.int8), name="w"))
    data = ir.Value(name="x", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([1, 4]))
    node = ir.node("MatMulInteger", [data, weight])
    sums = node.outputs[0]
    sums.name, sums.type, sums.shape = "y", ir.TensorType(ir.DataType.INT32), ir.Shape([1, 16])
    made = ir.Graph([data], [sums], nodes=[node], initializers=[weight], opset_imports={"": 21}, name="pairs")
    (found,) = load(ir.Model(made, ir_version=10)).run({"x": np.full((1, 4), 255, np.uint8)}).values()
    return bool((found != 4 * 255 * 127).any())


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


def _register(options: ort.SessionOptions, path: str) -> None:
    try:
        options.register_custom_ops_library(path)
    except Exception as error:
        raise InputError(
            f"{path}: onnxruntime cannot register this library of custom operators: {one_line(error)}",
            hint="--custom-op-lib takes a shared library, built for this platform, that exports RegisterCustomOps",
        ) from error


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


def _spooled(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    """Return, in files, the large constants that are computed whenever they are read."""
    scratch = Scratch()
    return {
        value: scratch.tensor(tensor.numpy(), graph.name_of(value))
        for value, tensor in serialization.constants(model)
        if isinstance(tensor, ir.LazyTensor) and tensor.nbytes >= BY_REFERENCE_BYTES
    }


def _by_reference(tensor: ir.TensorProtocol) -> ort.OrtValue:
    """Return a value that shares the memory of a tensor."""
    if tensor.dtype in _NATIVE:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
    room = np.empty(tuple(tensor.shape.numpy()), np.uint16 if tensor.dtype.itemsize == 2 else np.uint8)
    packed = serialization.raw(tensor)  # of 4 bits, it fills half of what onnxruntime takes for the array's bytes
    room.reshape(-1).view(np.uint8)[: packed.size] = packed
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(room, int(tensor.dtype))
