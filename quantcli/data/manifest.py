"""A table of samples: CSV with a header, or one JSON object per line; a column for each input, and for the class."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.data.arrays import IMAGES, KINDS, read_array
from quantcli.data.files import reading
from quantcli.data.image_folder import image_input, picture_for
from quantcli.data.inputs import InputSpec, conform, is_text, require_names
from quantcli.data.preprocess import cast
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from quantcli.data.framing import Picture, Preset
    from quantcli.data.inputs import Feed

LINES: Final = (".jsonl", ".ndjson")
SUFFIXES: Final = (".csv", *LINES)
IMAGE: Final = "image"  # stands for the input that takes images
LABEL: Final = "label"


@dataclass(frozen=True, slots=True)
class _Row:
    """What a line says of each input."""

    number: int
    cells: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The samples of a table.

    Attributes:
        path: The table; paths in it are relative to its folder.
        inputs: The graph inputs.
        rows: What each sample is.
        pictures: How images are fed, by input.
        classes: Of each sample; empty without a column of labels.
    """

    path: Path
    inputs: tuple[InputSpec, ...]
    rows: tuple[_Row, ...]
    pictures: Mapping[str, Picture]
    classes: tuple[int, ...] = ()

    def count(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Load what one line names at a time."""
        for index in indices:
            row = self.rows[index]
            where = f"{self.path}:{row.number}"
            require_names(dict.fromkeys(row.cells, where), self.inputs, where)
            yield {spec.name: self._array(spec, row.cells[spec.name], where) for spec in self.inputs}

    def _array(self, spec: InputSpec, value: object, where: str) -> np.ndarray:
        if isinstance(value, str) and value.lower().endswith(KINDS) and not is_text(spec.dtype):
            path = self.path.parent / value
            return read_array(path, spec, self.pictures.get(spec.name), f"{where} ({path})")
        return conform(_in_place(value, spec, where), spec, where)


def read_manifest(path: Path, inputs: Sequence[InputSpec], preset: Preset | None) -> Manifest:
    """Read a table; the files that it names are opened later.

    Raises:
        DatasetError: It cannot be read, has no samples, or a column or label is wrong.
    """
    rows = _rows(path)
    names = [spec.name for spec in inputs]
    classes: tuple[int, ...] = ()
    if LABEL not in names:
        classes = _classes(rows, path)
        rows = [_Row(r.number, {n: v for n, v in r.cells.items() if n != LABEL}) for r in rows]
    if IMAGE not in names and IMAGE in rows[0].cells:
        taking = image_input(inputs, str(path)).name
        rows = [_Row(r.number, {taking if n == IMAGE else n: v for n, v in r.cells.items()}) for r in rows]
    first = rows[0].cells
    require_names(dict.fromkeys(first, f"{path}:{rows[0].number}"), inputs, str(path))
    pictures = {s.name: picture_for(s, preset, str(path)) for s in inputs if _is_image(first[s.name], s)}
    return Manifest(path, tuple(inputs), tuple(rows), pictures, classes)


def first_cells(path: Path) -> dict[str, object]:
    """Return what the first line says of each input, without its label.

    Raises:
        DatasetError: The table cannot be read, or has no samples.
    """
    return {name: value for name, value in _rows(path)[0].cells.items() if name != LABEL}


def _rows(path: Path) -> list[_Row]:
    with reading(path, "a table of samples", also=(csv.Error,)):
        text = path.read_text("utf-8-sig")
        rows = list(_objects(text, path) if path.suffix.lower() in LINES else _records(text, path))
    if not rows:
        raise DatasetError(f"{path}: 0 samples, expected at least 1", hint="Write a line for each sample.")
    return rows


def _records(text: str, path: Path) -> Iterator[_Row]:
    reader = csv.reader(text.splitlines(), skipinitialspace=True, strict=True)
    header = next(reader, [])
    if len(set(header)) != len(header) or not all(header):
        raise DatasetError(
            f"{path}:1: columns {header}, expected different names", hint="The first line names the columns."
        )
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}:{reader.line_num}: {len(cells)} cells, expected {len(header)}: {', '.join(header)}",
                hint="Put cells with commas in double quotes.",
            )
        yield _Row(reader.line_num, dict(zip(header, cells, strict=True)))


def _objects(text: str, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            value = str(error)
        if not isinstance(value, dict):
            said = value if isinstance(value, str) else f"a {type(value).__name__}"
            raise DatasetError(
                f"{path}:{number}: {said}, expected a JSON object of inputs", hint='Write {"input": "file.npy"}.'
            )
        yield _Row(number, value)


def _classes(rows: Sequence[_Row], path: Path) -> tuple[int, ...]:
    """Return the labels; empty where no line has one."""
    if not any(LABEL in row.cells for row in rows):
        return ()
    return tuple(_class(row, path) for row in rows)


def _class(row: _Row, path: Path) -> int:
    said = row.cells.get(LABEL)
    text = str(said).strip() if isinstance(said, (int, str)) and not isinstance(said, bool) else ""
    if not (text.isascii() and text.isdigit()):
        raise DatasetError(
            f"{path}:{row.number}: label {said!r}, expected a class index: a whole number, 0 or more",
            hint="Number the classes as the model does.",
        )
    return int(text)


def _is_image(value: object, spec: InputSpec) -> bool:
    return not is_text(spec.dtype) and isinstance(value, str) and value.lower().endswith(IMAGES)


def _in_place(value: object, spec: InputSpec, where: str) -> np.ndarray:
    """Return numbers or text that stand in the table itself."""
    expected = "text" if is_text(spec.dtype) else "numbers, or a file: " + ", ".join(KINDS)
    if isinstance(value, str) and not is_text(spec.dtype):
        value = _number(value)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if is_text(spec.dtype) != (array.dtype.kind == "U") or array.dtype.kind not in "biufU":
        raise DatasetError(f"input {spec.name!r}, {where}: {value!r}, expected {expected}", hint="Correct the line.")
    free = spec.shape is not None and all(n == 1 or not isinstance(n, int) for n in spec.shape)
    array = array.reshape((1,) * len(spec.shape or ())) if free and array.size == 1 else array
    return array if is_text(spec.dtype) else cast(array, spec, where)


def _number(text: str) -> object:
    try:
        return float(text) if not text.strip().lstrip("+-").isdigit() else int(text)
    except ValueError:
        return text
