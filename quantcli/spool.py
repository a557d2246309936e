"""Scratch space for the activations of many samples: an unnamed temporary file, so memory stays that of one sample."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator


class Spool:
    """A sequence of arrays that is written once and read as often as needed, always in order."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._kinds: list[tuple[np.dtype[np.generic], tuple[int, ...]]] = []

    def append(self, array: npt.NDArray[np.generic]) -> None:
        """Write one more array."""
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(array).data)
        self._kinds.append((array.dtype, array.shape))

    def __len__(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[npt.NDArray[np.generic]]:
        position = 0
        for dtype, shape in self._kinds:
            self._file.seek(position)
            array = np.empty(shape, dtype)
            self._file.readinto(array.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
            position += array.nbytes
            yield array

    def first_kind(self) -> tuple[np.dtype[np.generic], int]:
        """Return type and rank of the first array."""
        dtype, shape = self._kinds[0]
        return dtype, len(shape)

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


def spool_all(results: Iterator[dict[str, npt.NDArray[np.generic]]]) -> dict[str, Spool]:
    """Spool the named results of many samples."""
    spools: dict[str, Spool] = {}
    for outputs in results:
        for name, array in outputs.items():
            if name not in spools:
                spools[name] = Spool()
            spools[name].append(array)
    return spools
