"""What of a model its samples do not exercise: channels and tensors that never change, branches that are never taken.

Their ranges cannot be measured; what is quantized with them fits these samples and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph, runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    from quantcli.data import RepresentativeDataset

    Array = npt.NDArray[np.generic]

_BRANCHING: Final = "If"
_OF_SHAPES: Final = ("Shape", "Size")
_CONVOLVING: Final = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class Idle:
    """A tensor of which nothing, or not all, is exercised.

    Attributes:
        operator: Type of the operator that computes it.
        node: Its name.
        tensor: The tensor.
        zero: Channels that are always 0 from here on.
        still: Channels that always have one other value from here on.
        channels: How many there are; 0 where the whole tensor is meant.
    """

    operator: str
    node: str
    tensor: str
    zero: int
    still: int
    channels: int


@dataclass(frozen=True, slots=True)
class Exercise:
    """What the samples leave idle.

    Attributes:
        idle: Tensors with channels that never change although what they are computed from does.
        untaken: Names of If operators with the branch that no sample takes.
    """

    idle: tuple[Idle, ...] = ()
    untaken: tuple[tuple[str, str], ...] = ()


def exercised(model: ir.Model, data: RepresentativeDataset, threads: int = 1) -> Exercise:
    """Run a float model over all samples and see what stays the same.

    Args:
        model: The float model; it is not changed.
        data: What it is fed with.
        threads: Threads within an operator.
    """
    model = model.clone()
    graph.name_everything(model)
    infos = runtime.describe(model)
    computed = {graph.name_of(v): v for v in _decided(model.graph) if v.uses() or v.is_graph_output()}
    floats = [n for n in computed if n in infos and (dtype := infos[n].dtype) is not None and dtype.kind == "f"]
    branches = [n for n in model.graph if graph.is_onnx(n, _BRANCHING)]
    asked = [v for n in branches if (v := n.inputs[0]) is not None]
    taken: dict[str, set[bool]] = {graph.name_of(v): set() for v in asked}
    tapped = [*floats, *dict.fromkeys(graph.name_of(v) for v in asked if v.producer() is not None)]
    session = runtime.load(model, threads=threads, outputs=tapped) if tapped else None
    convolved = _convolves_sequences(model)
    seen: dict[str, _Extremes] = {}
    for feed in data:
        for name, array in {**feed, **(session.run(feed) if session is not None else {})}.items():
            if name in taken:
                taken[name].update(bool(x) for x in array.ravel())
            elif array.dtype.kind in "biuf" and array.size:
                seen.setdefault(name, _Extremes(_axis(array.ndim, convolved=convolved))).add(array)
    return Exercise(tuple(_idle(computed, seen)), tuple(_untaken(branches, taken)))


class _Extremes:
    """Smallest and largest value of each channel; of the whole where there are no channels, or their number changes."""

    def __init__(self, axis: int | None) -> None:
        self._axis = axis
        self._low: npt.NDArray[np.float64] | None = None
        self._high: npt.NDArray[np.float64] | None = None

    def add(self, array: Array) -> None:
        values = array.astype(np.float64)
        low, high = self._reduced(values)
        if self._low is None or self._high is None:
            self._low, self._high = low, high
            return
        if low.shape != self._low.shape:
            self._axis = None
            low, high = self._reduced(values)
            self._low, self._high = self._low.min(keepdims=True), self._high.max(keepdims=True)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)

    def channels(self) -> int:
        return 0 if self._low is None else self._low.size

    def still(self) -> npt.NDArray[np.bool_]:
        """Tell of each channel whether it always has one value."""
        return np.zeros(0, np.bool_) if self._low is None else self._low == self._high

    def zero(self) -> npt.NDArray[np.bool_]:
        """Tell of each channel whether it is always 0."""
        return np.zeros(0, np.bool_) if self._low is None else self.still() & (self._low == 0)

    def _reduced(self, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if self._axis is None or values.ndim <= self._axis:
            return values.min(keepdims=True).reshape(1), values.max(keepdims=True).reshape(1)
        others = tuple(i for i in range(values.ndim) if i != self._axis)
        return values.min(axis=others), values.max(axis=others)


def _decided(main: ir.Graph) -> Iterator[ir.Value]:
    """Yield what is computed from the values of inputs, not from their shapes or from constants alone."""
    known: set[ir.Value] = {v for v in main.inputs if v.const_value is None}
    for node in main:
        if not graph.is_onnx(node, *_OF_SHAPES) and (_has_body(node) or any(v in known for v in node.inputs)):
            known.update(node.outputs)
            yield from node.outputs


def _has_body(node: ir.Node) -> bool:
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _axis(rank: int, *, convolved: bool) -> int | None:
    """Return the axis of the channels of a tensor: 1, but the last one of sequences that no convolution reads."""
    if rank < 2:
        return None
    return 2 if rank == 3 and not convolved else 1


def _convolves_sequences(model: ir.Model) -> bool:
    """Tell whether tensors of rank 3 are (N, C, length) in a model."""
    weights = [n.inputs[1] for n in model.graph if graph.is_onnx(n, *_CONVOLVING)]
    return any(v is not None and v.shape is not None and len(v.shape) == 3 for v in weights)


def _idle(computed: Mapping[str, ir.Value], seen: Mapping[str, _Extremes]) -> Iterator[Idle]:
    """Yield where channels begin to stay the same: those that change in everything that the operator reads.

    A channel of a product that never changes has weights of 0; that is no fault of the samples.
    """
    for name, value in computed.items():
        node = value.producer()
        if name not in seen or node is None:
            continue
        extremes = seen[name]
        read = [seen[graph.name_of(v)] for v in node.inputs if v is not None and graph.name_of(v) in seen]
        if extremes.still().all():
            if read and not any(r.still().all() for r in read):
                yield Idle(node.op_type, graph.node_name(node), name, 0, 0, 0)
            continue
        alike = [r for r in read if r.channels() == extremes.channels()]
        if alike and not _has_weights(node):
            found = extremes.still() & ~np.any([r.still() for r in alike], axis=0)
            zero = int((found & extremes.zero()).sum())
            still = int(found.sum()) - zero
            if zero or still:
                yield Idle(node.op_type, graph.node_name(node), name, zero, still, extremes.channels())


def _has_weights(node: ir.Node) -> bool:
    return any(graph.is_constant(v) and v is not None and v.shape is not None and len(v.shape) > 1 for v in node.inputs)


def _untaken(branches: Iterable[ir.Node], taken: Mapping[str, set[bool]]) -> Iterator[tuple[str, str]]:
    for node in branches:
        values = taken.get(graph.name_of(node.inputs[0]), set()) if node.inputs[0] is not None else set()
        if len(values) == 1:
            yield graph.node_name(node), "else_branch" if values == {True} else "then_branch"
