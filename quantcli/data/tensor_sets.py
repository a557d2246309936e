"""onnx's ``test_data_set_*`` folders: one sample each, ``input_0.pb`` and so on, in the order of the graph inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantcli.data.inputs import InputSpec, conform
from quantcli.data.tensor_proto import read_tensor
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from quantcli.data.inputs import Feed

_FOLDER: Final = "test_data_set_*"
_FILE: Final = re.compile(r"input_(\d+)\.pb")


@dataclass(frozen=True, slots=True)
class TensorSets:
    """Folders that hold one sample each."""

    folders: tuple[Path, ...]
    inputs: tuple[InputSpec, ...]

    def count(self) -> int:
        """Return the number of folders."""
        return len(self.folders)

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Load one folder at a time."""
        for index in indices:
            yield self._feed(self.folders[index])

    def _feed(self, folder: Path) -> Feed:
        files = set_files(folder)
        if len(files) != len(self.inputs):
            names = ", ".join(repr(spec.name) for spec in self.inputs)
            raise DatasetError(
                f"{folder}: {len(files)} input_N.pb files, expected {len(self.inputs)}, one for each of {names}",
                hint="The files are numbered in the order of the graph inputs.",
            )
        tensors = [read_tensor(file) for file in files]
        known = {spec.name for spec in self.inputs}
        by_name = {name for name, _ in tensors} == known
        arrays = dict(tensors) if by_name else {s.name: a for s, (_, a) in zip(self.inputs, tensors, strict=True)}
        return {spec.name: conform(arrays[spec.name], spec, str(folder)) for spec in self.inputs}


def find_sets(folder: Path) -> tuple[Path, ...]:
    """Return the sets in a folder, or the folder itself if it is one, in the order of their numbers."""
    if set_files(folder):
        return (folder,)
    return tuple(sorted((f for f in folder.glob(_FOLDER) if set_files(f)), key=lambda f: (_number(f.name), f.name)))


def set_files(folder: Path) -> list[Path]:
    """Return the tensors in a folder, in the order of their numbers."""
    found = [f for f in folder.glob("input_*.pb") if _FILE.fullmatch(f.name)]
    return sorted(found, key=lambda f: _number(f.stem))


def _number(name: str) -> int:
    digits = re.search(r"(\d+)$", name)
    return int(digits[1]) if digits else -1
