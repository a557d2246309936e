"""Small pictures of the images that are fed, side by side: what a person checks at a glance. Pure numpy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.feed_statistics import CHANNELS_FIRST, layout_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from quantcli.feed_statistics import Summary

    Array = npt.NDArray[np.generic]
    Pixels = npt.NDArray[np.uint8]

MOST: Final = 64
TILE: Final = 112  # pixels of a side
GAP: Final = 4
_BACKGROUND: Final = 32
_MEAN: Final = np.array([0.485, 0.456, 0.406])  # of ImageNet, as torchvision normalises
_STD: Final = np.array([0.229, 0.224, 0.225])


def sheet(images: Iterable[Array], summary: Summary) -> Pixels:
    """Return uint8 (H, W, 3) with one tile for each image, in the order in which they are fed.

    Values are taken back to pixels by the usual formulas: 0 to 255, 0 to 1, -1 to 1, ImageNet's mean and standard
    deviation; what fits none of them is stretched from the smallest to the largest value.

    Args:
        images: Of rank 4 with a leading axis of 1 and 1 or 3 channels; none but of ``layout_of`` a layout.
        summary: The numbers of all of them.
    """
    tiles = [_tile(_pixels(image, summary)) for image in images]
    columns = max(1, math.ceil(math.sqrt(len(tiles))))
    rows = max(1, math.ceil(len(tiles) / columns))
    side = TILE + GAP
    page = np.full((rows * side + GAP, columns * side + GAP, 3), _BACKGROUND, np.uint8)
    for index, tile in enumerate(tiles):
        height, width = tile.shape[:2]
        top = GAP + index // columns * side + (TILE - height) // 2
        left = GAP + index % columns * side + (TILE - width) // 2
        page[top : top + height, left : left + width] = tile
    return page


def _pixels(image: Array, summary: Summary) -> Pixels:
    """Return one image as uint8 (H, W, 3)."""
    first = image[0].astype(np.float64)
    values = np.moveaxis(first, 0, -1) if layout_of(image.shape) == CHANNELS_FIRST else first
    return np.clip(np.rint(_unnormalised(np.repeat(values, 3 // values.shape[-1], axis=-1), summary)), 0, 255).astype(
        np.uint8
    )


def _unnormalised(values: npt.NDArray[np.float64], summary: Summary) -> npt.NDArray[np.float64]:
    low, high = (summary.values.minimum, summary.values.maximum) if summary.values else (0.0, 1.0)
    if not summary.is_float or (low >= 0 and high > 1):
        return values
    if low >= 0:
        return values * 255
    if low >= -1 and high <= 1:
        return (values + 1) * 127.5
    lows = [(c.minimum * s + m) for c, m, s in zip(summary.channels, _MEAN, _STD, strict=False)]
    highs = [(c.maximum * s + m) for c, m, s in zip(summary.channels, _MEAN, _STD, strict=False)]
    if len(lows) == 3 and min(lows) > -0.01 and max(highs) < 1.01:
        restored: npt.NDArray[np.float64] = (values * _STD + _MEAN) * 255
        return restored
    return (values - low) / (high - low) * 255 if high > low else np.zeros_like(values)


def _tile(pixels: Pixels) -> Pixels:
    """Return a picture that fits into a tile, by its nearest pixels."""
    height, width = pixels.shape[:2]
    factor = TILE / max(height, width)
    rows = np.minimum((np.arange(max(1, round(height * factor))) / factor).astype(int), height - 1)
    columns = np.minimum((np.arange(max(1, round(width * factor))) / factor).astype(int), width - 1)
    return np.ascontiguousarray(pixels[np.ix_(rows, columns)])
