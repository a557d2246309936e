"""Activation equalization: scales each channel of an activation so that all use its one 8-bit range alike.

A channel's factor goes into the linear operator that makes it and its inverse into those that read it, so the float
function stays what it was. Weights are quantized per output channel, so the maker pays nothing. Each chain is tried on
samples, with all roundings, and left alone where it loses by that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph
from quantcli.chain_trial import Proposal, accepted
from quantcli.chains import Chain, find_chains, weight_by_input
from quantcli.channels import observe_channels, same_function
from quantcli.equalization import ChannelStats, Reading, best_factors, limits
from quantcli.scaling import range_of, scale, scaled_normals

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.state import State, Tick

    Floats = npt.NDArray[np.float64]

_CHECKED: Final = 32  # samples on which the whole model is run once more
# The variance of a channel is at least this many times the epsilon it is normalized with: then its factor changes the
# result by less than 5e-5, as ``1 / sqrt(1 + epsilon / variance)`` says.
_AGAINST_EPSILON: Final = 1e4


@dataclass(frozen=True, slots=True)
class Equalize:
    """Equalizes each chain of the prepared model where its result comes closer to float by that.

    Attributes:
        samples: At most this many samples, spread over the dataset.
    """

    samples: int = 200
    needs: ClassVar[frozenset[str]] = frozenset({"observations"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Scale weights and biases; no tensor changes its name."""
        chains = find_chains(state.model)
        if not chains or state.observations is None:
            return state
        stats = observe_channels(state, chains, self.samples, tick)
        planned = {i: f for i, c in enumerate(chains) if (f := _factors(c, stats)) is not None}
        if not planned:
            return state
        helpful = accepted(state, {i: _proposal(chains[i], f, stats) for i, f in planned.items()}, repr(self))
        kept = {i: f for i, f in planned.items() if i in helpful}
        model = _applied(state.model, kept)
        if not same_function(state, model, min(self.samples, _CHECKED)):
            return state.noted(notes=("activation equalization would change the float function and was left out",))
        note = f"activation equalization kept on {len(kept)} of {len(planned)} tensors whose channels differ"
        scaled = tuple(graph.name_of(t) for i in kept for t in (*chains[i].inner, *chains[i].tensors))
        report = replace(state.report, equalized=tuple(dict.fromkeys((*state.report.equalized, *scaled))))
        normal = scaled_normals(state.normal, [(chains[i], f) for i, f in kept.items()])
        return replace(state, model=model, normal=normal, report=report).noted(notes=(note,))


def _factors(chain: Chain, stats: dict[str, ChannelStats]) -> Floats | None:
    names = [graph.name_of(t) for t in chain.tensors]
    if any(n not in stats for n in names):
        return None
    readings = [
        Reading(stats[graph.name_of(r.inputs[0])], weight_by_input(r)) for r in chain.readers if r.inputs[0] is not None
    ]
    factors = best_factors(limits([stats[n] for n in names], chain.bound), readings)
    if factors is None or readings:
        return factors
    small = np.min([stats[n].square for n in names], axis=0) < _AGAINST_EPSILON * chain.epsilon
    return None if small.all() else np.where(small, 1.0, factors)


def _applied(model: ir.Model, factors: Mapping[int, Floats]) -> ir.Model:
    """Return the model with the factors of some of its chains."""
    model = model.clone()
    names = graph.Names(model)
    for index, chain in enumerate(find_chains(model)):
        if index in factors:
            scale(chain, factors[index], names)
    return model


def _proposal(chain: Chain, factors: Floats, stats: Mapping[str, ChannelStats]) -> Proposal:
    def change(model: ir.Model, part: Chain) -> None:
        scale(part, factors, graph.Names(model))

    before = {n: range_of(stats[n]) for n in map(graph.name_of, chain.tensors)}
    return Proposal(chain, change, before, {n: range_of(stats[n], factors) for n in before})
