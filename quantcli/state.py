"""What flows through a pipeline, and the contract of its passes and of those who watch them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from quantcli.encodings import Encodings
from quantcli.observations import Observations
from quantcli.plan import Plan
from quantcli.report import Entry, Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.bias_absorption import ChannelNormal
    from quantcli.data import RepresentativeDataset
    from quantcli.quant import QuantParams, QuantSpec, TensorStats
    from quantcli.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Quantized:
    """The emitted model and where things are in it.

    Attributes:
        model: The quantized model.
        tensors: User's tensor name -> name of its integer version.
        biases: Main node of a linear unit -> name of its int32 bias.
        weights: Main node of a linear unit -> name of its int8 weight.
        bounds: Main node of a linear unit -> largest sum of |w| of an output channel, and largest 32768 * sum + |b|,
            for which the operators that compute it are exact.
        params: User's tensor name -> parameters, as they stand in the model: the encodings to write.
        boundary: Name of a graph input or output -> parameters of its integers.
        kernels: Name of a node -> integer kernel that computes it.
        arithmetic: Names of QuantizeLinear nodes that round or saturate on the way, on no tensor's grid.
    """

    model: ir.Model
    tensors: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    params: Mapping[str, QuantParams] = field(default_factory=dict)
    boundary: Mapping[str, QuantParams] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    arithmetic: frozenset[str] = frozenset()


FROM_SAMPLES: Final = frozenset({"data", "observations", "samples"})


@dataclass(frozen=True, slots=True)
class Ranging:
    """How the range of each tensor is chosen.

    Attributes:
        calibrator: Chooses those of all tensors without an entry of their own; None takes what was seen.
        overrides: By tensor, the calibrator that chooses its range, or that range.
    """

    calibrator: Calibrator | None = None
    overrides: Mapping[str, Calibrator | tuple[float, float]] = field(default_factory=dict)

    def of(self, tensor: str) -> Calibrator | tuple[float, float] | None:
        """Return what decides the range of a tensor."""
        return self.overrides.get(tensor, self.calibrator)


@dataclass(frozen=True, slots=True)
class State:
    """Everything known so far. Replaced by each pass, never changed.

    ``original`` is the user's model, ``model`` the prepared float one, ``quantized`` the result; ``inner`` are the
    parameters of tensors in bodies of control flow, which are quantized before the graph around them. ``runnable`` is
    the original in other float types, where the runtime does not run it in its own. ``data`` is what may be fed;
    ``stand_in`` data only prove that a model runs, and what the user's samples show is known from ``observed``.
    """

    original: ir.Model
    model: ir.Model
    recipe: Recipe
    data: RepresentativeDataset | None = None
    observed: Observations | None = None
    stand_in: bool = False
    threads: int = 1
    plan: Plan = field(default_factory=Plan)
    stats: Mapping[str, TensorStats] = field(default_factory=dict)
    ranging: Ranging = field(default_factory=Ranging)
    encodings: Encodings = field(default_factory=Encodings)
    inner: Mapping[str, QuantParams] = field(default_factory=dict)
    quantized: Quantized | None = None
    report: Report = field(default_factory=Report)
    runnable: ir.Model | None = None
    normal: Mapping[str, ChannelNormal] = field(default_factory=dict)

    @property
    def reference(self) -> ir.Model:
        """The float model that results are compared with."""
        return self.runnable or self.original

    @property
    def observations(self) -> Observations | None:
        """What can be known of the samples, or None."""
        if self.observed is not None or self.data is None:
            return self.observed
        return Observations(self.data, len(self.data), self.data.description, self.data.synthetic)

    @property
    def given(self) -> frozenset[str]:
        """What passes may need that is there from the beginning: see ``Pass.needs``."""
        samples = {"samples"} if self.data is not None else set[str]()
        real = {"data"} if self.data is not None and not self.stand_in else set[str]()
        return frozenset(samples | real | ({"observations"} if self.observations is not None else set[str]()))

    def in_float32(self) -> State:
        """Return the state with samples whose arrays of other float types are fed as float32."""
        data = replace(self.data, in_float32=True) if self.data is not None else None
        return replace(self, data=data, observed=self.observed.in_float32() if self.observed is not None else None)

    def noted(self, *, warnings: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> State:
        """Return the state with warnings and notes added to its report; a text is said once."""
        report = self.report
        fresh = tuple(w for w in dict.fromkeys(warnings) if w not in report.warnings)
        said = tuple(n for n in dict.fromkeys(notes) if n not in report.notes)
        return replace(self, report=replace(report, warnings=report.warnings + fresh, notes=report.notes + said))

    def entered(self, entries: Mapping[str, Entry]) -> State:
        """Return the state with ledger entries added or replaced."""
        return replace(self, report=replace(self.report, ledger={**self.report.ledger, **entries}))


class Pass(Protocol):
    """One step ``State -> State``; pure but for running models in the runtime.

    One that makes sense for a whole model only, not for the body of an If, has a true attribute ``whole_model``.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Names of what must be there before: ``plan``, ``stats``, ``encodings``, ``quantized``, and of the samples.

        Those are ``data`` for a pass that runs them itself, ``observations`` for one that learns of them through
        ``State.observations`` alone, which saved statistics can answer, and ``samples`` where made-up ones do as well.
        """
        ...

    @property
    def gives(self) -> frozenset[str]:
        """Names of what is there afterwards."""
        ...

    def __call__(self, state: State, tick: Tick) -> State:
        """Do the step, calling ``tick`` as work gets done."""
        ...


@runtime_checkable
class OfParts(Protocol):
    """A pass that does to parts of a model what other passes do to a whole one."""

    def with_inner(self, inner: tuple[Pass, ...]) -> Pass:
        """Return the pass with what it does to a part."""
        ...


@runtime_checkable
class Overridden(Protocol):
    """A pass that chooses ranges, of some tensors otherwise than of the others."""

    def with_overrides(self, overrides: Sequence[tuple[str, Calibrator | tuple[float, float]]]) -> Pass:
        """Return the pass with the calibrator or the range of the tensors that match each pattern; the last counts."""
        ...


class Tick(Protocol):
    """Told by a pass that ``done`` of ``total`` pieces of work are finished."""

    def __call__(self, done: int, total: int) -> None:
        """Take note of the progress."""
        ...


class Instrument(Protocol):
    """Watches a pipeline: progress, timing, saved intermediate models. Passes know none of it."""

    def before(self, name: str, state: State) -> None:
        """Be told that a pass begins."""
        ...

    def tick(self, name: str, done: int, total: int) -> None:
        """Be told of progress inside a pass."""
        ...

    def after(self, name: str, state: State, seconds: float) -> None:
        """Be told that a pass ended."""
        ...


class Observer(Protocol):
    """The one stateful thing of calibration: sees the values of one tensor, sample by sample."""

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Take in the values of one sample."""
        ...

    def stats(self) -> TensorStats:
        """Return what was seen so far; merging the statistics of two observers is that of all their samples."""
        ...


class Calibrator(Protocol):
    """Chooses ranges: makes observers, and turns what they saw into a range. Frozen options, pure methods."""

    def observer(self, spec: QuantSpec) -> Observer:
        """Return a fresh observer for a tensor that will be quantized as ``spec`` says."""
        ...

    def range(self, stats: TensorStats, spec: QuantSpec) -> tuple[float, float]:
        """Return the (low, high) that the integers shall cover."""
        ...


@runtime_checkable
class OfMethods(Calibrator, Protocol):
    """A calibrator that chooses, tensor by tensor, among those that others would choose."""

    def with_methods(self, methods: Mapping[str, Calibrator]) -> Calibrator:
        """Return the calibrator that knows these others, by name."""
        ...

    def candidates(self, stats: TensorStats, spec: QuantSpec) -> Mapping[str, tuple[float, float]]:
        """Return the ranges worth a trial by the name of the calibrator; the first stands until another beats it."""
        ...
