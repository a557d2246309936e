"""Rounds kernels of a convolution so that their sums stay: neighbouring inputs are alike, errors that cancel vanish.

SQuant (Guo et al. 2022, 2202.07471) without its weighting: first each kernel, one per pair of output and input channel,
then each output channel is brought to within half a step of its exact sum, by rounding the values nearest to a half the
other way. numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli.quant import PerAxis

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.quant import QuantParams

    Floats = npt.NDArray[np.float64]


def balanced(real: npt.NDArray[np.floating], params: QuantParams) -> npt.NDArray[np.integer]:
    """Round the weight of a convolution to integers whose kernels and channels keep their sums.

    Args:
        real: (C_out, C_in / group, *taps).
        params: One scale for each output channel, along axis 0.

    Returns:
        Integers within one step of ``real / scale`` and within the range of the type.
    """
    if params.spec.granularity != PerAxis(0):
        raise ValueError(f"kernels are balanced per output channel, not {params.spec.granularity}")
    channels, kernels = real.shape[:2]
    shape = (channels, *[1] * (real.ndim - 1))
    exact = real.astype(np.float64) / params.scale.astype(np.float64).reshape(shape)
    exact += params.zero_point.astype(np.float64).reshape(shape)
    ends = (float(params.spec.qmin), float(params.spec.qmax))
    steps = np.clip(np.rint(exact), *ends)
    for rows in (channels * kernels, channels):
        steps = _with_sums(steps.reshape(rows, -1), exact.reshape(rows, -1), ends)
    return steps.reshape(real.shape).astype(params.spec.dtype.storage)


def _with_sums(steps: Floats, exact: Floats, ends: tuple[float, float]) -> Floats:
    """Return steps (rows, values) whose sums are within half a step of the exact ones, as far as the range allows."""
    excess = steps - exact
    total = excess.sum(axis=1)
    direction, wanted = np.sign(total)[:, None], np.rint(np.abs(total))[:, None]
    gain = excess * direction  # how far a value was rounded in the direction that is too much
    moved = steps - direction
    movable = (gain > 0) & (moved >= ends[0]) & (moved <= ends[1])
    order = np.argsort(np.where(movable, -gain, np.inf), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(steps.shape[1]), steps.shape), axis=1)
    return np.where(movable & (rank < wanted), moved, steps)
