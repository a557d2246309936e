"""Empirical, sequential bias correction (Nagel et al. 2019, 1906.04721 section 4.2, done on quantized inputs).

Layer by layer: the mean error of each output channel, between the float layer on float inputs and the integer layer on
the inputs that the corrected integer layers before it give, measured after the absorbed activation, is taken off the
integer bias. A channel keeps its correction only where its squared error falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from quantcli.mean_error import corrected
from quantcli.proof import copied, proven
from quantcli.reconstruction import reconstruct, sample_count

if TYPE_CHECKING:
    from quantcli.state import State, Tick


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
        kept = [corrected(layer, self.rounds) for layer in reconstruct(state, quantized, used, tick)]
        note = f"bias correction on {used} samples, kept on {sum(kept)} of {len(kept)} layers"
        return proven(state, quantized, self.samples, note)
