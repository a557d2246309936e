"""Arrays in npz files, read sample by sample from the compressed stream.

Never loads pickled objects; knows nothing of graph inputs.
"""

from __future__ import annotations

import math
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from quantcli.data.files import reading
from quantcli.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

_CHUNK = 1 << 16  # bytes skipped at a time
_SUFFIX = ".npy"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what np.savez and np.savez_compressed write
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}  # 3.0 is for named fields only


@dataclass(frozen=True, slots=True)
class Header:
    """What an array's header says: shape, dtype as stored, and the order of its elements."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


@dataclass(frozen=True, slots=True)
class Archive:
    """An open npz file."""

    path: Path
    file: zipfile.ZipFile

    def names(self) -> list[str]:
        """Return the names of its arrays."""
        return [name.removesuffix(_SUFFIX) for name in self.file.namelist() if name.endswith(_SUFFIX)]

    def header(self, key: str) -> Header:
        """Return the header of one array.

        Raises:
            DatasetError: There is no such array, or it holds pickled objects.
        """
        with self._member(key) as (header, _):
            return header

    def whole(self, key: str) -> np.ndarray:
        """Return one array as it is stored, in native byte order."""
        with self._member(key) as (header, stream):
            array = _take(stream, header.shape[::-1] if header.fortran else header.shape, header.dtype)
            _finish(stream)
        return array.T if header.fortran else array

    def rows(self, key: str, indices: Sequence[int]) -> Generator[np.ndarray, None, None]:
        """Yield the elements of axis 0 with these ascending numbers; only one is in memory.

        An array in Fortran order is loaded as a whole: its elements are interleaved.
        """
        if self.header(key).fortran:
            array = self.whole(key)
            yield from (np.ascontiguousarray(array[index]) for index in indices)
            return
        with self._member(key) as (header, stream):
            yield from _stream_rows(stream, header, indices)

    @contextmanager
    def _member(self, key: str) -> Iterator[tuple[Header, IO[bytes]]]:
        member = self._find(key)
        if member.compress_type not in _COMPRESSIONS:
            raise ValueError(f"array {key!r} has compression type {member.compress_type}, expected deflate or none")
        with self.file.open(member) as stream:
            header = _read_header(stream, f"{self.path}: array {key!r}")
            if stream.tell() + math.prod(header.shape) * header.dtype.itemsize > member.file_size:
                raise EOFError(f"array {key!r} is cut short")
            yield header, stream

    def _find(self, key: str) -> zipfile.ZipInfo:
        names = self.names()
        if key not in names:
            there = ", ".join(repr(name) for name in names) or "none"
            raise DatasetError(
                f"{self.path}: no array {key!r}, expected one of {there}{did_you_mean(key, names)}",
                hint="Name one of the arrays of the file.",
            )
        return self.file.getinfo(key + _SUFFIX)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an npz file; damage of any kind, found now or while reading, is a DatasetError."""
    hint = "Check the path; such files are written by np.savez and np.savez_compressed."
    with reading(path, "an npz file", hint=hint), zipfile.ZipFile(path) as file:
        yield Archive(path, file)


def _read_header(stream: IO[bytes], where: str) -> Header:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"format version {version}")
    shape, fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise DatasetError(
            f"{where} holds pickled objects (dtype {dtype}), expected numbers or text; they are never loaded",
            hint="Save plain numbers, np.asarray(x, dtype=np.float32), or plain text, np.asarray(x, dtype=str).",
        )
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return Header(tuple(shape), dtype, fortran and len(shape) > 1)


def _stream_rows(stream: IO[bytes], header: Header, indices: Sequence[int]) -> Iterator[np.ndarray]:
    shape = header.shape[1:]
    size = math.prod(shape) * header.dtype.itemsize  # bytes of one sample
    position = 0
    for index in indices:
        _skip(stream, (index - position) * size)
        yield _take(stream, shape, header.dtype)
        position = index + 1
    if position == header.shape[0]:
        _finish(stream)


def _finish(stream: IO[bytes]) -> None:
    stream.read(1)  # at the end zipfile compares the checksum


def _skip(stream: IO[bytes], size: int) -> None:
    while size > 0:
        data = stream.read(min(size, _CHUNK))
        if not data:
            raise EOFError("it is cut short")
        size -= len(data)


def _take(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("it is cut short")
    array = np.empty(shape, dtype) if size == 0 else np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))  # a copy: writable, aligned
