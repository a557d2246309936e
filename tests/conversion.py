"""What the tests do with a model: convert it, run it, look at what was written, say what its encodings imply."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import models
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from integer_reference import F32, Grid, dequantize_linear, quantize_linear
from onnx import helper, numpy_helper

from quantcli import api, graph, modes, planner, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from onnx import ModelProto

    from quantcli.plan import Plan, Unit
    from quantcli.report import Entry

    Array = npt.NDArray[np.generic]
    Feed = Mapping[str, Array]

NEAREST = ("passes.equalize=off", "passes.gptq=off", "passes.bias_correction=off")  # weights to nearest integers
FORMATS = ("qdq", "integer")
INTEGER_BOUNDARY = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16)


@dataclass(frozen=True)
class Converted:
    """A converted model."""

    result: api.Result
    float_model: ModelProto
    model: ModelProto
    feeds: Sequence[Feed]
    _sessions: dict[bool, ort.InferenceSession] = field(default_factory=dict)

    @property
    def ledger(self) -> Mapping[str, Entry]:
        return self.result.state.report.ledger

    @property
    def prepared(self) -> ModelProto:
        """The float model that was quantized: simplified, folded, canonicalized."""
        return ir.to_proto(self.result.state.model)

    @property
    def grids(self) -> dict[str, Grid]:
        """Scale and zero point of every tensor, as the encodings file says them."""
        return {e["name"]: _grid(e) for e in self.result.encodings["encodings"]}

    @property
    def axes(self) -> dict[str, int]:
        return {e["name"]: e.get("axis", 0) for e in self.result.encodings["encodings"]}

    @property
    def constants(self) -> dict[str, Array]:
        return {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}

    def fates(self, *op_types: str) -> set[str]:
        return {e.fate for e in self.ledger.values() if not op_types or e.op_type in op_types}

    def floats(self) -> dict[str, str]:
        """The nodes that stay float, with their reasons."""
        return {n: e.reason for n, e in self.ledger.items() if e.fate == "float"}

    def nodes(self, op_type: str) -> list[onnx.NodeProto]:
        return [n for n in self.model.graph.node if n.op_type == op_type]

    def run(self, feed: Feed, *, optimize: bool = True) -> dict[str, Array]:
        """Run with float feeds and results, whatever types the boundary has."""
        grids = self.grids
        kinds = {i.name: i.type.tensor_type.elem_type for i in (*self.model.graph.input, *self.model.graph.output)}
        integer = {n for n, t in kinds.items() if t in INTEGER_BOUNDARY}
        fed = {n for n, x in feed.items() if n in integer and x.dtype.kind == "f"}
        integers = {n: np.asarray(quantize_linear(x.astype(F32), grids[n])) if n in fed else x for n, x in feed.items()}
        if optimize not in self._sessions:
            self._sessions[optimize] = session(self.model, optimize=optimize)
        results = run_session(self._sessions[optimize], integers)
        integer &= grids.keys()
        return {n: dequantize_linear(x, grids[n]) if n in integer else x for n, x in results.items()}


@dataclass(frozen=True)
class Bench:
    """A folder in which models are converted."""

    folder: Path

    def convert(
        self,
        model: ModelProto,
        mode: str = "int8-only",
        *settings: str,
        feeds: Sequence[Feed] | Callable | None = None,
        nearest: bool = True,
        **options: object,
    ) -> Converted:
        """Convert on a dozen samples and one thread, without rounding optimisation unless ``nearest`` is False."""
        source, target = self.folder / "float.onnx", self.folder / "quantized.onnx"
        onnx.save(model, source)
        data = models.samples(model) if feeds is None else feeds
        plain = [s for s in NEAREST if modes.resolve(mode).enabled(s[len("passes.") : -len("=off")])]
        asked = api.Options(settings=(*(plain if nearest else ()), *settings), threads=1, **options)
        result = api.convert(source, mode=mode, representative_dataset=data, output=target, options=asked)
        return Converted(result, model, onnx.load(target), data if isinstance(data, list) else [])

    def as_format(self, model: ModelProto, output_format: str, *settings: str, **options: object) -> Converted:
        """Convert to ``qdq`` with a float boundary, or to ``integer`` with an int8 one; float operators are allowed."""
        if output_format == "qdq":
            return self.convert(model, "full-integer", *settings, **options)
        return self.convert(model, "int8-only", "fallback=float", *settings, **options)


def planned(model: ModelProto, mode: str = "int8-only", *settings: str, kept: Mapping[str, str] | None = None) -> Plan:
    """Return the plan for a model as it stands, not prepared; ``kept`` are nodes that stay float, with reasons."""
    made = ir.from_proto(model)
    graph.name_everything(made)
    return planner.make_plan(made, runtime.annotate(made), modes.resolve(mode, None, settings), kept or {})


def units(plan: Plan) -> dict[str, Unit]:
    return {u.node: u for u in plan.units}


# ---- running ---------------------------------------------------------------------------------------------------------


def session(model: ModelProto, *, optimize: bool = True, keep: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if keep is not None:
        options.optimized_model_filepath = str(keep)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(
    model: ModelProto, feed: Feed, *, optimize: bool = True, outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Run a model; ``outputs`` are tensors to return instead of its own."""
    if outputs is not None:
        model = with_outputs(model, outputs)
    return run_session(session(model, optimize=optimize), feed)


def run_session(loaded: ort.InferenceSession, feed: Feed) -> dict[str, Array]:
    names = [o.name for o in loaded.get_outputs()]
    return dict(zip(names, loaded.run(names, dict(feed)), strict=True))


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return a copy with other outputs; the runtime infers their types."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {o.name: o for o in model.graph.output}
    del copy.graph.output[:]
    copy.graph.output.extend(known.get(n) or helper.make_empty_tensor_value_info(n) for n in names)
    return copy


def tensor_types(model: ModelProto) -> dict[str, str]:
    """Return the type that the runtime gives to everything that flows: graph inputs and results of operators."""
    computed = [o for n in model.graph.node for o in n.output if o]
    loaded = session(with_outputs(model, computed), optimize=False)
    return {a.name: a.type for a in (*loaded.get_inputs(), *loaded.get_outputs())}


def float_tensors(model: ModelProto) -> set[str]:
    return {name for name, kind in tensor_types(model).items() if kind in ("tensor(float)", "tensor(double)")}


def optimized(model: ModelProto, folder: Path) -> ModelProto:
    """Return the model that the runtime makes of another by all its optimizations."""
    path = folder / "optimized.onnx"
    session(model, keep=path)
    return onnx.load(path)


def computed_in_float(model: ModelProto) -> list[str]:
    """Return the operators whose result is float32, but for those that only change between real and integer numbers."""
    real = float_tensors(model)
    between = ("DequantizeLinear", "QuantizeLinear")
    return [n.op_type for n in model.graph.node if n.op_type not in between and any(o in real for o in n.output)]


# ---- what encodings imply --------------------------------------------------------------------------------------------


def implied(converted: Converted, feeds: Sequence[Feed]) -> list[dict[str, tuple[Array, float]]]:
    """Return, for each feed, the outputs that the encodings imply, before their own rounding, with their steps.

    It is the prepared float model, with every weight on its grid, and every tensor that has an encoding rounded to it.
    The step of an output without encoding is 0.
    """
    model, grids = converted.prepared, converted.grids
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if tensor.name in grids:
            rounded = on_grid(numpy_helper.to_array(tensor), grids[tensor.name], converted.axes[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    constants = {t.name for t in model.graph.initializer}
    raw = {name: _round_tensor(model, name, grids[name]) for name in grids if name not in constants}
    wanted = {o.name: raw.get(o.name) or o.name for o in converted.model.graph.output}
    loaded = session(with_outputs(model, list(dict.fromkeys(wanted.values()))), optimize=False)
    results = [run_session(loaded, feed) for feed in feeds]
    return [{name: _within(result[source], grids.get(name)) for name, source in wanted.items()} for result in results]


def _within(real: Array, grid: Grid | None) -> tuple[Array, float]:
    if grid is None:
        return real, 0.0
    limits = np.iinfo(grid.zero_point.dtype)
    low, high = ((q - int(grid.zero_point)) * float(grid.scale) for q in (limits.min, limits.max))
    return np.clip(real, low, high), float(grid.scale)


def on_grid(real: Array, grid: Grid, axis: int) -> Array:
    """Return real numbers rounded to a grid; int32 grids hold more digits than float32 has."""
    if grid.zero_point.dtype == np.int32:
        steps = np.rint(real.astype(np.float64) / grid.scale.astype(np.float64))
        return (steps * grid.scale.astype(np.float64)).astype(F32)
    return dequantize_linear(quantize_linear(real.astype(F32), grid, axis=axis), grid, axis=axis)


def _round_tensor(model: ModelProto, name: str, grid: Grid) -> str:
    """Let every reader of a tensor read it rounded to its grid; return the name of what it was before."""
    makers = [n for n in model.graph.node if name in n.output]
    is_input = any(i.name == name for i in model.graph.input)
    if not makers and not is_input:
        return ""
    parts = {part: f"{name}__{part}" for part in ("raw", "scale", "zero", "integer", "rounded")}
    rounded = parts["rounded"] if is_input else name
    for node in model.graph.node:
        for index, value in enumerate(node.input):
            if is_input and value == name:
                node.input[index] = rounded
        for index, value in enumerate(node.output):
            if value == name:
                node.output[index] = parts["raw"]
    model.graph.initializer.extend([
        models.initializer(parts["scale"], grid.scale), models.initializer(parts["zero"], grid.zero_point)
    ])  # fmt: skip
    source = name if is_input else parts["raw"]
    grid_names = [parts["scale"], parts["zero"]]
    added = [
        helper.make_node("QuantizeLinear", [source, *grid_names], [parts["integer"]]),
        helper.make_node("DequantizeLinear", [parts["integer"], *grid_names], [rounded]),
    ]
    place = 0 if is_input else list(model.graph.node).index(makers[0]) + 1
    nodes = [*model.graph.node[:place], *added, *model.graph.node[place:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return source


def _grid(entry: Mapping[str, object]) -> Grid:
    return Grid(np.asarray(entry["y_scale"], F32), np.asarray(entry["y_zero_point"], entry["output_dtype"]))


def documents(folder: Path) -> dict[str, dict]:
    """Return the documents beside ``quantized.onnx``."""
    return {kind: json.loads((folder / f"quantized.{kind}.json").read_text()) for kind in ("encodings", "report")}
