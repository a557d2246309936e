"""YAML values that know their line, read strictly: unknown keys, doubled keys and wrong types are errors.

Knows nothing of datasets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import yaml

from quantcli.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_Choice = TypeVar("_Choice", bound=StrEnum)
_TAG = "tag:yaml.org,2002:"
_WHOLE = re.compile(r"0|[1-9]\d{0,17}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # YAML 1.1 takes 1e-3 for text; we do not


@dataclass(frozen=True, slots=True)
class Entry:
    """A YAML value.

    Attributes:
        node: The value.
        file: The file that it is in.
        line: The line of its key, or its own when it has none; from 1.
        path: The keys that lead to it, ``inputs.image.scale``; empty at the top.
    """

    node: yaml.Node
    file: Path
    line: int
    path: str = ""

    @property
    def where(self) -> str:
        """File and line, ``calib.yaml:7``."""
        return f"{self.file}:{self.line}"

    def mapping(self) -> dict[str, Entry]:
        """Return the entries of a mapping with any keys.

        Raises:
            DatasetError: It is not a mapping, or a key is given twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self._wrong("a mapping of keys to values")
        entries: dict[str, Entry] = {}
        for key_node, value in self.node.value:
            line = _line(key_node)
            key = Entry(key_node, self.file, line, self.path).text()
            if key in entries:
                raise DatasetError(
                    f"{self.file}:{line}: key {key!r} is given twice, expected once; "
                    f"the first value is at {entries[key].where}",
                    hint="Remove one of them.",
                )
            entries[key] = Entry(value, self.file, line, f"{self.path}.{key}" if self.path else key)
        return entries

    def record(self, known: Collection[str]) -> dict[str, Entry]:
        """Return the entries of a mapping with these keys only.

        Raises:
            DatasetError: It is not a mapping, or a key is unknown or given twice.
        """
        entries = self.mapping()
        for key, entry in entries.items():
            if key not in known:
                inside = f" in {self.path}" if self.path else ""
                raise DatasetError(
                    f"{entry.where}: unknown key {key!r}{inside}, "
                    f"expected one of {', '.join(known)}{did_you_mean(key, known)}",
                    hint="Correct the key, or remove it.",
                )
        return entries

    def text(self) -> str:
        """Return a scalar as it is written: names such as ``1`` and ``on`` are names."""
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag == f"{_TAG}null" or not self.node.value:
            raise self._wrong("text")
        return str(self.node.value)

    def choice(self, choices: type[_Choice]) -> _Choice:
        """Return one of the values of an enumeration."""
        text = self.text()
        known = [str(choice) for choice in choices]
        if text not in known:
            raise self._wrong(
                f"one of {', '.join(known)}", did_you_mean(text, known) or did_you_mean(text.upper(), known)
            )
        return choices(text)

    def switch(self) -> bool:
        """Return whether it is on: ``true`` or ``false``."""
        text = self._plain("bool")
        if text not in {"true", "false"}:
            raise self._wrong("true or false")
        return text == "true"

    def whole(self, minimum: int) -> int:
        """Return a whole number that is at least ``minimum``."""
        text = self._plain("int")
        if not _WHOLE.fullmatch(text) or int(text) < minimum:
            raise self._wrong(f"a whole number, at least {minimum}")
        return int(text)

    def number(self, *, zero: bool = True) -> float:
        """Return a number that is finite in float32, and not 0 unless ``zero``."""
        text = self._plain("int", "float", "str")
        value = float(text) if _NUMBER.fullmatch(text) else np.nan
        with np.errstate(all="ignore"):
            rounded = np.float32(value)
        if not np.isfinite(rounded) or (rounded == 0 and not zero):
            raise self._wrong("a finite number" if zero else "a finite number other than 0")
        return value

    def sequence(self) -> tuple[Entry, ...]:
        """Return the entries of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self._wrong("a list")
        return tuple(Entry(item, self.file, _line(item), self.path) for item in self.node.value)

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def _plain(self, *types: str) -> str:
        node = self.node
        plain = isinstance(node, yaml.ScalarNode) and not node.style  # neither quoted nor a block
        return str(node.value) if plain and node.tag in {_TAG + name for name in types} else ""

    def _wrong(self, expected: str, near: str = "") -> DatasetError:
        name = f"{self.path} is " if self.path else ""
        return DatasetError(
            f"{self.where}: {name}{_shown(self.node)}, expected {expected}{near}", hint="Correct the value."
        )


def read_yaml(path: Path) -> Entry:
    """Read the one document of a YAML file.

    Raises:
        DatasetError: The file is missing, is not YAML or is empty.
    """
    try:
        node = yaml.compose(path.read_bytes().decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(
            f"{_error_where(path, error)}: cannot be read ({_reason(error)}), expected a YAML dataset spec",
            hint="A dataset is a YAML spec, an .npz, .csv or .jsonl file, an input list (.txt), a folder of feeds or "
            "images, or FILE.py:FUNCTION.",
        ) from error
    if node is None:
        raise DatasetError(f"{path}: empty, expected a YAML dataset spec", hint="Write `inputs:` or `feeds:`.")
    return Entry(node, path, _line(node))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _error_where(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}" if mark else str(path)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "problem", None) or str(error)
    return str(text).partition("\n")[0]


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "empty" if node.tag == f"{_TAG}null" else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
