"""The dataset spec: what a YAML file says, as values. Opens no data file and knows no graph."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from quantcli.data.preprocess import Layout, PerChannel, Preprocess
from quantcli.data.yaml_entry import Entry, read_yaml
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TOP_KEYS = ("samples", "seed", "inputs", "feeds", "labels")
_LABELS_KEYS = ("npz", "array")
_FORMULA_KEYS = ("scale", "mean", "std")
_IMAGES_KEYS = ("images", "color", "resize", "layout", *_FORMULA_KEYS)
_NPZ_KEYS = ("npz", "array", "dtype", "from_layout", "layout", *_FORMULA_KEYS)
_SOURCE_KEYS = tuple(dict.fromkeys(_IMAGES_KEYS + _NPZ_KEYS))


class Color(StrEnum):
    """The channels of an image, in their order."""

    RGB = "RGB"
    BGR = "BGR"
    GRAY = "GRAY"

    @property
    def channels(self) -> int:
        """The number of channels."""
        return 1 if self is Color.GRAY else 3


@dataclass(frozen=True, slots=True)
class ImagesInput:
    """An input that is fed with images.

    Attributes:
        where: File and line of the spec.
        pattern: Of the files, relative to the spec.
        color: Order of the channels.
        resize: (H, W), or None to keep the size.
        preprocess: From uint8 (H, W, C) to what the model takes.
    """

    where: str
    pattern: str
    color: Color
    resize: tuple[int, int] | None
    preprocess: Preprocess


@dataclass(frozen=True, slots=True)
class NpzInput:
    """An input that is fed with the elements of axis 0 of a stored array.

    Attributes:
        where: File and line of the spec.
        file: Relative to the spec.
        array: The key in the file; None for the name of the input.
        dtype: Name of the dtype to cast to; None when it is not given.
        preprocess: From a stored element to what the model takes.
        casts: Whether the stored dtype may differ from the input's.
    """

    where: str
    file: str
    array: str | None
    dtype: str | None
    preprocess: Preprocess
    casts: bool


def as_stored(file: str) -> NpzInput:
    """Return the options of an array that is named after its input and is fed as it is stored."""
    return NpzInput(where=file, file=file, array=None, dtype=None, preprocess=Preprocess(), casts=False)


@dataclass(frozen=True, slots=True)
class Inputs:
    """One source for each input, by name."""

    where: str
    sources: Mapping[str, ImagesInput | NpzInput]


@dataclass(frozen=True, slots=True)
class Feeds:
    """One file for each sample."""

    where: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Labels:
    """The class index of each sample, in a stored array.

    Attributes:
        where: File and line of the spec.
        file: Relative to the spec.
        array: The key in the file.
    """

    where: str
    file: str
    array: str


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A whole spec.

    Attributes:
        samples: At most this many; None for all.
        seed: Drawn at random with this seed; None for the first ones.
        content: Where the samples are.
        labels: Where their classes are; None where they have none.
    """

    samples: int | None
    seed: int | None
    content: Inputs | Feeds
    labels: Labels | None = None


def read_spec(path: Path) -> DatasetSpec:
    """Read a dataset spec.

    Raises:
        DatasetError: The file cannot be read, or says something that has no meaning.
    """
    return dataset_of(read_yaml(path))


def dataset_of(top: Entry, more: tuple[str, ...] = ()) -> DatasetSpec:
    """Return the dataset that an entry describes; it may have ``more`` keys."""
    entries = top.record((*_TOP_KEYS, *more))
    samples = entries["samples"].whole(1) if "samples" in entries else None
    seed = entries["seed"].whole(0) if "seed" in entries else None
    kind = _only_one(entries, ("inputs", "feeds"), top)
    content = _inputs(entries[kind]) if kind == "inputs" else Feeds(entries[kind].where, entries[kind].text())
    labels = _labels(entries["labels"]) if "labels" in entries else None
    return DatasetSpec(samples, seed, content, labels)


def _labels(entry: Entry) -> Labels:
    entries = entry.record(_LABELS_KEYS)
    if "npz" not in entries:
        raise DatasetError(
            f"{entry.where}: labels has no 'npz', expected an .npz file with a class index for each sample",
            hint="Write `labels: {npz: FILE, array: NAME}`.",
        )
    array = entries["array"].text() if "array" in entries else "labels"
    return Labels(entry.where, entries["npz"].text(), array)


def _only_one(entries: Mapping[str, Entry], kinds: tuple[str, str], parent: Entry) -> str:
    given = [kind for kind in kinds if kind in entries]
    if len(given) != 1:
        got = "both" if given else "neither"
        inside = f"{parent.path} has " if parent.path else ""
        raise DatasetError(
            f"{parent.where}: {inside}{got} of {kinds[0]!r} and {kinds[1]!r}, expected exactly one",
            hint=f"Keep `{kinds[0]}:` or `{kinds[1]}:`.",
        )
    return given[0]


def _inputs(entry: Entry) -> Inputs:
    sources = {name: _source(source) for name, source in entry.mapping().items()}
    return Inputs(entry.where, sources)


def _source(entry: Entry) -> ImagesInput | NpzInput:
    kind = _only_one(entry.record(_SOURCE_KEYS), ("images", "npz"), entry)
    return _images(entry) if kind == "images" else _npz(entry)


def _images(entry: Entry) -> ImagesInput:
    entries = entry.record(_IMAGES_KEYS)
    color = entries["color"].choice(Color) if "color" in entries else Color.RGB
    target = entries["layout"].choice(Layout) if "layout" in entries else Layout.NHWC
    resize = _size(entries["resize"]) if "resize" in entries else None
    preprocess = _preprocess(entries, Layout.NHWC, target)
    preprocess.shape((*(resize or (1, 1)), color.channels), entry.where)  # mean and std: one value for each channel
    return ImagesInput(entry.where, entries["images"].text(), color, resize, preprocess)


def _npz(entry: Entry) -> NpzInput:
    entries = entry.record(_NPZ_KEYS)
    layouts = [entries[key].choice(Layout) for key in ("from_layout", "layout") if key in entries]
    source, target = (layouts[0], layouts[-1]) if layouts else (Layout.NHWC, Layout.NHWC)
    return NpzInput(
        where=entry.where,
        file=entries["npz"].text(),
        array=entries["array"].text() if "array" in entries else None,
        dtype=entries["dtype"].text() if "dtype" in entries else None,
        preprocess=_preprocess(entries, source, target),
        casts=any(key in entries for key in ("dtype", *_FORMULA_KEYS)),
    )


def _preprocess(entries: Mapping[str, Entry], source: Layout, target: Layout) -> Preprocess:
    scale = entries["scale"].number(zero=False) if "scale" in entries else 1.0
    mean = _per_channel(entries["mean"], zero=True) if "mean" in entries else 0.0
    std = _per_channel(entries["std"], zero=False) if "std" in entries else 1.0
    return Preprocess(scale, mean, std, source, target)


def _per_channel(entry: Entry, *, zero: bool) -> PerChannel:
    if entry.is_list:
        return tuple(item.number(zero=zero) for item in entry.sequence())
    return entry.number(zero=zero)


def _size(entry: Entry) -> tuple[int, int]:
    items = entry.sequence()
    if len(items) != 2:
        raise DatasetError(
            f"{entry.where}: {entry.path} has {len(items)} numbers, expected two: [height, width]",
            hint="Write `resize: [224, 224]`.",
        )
    height, width = (item.whole(1) for item in items)
    return height, width
