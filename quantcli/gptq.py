"""GPTQ (Frantar et al. 2022, 2210.17323) in numpy: rounds a weight column by column, the rest makes up for the error.

Works on second moments only, so samples are seen once. Knows nothing of layers or graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

DAMP: Final = 0.01  # share of the mean diagonal added to it, as in the paper
BLOCK: Final = 128  # columns after which the rest is updated at once


def gptq(
    weight: Floats, scale: Floats, hessian: Floats, *, qmin: npt.ArrayLike, qmax: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Round ``weight`` to integers so that ``(W - scale * Q) H (W - scale * Q)^T`` is small, group by group.

    Args:
        weight: Real weights, (groups, rows, K).
        scale: Step of each row, (groups, rows).
        hessian: Second moments of the inputs of each group, (groups, K, K).
        qmin: Smallest integer, of all weights or of each.
        qmax: Largest integer, likewise.

    Returns:
        Integers, (groups, rows, K). Columns are rounded in order of falling diagonal ("act order").
    """
    order = np.argsort(-np.einsum("gkk->gk", hessian), axis=1, kind="stable")
    sorted_rows = np.take_along_axis(hessian, order[:, :, None], axis=1)
    factor = _inverse_factor(np.take_along_axis(sorted_rows, order[:, None, :], axis=2))
    w = np.take_along_axis(weight / scale[:, :, None], order[:, None, :], axis=2)
    low, high = (_in_order(np.asarray(limit), order, w.shape) for limit in (qmin, qmax))
    q = np.empty_like(w)
    columns = w.shape[2]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = np.empty((*w.shape[:2], end - start))
        for i in range(start, end):
            q[:, :, i] = np.clip(np.rint(w[:, :, i]), low[:, :, i], high[:, :, i])
            error = (w[:, :, i] - q[:, :, i]) / factor[:, None, i, i]
            w[:, :, i + 1 : end] -= error[:, :, None] * factor[:, None, i, i + 1 : end]
            errors[:, :, i - start] = error
        w[:, :, end:] -= np.matmul(errors, factor[:, start:end, end:])
    result = np.empty(w.shape, np.int64)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], w.shape), q.astype(np.int64), axis=2)
    return result


def _in_order(
    limit: npt.NDArray[np.generic], order: npt.NDArray[np.intp], shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    return np.take_along_axis(limit, order[:, None, :], axis=2) if limit.ndim else np.broadcast_to(limit, shape)


def _inverse_factor(hessian: Floats) -> Floats:
    """Return the upper Cholesky factors of the inverses of the damped matrices, (groups, K, K)."""
    damped = hessian.copy()
    diagonal = np.einsum("gkk->gk", damped)
    alive = diagonal > 0
    mean = np.where(alive, diagonal, 0).sum(axis=1) / np.maximum(alive.sum(axis=1), 1)
    mean = np.where(mean > 0, mean, 1.0)
    diagonal += np.where(alive, 0.0, mean[:, None])
    damp = DAMP * mean
    while True:
        diagonal += damp[:, None]
        try:
            inverse = np.linalg.inv(damped)
            return np.ascontiguousarray(
                np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
            )
        except np.linalg.LinAlgError:  # rounding noise in place of moments: more damping, in the end nearest rounding
            damp = damp * 10
