"""Activation equalization: scales each channel of an activation so that all use its one 8-bit range alike.

A channel's factor goes into the linear operator that makes it and its inverse into those that read it, so the float
function stays what it was. Weights are quantized per output channel, so the maker pays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph, runtime
from quantcli.chains import Chain, Maker, constant_at, find_chains
from quantcli.equalization import ChannelStats, Reading, best_factors, limits
from quantcli.metrics import Comparison

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.state import State, Tick

    Floats = npt.NDArray[np.float64]

ENOUGH_DB: Final = 60.0
_AGAINST_EPSILON: Final = 1e4  # a channel of this many times the epsilon it is normalized with shows nothing of it


@dataclass(frozen=True, slots=True)
class Equalize:
    """Equalizes every chain of the prepared model, or leaves all alone where the float function would change.

    Attributes:
        samples: At most this many samples, spread over the dataset.
    """

    samples: int = 200
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Scale weights and biases; no tensor changes its name."""
        model = state.model.clone()
        chains = find_chains(model)
        if not chains or state.data is None:
            return state
        stats = self._observed(state, chains, tick)
        names = graph.Names(model)
        scaled: list[str] = []
        for chain in chains:
            factors = _factors(chain, stats)
            if factors is not None:
                _apply(chain, factors, names)
                scaled += [graph.name_of(t) for t in (*chain.inner, *chain.tensors)]
        if not scaled:
            return state
        if not self._same_function(state, model):
            return state.noted(notes=("activation equalization would change the float function and was left out",))
        return replace(state, model=model, report=replace(state.report, equalized=tuple(scaled)))

    def _observed(self, state: State, chains: Sequence[Chain], tick: Tick) -> dict[str, ChannelStats]:
        axes = {graph.name_of(t): c.axis for c in chains for t in c.tensors}
        session = runtime.load(state.model, threads=state.threads, outputs=list(axes))
        seen: dict[str, list[ChannelStats]] = {name: [] for name in axes}
        feeds = state.data.take(self.samples) if state.data is not None else ()
        for done, feed in enumerate(feeds, 1):
            for name, array in session.run(feed).items():
                rows = np.moveaxis(array, axes[name], 0).reshape(array.shape[axes[name]], -1)
                if rows.shape[1]:
                    found = _stats_of(rows.astype(np.float32, copy=False))
                    seen[name] = [_merged(seen[name][0], found, done)] if seen[name] else [found]
            tick(done, len(feeds))
        return {name: found[0] for name, found in seen.items() if found and np.isfinite(found[0].square).all()}

    def _same_function(self, state: State, model: ir.Model) -> bool:
        before, after = (runtime.load(m, threads=state.threads) for m in (state.model, model))
        total: dict[str, Comparison] = {}
        for feed in state.data.take(self.samples) if state.data is not None else ():
            found = after.run(feed)
            for name, array in before.run(feed).items():
                if array.dtype.kind == "f":
                    total[name] = total.get(name, Comparison()).add(array, found[name])
        return all(c.sqnr_db >= ENOUGH_DB for c in total.values())


def _stats_of(rows: npt.NDArray[np.float32]) -> ChannelStats:
    square = np.einsum("ij,ij->i", rows, rows).astype(np.float64) / rows.shape[1]
    return ChannelStats(rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64), square)


def _merged(a: ChannelStats, b: ChannelStats, count: int) -> ChannelStats:
    square = a.square + (b.square - a.square) / count
    return ChannelStats(np.minimum(a.low, b.low), np.maximum(a.high, b.high), square)


def _factors(chain: Chain, stats: dict[str, ChannelStats]) -> Floats | None:
    names = [graph.name_of(t) for t in chain.tensors]
    if any(n not in stats for n in names):
        return None
    readings = [
        Reading(stats[graph.name_of(r.inputs[0])], _by_input(r)) for r in chain.readers if r.inputs[0] is not None
    ]
    factors = best_factors(limits([stats[n] for n in names], chain.bound), readings)
    if factors is None or readings:
        return factors
    small = np.min([stats[n].square for n in names], axis=0) < _AGAINST_EPSILON * chain.epsilon
    return None if small.all() else np.where(small, 1.0, factors)


def _by_input(reader: ir.Node) -> Floats:
    """Return a reader's weight as (groups, rows, inputs of a group, taps)."""
    weight = graph.real_constant(reader.inputs[1])
    if weight is None:
        raise ValueError(f"{reader.name!r} has no constant weight")
    if reader.op_type == "Conv":
        groups = graph.int_attribute(reader, "group", 1)
        return weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    rows = weight if graph.int_attribute(reader, "transB", 0) else weight.T
    return rows.astype(np.float64)[None, :, :, None]


def _apply(chain: Chain, factors: Floats, names: graph.Names) -> None:
    for maker in chain.makers:
        _scale_outputs(maker, factors[maker.part], names)
    for reader in chain.readers:
        old = graph.real_constant(reader.inputs[1])
        if old is None:
            continue
        scaled = _by_input(reader)
        scaled = scaled / factors.reshape(scaled.shape[0], 1, -1, 1)
        turned = reader.op_type != "Conv" and not graph.int_attribute(reader, "transB", 0)
        _set(reader, 1, scaled[0, :, :, 0].T if turned else scaled.reshape(old.shape), names)


def _scale_outputs(maker: Maker, factors: Floats, names: graph.Names) -> None:
    node, holder = maker.node, maker.holder
    weight = graph.real_constant(node.inputs[1])
    if weight is None:
        return
    rows_first = node.op_type == "Conv" or graph.int_attribute(node, "transB", 0)
    shape = (-1, *(1,) * (weight.ndim - 1)) if rows_first else (1, -1)
    _set(node, 1, weight * factors.reshape(shape), names)
    at = 2 if holder is node else constant_at(holder)
    bias = graph.real_constant(graph.input_at(holder, at))
    if bias is not None:
        _set(holder, at, bias * factors, names)


def _set(node: ir.Node, index: int, array: npt.NDArray[np.floating], names: graph.Names) -> None:
    graph.set_own_constant(node, index, np.ascontiguousarray(array, np.float32), names)
