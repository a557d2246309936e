"""Takes the mean error of a layer's output off its bias, channel by channel, where its squared error falls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from quantcli.reconstruction import Layer

_WORTH: Final = 0.99  # another round pays where the last one took more than 1 % of the error


def corrected(layer: Layer, rounds: int) -> bool:
    """Correct the bias of a layer; tell whether it changed.

    Args:
        layer: With its quantized inputs and its float output.
        rounds: Fixed-point iterations at most; a second one matters where an absorbed activation clips.
    """
    scale = layer.bias_params.scale.astype(np.float64)
    first = bias = layer.bias()
    best = layer.errors()
    for _ in range(rounds):
        moved = layer.held(bias + best.mean / scale)
        trial = layer.errors(bias=moved)
        better = trial.square < best.square
        before = best.square.sum()
        bias, best = np.where(better, moved, bias), best.chosen(better, trial)
        if best.square.sum() > _WORTH * before:
            break
    if np.array_equal(bias, first):
        return False
    layer.replace(bias=bias)
    return True
