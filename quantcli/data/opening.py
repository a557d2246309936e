"""From a path to a dataset: a YAML spec, an npz file with all samples, or a folder of feed files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from quantcli.data import npz
from quantcli.data.columns import Column, npz_column, side_by_side
from quantcli.data.dataset import RepresentativeDataset, Selection, Source, require_positive
from quantcli.data.feeds import FeedFiles
from quantcli.data.files import matching
from quantcli.data.inputs import InputSpec, is_text, require_names, type_name
from quantcli.data.labels import read_labels
from quantcli.data.spec import DatasetSpec, Feeds, ImagesInput, Inputs, NpzInput, as_stored, read_spec
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from quantcli.data.signatures import Signature


def open_dataset(path: Path, inputs: Sequence[InputSpec], *, samples: int | None = None) -> RepresentativeDataset:
    """Open the dataset at a path; data is read when it is iterated or checked.

    Args:
        path: A YAML spec, an .npz file with one array per input and samples along axis 0, or a folder
            with one .npz feed file per sample.
        inputs: The graph inputs.
        samples: At most this many, instead of what the spec says.

    Raises:
        DatasetError: The path or the spec is wrong, or does not fit the inputs.
    """
    name = path.name or str(path)
    if path.is_dir():
        dataset = RepresentativeDataset(name, _folder(path, inputs))
    elif path.suffix.lower() == ".npz":
        dataset = RepresentativeDataset(name, _npz_file(path, inputs))
    else:
        dataset = _described(name, read_spec(path), path.parent, inputs)
    return _limited(dataset, samples)


def _folder(path: Path, inputs: Sequence[InputSpec]) -> Source:
    return FeedFiles(matching("*.npz", path, str(path)), tuple(inputs))


def _npz_file(path: Path, inputs: Sequence[InputSpec]) -> Source:
    with npz.opened(path) as archive:
        names = archive.names()
    advice = " A YAML spec with `npz:` and `array:` picks arrays out of a file."
    require_names(dict.fromkeys(names, str(path)), inputs, str(path), advice=advice)
    return side_by_side([npz_column(spec, path, as_stored(str(path))) for spec in inputs], str(path))


def open_signature(
    signature: Signature, inputs: Sequence[InputSpec], *, samples: int | None = None
) -> RepresentativeDataset:
    """Open the dataset of one signature; as ``open_dataset``."""
    if isinstance(signature.dataset, DatasetSpec):
        return _limited(_described(signature.name, signature.dataset, signature.folder, inputs), samples)
    if signature.dataset is None:
        raise DatasetError(f"signature {signature.name!r} has no dataset", hint="Write `dataset:` or `inputs:`.")
    return open_dataset(signature.dataset, inputs, samples=samples)


def _limited(dataset: RepresentativeDataset, samples: int | None) -> RepresentativeDataset:
    if samples is None:
        return dataset
    return replace(dataset, selection=replace(dataset.selection, samples=require_positive(samples, "samples")))


def _described(name: str, spec: DatasetSpec, folder: Path, inputs: Sequence[InputSpec]) -> RepresentativeDataset:
    if isinstance(spec.content, Feeds):
        source: Source = FeedFiles(matching(spec.content.pattern, folder, spec.content.where), tuple(inputs))
    else:
        source = _inputs(spec.content, folder, inputs)
    labels = read_labels(spec.labels, folder, source.count()) if spec.labels is not None else ()
    return RepresentativeDataset(name, source, Selection(spec.samples, spec.seed), labels=labels)


def _inputs(content: Inputs, folder: Path, inputs: Iterable[InputSpec]) -> Source:
    specs = tuple(inputs)
    require_names({name: source.where for name, source in content.sources.items()}, specs, content.where)
    return side_by_side([_column(spec, content.sources[spec.name], folder) for spec in specs], content.where)


def _column(spec: InputSpec, source: ImagesInput | NpzInput, folder: Path) -> Column:
    if isinstance(source, NpzInput):
        _require_dtype(source, spec)
        return npz_column(spec, folder / source.file, source)
    if is_text(spec.dtype):
        raise DatasetError(
            f"{source.where}: images, expected text: input {spec.name!r} takes strings",
            hint="Give it an `npz:` with an array of text.",
        )
    from quantcli.data.images import ImageColumn  # noqa: PLC0415 - Pillow is loaded only when there are images

    return ImageColumn(spec, matching(source.pattern, folder, source.where), source)


def _require_dtype(source: NpzInput, spec: InputSpec) -> None:
    if source.dtype not in {None, spec.dtype.name}:
        raise DatasetError(
            f"{source.where}: dtype {source.dtype!r}, expected {type_name(spec)!r}, what input {spec.name!r} takes",
            hint=f"Write `dtype: {spec.dtype.name}`, or remove it.",
        )
