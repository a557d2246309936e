"""A spec of several models that belong together: a file, a dataset and a name for each, and which tensors are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli.data.spec import DatasetSpec, dataset_of
from quantcli.data.yaml_entry import Entry, read_yaml
from quantcli.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_YAML = (".yaml", ".yml")
_DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class Signature:
    """One model of several.

    Attributes:
        name: Its name.
        model: The ONNX file.
        folder: What the paths of its dataset are relative to.
        dataset: A path as ``open_dataset`` takes it, or what the spec says in place; None where there is none.
    """

    name: str
    model: Path
    folder: Path
    dataset: Path | DatasetSpec | None


@dataclass(frozen=True, slots=True)
class Signatures:
    """The whole spec.

    Attributes:
        where: The file.
        signatures: By name.
        ties: Pairs of (signature, output) and (signature, input) that are one value.
    """

    where: str
    signatures: Mapping[str, Signature]
    ties: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = ()


def is_signatures(path: Path) -> bool:
    """Tell whether a path is a YAML file with ``signatures:``."""
    if path.suffix.lower() not in _YAML or not path.is_file():
        return False
    return "signatures" in read_yaml(path).mapping()


def read_signatures(path: Path) -> Signatures:
    """Read a spec of several models.

    Raises:
        DatasetError: The file cannot be read, or says something that has no meaning.
    """
    top = read_yaml(path).record(("signatures", "ties"))
    entry = top["signatures"]
    found = {name: _signature(name, e, path.parent) for name, e in entry.mapping().items()}
    if not found:
        raise DatasetError(f"{entry.where}: signatures is empty, expected a name and a model for each")
    ties = tuple(_tie(e, found) for e in top["ties"].sequence()) if "ties" in top else ()
    return Signatures(str(path), found, ties)


def _signature(name: str, entry: Entry, folder: Path) -> Signature:
    entries = entry.mapping()
    if "model" not in entries:
        raise DatasetError(
            f"{entry.where}: {entry.path} has no model, expected the ONNX file", hint="Write `model: encoder.onnx`."
        )
    model = folder / entries["model"].text()
    if _DATASET in entries:
        only = entry.record(("model", _DATASET))
        return Signature(name, model, folder, folder / only[_DATASET].text())
    inline = dataset_of(entry, ("model",)) if len(entries) > 1 else None
    return Signature(name, model, folder, inline)


def _tie(entry: Entry, known: Collection[str]) -> tuple[tuple[str, str], tuple[str, str]]:
    ends = entry.sequence()
    if len(ends) != 2:
        raise DatasetError(
            f"{entry.where}: a tie has {len(ends)} tensors, expected two: what leaves and what enters",
            hint="Write `- [decode.state_out, decode.state_in]`.",
        )
    leaving, entering = (_end(e, known) for e in ends)
    return leaving, entering


def _end(entry: Entry, known: Collection[str]) -> tuple[str, str]:
    signature, dot, tensor = entry.text().partition(".")
    if signature not in known or not dot or not tensor:
        raise DatasetError(
            f"{entry.where}: {entry.text()!r}, expected SIGNATURE.TENSOR{did_you_mean(signature, known)}",
            hint=f"Signatures: {', '.join(known)}.",
        )
    return signature, tensor
