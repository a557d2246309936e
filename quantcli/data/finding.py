"""What lies at a path, when no spec says it: arrays, feeds, tensors, raw files, images or a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quantcli.data import npz
from quantcli.data.columns import npz_column, side_by_side
from quantcli.data.feeds import FeedFiles
from quantcli.data.files import matching
from quantcli.data.image_folder import classes_of, find_images, image_input, picture_for
from quantcli.data.input_list import read_list
from quantcli.data.inputs import InputSpec, require_names
from quantcli.data.manifest import SUFFIXES, read_manifest
from quantcli.data.spec import as_stored
from quantcli.data.tensor_sets import TensorSets, find_sets
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from quantcli.data.framing import Preset
    from quantcli.data.selection import Items

INPUT_LIST: Final = ".txt"
NPZ: Final = ".npz"


@dataclass(frozen=True, slots=True)
class Found:
    """Items with what is known of them.

    Attributes:
        items: The samples or batches.
        classes: Class index of each item; empty where there are none.
        implied: Whether the classes are only how the files lie in folders.
        warnings: What the user should know.
    """

    items: Items
    classes: tuple[int, ...] = ()
    implied: bool = False
    warnings: tuple[str, ...] = ()


def is_findable(path: Path) -> bool:
    """Tell whether a path is of a kind that needs no spec."""
    return path.is_dir() or path.suffix.lower() in {NPZ, INPUT_LIST, *SUFFIXES}


def find(path: Path, inputs: Sequence[InputSpec], preset: Preset | None) -> Found:
    """Open a folder, an .npz file, an input list or a table.

    Raises:
        DatasetError: It is none of them, or does not fit the inputs.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return _folder(path, inputs, preset)
    if suffix in SUFFIXES:
        table = read_manifest(path, inputs, preset)
        return Found(table, table.classes)
    if suffix not in {NPZ, INPUT_LIST}:
        raise DatasetError(
            f"{path}: {'suffix ' + repr(suffix) if path.exists() else 'no such file or folder'}, expected "
            "an .npz, .csv or .jsonl file, an input list (.txt), a folder, or FILE.py:FUNCTION",
            hint="docs/dataset.md describes each of them.",
        )
    _refuse_preset(preset, path)
    if suffix == NPZ:
        return Found(_npz_file(path, inputs))
    lines = read_list(path, inputs)
    return Found(lines, warnings=lines.warnings)


def _folder(path: Path, inputs: Sequence[InputSpec], preset: Preset | None) -> Found:
    if any(path.glob(f"*{NPZ}")):
        _refuse_preset(preset, path)
        return Found(FeedFiles(matching(f"*{NPZ}", path, str(path)), tuple(inputs)))
    sets = find_sets(path)
    if sets:
        _refuse_preset(preset, path)
        return Found(TensorSets(sets, tuple(inputs)))
    images = find_images(path)
    if not images:
        raise DatasetError(
            f"{path}: no file matches, expected .npz feeds, test_data_set_* folders with input_0.pb, or images",
            hint="docs/dataset.md describes each of them.",
        )
    from quantcli.data.images import ImageColumn  # noqa: PLC0415 - Pillow is loaded only when there are images

    spec = image_input(inputs, str(path))
    column = ImageColumn(spec, images, picture_for(spec, preset, str(path)), str(path))
    require_names({spec.name: str(path)}, inputs, str(path))
    classes = classes_of(path, images)
    return Found(side_by_side([column], str(path)), classes, implied=bool(classes))


def _npz_file(path: Path, inputs: Sequence[InputSpec]) -> Items:
    with npz.opened(path) as archive:
        names = archive.names()
    advice = " A YAML spec with `npz:` and `array:` picks arrays out of a file."
    require_names(dict.fromkeys(names, str(path)), inputs, str(path), advice=advice)
    return side_by_side([npz_column(spec, path, as_stored(str(path))) for spec in inputs], str(path))


def _refuse_preset(preset: Preset | None, path: Path) -> None:
    if preset is not None:
        raise DatasetError(
            f"{path}: preset {str(preset)!r}, expected none: presets are for folders and tables of images",
            hint="Leave it out; in a YAML spec, write `preset:` in an images input.",
        )
