"""How small the scale of a weight may be: the bias is stored in steps of input scale times weight scale, and must fit.

Knows the two sizes in which operators keep their sums, and no graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import affine

if TYPE_CHECKING:
    import numpy.typing as npt

    from quantcli.recipe import Recipe

WIDE_LIMIT: Final = 1 << 52  # what float64, in which 16-bit operators sum, holds exactly, and one bit less


def bias_limit(recipe: Recipe) -> int:
    """Return how many steps a bias may have on either side of zero."""
    return WIDE_LIMIT if recipe.form == "wide" and recipe.format == "integer" else affine.BIAS_LIMIT


def scale_floor(
    bias: npt.NDArray[np.generic] | None, input_scale: npt.NDArray[np.float32], channels: int, largest: int
) -> npt.NDArray[np.float32]:
    """Return the smallest scales, (channels,), with which no bias has more than ``largest`` steps; 0 without a bias."""
    if bias is None:
        return np.zeros((), np.float32)
    full = np.broadcast_to(bias.ravel(), (channels,)).astype(np.float64)
    return affine.bias_scale_floor(full * (affine.BIAS_LIMIT / largest), input_scale)
