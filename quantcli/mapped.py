"""Constants that lie in data files: each file is mapped once, however many constants it holds.

onnx-ir maps the whole file for each of them and keeps a file open for each: a thousand constants are too many.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from quantcli import graph

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]


class MappedTensor(ir.ExternalTensor):
    """A tensor in a data file that is mapped already; its pages are read when they are looked at."""

    __slots__ = ("_data", "_owner")

    def __init__(self, place: ir.ExternalTensor, data: npt.NDArray[np.uint8], owner: object = None) -> None:
        """Take the tensor's part of a file.

        Args:
            place: Says where the tensor lies, and what it is.
            data: Its bytes.
            owner: What removes the file when nobody holds it any more.
        """
        super().__init__(
            place.location,
            place.offset,
            place.length,
            place.dtype,
            shape=place.shape,
            name=place.name,
            doc_string=place.doc_string,
            metadata_props=dict(place.metadata_props),
            base_dir=place.base_dir,
        )
        self._data = data
        self._owner = owner

    def __array__(self, dtype: np.dtype[np.generic] | None = None) -> Array:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def numpy(self) -> Array:
        """Return the array; a copy for types narrower than a byte, and where numbers of its type do not begin."""
        if self.dtype.bitwidth < 8:
            return ir.PackedTensor(self._data, self.dtype, shape=self.shape).numpy()
        array = self._data.view(np.dtype(self.dtype.numpy()).newbyteorder("<"))
        return np.require(array, requirements="A").reshape(self.shape.numpy())

    def tobytes(self) -> bytes:
        """Return a copy of the bytes."""
        return self._data.tobytes()

    def tofile(self, file: IO[bytes]) -> None:
        """Write the bytes."""
        file.write(self._data.data)


def map_once(model: ir.Model) -> None:
    """Let all constants of a data file share one map of it.

    Raises:
        OSError: A data file cannot be read.
    """
    maps: dict[Path, npt.NDArray[np.uint8]] = {}
    for value, tensor in graph.external_constants(model):
        tensor.base_dir = str(Path(tensor.base_dir).absolute())  # the session that maps it knows no current folder
        path, start = Path(tensor.path), tensor.offset or 0
        if path not in maps:
            maps[path] = _mapped(path)
        value.const_value = MappedTensor(tensor, maps[path][start : start + int(tensor.nbytes)])


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    if not path.stat().st_size:
        return np.empty(0, np.uint8)  # nothing can be mapped of an empty file
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
