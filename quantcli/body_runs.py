"""The samples that reach the bodies of If, Loop and Scan: the operator is carried out turn by turn, in float.

onnxruntime gives out nothing from inside a body; so the model is run up to the operator, and each body by itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantcli import bodies, graph, runtime
from quantcli.data import RepresentativeDataset
from quantcli.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.bodies import Body

    Array = npt.NDArray[np.generic]
    Feed = dict[str, Array]


@contextmanager
def samples(
    model: ir.Model, inside: Mapping[str, tuple[Body, ir.Model]], data: RepresentativeDataset, threads: int
) -> Iterator[dict[str, RepresentativeDataset | None]]:
    """Give, for as long as it is needed, what each body of one operator is fed with; None for one that never runs.

    Args:
        model: The model of the operator.
        inside: By attribute, a body and its model.
        data: What the model is fed with.
        threads: Threads within an operator.
    """
    spools = {name: _Turns(tuple(v.name or "" for v in made.graph.inputs)) for name, (_, made) in inside.items()}
    first = next(iter(inside.values()))[0]
    read = dict.fromkeys(
        [v for v in first.node.inputs if v is not None] + [v for b, _ in inside.values() for v in b.captured]
    )
    computed = [graph.name_of(v) for v in read if v.producer() is not None]
    session = runtime.load(model, threads=threads, outputs=computed) if computed else None
    sessions = {n: runtime.load(made, threads=threads) for n, (_, made) in inside.items()}
    try:
        for feed in data:
            known: Feed = {**feed, **(session.run(feed) if session else {})}
            for name, turn in _turns(first.node, inside, sessions, known):
                spools[name].append(turn)
        yield {n: _dataset(inside[n][0].place, turns, data) for n, turns in spools.items()}
    finally:
        for turns in spools.values():
            turns.close()


def _dataset(place: str, turns: _Turns, data: RepresentativeDataset) -> RepresentativeDataset | None:
    if not turns.count():
        return None
    return RepresentativeDataset(f"{place} on {data.description}", turns, synthetic=data.synthetic)


class _Turns:
    """The feeds of one body, written down: a source of samples."""

    def __init__(self, names: Sequence[str]) -> None:
        self._spools = {name: Spool() for name in names}
        self._count = 0

    def append(self, feed: Mapping[str, Array]) -> None:
        """Write one more."""
        for name, spool in self._spools.items():
            spool.append(np.asarray(feed[name]))
        self._count += 1

    def close(self) -> None:
        """Give the space back."""
        for spool in self._spools.values():
            spool.close()

    def count(self) -> int:
        """Return how often the body ran."""
        return self._count

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Yield the feeds of these turns."""
        wanted = set(indices)
        turns: Iterable[tuple[Array, ...]] = (
            zip(*self._spools.values(), strict=True) if self._spools else [()] * self._count
        )
        for index, arrays in enumerate(turns):
            if index in wanted:
                yield dict(zip(self._spools, arrays, strict=True))

    def check(self, indices: Sequence[int]) -> None:
        """They came out of the runtime: nothing to check."""

    def fingerprint(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the values of these turns."""
        for feed in self.read(indices):
            yield from (array.tobytes() for array in feed.values())

    def labels(self) -> Sequence[int]:
        """Return nothing: what runs inside has no classes."""
        return ()


@dataclass(frozen=True, slots=True)
class _Inside:
    """One body while its operator is carried out: what it takes from around it, and how to run it."""

    name: str
    formal: tuple[str, ...]
    around: Feed
    session: runtime.Session

    def feed(self, values: Iterable[Array]) -> Feed:
        """Return a feed of one turn."""
        return {**self.around, **dict(zip(self.formal, values, strict=True))}

    def run(self, feed: Feed) -> list[Array]:
        """Return the results in their order."""
        return list(self.session.run(feed).values())


def _turns(
    node: ir.Node, inside: Mapping[str, tuple[Body, ir.Model]], sessions: Mapping[str, runtime.Session], known: Feed
) -> Iterator[tuple[str, Feed]]:
    given = [_value(v, known) for v in node.inputs]
    made = {
        name: _Inside(
            name,
            tuple(v.name or "" for v in body.graph.inputs),
            {graph.name_of(v): known[graph.name_of(v)] for v in body.captured},
            sessions[name],
        )
        for name, (body, _) in inside.items()
    }
    if graph.is_onnx(node, "If"):
        taken = made.get("then_branch" if bool(np.asarray(given[0]).all()) else "else_branch")
        if taken is not None:
            yield taken.name, taken.feed(())
    elif graph.is_onnx(node, "Loop"):
        yield from _loop(made["body"], given)
    else:
        yield from _scan(made["body"], node, [v for v in given if v is not None])


def _value(value: ir.Value | None, known: Feed) -> Array | None:
    if value is None:
        return None
    return known[graph.name_of(value)] if not graph.is_constant(value) else graph.constant(value)


def _loop(body: _Inside, given: Sequence[Array | None]) -> Iterator[tuple[str, Feed]]:
    """Loop: (turn, whether to go on, values carried) -> (whether to go on, values carried, what is collected)."""
    most = None if given[0] is None else int(given[0].item())
    going = True if given[1] is None else bool(given[1].item())
    carried = [v for v in given[2:] if v is not None]
    turn = 0
    while going and (most is None or turn < most):
        feed = body.feed([np.asarray(turn, np.int64), np.asarray(going), *carried])
        yield body.name, feed
        again, *results = body.run(feed)
        going, carried = bool(again.item()), results[: len(carried)]
        turn += 1


def _scan(body: _Inside, node: ir.Node, given: Sequence[Array]) -> Iterator[tuple[str, Feed]]:
    """Scan: (values carried, a slice of each sequence) -> (values carried, what is collected)."""
    count = graph.int_attribute(node, "num_scan_inputs", 0)
    carried, sequences = list(given[: len(given) - count]), given[len(given) - count :]
    axes = graph.ints_attribute(node, "scan_input_axes") or (0,) * count
    backwards = graph.ints_attribute(node, "scan_input_directions") or (0,) * count
    length = sequences[0].shape[axes[0]] if sequences else 0
    for turn in range(length):
        slices = [
            np.take(x, length - 1 - turn if b else turn, a) for x, a, b in zip(sequences, axes, backwards, strict=True)
        ]
        feed = body.feed([*carried, *slices])
        yield body.name, feed
        carried = body.run(feed)[: len(carried)]


def carried_out(node: ir.Node, version: int) -> str | None:
    """Return why the turns of an operator cannot be carried out here, or None."""
    if graph.is_onnx(node, "Scan") and version < 9:
        return "Scan before opset 9 works on batches"
    return None if graph.is_onnx(node, *bodies.CONTROL) else f"{node.op_type} is no control flow of ONNX"
