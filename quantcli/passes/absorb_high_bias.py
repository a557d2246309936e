"""High-bias absorption (1906.04721 section 4.1.3): takes off a channel what it never falls below, for a narrower range.

What is taken off the bias before an activation comes back through the bias behind it. Each chain is tried on samples,
with all roundings, and left alone where it loses by that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph
from quantcli.bias_absorption import free_shifts, high_bias, rectified_shifts
from quantcli.chain_trial import Proposal, accepted
from quantcli.chains import Chain, find_chains
from quantcli.channels import observe_channels, same_function
from quantcli.shifting import is_rectified, obstacle, shift

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.equalization import ChannelStats
    from quantcli.state import State, Tick

    Floats = npt.NDArray[np.float64]

_CHECKED: Final = 32  # samples on which the whole model is run once more


@dataclass(frozen=True, slots=True)
class AbsorbHighBias:
    """Shifts the channels of each chain of the prepared model where its result comes closer to float by that.

    Before a Relu or Clip a channel is shifted by no more than the smallest value that the samples show: that is exact
    on them. Where the samples are made up, it is shifted by no more than ``beta - 3 |gamma|`` of its BatchNormalization
    either, and not at all without one. Where nothing cuts values off, any shift is exact.

    Attributes:
        samples: At most this many samples, spread over the dataset.
    """

    samples: int = 200
    needs: ClassVar[frozenset[str]] = frozenset({"observations"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Change biases; no tensor changes its name."""
        chains = {i: c for i, c in enumerate(find_chains(state.model)) if obstacle(c) is None}
        if not chains or state.observations is None:
            return state
        stats = observe_channels(state, list(chains.values()), self.samples, tick)
        planned = {i: s for i, c in chains.items() if (s := _shifts(c, stats, state)) is not None}
        if not planned:
            return state
        helpful = accepted(state, {i: _proposal(chains[i], s, stats) for i, s in planned.items()}, self._named(state))
        kept = {i: s for i, s in planned.items() if i in helpful}
        model = _shifted(state.model, kept)
        if not same_function(state, model, min(self.samples, _CHECKED)):
            return state.noted(notes=("absorbing high biases would change the float function and was left out",))
        note = f"high biases absorbed on {len(kept)} of {len(planned)} tensors whose range would become narrower"
        moved = tuple(graph.name_of(t) for i in kept for t in (*chains[i].inner, *chains[i].tensors))
        report = replace(state.report, equalized=tuple(dict.fromkeys((*state.report.equalized, *moved))))
        makers = {graph.name_of(m.holder.outputs[0]): kept[i][m.part] for i in kept for m in chains[i].makers}
        normal = {n: k.scaled(np.ones(1), -makers[n]) if n in makers else k for n, k in state.normal.items()}
        return replace(state, model=model, normal=normal, report=report).noted(notes=(note,))

    def _named(self, state: State) -> str:
        """Return what decides the shifts beside the float model and the samples: BatchNormalizations that it had."""
        seen = state.observations
        made_up = seen is not None and seen.synthetic
        return f"{self!r} of {seen.name_of(state.original)}" if seen is not None and made_up else repr(self)


def _shifts(chain: Chain, stats: Mapping[str, ChannelStats], state: State) -> Floats | None:
    seen = [stats.get(graph.name_of(t)) for t in chain.tensors]
    if any(s is None for s in seen):
        return None
    low = np.min([s.low for s in seen if s is not None], axis=0)
    high = np.max([s.high for s in seen if s is not None], axis=0)
    if not is_rectified(chain):
        return free_shifts(low, high)
    most = np.maximum(low, 0.0)
    if chain.bound is not None:  # a channel that is cut off from above would be cut off elsewhere
        most = np.where(high < chain.bound, most, 0.0)
    if state.observations is not None and state.observations.synthetic:
        most = np.minimum(most, _trusted(chain, state))
    return rectified_shifts(high, most)


def _trusted(chain: Chain, state: State) -> Floats:
    """Return how far a channel can be shifted by what BatchNormalization says of it."""
    found = np.zeros(chain.channels)
    for maker in chain.makers:
        normal = state.normal.get(graph.name_of(maker.holder.outputs[0]))
        if normal is not None:
            found[maker.part] = high_bias(normal)
    return found


def _proposal(chain: Chain, shifts: Floats, stats: Mapping[str, ChannelStats]) -> Proposal:
    def change(model: ir.Model, part: Chain) -> None:
        shift(part, shifts, graph.Names(model))

    before = {n: _range_of(stats[n]) for n in map(graph.name_of, chain.tensors)}
    return Proposal(chain, change, before, {n: _range_of(stats[n], shifts) for n in before})


def _range_of(stats: ChannelStats, shifts: Floats | float = 0.0) -> tuple[float, float]:
    return float((stats.low - shifts).min()), float((stats.high - shifts).max())


def _shifted(model: ir.Model, shifts: Mapping[int, Floats]) -> ir.Model:
    """Return the model with some of its chains shifted."""
    model = model.clone()
    names = graph.Names(model)
    for index, chain in enumerate(find_chains(model)):
        if index in shifts:
            shift(chain, shifts[index], names)
    return model
