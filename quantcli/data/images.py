"""Images as samples of a graph input; the only module that knows Pillow, imported on first use."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image

from quantcli.data.files import reading
from quantcli.data.framing import Color, Framing, Picture
from quantcli.data.inputs import InputSpec, conform
from quantcli.data.preprocess import cast
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

_PILLOW_ERRORS: tuple[type[Exception], ...] = (
    Image.DecompressionBombError,
    Warning,  # where the caller turns warnings into errors
)
_HIGH_DEPTH = ("I", "F")  # 16 and 32 bits: Pillow clips them to 8


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """The samples of one input, one image file each."""

    spec: InputSpec
    paths: tuple[Path, ...]
    picture: Picture
    place: str

    def count(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> Generator[np.ndarray, None, None]:
        """Decode one image at a time."""
        for index in indices:
            yield read_image(self.paths[index], self.spec, self.picture, f"sample {index} ({self.paths[index]})")


def read_image(path: Path, spec: InputSpec, picture: Picture, where: str) -> np.ndarray:
    """Return an image file as the input takes it.

    Raises:
        DatasetError: It is none, or does not fit the input.
    """
    array = picture.preprocess(_pixels(path, picture))
    array = array[None] if spec.shape is None else array  # no rank to compare with: images come in batches
    return conform(cast(array, spec, where), spec, where)


@dataclass(frozen=True, slots=True)
class Png:
    """A picture to write: uint8 (H, W, 3)."""

    pixels: np.ndarray

    def write_to(self, stream: IO[bytes]) -> None:
        """Write it.

        Raises:
            OSError: The disk is full.
        """
        Image.fromarray(self.pixels).save(stream, format="PNG")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    hint = "Write the file again, or take it out of the pattern."
    with reading(path, "an image", hint=hint, also=_PILLOW_ERRORS), Image.open(path) as image:
        if image.mode.startswith(_HIGH_DEPTH):
            raise DatasetError(
                f"{path}: 16 or 32 bits per channel (mode {image.mode}), expected 8",
                hint="Convert it to 8 bits, or store the samples in an npz file.",
            )
        yield image


def _pixels(path: Path, picture: Picture) -> np.ndarray:
    """Return an image as uint8 of shape (H, W, C)."""
    with _opened(path) as image:
        colored = _without_palette(image).convert("L" if picture.color is Color.GRAY else "RGB")
        array = np.array(_framed(colored, picture.framing))
    array = array.reshape(*array.shape[:2], picture.color.channels)
    return np.ascontiguousarray(array[..., ::-1]) if picture.color is Color.BGR else array


def _framed(image: Image.Image, framing: Framing) -> Image.Image:
    """Return what is fed of an image, in its size; always bilinear."""
    if framing.size is None:
        return image
    height, width = framing.size
    if framing.undistorted:
        return _covering(image, framing.margin, height, width)
    across, down = image.width / framing.margin, image.height / framing.margin
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _covering(image: Image.Image, margin: float, height: int, width: int) -> Image.Image:
    """Scale until the picture covers the margin, then cut the middle out, with torchvision's rounding."""
    factor = max(round(height * margin) / image.height, round(width * margin) / image.width)
    scaled = image.resize(
        (max(width, int(image.width * factor + 1e-6)), max(height, int(image.height * factor + 1e-6))),
        Image.Resampling.BILINEAR,
    )
    left, top = round((scaled.width - width) / 2.0), round((scaled.height - height) / 2.0)
    return scaled.crop((left, top, left + width, top + height))


def _without_palette(image: Image.Image) -> Image.Image:
    # Pillow warns about a palette with transparency unless it goes through RGBA
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
