"""The dataset spec: what a YAML file says, as values. Opens no data file and knows no graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantcli.data.framing import Asked, Color, Framing, Picture, Preset, picture
from quantcli.data.preprocess import Layout, PerChannel, Preprocess
from quantcli.data.yaml_entry import Entry, read_yaml
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from quantcli.data.inputs import InputSpec

_KINDS = ("inputs", "feeds", "source")
_TOP_KEYS = ("samples", "seed", "balanced", *_KINDS, "preset", "labels")
_LABELS_KEYS = ("npz", "array")
_FORMULA_KEYS = ("scale", "mean", "std")
_IMAGES_KEYS = ("images", "preset", "color", "resize", "layout", *_FORMULA_KEYS)
_NPZ_KEYS = ("npz", "array", "dtype", "from_layout", "layout", *_FORMULA_KEYS)
_SOURCE_KEYS = tuple(dict.fromkeys(_IMAGES_KEYS + _NPZ_KEYS))


@dataclass(frozen=True, slots=True)
class ImagesInput:
    """An input that is fed with images.

    Attributes:
        where: File and line of the spec.
        pattern: Of the files, relative to the spec.
        preset: What decides the rest, together with the model's input; None where the spec says it all.
        asked: Channels, size and layout, as far as the spec says them.
        formula: From uint8 (H, W, C) to what the model takes, without a preset.
    """

    where: str
    pattern: str
    preset: Preset | None
    asked: Asked
    formula: Preprocess

    def picture(self, spec: InputSpec) -> Picture:
        """Return how the images are fed to an input.

        Raises:
            DatasetError: A preset decides, and the input does not look like an image.
        """
        if self.preset is not None:
            return picture(self.preset, spec, self.asked, self.where)
        return Picture(self.asked.color or Color.RGB, Framing(self.asked.size), self.formula)


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
class Elsewhere:
    """Anything that a dataset may be without a spec.

    Attributes:
        where: File and line of the spec.
        path: Relative to the spec.
        preset: How images are fed.
    """

    where: str
    path: str
    preset: Preset | None


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
        labels: Where their classes are; None where nothing is said of them.
        balanced: Where it is said that each class shall give as many samples as the others; None where it is not.
    """

    samples: int | None
    seed: int | None
    content: Inputs | Feeds | Elsewhere
    labels: Labels | None = None
    balanced: str | None = None


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
    labels = _labels(entries["labels"]) if "labels" in entries else None
    balanced = entries["balanced"].where if "balanced" in entries and entries["balanced"].switch() else None
    return DatasetSpec(samples, seed, _content(entries, top), labels, balanced)


def _content(entries: Mapping[str, Entry], top: Entry) -> Inputs | Feeds | Elsewhere:
    kind = _only_one(entries, _KINDS, top)
    entry = entries[kind]
    preset = entries["preset"].choice(Preset) if "preset" in entries else None
    if kind == "source":
        return Elsewhere(entry.where, entry.text(), preset)
    if preset is not None:
        raise DatasetError(
            f"{entries['preset'].where}: preset stands beside {kind!r}, expected beside 'source' or in an images input",
            hint="Move it to the input: `{images: PATTERN, preset: NAME}`.",
        )
    return _inputs(entry) if kind == "inputs" else Feeds(entry.where, entry.text())


def _labels(entry: Entry) -> Labels:
    entries = entry.record(_LABELS_KEYS)
    if "npz" not in entries:
        raise DatasetError(
            f"{entry.where}: labels has no 'npz', expected an .npz file with a class index for each sample",
            hint="Write `labels: {npz: FILE, array: NAME}`.",
        )
    array = entries["array"].text() if "array" in entries else "labels"
    return Labels(entry.where, entries["npz"].text(), array)


def _only_one(entries: Mapping[str, Entry], kinds: tuple[str, ...], parent: Entry) -> str:
    given = [kind for kind in kinds if kind in entries]
    if len(given) != 1:
        got = " and ".join(map(repr, given)) or "none of them"
        inside = f"{parent.path} has " if parent.path else ""
        raise DatasetError(
            f"{parent.where}: {inside}{got}, expected exactly one of {', '.join(map(repr, kinds))}",
            hint=f"Keep one of {', '.join(f'`{kind}:`' for kind in given or kinds)}.",
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
    preset = entries["preset"].choice(Preset) if "preset" in entries else None
    color = entries["color"].choice(Color) if "color" in entries else None
    layout = entries["layout"].choice(Layout) if "layout" in entries else None
    resize = _size(entries["resize"]) if "resize" in entries else None
    for key in _FORMULA_KEYS if preset is not None else ():
        if key in entries:
            raise DatasetError(
                f"{entries[key].where}: {key} stands beside preset {str(preset)!r}, expected one of them",
                hint=f"The preset has a formula of its own; remove `{key}:` or `preset:`.",
            )
    formula = _preprocess(entries, Layout.NHWC, layout or Layout.NHWC)
    formula.shape((1, 1, (color or Color.RGB).channels), entry.where)  # mean and std: one value for each channel
    return ImagesInput(entry.where, entries["images"].text(), preset, Asked(color, resize, layout), formula)


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
