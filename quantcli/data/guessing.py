"""What inputs a dataset seems to be for, when there is no model: names and types as its first sample has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from quantcli.data import npz
from quantcli.data.arrays import IMAGES
from quantcli.data.files import matching, reading
from quantcli.data.finding import INPUT_LIST, NPZ
from quantcli.data.function_file import is_function, load_function
from quantcli.data.inputs import InputSpec
from quantcli.data.manifest import SUFFIXES, first_cells
from quantcli.data.memory import FunctionSource, signed
from quantcli.data.spec import Elsewhere, Feeds, ImagesInput, NpzInput, read_spec
from quantcli.data.tensor_proto import read_tensor
from quantcli.data.tensor_sets import find_sets, set_files
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

    from quantcli.data.spec import DatasetSpec

_FLOAT = np.dtype(np.float32)


def guess_inputs(path: Path, preset: str | None = None) -> list[InputSpec]:
    """Return an input of unknown shape for everything that the samples at a path hold.

    Args:
        path: As ``open_dataset`` takes it.
        preset: How images are fed; without one, they are looked at as pixels.

    Raises:
        DatasetError: Nothing can be told without a model.
    """
    pixels = _FLOAT if preset is not None else np.dtype(np.uint8)
    suffix = path.suffix.lower()
    if is_function(path):
        return _of_function(path)
    if path.is_dir():
        return _of_folder(path, pixels)
    if suffix == NPZ:
        return _of_npz(path)
    if suffix in SUFFIXES:
        return [InputSpec(n, _cell_dtype(v, path, pixels), None) for n, v in first_cells(path).items()]
    if suffix == INPUT_LIST:
        raise DatasetError(
            f"{path}: raw files do not say their shapes, expected a model that does", hint="Give it: --model MODEL."
        )
    return _of_spec(read_spec(path), path.parent)


def _of_spec(spec: DatasetSpec, folder: Path) -> list[InputSpec]:
    content = spec.content
    if isinstance(content, Elsewhere):
        return guess_inputs(folder / content.path, content.preset)
    if isinstance(content, Feeds):
        return _of_npz(matching(content.pattern, folder, content.where)[0])
    return [InputSpec(name, _dtype(name, source, folder), None) for name, source in content.sources.items()]


def _dtype(name: str, source: ImagesInput | NpzInput, folder: Path) -> np.dtype:
    if isinstance(source, ImagesInput):
        plain = source.preset is None and not source.formula.changes_values
        return np.dtype(np.uint8) if plain else _FLOAT
    if source.dtype is not None:
        return _named(source.dtype, source.where)
    if source.preprocess.changes_values:
        return _FLOAT
    with npz.opened(folder / source.file) as archive:
        return archive.header(source.array or name).dtype.newbyteorder("=")


def _named(name: str, where: str) -> np.dtype:
    try:
        return np.dtype(name)
    except TypeError as error:
        raise DatasetError(
            f"{where}: dtype {name!r}, expected the name of a type", hint="float32, int64 ..."
        ) from error


def _of_folder(path: Path, pixels: np.dtype) -> list[InputSpec]:
    feeds = sorted(path.glob(f"*{NPZ}"))
    if feeds:
        return _of_npz(feeds[0])
    sets = find_sets(path)
    if not sets:
        return [InputSpec("image", pixels, None)]
    tensors = [read_tensor(file) for file in set_files(sets[0])]
    names = [name for name, _ in tensors]
    known = len(set(names)) == len(names) and all(names)
    return [InputSpec(n if known else f"input_{i}", a.dtype, None) for i, (n, a) in enumerate(tensors)]


def _of_npz(path: Path) -> list[InputSpec]:
    with npz.opened(path) as archive:
        return [InputSpec(n, archive.header(n).dtype.newbyteorder("="), None) for n in archive.names()]


def _of_function(path: Path) -> list[InputSpec]:
    first = FunctionSource(load_function(path), (), path.name).first()
    named = signed(first)
    sample = first if named is None else named[1]
    if isinstance(sample, Mapping):
        return [InputSpec(str(n), np.asarray(a).dtype, None) for n, a in sample.items()]
    arrays = sample if isinstance(sample, (list, tuple)) else ()
    return [InputSpec(f"input_{i}", np.asarray(a).dtype, None) for i, a in enumerate(arrays)]


def _cell_dtype(value: object, path: Path, pixels: np.dtype) -> np.dtype:
    if not isinstance(value, str):
        return _FLOAT
    suffix = value.lower().rpartition(".")[2]
    if f".{suffix}" in IMAGES:
        return pixels
    file = path.parent / value
    if suffix == "npy":
        with reading(file, "a .npy file of numbers or text"):
            array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
            return array.dtype
    if suffix == "npz":
        return _of_npz(file)[0].dtype
    if suffix == "pb":
        return read_tensor(file)[1].dtype
    return _FLOAT if value.strip().lstrip("+-").replace(".", "", 1).isdigit() else np.dtype(object)
