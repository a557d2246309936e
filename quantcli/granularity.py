"""Compares granularities of weights: how much of each linear operator and of the model's outputs each of them keeps.

Weights are rounded by what stores them in a conversion, and put back in float: nothing but the weights differs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx_ir as ir
from threadpoolctl import threadpool_limits

from quantcli import affine, execution, graph, jobs, modes, plugins, runtime
from quantcli.errors import InternalError
from quantcli.lowering.stored_graph import Rounding
from quantcli.metrics import Comparison
from quantcli.options import Options, resolved
from quantcli.quant import PerAxis, PerBlock, PerTensor
from quantcli.recipe import TensorScheme
from quantcli.storage import Wish
from quantcli.storing import plan_storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from quantcli.applicability import Infos
    from quantcli.jobs import DataSource
    from quantcli.plan import StoredWeight
    from quantcli.state import State

    Real = npt.NDArray[np.floating]

SAMPLES: Final = 16
BITS: Final = (8, 4)
_PREPARES: Final = "dynamic-range"  # a mode that takes any model, with or without data
_AFTER: Final = "quantize_bodies"  # the first of its passes that quantizes
_KINDS: Final = {"per-tensor": PerTensor, "per-channel": PerAxis, "per-block": PerBlock}


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to quantize weights; ``block`` is 0 unless they have a scale per block."""

    bits: int
    granularity: str
    block: int = 0

    @property
    def name(self) -> str:
        """What it is called, without the bits."""
        return f"{self.granularity} {self.block}" if self.block else self.granularity

    @property
    def scheme(self) -> TensorScheme:
        """What a recipe says for it."""
        narrow, block = not self.block, self.block or TensorScheme().block_size
        return TensorScheme(f"int{self.bits}", symmetric=True, granularity=self.granularity, narrow_range=narrow,
                            block_size=block)  # fmt: skip


SETTINGS: Final = tuple(
    Setting(bits, kind, block)
    for bits in BITS
    for kind, block in (("per-tensor", 0), ("per-channel", 0), ("per-block", 32), ("per-block", 64), ("per-block", 128))
)


@dataclass(frozen=True, slots=True)
class Loss:
    """What one setting loses of an operator or of the whole model.

    Attributes:
        mse: Mean squared error of the weights.
        weight_sqnr_db: Signal to noise of the weights.
        output_sqnr_db: Signal to noise of the result: of the operator alone, or of the model's worst output with all
            weights quantized. NaN where there is none.
    """

    mse: float
    weight_sqnr_db: float
    output_sqnr_db: float


@dataclass(frozen=True, slots=True)
class Operator:
    """A linear operator and what each setting loses of it, None where no such weight is ever written."""

    node: str
    op_type: str
    shape: tuple[int, ...]
    losses: Mapping[Setting, Loss | None]


@dataclass(frozen=True, slots=True)
class Granularities:
    """The comparison.

    Attributes:
        operators: In topological order.
        model: What each setting loses of all weights together.
        outputs: SQNR of each float output of the model, by setting.
        samples: How many were run.
        real: Whether they are the user's.
    """

    operators: tuple[Operator, ...]
    model: Mapping[Setting, Loss]
    outputs: Mapping[str, Mapping[Setting, float]]
    samples: int
    real: bool


def compare(
    model: str | Path | None = None,
    *,
    representative_dataset: DataSource | None = None,
    samples: int = SAMPLES,
    options: Options | None = None,
) -> Granularities:
    """Compare all settings on a model.

    Args:
        model: The float model; None is the bundled sample.
        representative_dataset: As ``convert`` takes it; None for random samples.
        samples: At most this many are run.
        options: Threads, and libraries of custom operators.

    Raises:
        QuantError: The model or the data are wrong.
    """
    sample, source = modes.sample_folder(), representative_dataset
    if model is None and source is None:
        source = sample / "dataset.yaml"
    path = Path(model) if model is not None else sample / "digits.onnx"
    with threadpool_limits(1, user_api="blas"):  # as for conversions: the same numbers everywhere
        return _compared(prepared(path, source, options or Options()), samples)


def _compared(state: State, samples: int) -> Granularities:
    if state.data is None:
        raise InternalError(f"mode {_PREPARES!r} began without samples")
    runs = _Runs(state, state.data.take(samples))
    infos = runtime.describe(state.model)
    found = {s: _Rounded.of(state.model, infos, s) for s in SETTINGS}
    measured = {s: runs.measured(r) for s, r in found.items()}
    nodes = {graph.node_name(n): n for n in state.model.graph}
    operators = tuple(
        Operator(
            name,
            graph.describe_op(node),
            found[SETTINGS[0]].shape_of(name),
            {s: _loss(found[s], name, measured[s][0]) for s in SETTINGS},
        )
        for name, node in nodes.items()
        if name in found[SETTINGS[0]].by_node
    )
    outputs = {o: {s: measured[s][1][o].sqnr_db for s in SETTINGS} for o in runs.floats}
    total = {s: _total(found[s], measured[s][1]) for s in SETTINGS}
    return Granularities(operators, total, outputs, len(runs.data), not state.data.synthetic)


def prepared(model: Path, source: DataSource | None, asked: Options) -> State:
    """Return the float model as every mode prepares it, with samples."""
    recipe = resolved(_PREPARES, Options())
    job = jobs.Job(model, model, source)
    state = jobs.begun(job, jobs.loaded(job, replace(asked, dry_run=True)), recipe, replace(asked, cache=False))
    steps = list(takewhile(lambda p: p.name != _AFTER, plugins.passes_of(recipe)))
    state = execution.passed(state, steps, ())
    annotated = state.model.clone()
    runtime.annotate(annotated)
    return replace(state, model=annotated)


@dataclass(frozen=True, slots=True)
class _Rounded:
    """The weights of a model as one setting rounds them: by node, input index -> (stored, real, rounded)."""

    setting: Setting
    by_node: Mapping[str, Mapping[int, tuple[StoredWeight, Real, Real]]]

    @classmethod
    def of(cls, model: ir.Model, infos: Infos, setting: Setting) -> _Rounded:
        by_node: dict[str, dict[int, tuple[StoredWeight, Real, Real]]] = defaultdict(dict)
        by_channel = {w.name: w for w in _planned(model, infos, Setting(setting.bits, "per-channel"))}
        for planned in _planned(model, infos, setting):
            weight = planned if _as_asked(planned, setting) else by_channel[planned.name]
            real = None if weight.scope else graph.real_constant(model.graph.initializers[weight.name])
            if real is not None:
                rounded = affine.dequantize(*Rounding()(real, weight))
                for use in weight.uses:
                    by_node[use.node][use.index] = (weight, real, rounded)
        return cls(setting, by_node)

    def shape_of(self, node: str) -> tuple[int, ...]:
        """Return the shape of the largest weight."""
        return max((real.shape for _, real, _ in self.by_node[node].values()), key=lambda s: (len(s), s))

    def as_asked(self, node: str) -> bool:
        """Tell whether the weights are stored as the setting says, not by channel because of what reads them."""
        return all(_as_asked(weight, self.setting) for weight, _, _ in self.by_node[node].values())

    def comparison(self, nodes: Sequence[str]) -> Comparison:
        """Return the comparison of the weights of some nodes, each once."""
        found = {w.name: (real, rounded) for n in nodes for w, real, rounded in self.by_node[n].values()}
        total = Comparison()
        for real, rounded in found.values():
            total = total.add(real, rounded)
        return total


def _planned(model: ir.Model, infos: Infos, setting: Setting) -> tuple[StoredWeight, ...]:
    return plan_storage(model, infos, Wish(setting.scheme, dynamic=False, fused=False, smallest=1), {})[0].stored


def _as_asked(weight: StoredWeight, setting: Setting) -> bool:
    return isinstance(weight.spec.granularity, _KINDS[setting.granularity]) and weight.spec.dtype.bits == setting.bits


class _Runs:
    """The float model on samples, beside models whose weights are rounded."""

    def __init__(self, state: State, data: Iterable[runtime.Feed]) -> None:
        self.data, self._state = list(data), state
        session = runtime.load(state.model, threads=state.threads)
        self.floats = tuple(o.name for o in session.outputs if o.is_float32)
        self._expected = [session.run(feed) for feed in self.data]

    def measured(self, rounded: _Rounded) -> tuple[dict[str, Comparison], dict[str, Comparison]]:
        """Return the comparisons of each operator by itself, and of the model's outputs with all weights rounded."""
        return self._alone(rounded), self._together(rounded)

    def _together(self, rounded: _Rounded) -> dict[str, Comparison]:
        model = self._state.model.clone()
        for weights in rounded.by_node.values():
            for weight, _, array in weights.values():
                graph.set_initializer(model.graph.initializers[weight.name], array)
        session = runtime.load(model, threads=self._state.threads)
        total = dict.fromkeys(self.floats, Comparison())
        for feed, expected in zip(self.data, self._expected, strict=True):
            found = session.run(feed)
            total = {name: c.add(expected[name], found[name]) for name, c in total.items()}
        return total

    def _alone(self, rounded: _Rounded) -> dict[str, Comparison]:
        """Run each operator twice on the float inputs: as it is, and beside that with its weights rounded."""
        model = self._state.model.clone()
        names, pairs = graph.Names(model), dict[str, tuple[str, str]]()
        for node in [n for n in model.graph if graph.node_name(n) in rounded.by_node]:
            twin = _twin(model, node, rounded.by_node[graph.node_name(node)], names)
            made = next((i for i, v in enumerate(node.outputs) if v.name), None)
            if made is not None:
                pairs[graph.node_name(node)] = (graph.name_of(node.outputs[made]), graph.name_of(twin.outputs[made]))
        total = dict.fromkeys(pairs, Comparison())
        if not pairs:
            return total
        wanted = list(dict.fromkeys(name for pair in pairs.values() for name in pair))
        session = runtime.load(model, threads=self._state.threads, outputs=wanted)
        for feed in self.data:
            found = session.run(feed)
            total = {n: total[n].add(found[a], found[b]) for n, (a, b) in pairs.items()}
        return total


def _twin(
    model: ir.Model, node: ir.Node, weights: Mapping[int, tuple[StoredWeight, Real, Real]], names: graph.Names
) -> ir.Node:
    """Put beside a node another one that differs in its weights."""
    inputs = list(node.inputs)
    for index, (weight, _, array) in weights.items():
        inputs[index] = graph.add_initializer(model.graph, names.new(f"{weight.name}_rounded"), array)
    outputs = [ir.Value(name=names.new(f"{v.name}_rounded") if v.name else "", type=v.type) for v in node.outputs]
    twin = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs, version=node.version)
    model.graph.insert_after(node, twin)
    return twin


def _loss(rounded: _Rounded, node: str, alone: Mapping[str, Comparison]) -> Loss | None:
    if not rounded.as_asked(node):
        return None
    weights = rounded.comparison([node])
    return Loss(weights.mse, weights.sqnr_db, alone[node].sqnr_db if node in alone else float("nan"))


def _total(rounded: _Rounded, outputs: Mapping[str, Comparison]) -> Loss:
    weights = rounded.comparison(list(rounded.by_node))
    worst = min((c.sqnr_db for c in outputs.values()), default=float("nan"))
    return Loss(weights.mse, weights.sqnr_db, worst)
