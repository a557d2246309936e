"""Samples written down once, in an order that their content alone decides: a source for any number of passes.

What is fed first must not depend on names of files, on the order in which a generator yields, or on batches; so every
chosen sample is read once, taken out of its batch, hashed as it is fed, and kept in an unnamed temporary file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from quantcli.data.inputs import is_text
from quantcli.errors import DatasetError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from quantcli.data.inputs import Feed


class Stream(Protocol):
    """Chosen items, each a sample or a batch of them."""

    def items(self) -> Iterable[tuple[int, Feed]]:
        """Yield the validated items with their numbers, holding one at a time."""

    def labels(self) -> Sequence[int]:
        """Return the class index of every item by its number; empty where there are none."""


class Splitter(Protocol):
    """Takes batches apart."""

    def samples(self, feed: Feed) -> Iterable[Feed]:
        """Yield the samples of an item."""


@dataclass(frozen=True, slots=True)
class _Array:
    """What is known of an array whose values are written down; its size is in bytes."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    size: int


class _Sample(NamedTuple):
    """A sample that is written down; they sort by content, and by class where contents are equal."""

    key: bytes
    label: int
    start: int
    arrays: tuple[_Array, ...]


class Staged:
    """The samples of a stream in canonical order: that of the sha256 of what is fed."""

    def __init__(self, stream: Stream, splitter: Splitter) -> None:
        self._stream = stream
        self._splitter = splitter
        self._file: IO[bytes] | None = None
        self._samples: list[_Sample] = []

    def count(self) -> int:
        """Return the number of samples; the first call reads them all."""
        return len(self._staged()[1])

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Read samples back, one at a time."""
        file, samples = self._staged()
        for index in indices:
            file.seek(samples[index].start)
            yield {array.name: _restored(file, array) for array in samples[index].arrays}

    def check(self, indices: Sequence[int]) -> None:
        """Read all samples, unless that is done: each of them is validated then."""
        del indices
        self._staged()

    def fingerprint(self, indices: Sequence[int]) -> Iterator[bytes]:
        """Yield the hashes of what is fed."""
        for index in indices:
            yield self._staged()[1][index].key

    def labels(self) -> Sequence[int]:
        """Return the class index of each sample; empty where there are none."""
        return [sample.label for sample in self._staged()[1]] if self._stream.labels() else ()

    def _staged(self) -> tuple[IO[bytes], list[_Sample]]:
        if self._file is None:
            with _room():
                file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when this object is gone
            weakref.finalize(self, file.close)
            self._samples = sorted(self._written(file), key=itemgetter(0, 1))
            self._file = file
        return self._file, self._samples

    def _written(self, file: IO[bytes]) -> Iterator[_Sample]:
        labels = self._stream.labels()
        known: dict[tuple[_Array, ...], tuple[_Array, ...]] = {}  # most samples look alike: one description for all
        for item, feed in self._stream.items():
            samples = list(self._splitter.samples(feed))
            if labels and len(samples) > 1:
                raise DatasetError(
                    f"sample {item} is a batch of {len(samples)} with one label, expected a label for each sample",
                    hint="Store samples one by one when they have labels.",
                )
            for sample in samples:
                key, start, arrays = _write(file, sample)
                yield _Sample(key, labels[item] if labels else 0, start, known.setdefault(arrays, arrays))
        with _room():
            file.flush()


def _write(file: IO[bytes], sample: Feed) -> tuple[bytes, int, tuple[_Array, ...]]:
    """Append a sample; return the hash of its content, where it begins, and what its arrays are."""
    total, arrays, start = hashlib.sha256(), [], file.tell()
    for name, array in sample.items():
        data = _bytes(array)
        head = json.dumps([name, array.dtype.name, array.shape, len(data)]).encode()
        total.update(len(head).to_bytes(8, "little") + head)  # framed: parts cannot run into each other
        total.update(data)
        with _room():
            file.write(data)
        arrays.append(_Array(name, array.dtype, array.shape, len(data)))
    return total.digest(), start, tuple(arrays)


def _bytes(array: np.ndarray) -> memoryview | bytes:
    if is_text(array.dtype):
        return json.dumps(array.tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _restored(file: IO[bytes], array: _Array) -> np.ndarray:
    if is_text(array.dtype):
        flat = np.array([json.loads(file.read(array.size))], object)
        return flat.reshape(array.shape)
    result = np.empty(array.shape, array.dtype)
    file.readinto(result.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
    return result


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the samples cannot be kept in {tempfile.gettempdir()} ({error.strerror or error}), "
            "expected room for what is fed: all samples together",
            hint="Set TMPDIR to a folder with more room, or feed fewer samples: --samples N.",
        ) from error
