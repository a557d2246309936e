"""Images as the samples of one graph input; the only module that knows Pillow, imported on first use."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from quantcli.data.files import reading, sha256
from quantcli.data.inputs import InputSpec, conform, fit_shape
from quantcli.data.preprocess import cast
from quantcli.data.spec import Color, ImagesInput
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
    options: ImagesInput

    @property
    def place(self) -> str:
        """Where the samples are, for messages."""
        return f"{self.options.where}, {self.options.pattern}"

    def count(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> Generator[np.ndarray, None, None]:
        """Decode one image at a time."""
        for index in indices:
            where = self._where(index)
            array = self.options.preprocess(_pixels(self.paths[index], self.options))
            yield conform(cast(self._batched(array), self.spec, where), self.spec, where)

    def check(self, indices: Sequence[int]) -> None:
        """Open each file without decoding it: mode and size are in the header."""
        for index in indices:
            with _opened(self.paths[index]) as image:
                width, height = image.size
            height, width = self.options.resize or (height, width)
            shape = self.options.preprocess.shape((height, width, self.options.color.channels), self.place)
            fit_shape(shape, self.spec, self._where(index))

    def fingerprint(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the options and the content of the selected files."""
        options = {"color": self.options.color, "resize": self.options.resize}
        yield json.dumps({"input": self.spec.name, **options, **asdict(self.options.preprocess)}).encode()
        for index in indices:
            yield sha256(self.paths[index])

    def _where(self, index: int) -> str:
        return f"sample {index} ({self.paths[index]})"

    def _batched(self, array: np.ndarray) -> np.ndarray:
        return array[None] if self.spec.shape is None else array  # no rank to compare with: images come in batches


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


def _pixels(path: Path, options: ImagesInput) -> np.ndarray:
    """Return an image as uint8 of shape (H, W, C)."""
    with _opened(path) as image:
        colored = _without_palette(image).convert("L" if options.color is Color.GRAY else "RGB")
        if options.resize:
            height, width = options.resize
            colored = colored.resize((width, height), Image.Resampling.BILINEAR)
        array = np.array(colored)
    array = array.reshape(*array.shape[:2], options.color.channels)
    return np.ascontiguousarray(array[..., ::-1]) if options.color is Color.BGR else array


def _without_palette(image: Image.Image) -> Image.Image:
    # Pillow warns about a palette with transparency unless it goes through RGBA
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
