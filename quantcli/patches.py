"""The rows that a linear operator multiplies with its weight: im2col for convolutions, plain rows for Gemm and MatMul.

Only a spread of output positions is taken, so that the cost is bounded for large planes. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry of a convolution: kernel, strides, dilations, pads (begins, then ends), groups."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int = 1


def conv_rows(x: Array, window: Window, most: int) -> Array:
    """Return (G, P, C/G * prod(kernel)): for each group the inputs of at most ``most`` output positions.

    ``x`` is (N, C, *spatial), zero where it is padded.
    """
    spatial = len(window.kernel)
    padding = [(0, 0), (0, 0), *zip(window.pads[:spatial], window.pads[spatial:], strict=True)]
    padded = np.pad(x, padding)
    reach = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + spatial)))
    steps: list[slice] = [slice(None, None, s) for s in (1, 1, *window.strides)]
    inner: list[slice] = [slice(None, None, d) for d in window.dilations]
    views = views[tuple(steps + inner)]  # (N, C, *out, *kernel)
    taken = _spread([x.shape[0], *views.shape[2 : 2 + spatial]], most)
    chosen: list[slice | npt.NDArray[np.intp]] = [taken[0], slice(None), *taken[1:]]
    rows = views[tuple(chosen)]  # (P, C, *kernel)
    grouped = rows.reshape(len(rows), window.groups, -1)
    return np.ascontiguousarray(np.moveaxis(grouped, 1, 0))


def plain_rows(x: Array, most: int) -> Array:
    """Return (1, P, K): at most ``most`` of the rows along the last axis."""
    rows = x.reshape(-1, x.shape[-1])
    (taken,) = _spread([len(rows)], most)
    return rows[taken][None]


def same_pads(kind: str, sizes: Sequence[int], window: Window) -> tuple[int, ...]:
    """Return the pads that ``auto_pad`` SAME_UPPER or SAME_LOWER stands for."""
    begins, ends = [], []
    for size, k, s, d in zip(sizes, window.kernel, window.strides, window.dilations, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if kind == "SAME_UPPER" else large)
        ends.append(large if kind == "SAME_UPPER" else small)
    return (*begins, *ends)


def _spread(shape: Sequence[int], most: int) -> tuple[npt.NDArray[np.intp], ...]:
    """Return the indices of at most ``most`` positions of a grid, evenly spread with an offset that avoids columns."""
    total = int(np.prod(shape))
    flat = np.arange(total) if total <= most else (np.arange(most, dtype=np.int64) * total) // most
    return np.unravel_index(flat, tuple(shape))
