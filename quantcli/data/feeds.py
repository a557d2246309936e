"""Feed files: one npz file per sample, with arrays named after the graph inputs; lengths may differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli.data import npz
from quantcli.data.inputs import InputSpec, conform, require_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from quantcli.data.inputs import Feed


@dataclass(frozen=True, slots=True)
class FeedFiles:
    """Files that hold one sample each."""

    paths: tuple[Path, ...]
    inputs: tuple[InputSpec, ...]

    def count(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def read(self, indices: Sequence[int]) -> Iterator[Feed]:
        """Load one file at a time."""
        for index in indices:
            yield self._feed(index)

    def _feed(self, index: int) -> Feed:
        path = self.paths[index]
        where = f"sample {index} ({path})"
        with npz.opened(path) as archive:
            require_names(dict.fromkeys(archive.names(), str(path)), self.inputs, str(path))
            return {spec.name: conform(archive.whole(spec.name), spec, where) for spec in self.inputs}
