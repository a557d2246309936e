"""Presets of image preprocessing: which part of a picture is fed, in which size, and by which formula.

Knows shapes and numbers; opens no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from quantcli.data.inputs import shape_text
from quantcli.data.preprocess import Layout, Preprocess
from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from quantcli.data.inputs import InputSpec

Size = tuple[int, int]
_PLAIN: Final = Preprocess()


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
class Framing:
    """How a picture gets its size.

    Attributes:
        size: (H, W) of what is fed; None to keep the picture's own.
        margin: The picture is taken this much larger than what is fed, and its middle is cut out.
        undistorted: Whether the picture keeps its proportions: scaled until it covers, cut where it is too long.
    """

    size: Size | None = None
    margin: float = 1.0
    undistorted: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """How a picture of uint8 (H, W, C) becomes a sample: channels, size, then formula and layout."""

    color: Color = Color.RGB
    framing: Framing = Framing()
    preprocess: Preprocess = _PLAIN


class Preset(StrEnum):
    """Preprocessing that many models share."""

    IMAGENET_TORCH = "imagenet-torch"
    IMAGENET_TF = "imagenet-tf"
    UNIT = "unit"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a preset does; the formula is for three channels, its mean over them serves a gray picture."""

    margin: float = 1.0
    undistorted: bool = False
    size: Size | None = None
    formula: Preprocess = _PLAIN


_SIGNED: Final = Preprocess(mean=127.5, std=127.5)
# torchvision: Resize(256), CenterCrop(224), ToTensor, Normalize; TF-Slim and Keras: the central 87.5 %, then to -1..1
_RULES: Final = {
    Preset.IMAGENET_TORCH: _Rule(
        256 / 224,
        undistorted=True,
        size=(224, 224),
        formula=Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
    Preset.IMAGENET_TF: _Rule(1 / 0.875, size=(224, 224), formula=_SIGNED),
    Preset.UNIT: _Rule(formula=Preprocess(1 / 255)),
    Preset.SIGNED: _Rule(formula=_SIGNED),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user says himself beside a preset; None for what the model's input decides."""

    color: Color | None = None
    size: Size | None = None
    layout: Layout | None = None


def picture(preset: Preset | None, spec: InputSpec, asked: Asked, where: str) -> Picture:
    """Return how pictures are fed to an input by a preset; without one, as pixels of 0 to 255 in the input's size.

    Layout, channels and size are those of the input, where they are not asked for. An input of integers takes pixels:
    of a preset it gets the size only.

    Raises:
        DatasetError: The input does not look like an image.
    """
    layout, channels, size = _of_input(spec, asked, where)
    rule = _RULES[preset] if preset is not None else _Rule()
    color = asked.color or (Color.GRAY if channels == 1 else Color.RGB)
    formula = rule.formula if spec.dtype.kind == "f" else _PLAIN
    if color is Color.GRAY:
        formula = Preprocess(formula.scale, _mean(formula.mean), _mean(formula.std))
    if color is Color.BGR:
        formula = Preprocess(formula.scale, _reversed(formula.mean), _reversed(formula.std))
    framing = Framing(asked.size or size or rule.size, rule.margin, rule.undistorted)
    return Picture(color, framing, Preprocess(formula.scale, formula.mean, formula.std, Layout.NHWC, layout))


def takes_pictures(spec: InputSpec) -> bool:
    """Tell whether an input looks like one image: rank 4 with 1 or 3 channels."""
    return spec.shape is not None and len(spec.shape) == 4 and bool(_layouts(spec.shape))


def _of_input(spec: InputSpec, asked: Asked, where: str) -> tuple[Layout, int, Size | None]:
    shape = spec.shape
    if shape is None:  # nothing is known: the form in which images lie in memory
        return asked.layout or Layout.NHWC, 3, None
    layouts = [asked.layout] if asked.layout else _layouts(shape)
    if len(shape) not in {3, 4} or len(layouts) != 1:
        raise DatasetError(
            f"{where}: input {spec.name!r} takes {shape_text(shape)}, expected an image: [N, 3, H, W] or [N, H, W, 3], "
            "or 1 channel",
            hint="Write a YAML spec that says how images become what the model takes: `layout:`, `color:`, `resize:`.",
        )
    axis = layouts[0].channel_axis
    channels = shape[axis]
    sizes = [s for i, s in enumerate(shape[-3:]) if i != axis + 3]
    height, width = sizes
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return layouts[0], channels if isinstance(channels, int) else 3, fixed


def _layouts(shape: tuple[int | str | None, ...]) -> list[Layout]:
    if len(shape) not in {3, 4}:
        return []
    return [layout for layout in Layout if shape[layout.channel_axis] in (1, 3)]


def _mean(values: float | tuple[float, ...]) -> float:
    return sum(values) / len(values) if isinstance(values, tuple) else values


def _reversed(values: float | tuple[float, ...]) -> float | tuple[float, ...]:
    return values[::-1] if isinstance(values, tuple) else values
