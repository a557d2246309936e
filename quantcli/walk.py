"""Walks a graph in topological order, a part at a time, with all samples at once.

A walk keeps only the tensors that later parts read, in a spool. It is what sequential reconstruction stands on: when a
layer is reached, its inputs are there, computed by the already corrected layers before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from quantcli import graph, runtime, submodel
from quantcli.spool import Spool
from quantcli.submodel import outer_reads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]


class Walk:
    """One model, cut after given nodes, and the samples on their way through it."""

    def __init__(
        self, model: ir.Model, cuts: Sequence[Sequence[str]], feeds: Iterable[Mapping[str, Array]], threads: int
    ) -> None:
        """Cut ``model`` after the tensors of each entry of ``cuts``, in a topological order, and spool the feeds."""
        self._model = model
        self._threads = threads
        self._parts = _parts(model, cuts)
        self._live: dict[str, Spool] = {graph.name_of(v): Spool() for v in model.graph.inputs}
        self._samples = 0
        for feed in feeds:
            self._samples += 1
            for name, spool in self._live.items():
                spool.append(feed[name])
        self._cuts = [tuple(cut) for cut in cuts]
        self._last_use = _last_uses(self._parts, self._cuts)
        self._types: dict[str, ir.TypeAndShape] = {}

    def __len__(self) -> int:
        return len(self._parts)

    def part(self, index: int) -> Part:
        """Return part ``index``, ready to be run on all samples; the parts before it must have been finished."""
        nodes = self._parts[index]
        made = [graph.name_of(o) for n in nodes for o in n.outputs if o.name and n.op_type != "DequantizeLinear"]
        names = [*(graph.name_of(v) for n in nodes for v in outer_reads(n)), *self._cuts[index]]
        read = dict.fromkeys(n for n in names if n in self._live)
        known = {name: self._type(name) for name in read}
        kept = [n for n in made if self._last_use.get(n, -1) > index]
        return Part(
            self._model, nodes, known, kept, {name: self._live[name] for name in read}, self._threads, self._samples
        )

    def finish(self, index: int, results: Mapping[str, Spool]) -> None:
        """Take the results of a part that later parts read, and let go of what nobody reads any more."""
        for name, spool in results.items():
            if self._last_use.get(name, -1) > index and name not in self._live:
                self._live[name] = spool
            else:
                spool.close()
        for name in [n for n in self._live if self._last_use.get(n, -1) <= index]:
            self._live.pop(name).close()

    def close(self) -> None:
        """Let go of everything."""
        for spool in self._live.values():
            spool.close()
        self._live.clear()

    def _type(self, name: str) -> ir.TypeAndShape:
        if name not in self._types:
            dtype, rank = self._live[name].first_kind()
            shape = ir.Shape([None] * rank)  # lengths may differ from sample to sample
            self._types[name] = ir.TypeAndShape(ir.TensorType(ir.DataType.from_numpy(dtype)), shape)
        return self._types[name]


class Part:
    """Some consecutive nodes, their constants, and the samples of their inputs."""

    def __init__(  # noqa: PLR0913, PLR0917 - built by Walk alone
        self,
        model: ir.Model,
        nodes: Sequence[ir.Node],
        known: Mapping[str, ir.TypeAndShape],
        kept: Sequence[str],
        inputs: Mapping[str, Spool],
        threads: int,
        samples: int,
    ) -> None:
        self._samples = samples
        self._model, self._nodes, self._known = model, nodes, known
        self._kept, self._inputs, self._threads = tuple(kept), inputs, threads

    def run(
        self, *, constants: Mapping[str, Array] | None = None, also: Sequence[str] = (), only: bool = False
    ) -> Iterator[dict[str, Array]]:
        """Yield, sample by sample, the tensors that later parts read and those named in ``also`` (or ``only`` those).

        ``constants`` replaces initializers by name, for this run only.
        """
        wanted = list(dict.fromkeys(also if only else (*self._kept, *also)))
        through = [n for n in wanted if n in self._inputs]  # a tensor that an earlier part made
        wanted = [n for n in wanted if n not in self._inputs]
        if not wanted and not through:
            return
        session = self._session(wanted, constants or {}) if wanted else None
        for arrays in zip(*self._inputs.values(), strict=True) if self._inputs else [()] * self._samples:
            fed = dict(zip(self._inputs, arrays, strict=True))
            yield {**{n: fed[n] for n in through}, **(session.run(fed) if session else {})}

    def _session(self, wanted: Sequence[str], constants: Mapping[str, Array]) -> runtime.Session:
        model = submodel.sub_model(self._model, self._nodes, self._known, wanted)
        for name, array in constants.items():
            if name in model.graph.initializers:
                graph.set_initializer(model.graph.initializers[name], array)
        return runtime.load(model, threads=self._threads)


def _parts(model: ir.Model, cuts: Sequence[Sequence[str]]) -> list[list[ir.Node]]:
    """Return, for each cut, the nodes that are still needed to compute its tensors, in topological order.

    A DequantizeLinear is computed again wherever it is read: its integers take a quarter of the space.
    """
    order = {node: i for i, node in enumerate(model.graph)}
    values = graph.named_values(model.graph)
    done: set[ir.Node] = set()
    parts = []
    for cut in cuts:
        needed: set[ir.Node] = set()
        todo = [values[name] for name in cut]
        while todo:
            node = todo.pop().producer()
            if node is None or node in done or node in needed:
                continue
            needed.add(node)
            todo.extend(outer_reads(node))
        done.update(n for n in needed if n.op_type != "DequantizeLinear")
        parts.append(sorted(needed, key=order.__getitem__))
    return parts


def _last_uses(parts: Sequence[Sequence[ir.Node]], cuts: Sequence[Sequence[str]]) -> dict[str, int]:
    last: dict[str, int] = {}
    for i, (nodes, cut) in enumerate(zip(parts, cuts, strict=True)):
        last.update((graph.name_of(v), i) for n in nodes for v in outer_reads(n) if v.name)
        last.update(dict.fromkeys(cut, i))
    return last
