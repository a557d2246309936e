"""AdaRound (Nagel et al. 2020, 2004.10568) in numpy: learns for each weight whether to round it down or up.

The reconstruction loss is a quadratic form of the rounding error, so second moments of the inputs take the place of the
samples in every iteration. Knows nothing of layers or graphs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Singles = npt.NDArray[np.float32]

ZETA: Final = 1.1  # the rectified sigmoid is stretched to (gamma, zeta), as in the paper
GAMMA: Final = -0.1
# Weight of what drives h to 0 or 1. The paper's 0.01 is for an unscaled loss and 10,000 iterations; ours is in squared
# steps times the mean square of the inputs, and 300 iterations end undecided with it. Measured on MobileNet in 4 bits.
REGULARIZATION: Final = 0.1
WARM_START: Final = 0.2  # share of the iterations without it
BETA: Final = (20.0, 2.0)  # its exponent, from and to
RATE: Final = 0.1  # of Adam; the paper's 0.01 is for 10,000 iterations
SWEEPS: Final = 3  # over all columns, at most
_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8  # Adam's own constants


def rectified_sigmoid(v: Floats) -> Floats:
    """Return ``h(V) = clip((zeta - gamma) * sigmoid(V) + gamma, 0, 1)``."""
    return np.clip((ZETA - GAMMA) / (1 + np.exp(-v)) + GAMMA, 0, 1)


def start(fraction: Floats) -> Floats:
    """Return the V at which ``h(V)`` is the fraction that flooring a weight leaves, so that nothing is rounded yet."""
    return -np.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)


def beta_at(iteration: int, iterations: int) -> float:
    """Return the exponent of the regularizer: falling along a cosine after the warm start."""
    first = WARM_START * iterations
    done = (iteration - first) / (iterations - first)
    high, low = BETA
    return float(low + 0.5 * (high - low) * (1 + np.cos(done * np.pi)))


def adaround(  # noqa: PLR0913 - the layer, the grid and how long
    weight: Floats,
    scale: Floats,
    moments: Floats,
    *,
    qmin: npt.ArrayLike,
    qmax: npt.ArrayLike,
    iterations: int,
    near: npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.int64]:
    """Round ``weight`` down or up so that ``(W - scale * Q) M (W - scale * Q)^T`` is small.

    Args:
        weight: Real weights, (groups, rows, K).
        scale: Step of each row, (groups, rows).
        moments: Second moments of the inputs of each group, (groups, K, K).
        qmin: Smallest integer, of all weights or of each.
        qmax: Largest integer, likewise.
        iterations: Steps of Adam.
        near: Integers that someone else chose; each weight then decides between its own and the next towards the real
            number, instead of between the two around the real number.

    Returns:
        Integers, (groups, rows, K).
    """
    steps = weight / scale[:, :, None]
    low = np.floor(steps) if near is None else np.where(steps >= near, near, near - 1)
    low = np.clip(low, qmin, np.asarray(qmax) - (np.asarray(qmax) > np.asarray(qmin)))
    fraction = (steps - low).astype(np.float32)
    size = np.einsum("gkk->gk", moments).mean(axis=1)
    form = (moments / np.where(size > 0, size, 1.0)[:, None, None]).astype(np.float32)
    begin = np.clip(fraction, 0.001, 0.999)
    if near is not None:
        begin = 0.5 * begin + 0.5 * np.clip(near - low, 0.05, 0.95).astype(np.float32)
    v = start(begin.astype(np.float64)).astype(np.float32)
    soft = _learned(v, fraction, form, iterations)
    return (low + (soft >= 0)).astype(np.int64)


def _learned(v: Singles, fraction: Singles, form: Singles, iterations: int) -> Singles:
    """Return V after Adam's steps on the quadratic loss and the regularizer; half of h is where V is 0."""
    mean, square = np.zeros_like(v), np.zeros_like(v)
    for iteration in range(iterations):
        sigmoid = 1 / (1 + np.exp(-v))
        h = (ZETA - GAMMA) * sigmoid + GAMMA
        inside = (h > 0) & (h < 1)
        np.clip(h, 0, 1, out=h)
        gradient = 2 * np.matmul(h - fraction, form)
        if iteration >= WARM_START * iterations:
            beta, centred = beta_at(iteration, iterations), 2 * h - 1
            gradient -= REGULARIZATION * 2 * beta * np.sign(centred) * np.abs(centred) ** np.float32(beta - 1)
        gradient *= inside * ((ZETA - GAMMA) * sigmoid * (1 - sigmoid))
        mean += (1 - _FIRST) * (gradient - mean)
        square += (1 - _SECOND) * (gradient * gradient - square)
        rate = RATE * np.sqrt(1 - _SECOND ** (iteration + 1)) / (1 - _FIRST ** (iteration + 1))
        v = v - (np.float32(rate) * mean / (np.sqrt(square) + np.float32(_TINY))).astype(np.float32)
    return v


def descended(  # noqa: PLR0913 - the layer, the grid and where to begin
    weight: Floats,
    scale: Floats,
    moments: Floats,
    integers: npt.NDArray[np.integer],
    *,
    qmin: npt.ArrayLike,
    qmax: npt.ArrayLike,
) -> npt.NDArray[np.int64]:
    """Move one integer of a row after the other to where the quadratic loss is least, all others held.

    Args:
        weight: Real weights, (groups, rows, K).
        scale: Step of each row, (groups, rows).
        moments: Second moments of the inputs of each group, (groups, K, K).
        integers: Where to begin, (groups, rows, K).
        qmin: Smallest integer, of all weights or of each.
        qmax: Largest integer, likewise.

    Returns:
        Integers whose loss is nowhere larger than that of ``integers``.
    """
    q = integers.astype(np.float64)
    low, high = (np.broadcast_to(np.asarray(limit, np.float64), q.shape) for limit in (qmin, qmax))
    slope = np.matmul(weight / scale[:, :, None] - q, moments)  # half the negative gradient of the loss, in steps
    curve = np.einsum("gkk->gk", moments)
    for _ in range(SWEEPS):
        before = q.copy()
        for k in np.flatnonzero((curve > 0).any(axis=0)):
            wanted = np.divide(
                slope[:, :, k], curve[:, None, k], out=np.zeros_like(slope[:, :, k]), where=curve[:, None, k] > 0
            )
            moved = np.clip(np.rint(q[:, :, k] + wanted), low[:, :, k], high[:, :, k]) - q[:, :, k]
            if moved.any():
                q[:, :, k] += moved
                slope -= moved[:, :, None] * moments[:, None, k, :]
        if np.array_equal(q, before):
            break
    return q.astype(np.int64)
