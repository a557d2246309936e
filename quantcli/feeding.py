"""Carries samples over an integer boundary: float feeds in, float results out, whatever types the model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quantcli import affine

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from quantcli.quant import QuantParams

    Arrays = Mapping[str, npt.NDArray[np.generic]]


def to_integers(feed: Arrays, boundary: Mapping[str, QuantParams]) -> dict[str, npt.NDArray[np.generic]]:
    """Quantize the float arrays of those inputs that the model takes as integers."""
    result = dict(feed)
    for name, array in feed.items():
        if name in boundary and array.dtype.kind == "f":
            result[name] = affine.quantize(array.astype(np.float32, copy=False), boundary[name])
    return result


def to_floats(results: Arrays, boundary: Mapping[str, QuantParams]) -> dict[str, npt.NDArray[np.generic]]:
    """Dequantize those outputs that the model gives as integers."""
    return {n: affine.dequantize(x, boundary[n]) if n in boundary else x for n, x in results.items()}  # type: ignore[arg-type]
