"""A recipe says what is wanted: a scheme, what may stay float, and an ordered list of passes. A mode is a recipe.

Values and their text; ``recipe_reader`` parses it. Knows neither files nor models.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

import yaml

from quantcli.dtypes import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

Scalar = str | int | float | bool | None
IO_TYPES: Final = ("float32", "float16", "int8", "uint8", "int16")
FORMATS: Final = ("qdq", "integer", "float")  # float: a float graph; only what is stored differs
FALLBACKS: Final = ("float", "refuse")
GRANULARITIES: Final = ("per-tensor", "per-channel", "per-block")
NUMBERS: Final = (*BY_NAME, "float16", "float32")


@dataclass(frozen=True, slots=True)
class TensorScheme:
    """How one kind of tensor is quantized.

    Attributes:
        dtype: Its integers; ``float32`` is not quantized, ``float16`` stored in half precision.
        symmetric: Whether the zero point is 0 (the middle of an unsigned type).
        granularity: How many values share a scale.
        narrow_range: Whether the most negative integer is left out.
        block_size: Values that share a scale, along the reduced axis; for ``per-block``.
    """

    dtype: str = "uint8"
    symmetric: bool = False
    granularity: str = "per-tensor"
    narrow_range: bool = False
    block_size: int = 32


@dataclass(frozen=True, slots=True)
class Scheme:
    """How activations and weights are quantized; biases are int32 at ``s_in * s_w`` by definition."""

    activations: TensorScheme = TensorScheme()
    weights: TensorScheme = TensorScheme("int8", symmetric=True, granularity="per-channel", narrow_range=True)


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the pass list."""

    name: str
    options: Mapping[str, Scalar] = field(default_factory=dict)
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Override:
    """How the range of some tensors is chosen instead.

    Attributes:
        tensor: Which: a name, a glob or ``re:REGEX``.
        calibrator: Name of the calibrator; None where ``range`` is given.
        options: Its options.
        range: The range itself, (low, high).
    """

    tensor: str
    calibrator: str | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)
    range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What a mode promises, in words: what the file holds, what computes, size and speed against float."""

    stores: str = ""
    computes: str = ""
    size: str = ""
    speed: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the result, apart from the model and the data; ``summary`` and ``about`` are words."""

    name: str
    summary: str = ""
    about: About = About()
    needs_data: bool = True
    format: str = "qdq"
    fallback: str = "float"
    inputs: str = "float32"
    outputs: str = "float32"
    io_types: tuple[str, ...] = ("float32", "int8", "uint8")
    portable: bool = False  # exact on every CPU: x86 without VNNI adds two products in 16 bits
    exclude: tuple[str, ...] = ()
    scheme: Scheme = Scheme()
    overrides: tuple[Override, ...] = ()
    passes: tuple[Step, ...] = ()

    @property
    def form(self) -> str:
        """Which column of the kernel table applies: ``qdq`` or ``integer`` with 8-bit activations, ``wide`` with 16."""
        return "wide" if self.scheme.activations.dtype == "int16" else self.format

    @property
    def four_bits(self) -> bool:
        """Tell whether weights are to have 4 bits."""
        dtype = BY_NAME.get(self.scheme.weights.dtype)
        return dtype is not None and dtype.bits == 4

    def enabled(self, name: str) -> bool:
        """Tell whether the pass ``name`` will run."""
        return any(step.name == name and step.enabled for step in self.passes)

    def dump(self) -> str:
        """Return the resolved recipe as YAML, which parses to an equal recipe."""
        return yaml.safe_dump(to_mapping(self), sort_keys=False, width=110)

    def compact(self) -> str:
        """Return what decides the result as one line of YAML, without words and without what is default."""
        plain = to_mapping(Recipe(""))
        mapping = {k: v for k, v in to_mapping(self).items() if v != plain[k] and k not in ("summary", "about")}
        return yaml.safe_dump(
            {"name": self.name, **mapping}, sort_keys=False, default_flow_style=True, width=float("inf")
        ).strip()


def to_mapping(recipe: Recipe) -> dict[str, object]:
    """Return the mapping that ``from_mapping`` turns back into the recipe."""

    def tensor(t: TensorScheme) -> dict[str, object]:
        return {
            "dtype": t.dtype,
            "symmetric": t.symmetric,
            "granularity": t.granularity,
            "narrow_range": t.narrow_range,
            **({"block_size": t.block_size} if t.granularity == "per-block" else {}),
        }

    def override(o: Override) -> dict[str, object]:
        if o.range is not None:
            return {"tensor": o.tensor, "range": list(o.range)}
        return {"tensor": o.tensor, "calibrator": o.calibrator, **o.options}

    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "about": asdict(recipe.about),
        "needs_data": recipe.needs_data,
        "format": recipe.format,
        "fallback": recipe.fallback,
        "inputs": recipe.inputs,
        "outputs": recipe.outputs,
        "io_types": list(recipe.io_types),
        "portable": recipe.portable,
        "exclude": list(recipe.exclude),
        "scheme": {"activations": tensor(recipe.scheme.activations), "weights": tensor(recipe.scheme.weights)},
        "overrides": [override(o) for o in recipe.overrides],
        "passes": [{s.name: dict(s.options) if s.enabled else "off"} for s in recipe.passes],
    }
