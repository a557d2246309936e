"""A folder of images, fed by a preset; folders in it are classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcli.data.arrays import IMAGES
from quantcli.data.framing import Asked, Picture, Preset, picture, takes_pictures
from quantcli.data.inputs import InputSpec, shape_text
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def find_images(folder: Path) -> tuple[Path, ...]:
    """Return the images in a folder and in all folders in it, sorted by path."""
    found = (f for f in folder.rglob("*") if f.suffix.lower() in IMAGES and f.is_file())
    return tuple(sorted(found, key=lambda f: f.relative_to(folder).parts))


def classes_of(folder: Path, images: Sequence[Path]) -> tuple[int, ...]:
    """Return the class of each image: the number of its folder, in order of names, or its name where all are numbers.

    Empty where the images do not lie in two or more folders, each directly in one.
    """
    parts = [image.relative_to(folder).parts for image in images]
    names = sorted({p[0] for p in parts})
    if len(names) < 2 or any(len(p) != 2 for p in parts):
        return ()
    numbers = all(name.isascii() and name.isdigit() for name in names)
    index = {name: int(name) if numbers else i for i, name in enumerate(names)}
    return tuple(index[p[0]] for p in parts)


def image_input(inputs: Sequence[InputSpec], where: str) -> InputSpec:
    """Return the input that takes images: the only one, or the only one that looks so.

    Raises:
        DatasetError: There is none, or more than one.
    """
    candidates = [spec for spec in inputs if takes_pictures(spec)] if len(inputs) > 1 else list(inputs)
    if len(candidates) != 1:
        known = ", ".join(f"{s.name!r} {shape_text(s.shape) if s.shape is not None else '?'}" for s in inputs)
        raise DatasetError(
            f"{where}: images, expected a model with one input for them; it has {known}",
            hint="Write a YAML spec that names a source for each input.",
        )
    return candidates[0]


def picture_for(spec: InputSpec, preset: Preset | None, where: str) -> Picture:
    """Return how images are fed to an input.

    Raises:
        DatasetError: It takes floats, and no preset says which.
    """
    if preset is None and spec.dtype.kind == "f":
        known = ", ".join(Preset)
        raise DatasetError(
            f"{where}: images say nothing of how input {spec.name!r} is fed, expected a preset: {known}",
            hint="Give the preset that the model was trained with, or write a YAML spec with scale, mean and std.",
        )
    return picture(preset, spec, Asked(), where)
