"""What is seen of the channels of a float model on its samples: extremes and mean squares, by tensor.

What passes that rescale or shift channels decide by; which ones are worth it is for them to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph, runtime
from quantcli.equalization import ChannelStats
from quantcli.metrics import Comparison

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.chains import Chain
    from quantcli.data import RepresentativeDataset
    from quantcli.observations import Subject
    from quantcli.state import State, Tick

ENOUGH_DB: Final = 60.0


def observe_channels(state: State, chains: Sequence[Chain], samples: int, tick: Tick) -> dict[str, ChannelStats]:
    """Run the state's float model and look at every tensor of the chains, channel by channel.

    Args:
        state: With data.
        chains: Of the state's model.
        samples: At most this many, spread over the dataset.
        tick: Told of progress.

    Returns:
        By name; tensors without any value, or with values that are not finite, are left out.
    """
    axes = {graph.name_of(t): c.axis for c in chains for t in c.tensors}
    seen = state.observations
    if seen is None:
        return {}

    def look(asked: list[Subject], feeds: RepresentativeDataset) -> dict[Subject, ChannelStats | None]:
        found = _run(state, {name: axes[name] for _, name in asked}, feeds, tick)
        return {(kind, name): found.get(name) for kind, name in asked}

    subjects = [(f"channels along axis {axis}", name) for name, axis in axes.items()]
    found = seen.part(samples).of(state.model, subjects, look, expected=ChannelStats)
    return {name: stats for (_, name), stats in found.items() if stats is not None}


def _run(state: State, axes: Mapping[str, int], feeds: RepresentativeDataset, tick: Tick) -> dict[str, ChannelStats]:
    session = runtime.load(state.model, threads=state.threads, outputs=list(axes))
    seen: dict[str, list[ChannelStats]] = {name: [] for name in axes}
    for done, feed in enumerate(feeds, 1):
        for name, array in session.run(feed).items():
            rows = np.moveaxis(array, axes[name], 0).reshape(array.shape[axes[name]], -1)
            if rows.shape[1]:
                found = _stats_of(rows.astype(np.float32, copy=False))
                seen[name] = [_merged(seen[name][0], found, done)] if seen[name] else [found]
        tick(done, len(feeds))
    return {name: found[0] for name, found in seen.items() if found and np.isfinite(found[0].square).all()}


def same_function(state: State, model: ir.Model, samples: int) -> bool:
    """Tell whether a model gives the outputs of the state's float model, to within what float32 rounds."""
    seen = state.observations
    if seen is None:
        return True

    def look(asked: list[Subject], feeds: RepresentativeDataset) -> dict[Subject, bool | None]:
        before, after = (runtime.load(m, threads=state.threads) for m in (state.model, model))
        total: dict[str, Comparison] = {}
        for feed in feeds:
            found = after.run(feed)
            for name, array in before.run(feed).items():
                if array.dtype.kind == "f":
                    total[name] = total.get(name, Comparison()).add(array, found[name])
        return dict.fromkeys(asked, all(c.sqnr_db >= ENOUGH_DB for c in total.values()))

    subject = (f"the same function as {seen.name_of(model)}", "")
    return bool(seen.part(samples).of(state.model, [subject], look, expected=bool)[subject])


def _stats_of(rows: npt.NDArray[np.float32]) -> ChannelStats:
    square = np.einsum("ij,ij->i", rows, rows).astype(np.float64) / rows.shape[1]
    return ChannelStats(rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64), square)


def _merged(a: ChannelStats, b: ChannelStats, count: int) -> ChannelStats:
    square = a.square + (b.square - a.square) / count
    return ChannelStats(np.minimum(a.low, b.low), np.maximum(a.high, b.high), square)
