"""Empirical, sequential bias correction (Nagel et al. 2019, 1906.04721 section 4.2, done on quantized inputs).

Layer by layer: the mean error of each output channel, between the float layer on float inputs and the integer layer on
the inputs that the corrected integer layers before it give, measured after the absorbed activation, is taken off the
integer bias. A channel keeps its correction only where its squared error falls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli.reconstruction import Layer, copied, kept_if_better, reconstruct, sample_count

if TYPE_CHECKING:
    from quantcli.state import State, Tick

_WORTH: Final = 0.99  # another round pays where the last one took more than 1 % of the error


@dataclass(frozen=True, slots=True)
class BiasCorrection:
    """Corrects the biases of the emitted model.

    Attributes:
        samples: At least this many samples, spread over the dataset; more for small models.
        rounds: Fixed-point iterations; a second one matters where an absorbed activation clips.
    """

    samples: int = 32
    rounds: int = 3
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Correct every linear operator, in topological order."""
        if state.quantized is None or state.data is None:
            return state
        quantized, used = copied(state.quantized), sample_count(state, self.samples)
        kept = [_corrected(layer, self.rounds) for layer in reconstruct(state, quantized, used, tick)]
        note = f"bias correction on {used} samples, kept on {sum(kept)} of {len(kept)} layers"
        better = kept_if_better(state, quantized, self.samples)
        if better is None:
            return state.noted(notes=(f"{note}; taken back: the outputs were closer to float without it",))
        return replace(state, quantized=better).noted(notes=(note,))


def _corrected(layer: Layer, rounds: int) -> bool:
    scale = layer.bias_params.scale.astype(np.float64)
    first = bias = layer.bias()
    best = layer.errors()
    for _ in range(rounds):
        moved = layer.held(bias + best.mean / scale)
        trial = layer.errors(bias=moved)
        better = trial.square < best.square
        before = best.square.sum()
        bias, best = np.where(better, moved, bias), best.chosen(better, trial)
        if best.square.sum() > _WORTH * before:
            break
    if np.array_equal(bias, first):
        return False
    layer.replace(bias=bias)
    return True
