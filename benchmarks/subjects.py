"""What the benchmark measures: the bundled sample, generated models, and a zoo if one is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import generated

from quantcli import modes

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with its representative dataset."""

    name: str
    model: Path
    dataset: Path


def chosen(work: Path, zoo: Path | None, only: list[str]) -> list[Subject]:
    """Return the bundled sample, the generated models and those of the zoo; ``only`` keeps the named ones."""
    found = [*own(work), *(of_zoo(zoo) if zoo else [])]
    return [s for s in found if not only or s.name in only]


def sample() -> list[Subject]:
    """Return the bundled sample."""
    folder = modes.sample_folder()
    return [Subject("digits", folder / "digits.onnx", folder / "dataset.yaml")]


def own(work: Path) -> list[Subject]:
    """Return the bundled sample and the generated models."""
    size = 192
    made = {
        "MobileNetV2-like": generated.mobilenet_v2(size),
        "ResNet18-like": generated.resnet_18(size, width=32),
    }
    subjects = sample()
    for name, model in made.items():
        subjects.append(Subject(name, *generated.write(work / name, model, size=size, samples=32)))
    return subjects


def of_zoo(zoo: Path) -> list[Subject]:
    """Return the folders that hold a model and its dataset spec."""
    folders = sorted(f for f in zoo.iterdir() if (f / "model.onnx").is_file() and (f / "dataset.yaml").is_file())
    return [Subject(f.name, f / "model.onnx", f / "dataset.yaml") for f in folders]


def long_dataset(work: Path, samples: int) -> Subject:
    """Return a small generated model with many samples."""
    size = 96
    files = generated.write(work / "long", generated.mobilenet_v2(size), size=size, samples=samples)
    return Subject("MobileNetV2-like, 96 x 96", *files)
