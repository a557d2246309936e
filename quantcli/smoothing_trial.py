"""Tries on real samples whether a model with smoothed activations keeps more of its outputs through rounding.

Rounding is simulated in float: every smoothable activation, and the weights that read it, are put on their grids.
Errors of layers add up and cancel out, so what helps each product by itself may still harm the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import affine, dtypes, graph, rescaling, runtime
from quantcli.chain_trial import insert_rounding
from quantcli.metrics import Comparison
from quantcli.quant import PerAxis, PerTensor, QuantSpec
from quantcli.sites import find_sites, weight_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from quantcli.data import RepresentativeDataset
    from quantcli.recipe import Scheme, TensorScheme
    from quantcli.smoothing import Floats, Seen
    from quantcli.state import State

SAMPLES: Final = 8
_MOST_TRIALS: Final = 16
_EXACT_DB: Final = 200.0


def grid_of(scheme: TensorScheme, axis: int | None = None) -> QuantSpec:
    """Return the spec of an activation, or of a weight whose output channels lie along an axis."""
    per_channel = axis is not None and scheme.granularity != "per-tensor"
    granularity = PerAxis(axis) if per_channel and axis is not None else PerTensor()
    return QuantSpec(dtypes.BY_NAME[scheme.dtype], scheme.symmetric, granularity, scheme.narrow_range)


def range_of(seen: Seen, factors: Floats | float = 1.0) -> tuple[float, float]:
    """Return the range of an activation whose channels are divided by factors."""
    return float((seen.chosen.low / factors).min()), float((seen.chosen.high / factors).max())


def helpful(
    state: State, data: RepresentativeDataset, seen: Mapping[str, Seen], planned: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Return those of the planned factors, by activation, with which the outputs come closer to float.

    All are tried at once; where they do harm each half is tried by itself, on top of what was kept before.

    Args:
        state: With the float model and the scheme.
        data: Samples; a few of them are run.
        seen: Every activation that may be smoothed.
        planned: The factors of some of them.
    """
    outputs = _Outputs.of(state, data.take(SAMPLES))
    kept: dict[str, Floats] = {}
    best = outputs.sqnr(_rounded(state, seen, kept))
    trials, todo = 0, [list(planned)] if planned else []
    while todo and trials < _MOST_TRIALS:
        names, trials = todo.pop(0), trials + 1
        tried = {**kept, **{n: planned[n] for n in names}}
        found = outputs.sqnr(_rounded(state, seen, tried))
        if found > best:
            kept, best = tried, found
        elif len(names) > 1:
            todo[:0] = [names[: len(names) // 2], names[len(names) // 2 :]]
    return kept


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What the float model makes of a few samples."""

    samples: Sequence[tuple[runtime.Feed, Mapping[str, runtime.Array]]]
    floats: tuple[str, ...]
    threads: int

    @classmethod
    def of(cls, state: State, data: RepresentativeDataset) -> _Outputs:
        session = runtime.load(state.model, threads=state.threads)
        floats = tuple(o.name for o in session.outputs if o.is_float32)
        return cls([(feed, session.run(feed)) for feed in data], floats, state.threads)

    def sqnr(self, model: ir.Model) -> float:
        """Return the mean SQNR of the outputs of a model, in dB."""
        session = runtime.load(model, threads=self.threads)
        total = dict.fromkeys(self.floats, Comparison())
        for feed, expected in self.samples:
            found = session.run(feed)
            total = {name: c.add(expected[name], found[name]) for name, c in total.items()}
        return sum(min(c.sqnr_db, _EXACT_DB) for c in total.values()) / max(len(total), 1)


def _rounded(state: State, seen: Mapping[str, Seen], factors: Mapping[str, Floats]) -> ir.Model:
    """Return the float model with the factors of some activations, and what is read of all of them rounded."""
    model = state.model.clone()
    names, scheme = graph.Names(model), state.recipe.scheme
    for site in [s for s in find_sites(model) if s.name in seen]:
        if site.name in factors:
            rescaling.apply(site, factors[site.name], names)
        for reader in site.readers:
            _round_weight(reader, scheme, names)
        grid = affine.choose_params(
            *range_of(seen[site.name], factors.get(site.name, 1.0)), grid_of(scheme.activations)
        )
        insert_rounding(model.graph, site.activation, grid, names)
    return model


def _round_weight(reader: ir.Node, scheme: Scheme, names: graph.Names) -> None:
    weight = weight_of(reader)
    spec = grid_of(scheme.weights, 0 if graph.int_attribute(reader, "transB", 0) else 1)
    rounded = affine.fake_quantize(weight, affine.weight_params(weight, spec))
    graph.set_own_constant(reader, 1, np.ascontiguousarray(rounded, np.float32), names)
