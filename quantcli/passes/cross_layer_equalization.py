"""Cross-layer equalization (1906.04721 section 4.1): levels the ranges of the weights of consecutive linear layers.

For weights with one scale for a whole tensor, where a channel of small weights has hardly any of its steps. One sweep
in topological order; each set of layers is tried on samples, with all roundings and with what was done before it, and
left alone where it loses by that. Without samples all sets are levelled but those with a Clip between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph
from quantcli.chain_trial import SAME_DB, SAMPLES, ChainTrials, Proposal
from quantcli.chains import Chain, find_chains
from quantcli.channels import observe_channels, same_function
from quantcli.layer_sets import LayerSet, candidates, layer_sets
from quantcli.scaling import range_of, scale, scaled_normals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.data import RepresentativeDataset
    from quantcli.equalization import ChannelStats
    from quantcli.layer_sets import Factors
    from quantcli.observations import Subject
    from quantcli.state import State, Tick

    Choices = npt.NDArray[np.int64]  # of each set: 0 for left alone, or the number of a candidate, from 1
    Stats = Mapping[str, ChannelStats]
    Choose = Callable[[LayerSet, Sequence[Factors], Stats], int]

_CHECKED: Final = 32  # samples on which the whole model is run once more
_WORTH: Final = 0.9  # of the noise: the trial is of few samples and nearest rounding, so a small gain may be none


@dataclass(frozen=True, slots=True)
class CrossLayerEqualization:
    """Levels the weights of each set of layers of the prepared model where its result comes closer to float by that.

    Attributes:
        samples: At most this many samples, spread over the dataset.
    """

    samples: int = 200
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Scale weights and biases; no tensor changes its name."""
        model = state.model.clone()
        sets = layer_sets(find_chains(model))
        if not sets:
            return state
        if state.observations is None:
            done = _sweep(sets, graph.Names(model), None, lambda _layers, options, _stats: len(options))
        else:
            stats = observe_channels(state, [c for s in sets for c in s.chains], self.samples, tick)
            known = iter(self._choices(state, stats))
            done = _sweep(sets, graph.Names(model), stats, lambda _layers, _options, _stats: int(next(known)))
        if not same_function(state, model, min(self.samples, _CHECKED)):
            return state.noted(notes=("cross-layer equalization would change the float function and was left out",))
        noted = state.noted(notes=(f"cross-layer equalization kept on {len(done)} of {len(sets)} sets of layers",))
        return _with(noted, model, done) if done else noted

    def _choices(self, state: State, stats: Stats) -> Choices:
        """Return what is best for each set by samples."""
        seen = state.observations
        if seen is None:
            return np.zeros(0, np.int64)

        def look(asked: list[Subject], feeds: RepresentativeDataset) -> dict[Subject, Choices | None]:
            return dict.fromkeys(asked, _tried(state, stats, feeds))

        subject = (f"chosen: {self!r} for {state.recipe.scheme}", "")
        found = seen.part(min(self.samples, SAMPLES)).of(state.model, [subject], look, expected=np.ndarray)[subject]
        return np.zeros(0, np.int64) if found is None else found


@dataclass(slots=True)
class _Judge:
    """Tries the candidates of one set after the other, each behind what was chosen for those before it."""

    trials: ChainTrials
    found: list[int] = field(default_factory=list)

    def __call__(self, layers: LayerSet, options: Sequence[Factors], stats: Stats) -> int:
        verdicts = [self.trials.verdict(_proposal(layers, factors, stats)) for factors in options]
        noises = [v.after if v.same_db >= SAME_DB and v.after < _WORTH * v.before else np.inf for v in verdicts]
        best = int(np.argmin(noises)) if np.min(noises, initial=np.inf) < np.inf else None
        if best is not None:
            self.trials = self.trials.rescaled(_by_tensor(layers, options[best]))
        self.found.append(0 if best is None else best + 1)
        return self.found[-1]


def _tried(state: State, stats: Stats, feeds: RepresentativeDataset) -> Choices:
    model = state.model.clone()
    sets = layer_sets(find_chains(model))
    judge = _Judge(ChainTrials.of(replace(state, model=model), [s.chains[0] for s in sets], feeds))
    _sweep(sets, graph.Names(model), stats, judge)
    return np.array(judge.found, np.int64)


def _sweep(
    sets: Sequence[LayerSet], names: graph.Names, stats: Stats | None, choose: Choose
) -> list[tuple[LayerSet, Factors]]:
    """Level the sets in their model, one after the other, by one candidate each; return which, and by what."""
    now = dict(stats or {})
    done = []
    for layers in sets:
        options = candidates(layers, now if stats is not None else None)
        choice = choose(layers, options, now)
        if choice:
            done.append((layers, options[choice - 1]))
            _level(layers.chains, options[choice - 1], names)
            now |= {n: stat.scaled(f) for n, (f, stat) in _of_tensors(layers, options[choice - 1], now).items()}
    return done


def _level(chains: Sequence[Chain], factors: Factors, names: graph.Names) -> None:
    for chain, of_channels in zip(chains, factors, strict=True):
        scale(chain, of_channels, names)


def _of_tensors(
    layers: LayerSet, factors: Factors, stats: Stats
) -> dict[str, tuple[npt.NDArray[np.float64], ChannelStats]]:
    """Return the factors of each tensor of a set, and what is known of it."""
    pairs = ((graph.name_of(t), f) for c, f in zip(layers.chains, factors, strict=True) for t in c.tensors)
    return {n: (f, stats[n]) for n, f in pairs if n in stats}


def _proposal(layers: LayerSet, factors: Factors, stats: Stats) -> Proposal:
    def change(model: ir.Model, _part: Chain) -> None:
        _level(find_chains(model), factors, graph.Names(model))

    known = _of_tensors(layers, factors, stats)
    before = {n: range_of(stat) for n, (_, stat) in known.items()}
    after = {n: range_of(stat, f) for n, (f, stat) in known.items()}
    return Proposal(layers.chains[0], change, before, after, *layers.chains[1:])


def _by_tensor(layers: LayerSet, factors: Factors) -> dict[str, npt.NDArray[np.float32]]:
    """Return what the tensors of a set are multiplied by, in shapes that fit them."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    for chain, of_channels in zip(layers.chains, factors, strict=True):
        weight = graph.real_constant(chain.makers[0].node.inputs[1])
        spatial = weight.ndim - 2 if weight is not None and chain.axis == 1 else 0
        shaped = of_channels.astype(np.float32).reshape(-1, *(1,) * spatial)
        found |= {graph.name_of(t): shaped for t in chain.tensors}
    return found


def _with(state: State, model: ir.Model, done: Sequence[tuple[LayerSet, Factors]]) -> State:
    """Return the state with the levelled model, and what is known of its tensors."""
    scaled = [(c, f) for layers, factors in done for c, f in zip(layers.chains, factors, strict=True)]
    names = (graph.name_of(t) for c, _ in scaled for t in (*c.inner, *c.tensors))
    report = replace(state.report, equalized=tuple(dict.fromkeys((*state.report.equalized, *names))))
    return replace(state, model=model, normal=scaled_normals(state.normal, scaled), report=report)
