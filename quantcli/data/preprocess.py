"""What is done to a sample before it is fed: scale, mean and std, then the order of axes, then the dtype.

Maths on arrays; knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from quantcli.data.inputs import InputSpec, is_text, require_finite, shape_text
from quantcli.errors import DatasetError

PerChannel = float | tuple[float, ...]


class Layout(StrEnum):
    """The order of the axes of an image."""

    NHWC = "NHWC"
    NCHW = "NCHW"

    @property
    def channel_axis(self) -> int:
        """The channel axis, counted from the end: right with and without a batch axis."""
        return -1 if self is Layout.NHWC else -3


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The formula ``(x * scale - mean) / std`` in float32, and the change of layout.

    Attributes:
        scale: One factor.
        mean: One value, or one per channel of the source.
        std: One value, or one per channel of the source.
        source: The layout that the samples have.
        target: The layout that the model takes.
    """

    scale: float = 1.0
    mean: PerChannel = 0.0
    std: PerChannel = 1.0
    source: Layout = Layout.NHWC
    target: Layout = Layout.NHWC

    @property
    def changes_values(self) -> bool:
        """Whether the formula is more than a change of layout."""
        return (self.scale, self.mean, self.std) != (1.0, 0.0, 1.0)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """Return the sample as the model takes it; its dtype stays unless the formula changes values."""
        if self.changes_values:
            array = self._normalize(array.astype(np.float32))
        if self.source is self.target:
            return array
        return np.ascontiguousarray(np.moveaxis(array, self.source.channel_axis, self.target.channel_axis))

    def shape(self, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
        """Return the shape that a sample of this shape gets.

        Raises:
            DatasetError: It has too few axes for the layout, or another number of channels than mean or std.
        """
        for name, values in (("mean", self.mean), ("std", self.std)):
            if isinstance(values, tuple):
                self._require_channels(name, values, shape, where)
        if self.source is self.target:
            return shape
        if len(shape) not in {3, 4}:
            raise DatasetError(
                f"{where}: a sample of shape {shape_text(shape)} has {len(shape)} axes, "
                f"expected 3 or 4 to go from {self.source} to {self.target}",
                hint="Remove the layouts: they are for images.",
            )
        sizes = list(shape)
        sizes.insert(len(shape) + self.target.channel_axis, sizes.pop(self.source.channel_axis))
        return tuple(sizes)

    def _normalize(self, array: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # an overflow is reported as a value that is not finite
            normalized: np.ndarray = (array * np.float32(self.scale) - self._channels(self.mean)) / self._channels(
                self.std
            )
        return normalized

    def _channels(self, values: PerChannel) -> np.ndarray:
        vector = np.asarray(values, np.float32)
        return vector.reshape(-1, 1, 1) if vector.ndim and self.source is Layout.NCHW else vector

    def _require_channels(self, name: str, values: tuple[float, ...], shape: tuple[int, ...], where: str) -> None:
        axis = self.source.channel_axis
        channels = shape[axis] if len(shape) >= -axis else None
        if channels != len(values):
            raise DatasetError(
                f"{where}: {name} has {len(values)} values, expected {'none' if channels is None else channels}, "
                f"the size of axis {axis} of {self.source} samples",
                hint="Give one value, or one for each channel; `from_layout: NCHW` says that channels come first.",
            )


def cast(array: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    """Return the sample in the input's dtype; integers are rounded.

    Raises:
        DatasetError: A value is not finite, or is outside the range of an integer dtype.
    """
    if array.dtype == spec.dtype or is_text(spec.dtype):
        return array
    require_finite(array, spec, where)
    if spec.dtype.kind in "iu":
        array = np.rint(array) if array.dtype.kind == "f" else array
        _require_range(array, spec, where)
    with np.errstate(all="ignore"):  # an overflow to infinity is found by the check that follows every cast
        return array.astype(spec.dtype)


def _require_range(array: np.ndarray, spec: InputSpec, where: str) -> None:
    if not array.size:
        return
    low, high = array.min().item(), array.max().item()
    bounds = np.iinfo(spec.dtype)
    if low < bounds.min or high > bounds.max:
        raise DatasetError(
            f"input {spec.name!r}, {where}: values from {low} to {high}, "
            f"expected {bounds.min} to {bounds.max} to fit {spec.dtype.name}",
            hint="Look at scale, mean and std: this input takes integers.",
        )
