"""Scratch space for constants that a pass makes: mapped from temporary files, so memory need not hold them.

They lie in files like the user's own, so onnxruntime maps them too.
"""

from __future__ import annotations

import mmap
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli.mapped import MappedTensor

if TYPE_CHECKING:
    import numpy.typing as npt

SMALLEST: Final = 1 << 20  # bytes; what is smaller stays in memory
SEGMENT: Final = 1 << 28  # bytes of one file, holes at first: each keeps a file open, and constants may be thousands
_ALIGNMENT: Final = 64  # bytes


class Scratch:
    """A place for constants. Each keeps it alive; with the last one its folder is removed."""

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self._file: IO[bytes] | None = None
        self._segment: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._end = 0
        self._count = 0

    def tensor(self, array: npt.NDArray[np.generic], name: str) -> ir.TensorProtocol:
        """Return a constant with these contents; a small one stays in memory.

        Raises:
            OSError: The temporary folder has no room.
        """
        if array.nbytes < SMALLEST:
            return ir.Tensor(array, name=name)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return self._kept(data, ir.DataType.from_numpy(array.dtype), array.shape, name)

    def packed(
        self, data: npt.NDArray[np.uint8], dtype: ir.DataType, shape: tuple[int, ...], name: str
    ) -> ir.TensorProtocol:
        """Return a constant of a type narrower than a byte.

        Raises:
            OSError: The temporary folder has no room.
        """
        if data.nbytes < SMALLEST:
            return ir.PackedTensor(data, dtype, shape=ir.Shape(shape), name=name)
        return self._kept(data, dtype, shape, name)

    def _kept(
        self, data: npt.NDArray[np.uint8], dtype: ir.DataType, shape: tuple[int, ...], name: str
    ) -> ir.TensorProtocol:
        file = self._opened(-(-data.size // _ALIGNMENT) * _ALIGNMENT)
        start = self._end
        file.seek(start)
        file.write(data.data)  # not through the map, which cannot say that there is no room
        file.flush()
        self._end = start + -(-data.size // _ALIGNMENT) * _ALIGNMENT
        path = Path(file.name)
        place = ir.ExternalTensor(
            path.name, start, data.size, dtype, shape=ir.Shape(shape), name=name, base_dir=str(path.parent)
        )
        return MappedTensor(place, self._segment[start : start + data.size], owner=self)

    def _opened(self, size: int) -> IO[bytes]:
        """Return the file that has room for so many bytes; a new one if the last has not."""
        if self._file is not None and self._end + size <= self._segment.size:
            return self._file
        if self._file is not None:
            self._file.close()
        if self._folder is None:
            self._folder = TemporaryDirectory()
            weakref.finalize(self, self._folder.cleanup)
        self._count += 1
        self._file = (Path(self._folder.name) / str(self._count)).open("wb+")
        weakref.finalize(self, self._file.close)
        self._file.truncate(max(size, SEGMENT))
        self._segment = np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        self._end = 0
        return self._file
