"""Chooses the integers of a layer's weight by what they do to its output, and keeps them only where that falls.

What is common to every way of rounding: the target, the grid, the moments of the inputs, the bias that takes up the
shift of the mean, the proof on calibration data. How to round is up to the pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import portability, saturation
from quantcli.mean_error import corrected
from quantcli.moments import following, moments_of, rows_of_each
from quantcli.proof import copied, proven
from quantcli.reconstruction import reconstruct, sample_count

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.moments import Moments
    from quantcli.recipe import Recipe
    from quantcli.reconstruction import Layer
    from quantcli.state import State, Tick

    Floats = npt.NDArray[np.float64]

_ROUNDS: Final = 3  # of correcting the bias behind each layer


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be rounded.

    Attributes:
        real: Weights to come near to, (groups, rows, K): the real ones, or those that make up for lost inputs.
        scale: Step of each row, (groups, rows).
        moments: Of the quantized inputs of each group.
        low: Smallest integer, of all weights or of each.
        high: Largest integer, likewise.
    """

    real: Floats
    scale: Floats
    moments: Moments
    low: npt.ArrayLike
    high: npt.ArrayLike


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to look at, and how far to go.

    Attributes:
        samples: At least this many samples, spread over the dataset; more for small models.
        rows: At most this many rows of inputs per operator, over all samples; at least four times its inputs.
        largest: Operators with more inputs per output than this are left out.
        follow: Whether weights make up for what earlier operators lost.
    """

    samples: int
    rows: int
    largest: int
    follow: bool


Round = Callable[[Problem], "npt.NDArray[np.int64]"]


def round_weights(state: State, tick: Tick, *, how: Round, name: str, effort: Effort) -> State:
    """Round the weight of every linear operator of the emitted model, in topological order.

    Args:
        state: With data, encodings and the emitted model.
        tick: Told of progress.
        how: Returns the integers, (groups, rows, K).
        name: What to call it in the report.
        effort: How much to look at.
    """
    if state.quantized is None or state.data is None:
        return state
    quantized, used = copied(state.quantized), sample_count(state, effort.samples)
    stored = Counter(quantized.weights.values())
    kept = [
        stored[layer.stored_weight] == 1 and _rounded(layer, how, effort, used, state.recipe)  # shared: serves others
        for layer in reconstruct(state, quantized, used, tick)
    ]
    note = f"{name} rounding on {used} samples, kept on {sum(kept)} of {len(kept)} layers"
    return proven(state, quantized, effort.samples, note)


def _rounded(layer: Layer, how: Round, effort: Effort, samples: int, recipe: Recipe) -> bool:
    real = layer.real_weight()
    if real.shape[2] > effort.largest:
        return False
    most = rows_of_each(effort.rows, real.shape[2], samples)
    taps = layer.weight().shape[2:]
    moments, *halves = moments_of(layer.inputs(), layer.float_inputs(), layer.input_params, layer.node, taps, most)
    scale = np.broadcast_to(layer.weight_params.scale.astype(np.float64), (real.shape[0] * real.shape[1],))
    low, high = _limits(layer, recipe)
    wanted = following(real, moments, (halves[0], halves[1])) if effort.follow else real
    problem = Problem(wanted, scale.reshape(real.shape[:2]), moments, low, high)
    kept = _accepted(layer, problem, how(problem))
    corrected(layer, _ROUNDS)  # at once: what comes next is rounded for what this one gives
    return kept


def _accepted(layer: Layer, problem: Problem, rounded: npt.NDArray[np.int64]) -> bool:
    """Put the integers into the channels whose output comes closer to float with them; tell whether there is one."""
    moments, real = problem.moments, layer.real_weight()
    shift = np.einsum("grk,gk->gr", real - rounded * problem.scale[..., None], moments.mean)
    shift += np.einsum("grk,gk->gr", real, moments.missing_mean)
    weight, bias = layer.weight(), layer.bias()
    new_bias = layer.held(bias + shift.ravel() / layer.bias_params.scale)
    candidate = layer.shaped(rounded)
    better = layer.errors(weight=candidate, bias=new_bias).square < layer.errors().square
    if not better.any():
        return False
    shape = [-1 if a == layer.unit.axis else 1 for a in range(weight.ndim)]
    layer.replace(weight=np.where(better.reshape(shape), candidate, weight), bias=np.where(better, new_bias, bias))
    return True


def _limits(layer: Layer, recipe: Recipe) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    """Return how far weights may move: over their type, or as far as products stay exact on every CPU."""
    spec = layer.weight_params.spec
    if not (recipe.portable and portability.adds_pairs(layer.unit, layer.node, recipe)):
        return spec.qmin, spec.qmax
    low, high = saturation.limits(layer.arranged(layer.weight()))
    return np.maximum(low, spec.qmin), np.minimum(high, spec.qmax)
