"""Chooses how far weights are clipped by what it does to the output (AIMET's SeqMSE), instead of by their extremes.

Works on second moments only. Knows nothing of layers or graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.gptq import gptq

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

PATIENCE: Final = 4  # shares in a row: errors of clipping only grow, those of rounding jump
Round = Callable[["Floats", "Floats", "Floats", int, int], "npt.NDArray[np.integer]"]
"""Rounds (weight, scale, moments, qmin, qmax) as whatever will round the weight in the end."""


def by_nearest(weight: Floats, scale: Floats, moments: Floats, qmin: int, qmax: int) -> npt.NDArray[np.int64]:
    """Round each weight to its nearest integer."""
    del moments
    return np.clip(np.rint(weight / scale[:, :, None]), qmin, qmax).astype(np.int64)


def by_gptq(weight: Floats, scale: Floats, moments: Floats, qmin: int, qmax: int) -> npt.NDArray[np.int64]:
    """Round so that errors make up for each other."""
    return gptq(weight, scale, moments, qmin=qmin, qmax=qmax)


def output_error(weight: Floats, scale: Floats, integers: npt.NDArray[np.integer], moments: Floats) -> Floats:
    """Return the mean squared error of each row's product with its inputs: ``e M e^T``, (groups, rows).

    Args:
        weight: Real weights, (groups, rows, K).
        scale: Step of each row, (groups, rows).
        integers: What they are rounded to, (groups, rows, K).
        moments: Second moments of the inputs of each group, (groups, K, K).
    """
    error = weight - scale[:, :, None] * integers
    found: Floats = np.einsum("grk,grk->gr", np.matmul(error, moments), error)
    return found


def best_shares(  # noqa: PLR0913 - the layer, the grid and what is tried
    weight: Floats,
    scale: Floats,
    moments: Floats,
    *,
    limits: tuple[int, int],
    shares: npt.NDArray[np.float64],
    rounded: Round,
    together: bool = False,
) -> Floats:
    """Return by how much to multiply the step of each row, (groups, rows), for the least output error.

    Args:
        weight: Real weights, (groups, rows, K).
        scale: The step of each row that its extremes ask for, (groups, rows).
        moments: Second moments of the inputs of each group, (groups, K, K).
        limits: Smallest and largest integer.
        shares: What is tried, falling; of equals the first wins, and where several in a row are better for no row, the
            rest is left out.
        rounded: How the weight will be rounded.
        together: Whether all rows have one step, so that the sum of their errors counts.
    """
    chosen = np.full(scale.shape, shares[0])
    least = np.full(scale.shape, np.inf)
    useless = 0
    for share in shares:
        tried = scale * share
        error = output_error(weight, tried, rounded(weight, tried, moments, *limits), moments)
        error = np.broadcast_to(error.sum(), error.shape) if together else error
        better = error < least
        chosen, least = np.where(better, share, chosen), np.minimum(least, error)
        useless = 0 if better.any() else useless + 1
        if useless == PATIENCE:
            break
    return chosen
