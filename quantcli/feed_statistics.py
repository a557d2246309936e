"""What is fed to each input, in numbers: ranges, by channel for images, gathered in one pass. Judges nothing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Floats = npt.NDArray[np.float64]

CHANNELS_FIRST: Final = "NCHW"
CHANNELS_LAST: Final = "NHWC"


@dataclass(frozen=True, slots=True)
class Values:
    """What numbers there are."""

    minimum: float
    maximum: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What is fed to one input.

    Attributes:
        name: Of the input.
        dtype: Of the arrays.
        shapes: Each shape with the number of samples that have it, the most frequent first.
        layout: ``NCHW`` or ``NHWC`` where it looks like images of 1 or 3 channels; else empty.
        values: All numbers; None for text and where there are none.
        channels: The numbers of each channel of an image.
        is_float: Whether the numbers are floats.
        identical: Whether all of several samples are equal.
        roughness: Mean step between neighbours in a row of an image, and the same if its numbers lay in memory in the
            other layout; None where there is no image of 3 channels.
    """

    name: str
    dtype: str
    shapes: tuple[tuple[tuple[int, ...], int], ...]
    layout: str
    values: Values | None
    channels: tuple[Values, ...]
    is_float: bool
    identical: bool
    roughness: tuple[float, float] | None

    @property
    def is_empty(self) -> bool:
        """Whether every array has no elements."""
        return all(0 in shape for shape, _ in self.shapes)


class Gathering:
    """Running sums of what is fed to one input."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._dtype = ""
        self._is_float = False
        self._shapes: Counter[tuple[int, ...]] = Counter()
        self._layouts: set[str] = set()
        self._sums: dict[int, _Sums] = {}
        self._steps = np.zeros(2)
        self._first: Array | None = None
        self._differs = False

    def add(self, array: Array) -> None:
        """Take one sample into account."""
        self._dtype, self._is_float = array.dtype.name, array.dtype.kind == "f"
        self._shapes[array.shape] += 1
        layout = layout_of(array.shape)
        self._layouts.add(layout)
        if self._first is None:
            self._first = array.copy()
        self._differs = self._differs or not np.array_equal(self._first, array)
        if array.dtype.kind not in "biuf" or not array.size:
            return
        for index, channel in enumerate(channels_of(array, layout)):
            self._sums.setdefault(index, _Sums()).add(channel)
        if layout and array.shape[channel_axis(layout)] == 3:
            self._steps += _roughness(array.astype(np.float64), layout)

    def summary(self) -> Summary:
        """Return what was seen."""
        layout = next(iter(self._layouts)) if len(self._layouts) == 1 else ""
        whole = _Sums()
        for sums in self._sums.values():
            whole.merge(sums)
        return Summary(
            name=self._name,
            dtype=self._dtype,
            shapes=tuple(self._shapes.most_common()),
            layout=layout,
            values=whole.values() if whole.count else None,
            channels=tuple(self._sums[i].values() for i in sorted(self._sums)) if layout else (),
            is_float=self._is_float,
            identical=self._shapes.total() > 1 and not self._differs,
            roughness=(float(self._steps[0]), float(self._steps[1])) if layout and self._steps.any() else None,
        )


@dataclass(slots=True)
class _Sums:
    """Sums around the first value, so that a large mean costs no digits."""

    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    pivot: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, array: Array) -> None:
        flat = array.astype(np.float64).ravel()
        self.pivot = self.pivot if self.count else float(flat[0])
        shifted = np.where(np.isfinite(flat), flat - self.pivot, 0.0)  # a mask may be minus infinity
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.count += flat.size
        self.total += float(shifted.sum())
        self.squares += float(shifted @ shifted)

    def merge(self, other: _Sums) -> None:
        if not self.count:
            self.pivot = other.pivot
        shift = other.pivot - self.pivot
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.count += other.count
        self.total += other.total + other.count * shift
        self.squares += other.squares + 2 * shift * other.total + other.count * shift * shift

    def values(self) -> Values:
        mean = self.total / self.count
        std = math.sqrt(max(self.squares / self.count - mean * mean, 0.0))
        return Values(self.low, self.high, self.pivot + mean, std)


def layout_of(shape: tuple[int, ...]) -> str:
    """Return the layout of what looks like images: rank 4 with 1 or 3 channels and a longer side; else nothing."""
    if len(shape) != 4:
        return ""
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and min(shape[2:]) > 3:
        return CHANNELS_FIRST
    return CHANNELS_LAST if last and min(shape[1:3]) > 3 else ""


def channel_axis(layout: str) -> int:
    """Return the axis of the channels."""
    return 1 if layout == CHANNELS_FIRST else 3


def channels_of(array: Array, layout: str) -> list[Array]:
    """Return the channels of images; the whole array where it is none."""
    return list(np.moveaxis(array, channel_axis(layout), 0)) if layout else [array]


def _roughness(array: Floats, layout: str) -> Floats:
    """Return the mean step along rows as the layout says, and as the other one would have it."""
    if layout == CHANNELS_FIRST:
        count, channels, height, width = array.shape
        stated, other = np.diff(array, axis=3), np.diff(array.reshape(count, height, width, channels), axis=2)
    else:
        count, height, width, channels = array.shape
        stated, other = np.diff(array, axis=2), np.diff(array.reshape(count, channels, height, width), axis=3)
    return np.array([np.abs(stated).mean(), np.abs(other).mean()])
