"""One array in one file of its own: .npy, .npz, .pb, .raw and .bin, or an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.data import npz
from quantcli.data.files import reading
from quantcli.data.inputs import InputSpec, conform, is_text, shape_text
from quantcli.data.preprocess import cast
from quantcli.data.tensor_proto import read_tensor
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from quantcli.data.framing import Picture

IMAGES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
RAW: Final = (".raw", ".bin", ".dat")
KINDS: Final = (".npy", ".npz", ".pb", *RAW, *IMAGES)


def read_array(path: Path, spec: InputSpec, picture: Picture | None, where: str) -> np.ndarray:
    """Return what a file holds, as an input takes it.

    Args:
        path: Its suffix says what it is.
        spec: The input.
        picture: How an image is fed.
        where: The sample, for messages.

    Raises:
        DatasetError: It cannot be read, or does not fit the input.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return _image(path, spec, picture, where)
    if suffix in RAW:
        return read_raw(path, spec, where)
    if suffix == ".npy":
        with reading(path, "a .npy file of numbers or text"):
            array = np.load(path, allow_pickle=False)
        return conform(array, spec, where)
    if suffix == ".npz":
        with npz.opened(path) as archive:
            names = archive.names()
            return conform(archive.whole(names[0] if len(names) == 1 else spec.name), spec, where)
    if suffix == ".pb":
        return conform(read_tensor(path)[1], spec, where)
    raise DatasetError(
        f"{where}: {path} has suffix {suffix!r}, expected one of {', '.join(KINDS)}", hint="Correct the path."
    )


def read_raw(path: Path, spec: InputSpec, where: str) -> np.ndarray:
    """Return the numbers of a file without a header: float32 in the machine's order, or the input's own type.

    Of an input of integers, a file of as many bytes as its own type has holds that; 4-byte integers are told from
    float32 by whether the numbers are whole. A single free dimension is found from the size of the file; where there
    are more, the leading one counts as 1.

    Raises:
        DatasetError: The size does not fit the shape.
    """
    if spec.shape is None or is_text(spec.dtype):
        raise DatasetError(
            f"input {spec.name!r}, {where}: raw numbers, expected an input of numbers with a known rank",
            hint="Write the shape into the model, or store .npz feeds.",
        )
    with reading(path, "a file of raw numbers"):
        data = path.read_bytes()
    for dtype in dict.fromkeys((np.dtype(np.float32), spec.dtype)):
        shape = _shape(spec.shape, len(data), dtype.itemsize)
        if shape is None:
            continue
        array = np.frombuffer(data, dtype).reshape(shape)
        if dtype == np.float32 and spec.dtype.kind in "iub" and not _is_whole(array):
            continue
        return conform(cast(array, spec, where), spec, where)
    raise DatasetError(
        f"input {spec.name!r}, {where}: {len(data)} bytes, expected float32 numbers of shape {shape_text(spec.shape)}: "
        f"{_expected(spec.shape)}",
        hint="Raw files hold nothing but the numbers of one sample; look at the order of the inputs, too.",
    )


def _image(path: Path, spec: InputSpec, picture: Picture | None, where: str) -> np.ndarray:
    if picture is None:
        raise DatasetError(
            f"{where}: {path} is an image for input {spec.name!r}, expected to be told how images are fed",
            hint="Give a preset: imagenet-torch, imagenet-tf, unit or signed.",
        )
    from quantcli.data.images import read_image  # noqa: PLC0415 - Pillow is loaded only when there are images

    return read_image(path, spec, picture, where)


def _is_whole(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all() and np.array_equal(array, np.rint(array)))


def _shape(shape: tuple[int | str | None, ...], size: int, itemsize: int) -> tuple[int, ...] | None:
    """Return the shape of an array of ``size`` bytes; None where none fits."""
    free = [axis for axis, n in enumerate(shape) if not isinstance(n, int)]
    known: list[int] = [n if isinstance(n, int) else 1 for n in shape]
    if len(free) == 2 and free[0] == 0:
        free = free[1:]
    if len(free) > 1 or size % itemsize:
        return None
    rest = math.prod(known)
    count = size // itemsize
    if not free:
        return tuple(known) if count == rest else None
    if not rest or count % rest or not count:
        return None
    known[free[0]] = count // rest
    return tuple(known)


def _expected(shape: tuple[int | str | None, ...]) -> str:
    free = [n for n in shape if not isinstance(n, int)]
    rest = math.prod(n for n in shape if isinstance(n, int))
    if not free:
        return f"{4 * rest} bytes"
    if len(free) == 1 or (len(free) == 2 and not isinstance(shape[0], int)):
        return f"a multiple of {4 * rest} bytes"
    return f"at most one free dimension beside the batch, there are {len(free)}"
