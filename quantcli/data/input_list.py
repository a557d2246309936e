"""QNN's ``input_list.txt``: one sample per line, raw files by input name (``name:=path``) or in the order of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantcli.data.arrays import RAW, read_array, read_raw
from quantcli.data.files import reading
from quantcli.data.inputs import InputSpec, require_names
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from quantcli.data.inputs import Feed

_OUTPUTS: Final = ("#", "%")  # lines that name the outputs to write, for the tool that the format is from
_NAMES: Final = ":="


@dataclass(frozen=True, slots=True)
class _Line:
    """A sample: its files by input name, or in order."""

    number: int
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class InputList:
    """The samples of a list.

    Attributes:
        path: The list.
        inputs: The graph inputs.
        lines: Its samples.
        warnings: What of it means nothing here.
    """

    path: Path
    inputs: tuple[InputSpec, ...]
    lines: tuple[_Line, ...]
    warnings: tuple[str, ...] = ()

    def count(self) -> int:
        """Return the number of samples."""
        return len(self.lines)

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Load the files of one line at a time."""
        for index in indices:
            yield self._feed(self.lines[index])

    def _feed(self, line: _Line) -> Feed:
        where = f"{self.path}:{line.number}"
        names = [spec.name for spec in self.inputs]
        given = dict(line.files)
        if "" in given:
            if len(line.files) != len(names):
                raise DatasetError(
                    f"{where}: {len(line.files)} files, expected {len(names)}, one for each of {', '.join(names)}",
                    hint=f"Write the files in this order, or by name: {names[0]}:=PATH.",
                )
            given = dict(zip(names, (file for _, file in line.files), strict=True))
        require_names(dict.fromkeys(given, where), self.inputs, where)
        return {spec.name: self._array(spec, given[spec.name], where) for spec in self.inputs}

    def _array(self, spec: InputSpec, file: str, where: str) -> np.ndarray:
        path = _found(self.path.parent, file)
        raw = path.suffix.lower() in RAW or path.suffix.lower() not in {".npy", ".npz", ".pb"}
        place = f"{where} ({path})"
        return read_raw(path, spec, place) if raw else read_array(path, spec, None, place)


def read_list(path: Path, inputs: Sequence[InputSpec]) -> InputList:
    """Read a list; its files are opened later.

    Raises:
        DatasetError: It cannot be read, has no line with files, or names an input twice.
    """
    with reading(path, "an input list: raw files of one sample per line"):
        texts = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    skipped = [n for n, text in enumerate(texts, 1) if text.startswith(_OUTPUTS)]
    lines = tuple(_line(path, n, text) for n, text in enumerate(texts, 1) if text and not text.startswith(_OUTPUTS))
    if not lines:
        raise DatasetError(
            f"{path}: no line with files, expected one for each sample",
            hint="Write `input:=path.raw` on a line for each sample.",
        )
    warnings = [f"{path}:{skipped[0]}: outputs are named here; what is fed does not depend on them"] if skipped else []
    if len(inputs) > 1 and any(not name for line in lines for name, _ in line.files):
        names = ", ".join(repr(spec.name) for spec in inputs)
        warnings.append(f"{path}: files without names; they are matched with the inputs by order: {names}")
    return InputList(path, tuple(inputs), lines, tuple(warnings))


def _line(path: Path, number: int, text: str) -> _Line:
    files = tuple(_file(word) for word in text.split())
    named = [name for name, _ in files if name]
    if len(set(named)) != len(named) or (named and len(named) != len(files)):
        raise DatasetError(
            f"{path}:{number}: {text!r}, expected a file for each input, all by name or none",
            hint="Write each input once: `a:=a.raw b:=b.raw`.",
        )
    return _Line(number, files)


def _file(word: str) -> tuple[str, str]:
    name, sign, file = word.partition(_NAMES)
    return (name, file) if sign else ("", word)


def _found(folder: Path, file: str) -> Path:
    """Return a file relative to the list, or else to the current folder, as the tool that the format is from does."""
    beside = folder / file
    return beside if beside.is_file() or not Path(file).is_file() else Path(file)
