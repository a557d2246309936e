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


def gptq(weight: Floats, scale: Floats, hessian: Floats, *, qmin: int, qmax: int) -> npt.NDArray[np.int64]:
    """Round ``weight`` to integers so that ``(W - scale * Q) H (W - scale * Q)^T`` is small.

    Args:
        weight: Real weights, (rows, K).
        scale: Step of each row, (rows,).
        hessian: Second moments of the inputs, (K, K); one for all rows.
        qmin: Smallest integer.
        qmax: Largest integer.

    Returns:
        Integers, (rows, K). Columns are rounded in order of falling diagonal ("act order").
    """
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = _inverse_factor(hessian[np.ix_(order, order)])
    w = (weight / scale[:, None])[:, order]
    q = np.empty_like(w)
    columns = w.shape[1]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = np.empty((w.shape[0], end - start))
        for i in range(start, end):
            q[:, i] = np.clip(np.rint(w[:, i]), qmin, qmax)
            errors[:, i - start] = (w[:, i] - q[:, i]) / factor[i, i]
            w[:, i + 1 : end] -= errors[:, i - start, None] * factor[i, i + 1 : end]
        w[:, end:] -= errors @ factor[start:end, end:]
    result = np.empty(w.shape, np.int64)
    result[:, order] = q.astype(np.int64)
    return result


def _inverse_factor(hessian: Floats) -> Floats:
    """Return the upper Cholesky factor of the inverse of the damped matrix."""
    damped = hessian.copy()
    diagonal = np.einsum("ii->i", damped)
    dead = diagonal <= 0
    diagonal[dead] = 1.0
    diagonal += DAMP * max(float(diagonal[~dead].mean()) if (~dead).any() else 1.0, np.finfo(np.float64).tiny)
    inverse = np.linalg.inv(damped)
    return np.ascontiguousarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)
