"""Draws made-up samples that look like something: pictures of overlapping leaves, smooth fields, noise. numpy only.

Photographs have edges at every scale and flat parts between them; so have dead leaves (Lee, Mumford, Huang 2001,
"Occlusion models for natural images"): shapes of all sizes that hide one another. Networks that were trained on
photographs take them for such, where they are blind to noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

LEAVES, SMOOTH, NOISE = "leaves", "smooth", "noise"
_COUNT: Final = 200  # leaves in a picture: they hide what is behind them nearly everywhere
_SMALLEST: Final = 0.03  # radius of a leaf, as a share of the largest, which is half of the picture
_COLOURING: Final = 0.15  # how much the channels of a leaf differ
_SHADING: Final = 0.2  # how much the brightness of a leaf changes from one side to the other
_GRAIN: Final = 0.05  # at most


@dataclass(frozen=True, slots=True)
class Look:
    """What the samples of one input look like: ``pattern * scale + offset``.

    Attributes:
        pattern: ``leaves`` are from 0 to 1; ``smooth`` and ``noise`` have mean 0 and variance 1.
        scale: A number, or one for each channel.
        offset: Likewise.
        axis: Axis of the channels of a picture.
    """

    pattern: str = NOISE
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    axis: int = 1

    def __str__(self) -> str:
        """Say it in words."""
        if self.pattern == LEAVES:
            low, high = min(self.offset), max(np.add(self.offset, self.scale))
            return f"pictures from {low:.4g} to {high:.4g}"
        return f"{self.pattern} with a standard deviation of {self.scale[0]:.4g}"


def draw(rng: np.random.Generator, shape: tuple[int, ...], look: Look) -> Floats:
    """Return one sample: (N, C, H, W) or (N, H, W, C) for leaves, any shape for the others."""
    if look.pattern == LEAVES:
        return np.stack([_picture(rng, shape[1:], look) for _ in range(shape[0])])
    values = rng.standard_normal(shape, np.float32)
    if look.pattern == SMOOTH and values.size:
        for axis in range(1, values.ndim):
            values = _smoothed(values, axis)
        values = (values - values.mean()) / max(float(values.std()), 1e-6)
    return (values * np.float32(look.scale[0]) + np.float32(look.offset[0])).astype(np.float32)


def _picture(rng: np.random.Generator, shape: tuple[int, ...], look: Look) -> Floats:
    last = look.axis % (len(shape) + 1) == len(shape)
    height, width, channels = shape if last else (shape[1], shape[2], shape[0])
    picture = dead_leaves(rng, height, width, channels)
    picture = picture * np.asarray(look.scale, np.float32) + np.asarray(look.offset, np.float32)
    return picture if last else np.ascontiguousarray(picture.transpose(2, 0, 1))


def dead_leaves(rng: np.random.Generator, height: int, width: int, channels: int) -> Floats:
    """Return a picture of discs and rectangles that hide one another, (height, width, channels), from 0 to 1."""
    size = max(height, width)
    picture = np.broadcast_to(rng.random(channels, np.float32), (height, width, channels)).copy()
    for _ in range(_COUNT):
        _drop(rng, picture, size)
    grain = _GRAIN * rng.random() * rng.standard_normal(picture.shape, np.float32)
    return np.clip(picture + grain.astype(np.float32), 0.0, 1.0)


def _drop(rng: np.random.Generator, picture: Floats, size: int) -> None:
    """Let one leaf fall onto a picture."""
    height, width, channels = picture.shape
    radius = max(size / 2 * _SMALLEST ** rng.random(), 0.5)  # as many between 1 and 2 as between 2 and 4
    y, x = rng.random() * height, rng.random() * width
    reach = radius * np.sqrt(2)  # to the corners of a square
    rows = slice(max(int(y - reach), 0), min(int(y + reach) + 2, height))
    columns = slice(max(int(x - reach), 0), min(int(x + reach) + 2, width))
    dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(x)
    covered = _covered(rng, dy, dx, radius)
    colour = rng.random() + rng.normal(0, _COLOURING, channels)
    slope = rng.normal(0, _SHADING, 2) / size
    shade = np.float32(slope[0]) * dy + np.float32(slope[1]) * dx
    region = picture[rows, columns]
    for channel, value in enumerate(np.clip(colour, 0, 1).astype(np.float32)):
        np.copyto(region[..., channel], shade + value, where=covered)


def _covered(rng: np.random.Generator, dy: Floats, dx: Floats, radius: float) -> npt.NDArray[np.bool_]:
    if rng.random() < 0.5:
        return dy * dy + dx * dx < np.float32(radius * radius)
    angle, flat = rng.random() * np.pi, rng.uniform(0.2, 1)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across, along = dx * cosine + dy * sine, dy * cosine - dx * sine
    return (np.abs(across) < radius) & (np.abs(along) < radius * flat)


def _smoothed(values: Floats, axis: int) -> Floats:
    """Return a field whose neighbours along an axis are alike: each frequency by the inverse of its square root."""
    length = values.shape[axis]
    frequencies = np.maximum(np.arange(length // 2 + 1), 1.0) ** -0.5
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    found = np.fft.irfft(np.fft.rfft(values, axis=axis) * frequencies.reshape(shape), length, axis=axis)
    return found.astype(np.float32)
