"""A dataset by columns: each graph input has its own source of samples, and they are fed side by side."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from quantcli.data import npz
from quantcli.data.inputs import InputSpec, conform, dtype_mismatch, fit_shape, is_text, takes
from quantcli.data.preprocess import Preprocess, cast
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from quantcli.data.inputs import Feed
    from quantcli.data.spec import NpzInput


class Column(Protocol):
    """The samples of one graph input, read in ascending order."""

    @property
    def spec(self) -> InputSpec:
        """The graph input."""

    @property
    def place(self) -> str:
        """Where the samples are, for messages."""

    def count(self) -> int:
        """Return the number of samples."""

    def read(self, indices: Sequence[int]) -> Generator[np.ndarray, None, None]:
        """Yield the validated samples of these ascending numbers."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of the same length as a source of samples."""

    columns: tuple[Column, ...]

    def count(self) -> int:
        """Return the number of samples."""
        return self.columns[0].count()

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Yield one array of each column at a time."""
        names = [column.spec.name for column in self.columns]
        with ExitStack() as stack:  # when one column fails, the files of the others are closed
            readers = [stack.enter_context(closing(column.read(indices))) for column in self.columns]
            for arrays in zip(*readers, strict=True):
                yield dict(zip(names, arrays, strict=True))


def side_by_side(columns: Sequence[Column], where: str) -> Columns:
    """Join columns into a source.

    Raises:
        DatasetError: They have different numbers of samples, or none.
    """
    if not columns:
        raise DatasetError(f"{where}: 0 inputs, expected at least one", hint="A model without inputs needs no dataset.")
    first = columns[0]
    for column in columns:
        if not column.count():
            raise DatasetError(
                f"input {column.spec.name!r} ({column.place}): 0 samples, expected at least 1",
                hint="Axis 0 of the array is the sample axis.",
            )
        if column.count() != first.count():
            raise DatasetError(
                f"input {column.spec.name!r} has {column.count()} samples ({column.place}), "
                f"expected {first.count()} as {first.spec.name!r} has ({first.place})",
                hint="Every input needs the same number of samples.",
            )
    return Columns(tuple(columns))


@dataclass(frozen=True, slots=True)
class NpzColumn:
    """The samples of one input along axis 0 of an array in an npz file."""

    spec: InputSpec
    path: Path
    key: str
    length: int
    preprocess: Preprocess

    @property
    def place(self) -> str:
        """Where the samples are, for messages."""
        return f"{self.path}, array {self.key!r}"

    def count(self) -> int:
        """Return the length of axis 0."""
        return self.length

    def read(self, indices: Sequence[int]) -> Generator[np.ndarray, None, None]:
        """Stream the samples out of the file."""
        with npz.opened(self.path) as archive, closing(archive.rows(self.key, indices)) as rows:
            for index, array in zip(indices, rows, strict=True):
                where = f"sample {index} ({self.place})"
                yield conform(cast(self.preprocess(array), self.spec, where), self.spec, where)


def npz_column(spec: InputSpec, path: Path, options: NpzInput) -> NpzColumn:
    """Return the column of a stored array after a look at its header.

    Raises:
        DatasetError: The array is missing, has no sample axis, or does not fit the input.
    """
    key = options.array or spec.name
    place = f"{path}, array {key!r}"
    with npz.opened(path) as archive:
        header = archive.header(key)
    if not header.shape:
        raise DatasetError(
            f"input {spec.name!r}, {place}: a single number, expected an array with samples along axis 0",
            hint="Stack the samples: np.stack(samples).",
        )
    _require_castable(header.dtype, spec, place, casts=options.casts)
    if is_text(spec.dtype) and options.preprocess != Preprocess():
        raise DatasetError(
            f"{options.where}: scale, mean, std or a layout, expected none: input {spec.name!r} takes strings",
            hint="Remove them.",
        )
    fit_shape(options.preprocess.shape(header.shape[1:], options.where), spec, place)
    return NpzColumn(spec, path, key, header.shape[0], options.preprocess)


def _require_castable(dtype: np.dtype, spec: InputSpec, place: str, *, casts: bool) -> None:
    if not takes(dtype, spec) and (not casts or dtype.kind not in "biuf" or is_text(spec.dtype)):
        raise dtype_mismatch(dtype, spec, place)
