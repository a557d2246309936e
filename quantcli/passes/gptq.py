"""Rounds the weights of each linear operator for its quantized inputs, instead of each weight to its nearest integer.

GPTQ on the covariance of the inputs that the already rounded operators before give: a shift of the output's mean costs
nothing, because it goes into the bias. An output channel keeps the new rounding only where its squared error falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from quantcli.gptq import gptq
from quantcli.rounding import Effort, round_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from quantcli.rounding import Problem
    from quantcli.state import State, Tick


@dataclass(frozen=True, slots=True)
class Gptq:
    """Rounds the weights of the emitted model.

    Attributes:
        samples: At least this many samples, spread over the dataset; more for small models.
        rows: At most this many rows of inputs per operator, over all samples; at least four times its inputs are taken.
        largest: Operators with more inputs per output than this keep nearest rounding; their Gram matrix is too large.
        follow: Whether weights make up for what earlier operators lost, where samples held out confirm it.
    """

    samples: int = 32
    rows: int = 16384
    largest: int = 4608
    follow: bool = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Round every linear operator, in topological order."""
        effort = Effort(self.samples, self.rows, self.largest, self.follow)
        return round_weights(state, tick, how=_rounded, name="gptq", effort=effort)


def _rounded(problem: Problem) -> npt.NDArray[np.int64]:
    covariance = problem.moments.covariance
    return gptq(problem.real, problem.scale, covariance, qmin=problem.low, qmax=problem.high)
