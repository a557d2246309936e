"""From a path to a dataset: what a YAML spec says, or what lies there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantcli.data.batches import Batches
from quantcli.data.columns import Column, npz_column, side_by_side
from quantcli.data.dataset import RepresentativeDataset
from quantcli.data.feeds import FeedFiles
from quantcli.data.files import matching
from quantcli.data.finding import Found, find, is_findable
from quantcli.data.framing import Preset
from quantcli.data.function_file import is_function, load_function
from quantcli.data.inputs import InputSpec, is_text, require_names, type_name
from quantcli.data.labels import read_labels
from quantcli.data.memory import from_callable
from quantcli.data.selection import Chosen, Items, Selection, require_positive
from quantcli.data.spec import DatasetSpec, Elsewhere, Feeds, ImagesInput, Inputs, NpzInput, read_spec
from quantcli.data.staging import Staged
from quantcli.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from quantcli.data.memory import Independent
    from quantcli.data.signatures import Signature


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is opened, for whom.

    Attributes:
        inputs: The graph inputs.
        samples: At most this many items; None for what the spec says.
        signature: Of samples that name a signature, only these.
        independent: Whether the model treats the samples of a batch as independent.
    """

    inputs: tuple[InputSpec, ...]
    samples: int | None
    signature: str
    independent: Independent | None

    def dataset(self, name: str, found: Found, selection: Selection) -> RepresentativeDataset:
        chosen = Chosen(found.items, selection, found.classes)
        staged = Staged(chosen, Batches(self.inputs, self.independent))
        return RepresentativeDataset(name, staged, warnings=found.warnings, implied=found.implied)


def open_dataset(
    path: Path,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    preset: str | None = None,
    independent: Independent | None = None,
) -> RepresentativeDataset:
    """Open the dataset at a path; data is read when it is iterated or checked.

    Args:
        path: A YAML spec; an .npz file with one array per input and samples along axis 0; a folder of .npz feeds, of
            onnx's test_data_set_* or of images; an input list of raw files (.txt); a table (.csv, .jsonl); or
            ``file.py:function``.
        inputs: The graph inputs.
        samples: At most this many items, instead of what the spec says.
        preset: How images are fed, where no spec says it.
        independent: Whether the model treats the samples of a batch as independent: then they are fed one by one.

    Raises:
        DatasetError: The path or the spec is wrong, or does not fit the inputs.
    """
    limit = None if samples is None else require_positive(samples, "samples")
    return _opened(path, _preset(preset), _Wanted(tuple(inputs), limit, "", independent))


def open_signature(
    signature: Signature,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    independent: Independent | None = None,
) -> RepresentativeDataset:
    """Open the dataset of one signature; as ``open_dataset``."""
    wanted = _Wanted(tuple(inputs), samples, signature.name, independent)
    if isinstance(signature.dataset, DatasetSpec):
        return _described(signature.name, signature.dataset, signature.folder, wanted)
    if signature.dataset is None:
        raise DatasetError(f"signature {signature.name!r} has no dataset", hint="Write `dataset:` or `inputs:`.")
    return _opened(signature.dataset, None, wanted)


def _opened(path: Path, preset: Preset | None, wanted: _Wanted) -> RepresentativeDataset:
    name = path.name or str(path)
    if is_findable(path) or is_function(path):
        return _elsewhere(name, path, preset, Selection(wanted.samples), wanted)
    if preset is not None:
        raise DatasetError(
            f"{path}: preset {str(preset)!r}, expected none beside a spec",
            hint="Write `preset:` into an images input of the spec.",
        )
    return _described(name, read_spec(path), path.parent, wanted)


def _described(name: str, spec: DatasetSpec, folder: Path, wanted: _Wanted) -> RepresentativeDataset:
    """Open what a spec describes."""
    limit = wanted.samples or spec.samples
    selection = Selection(limit, spec.seed, spec.balanced is not None)
    if isinstance(spec.content, Elsewhere):
        place = folder / spec.content.path
        if not is_function(place):
            found = find(place, wanted.inputs, spec.content.preset)
            return wanted.dataset(name, _labelled(found, spec, folder), selection)
        _require_plain(spec, spec.content.where)
        return _elsewhere(name, place, spec.content.preset, selection, replace(wanted, samples=limit))
    if isinstance(spec.content, Feeds):
        items: Items = FeedFiles(matching(spec.content.pattern, folder, spec.content.where), wanted.inputs)
    else:
        items = _inputs(spec.content, folder, wanted.inputs)
    return wanted.dataset(name, _labelled(Found(items), spec, folder), selection)


def _elsewhere(
    name: str, path: Path, preset: Preset | None, selection: Selection, wanted: _Wanted
) -> RepresentativeDataset:
    """Open what needs no spec."""
    if not is_function(path):
        return wanted.dataset(name, find(path, wanted.inputs, preset), selection)
    if preset is not None:
        raise DatasetError(
            f"{path}: preset {str(preset)!r}, expected none: a function yields what is fed", hint="Leave it out."
        )
    made = from_callable(
        load_function(path),
        wanted.inputs,
        samples=wanted.samples,
        signature=wanted.signature,
        independent=wanted.independent,
    )
    return replace(made, description=name)


def _require_plain(spec: DatasetSpec, where: str) -> None:
    """Refuse to draw from a function: it has no number of samples."""
    if spec.seed is not None or spec.balanced is not None or spec.labels is not None:
        raise DatasetError(
            f"{where}: seed, balanced or labels beside a function, expected samples alone",
            hint="Let the function draw, or store the samples in an .npz file.",
        )


def _labelled(found: Found, spec: DatasetSpec, folder: Path) -> Found:
    """Return what was found with the labels that the spec names."""
    if spec.labels is not None:
        classes = read_labels(spec.labels, folder, found.items.count())
        found = replace(found, classes=classes, implied=False)
    if spec.balanced is not None and not found.classes:
        raise DatasetError(
            f"{spec.balanced}: balanced without labels, expected `labels:`, a table with a column 'label', "
            "or a folder of images with a folder for each class",
            hint="Remove `balanced:`, or say what the classes are.",
        )
    return found


def _preset(name: str | None) -> Preset | None:
    if name is not None and name not in tuple(Preset):
        raise DatasetError(
            f"preset {name!r}, expected one of {', '.join(Preset)}{did_you_mean(name, map(str, Preset))}",
            hint="docs/dataset.md says what each does.",
        )
    return None if name is None else Preset(name)


def _inputs(content: Inputs, folder: Path, inputs: Iterable[InputSpec]) -> Items:
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

    paths = matching(source.pattern, folder, source.where)
    return ImageColumn(spec, paths, source.picture(spec), f"{source.where}, {source.pattern}")


def _require_dtype(source: NpzInput, spec: InputSpec) -> None:
    if source.dtype not in {None, spec.dtype.name}:
        raise DatasetError(
            f"{source.where}: dtype {source.dtype!r}, expected {type_name(spec)!r}, what input {spec.name!r} takes",
            hint=f"Write `dtype: {spec.dtype.name}`, or remove it.",
        )
