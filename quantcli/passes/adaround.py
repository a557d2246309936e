"""Rounds the weights of each linear operator up or down as learned from its quantized inputs (AdaRound).

Three roundings compete for each output channel: the nearest, GPTQ's, and AdaRound's, which starts where GPTQ ended. The
one with the least error on the moments of the inputs is tried, and kept where the squared error of the output falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from quantcli.adaround import adaround, descended
from quantcli.gptq import gptq
from quantcli.rounding import Effort, round_weights
from quantcli.seq_mse import output_error

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.rounding import Problem
    from quantcli.state import State, Tick


@dataclass(frozen=True, slots=True)
class Adaround:
    """Rounds the weights of the emitted model.

    Attributes:
        samples: At least this many samples, spread over the dataset; more for small models.
        rows: At most this many rows of inputs per operator, over all samples; at least four times its inputs are taken.
        largest: Operators with more inputs per output than this keep nearest rounding; their Gram matrix is too large.
        iterations: Steps of the optimizer for each operator; none of them looks at a sample.
        follow: Whether weights make up for what earlier operators lost, where samples held out confirm it.
    """

    samples: int = 32
    rows: int = 16384
    largest: int = 4608
    iterations: int = 300
    follow: bool = True
    needs: ClassVar[frozenset[str]] = frozenset({"quantized", "data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Round every linear operator, in topological order."""
        effort = Effort(self.samples, self.rows, self.largest, self.follow)
        return round_weights(state, tick, how=self._rounded, name="adaround", effort=effort)

    def _rounded(self, problem: Problem) -> npt.NDArray[np.int64]:
        real, scale, moments = problem.real, problem.scale, problem.moments.covariance
        nearest = np.clip(np.rint(real / scale[:, :, None]), problem.low, problem.high).astype(np.int64)
        started = gptq(real, scale, moments, qmin=problem.low, qmax=problem.high)
        learned = adaround(
            real, scale, moments, qmin=problem.low, qmax=problem.high, iterations=self.iterations, near=started
        )
        polished = descended(real, scale, moments, learned, qmin=problem.low, qmax=problem.high)
        best, least = nearest, output_error(real, scale, nearest, moments)
        for integers in (started, polished):
            error = output_error(real, scale, integers, moments)
            best = np.where((error < least)[:, :, None], integers, best)
            least = np.minimum(error, least)
        return best
