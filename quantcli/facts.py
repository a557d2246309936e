"""What a float model is made of: work and weights by kind of operator, and what its inputs and outputs look like.

Gathers; judges nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph, runtime
from quantcli.workload import is_weight, kind_of, work

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import onnx_ir as ir

    from quantcli.data import RepresentativeDataset
    from quantcli.workload import Size, Sizes

SCORES: Final = "scores"  # one number for each class
DENSE: Final = "dense"  # about as many numbers as are fed
VALUES: Final = "values"

_CONTROL: Final = ("If", "Loop", "Scan")


@dataclass(frozen=True, slots=True)
class Load:
    """What operators of one kind take.

    Attributes:
        operators: How many there are.
        macs: Multiply-accumulates for one sample.
        weights: Elements of their float weights, shared ones once.
        weight_bytes: Their size.
    """

    operators: int = 0
    macs: int = 0
    weights: int = 0
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know before any conversion.

    Attributes:
        operators: Number of operators by type, bodies of control flow included.
        loads: By kind of operator.
        parameters: Elements of all float constants.
        float_bytes: Size of all float constants.
        half_bytes: Of these, in float16 or bfloat16.
        file_bytes: Size of the model with its external data.
        inputs: Name, type and shape of what is fed.
        free: Names of free dimensions that are no batch.
        control: Types of control flow operators.
        states: Outputs that have the shape of an input beside the first one: state that is fed back.
        output: ``scores``, ``dense`` or ``values``.
        samples: Number of samples at hand.
        labels: Whether they have labels.
    """

    operators: Mapping[str, int] = field(default_factory=dict)
    loads: Mapping[str, Load] = field(default_factory=dict)
    parameters: int = 0
    float_bytes: int = 0
    half_bytes: int = 0
    file_bytes: int = 0
    inputs: tuple[tuple[str, str, str], ...] = ()
    free: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    states: int = 0
    output: str = VALUES
    samples: int = 0
    labels: bool = False

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates of one sample."""
        return sum(load.macs for load in self.loads.values())


def gather(model: ir.Model, seen: Sizes, file_bytes: int, data: RepresentativeDataset | None = None) -> Facts:
    """Look at a prepared model.

    Args:
        model: Simplified float model.
        seen: Shapes, as ``sizes`` gives them.
        file_bytes: Size of the user's model.
        data: The samples at hand.
    """
    constants = list(float_constants(model))
    halves = [v for v in constants if v.const_value is not None and v.const_value.dtype.itemsize == 2]
    output, states = _outputs(model, seen)
    return Facts(
        operators=dict(Counter(graph.describe_op(n) for n in model.graph.all_nodes()).most_common()),
        loads=_loads(model, seen),
        parameters=sum(_size(v) for v in constants),
        float_bytes=sum(_bytes(v) for v in constants),
        half_bytes=sum(_bytes(v) for v in halves),
        file_bytes=file_bytes,
        inputs=tuple((graph.name_of(v), _type(v), _shape(v)) for v in _fed(model)),
        free=tuple(sorted({str(d) for v in _fed(model) for d in (v.shape or ())[1:] if not isinstance(d, int)})),
        control=tuple(sorted({n.op_type for n in model.graph.all_nodes() if graph.is_onnx(n, *_CONTROL)})),
        states=states,
        output=output,
        samples=len(data) if data is not None else 0,
        labels=data is not None and bool(data.labels),
    )


def sizes(model: ir.Model, feed: runtime.Feed | None, known: Sizes | None = None) -> dict[str, Size]:
    """Return the shape of every tensor that tells how much work there is, outputs of the graph included.

    Args:
        model: Simplified float model.
        feed: One sample, which gives free dimensions their sizes; without it they count as 1.
        known: Shapes that need not be found again.
    """
    wanted = [v for n in model.graph if kind_of(n) is not None for v in (*n.inputs, *n.outputs) if v is not None]
    values = {graph.name_of(v): v for v in (*wanted, *_fed(model), *model.graph.outputs) if v.name}
    found = {name: s for name, v in values.items() if (s := _static(v)) is not None} | dict(known or {})
    computed = [n for n, v in values.items() if n not in found and v.producer() is not None]
    if feed is not None:
        found |= {name: array.shape for name, array in feed.items()}
        results = runtime.load(model, outputs=computed).run(feed) if computed else {}
        return found | {name: array.shape for name, array in results.items()}
    return found | {n: _assumed(v) for n, v in values.items() if n not in found}


def float_constants(model: ir.Model) -> Iterator[ir.Value]:
    """Yield every constant of real numbers, those of bodies too."""
    for part in graph.all_graphs(model):
        for value in part.initializers.values():
            if value.const_value is not None and value.const_value.dtype.is_floating_point():
                yield value


def _loads(model: ir.Model, seen: Sizes) -> dict[str, Load]:
    done = work(model, seen)
    nodes: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if graph.node_name(node) in done:
            nodes.setdefault(done[graph.node_name(node)][0], []).append(node)
    return {kind: _load(members, done) for kind, members in sorted(nodes.items())}


def _load(nodes: list[ir.Node], done: Mapping[str, tuple[str, int]]) -> Load:
    weights = {v for node in nodes for v in node.inputs if v is not None and is_weight(v)}
    macs = sum(done[graph.node_name(n)][1] for n in nodes)
    return Load(len(nodes), macs, sum(map(_size, weights)), sum(map(_bytes, weights)))


def _outputs(model: ir.Model, seen: Sizes) -> tuple[str, int]:
    """Return what the outputs are, and how many of them look like a state that is fed back."""
    fed = [seen.get(graph.name_of(v), ()) for v in _fed(model)]
    made = {graph.name_of(v): (v, seen.get(graph.name_of(v), ())) for v in model.graph.outputs}
    floats = [s for v, s in made.values() if v.dtype is None or v.dtype.is_floating_point()]
    states = [s for s in floats if len(s) > 1 and s in fed[1:]]
    largest = max((prod(s) for s in fed), default=0)
    if any(len(s) > 1 and 2 * prod(s) >= largest and prod(s) > 1 for s in floats if s not in states):
        return DENSE, len(states)
    scores = any(len(s) > 1 and 2 <= prod(s) == max(s) != s[0] for s in floats)
    return SCORES if scores else VALUES, len(states)


def _fed(model: ir.Model) -> Iterable[ir.Value]:
    return [v for v in model.graph.inputs if v.name not in model.graph.initializers]


def _static(value: ir.Value) -> Size | None:
    if value.const_value is not None:
        return tuple(int(n) for n in value.const_value.shape.numpy())
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return tuple(int(d) for d in value.shape.numpy())


def _assumed(value: ir.Value) -> Size:
    return tuple(d if isinstance(d, int) else 1 for d in value.shape or ())


def _size(value: ir.Value) -> int:
    return int(value.const_value.size) if value.const_value is not None else 0


def _bytes(value: ir.Value) -> int:
    return int(value.const_value.nbytes) if value.const_value is not None else 0


def _type(value: ir.Value) -> str:
    return str(np.dtype(value.dtype.numpy()).name) if value.dtype is not None else "?"


def _shape(value: ir.Value) -> str:
    return "any" if value.shape is None else "[" + ", ".join(str(d) for d in value.shape) + "]"
