"""What may be asked of a conversion, and the recipe that mode and options resolve to."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from quantcli import modes, plugins
from quantcli.errors import RecipeError, UnsupportedError, UsageError
from quantcli.recipe import FALLBACKS, IO_TYPES, Recipe

if TYPE_CHECKING:
    from pathlib import Path


INTEGER_FORMATS: Final = ("qdq", "integer")
BLOCK_SIZES: Final = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of a conversion beyond mode, model, data and output.

    Attributes:
        recipe: A recipe file instead of a mode.
        settings: ``PATH=VALUE`` overrides on the recipe.
        preset: Name of a set of changes to the passes of the mode, made before the settings.
        samples: At most this many calibration samples.
        image_preset: How images without a spec are fed: ``imagenet-torch``, ``imagenet-tf``, ``unit`` or ``signed``.
        random_data: Calibrate on this many random samples; only when asked for, and stamped into the result.
        data_free: Calibrate on samples made from what the model says of its data; stamped into the result.
        stats: Saved statistics, instead of looking at the samples.
        cache: Whether what was seen of the samples is looked up in the user's cache, and kept there.
        calibrator: Name of the calibration method.
        input_type: ``float32``, ``int8``, ``uint8``, ``int16`` or ``float16``; None is the recipe's.
        output_type: Likewise.
        keep_float: Patterns of nodes that stay float.
        format: ``qdq`` or ``integer``; None is the recipe's.
        fallback: ``float`` or ``refuse`` for operators without an integer form; None is the recipe's.
        portable: Integer products shall be exact on x86 CPUs without VNNI too; False is the recipe's.
        min_sqnr: Smallest acceptable SQNR of the worst output, in dB.
        strict: Any float operator is a failure.
        keep: Write the output although it is below ``min_sqnr``.
        custom_op_libs: Shared libraries of custom operators, for every session of the model.
        threads: Threads; None for all that may be used.
        dry_run: Plan only.
        save_temps: Folder for the model after each pass.
    """

    recipe: Path | None = None
    settings: tuple[str, ...] = ()
    preset: str | None = None
    samples: int | None = None
    image_preset: str | None = None
    random_data: int | None = None
    data_free: bool = False
    stats: Path | None = None
    cache: bool = True
    calibrator: str | None = None
    input_type: str | None = None
    output_type: str | None = None
    keep_float: tuple[str, ...] = ()
    format: str | None = None
    fallback: str | None = None
    portable: bool = False
    min_sqnr: float | None = None
    strict: bool = False
    keep: bool = False
    custom_op_libs: tuple[Path, ...] = ()
    threads: int | None = None
    dry_run: bool = False
    save_temps: Path | None = None

    @property
    def made_up(self) -> bool:
        """Whether samples are to be made up."""
        return self.random_data is not None or self.data_free


def resolved(mode: str, asked: Options) -> Recipe:
    """Return the recipe of a mode or recipe file with every option applied.

    Raises:
        UsageError: A value that does not exist.
        RecipeError: The recipe file is wrong.
        UnsupportedError: A scheme that no emitter writes.
    """
    _check_values(asked)
    recipe = modes.resolve(mode, asked.recipe, _settings(mode, asked), asked.preset)
    _check_passes(recipe, asked)
    _check_fits(recipe, asked)
    recipe = replace(
        recipe,
        format=asked.format or recipe.format,
        fallback=asked.fallback or recipe.fallback,
        inputs=asked.input_type or recipe.inputs,
        outputs=asked.output_type or recipe.outputs,
        portable=asked.portable or recipe.portable,
        exclude=(*recipe.exclude, *asked.keep_float),
    )
    _check_scheme(recipe)
    return recipe


def completed(asked: Options) -> Options:
    """Return the options with what their preset implies.

    Raises:
        UsageError: There is no such preset.
    """
    free = asked.preset is not None and modes.preset(asked.preset).data_free
    return replace(asked, data_free=True) if free else asked


def _settings(mode: str, asked: Options) -> tuple[str, ...]:
    """Return the settings with the calibrator in front, so that the others may be options of it."""
    if asked.calibrator is None:
        return asked.settings
    plugins.check_calibrator(asked.calibrator)
    other = [s for s in asked.settings if s.startswith("passes.calibrate.calibrator=")]
    if other:
        raise UsageError(f"--calibrator {asked.calibrator} and --set {other[0]} exclude each other")
    calibrates = any(s.name == "calibrate" for s in modes.resolve(mode, asked.recipe).passes)
    return (*([f"passes.calibrate.calibrator={asked.calibrator}"] if calibrates else []), *asked.settings)


def _check_values(asked: Options) -> None:
    """Raise for a value that no recipe could take."""
    for name, value, known in (
        ("input_type", asked.input_type, IO_TYPES),
        ("output_type", asked.output_type, IO_TYPES),
        ("format", asked.format, INTEGER_FORMATS),
        ("fallback", asked.fallback, FALLBACKS),
    ):
        if value is not None and value not in known:
            raise UsageError(f"{name} is {value!r}, expected {' | '.join(known)}")
    for name, number in (("samples", asked.samples), ("random_data", asked.random_data), ("threads", asked.threads)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}, expected at least 1")
    if asked.min_sqnr is not None and not math.isfinite(asked.min_sqnr):
        raise UsageError(f"min_sqnr is {asked.min_sqnr}, expected a number of decibels")


def _check_fits(recipe: Recipe, asked: Options) -> None:
    """Raise for an option that means nothing in this mode, or that the mode does not allow."""
    for option, value in (("--input-type", asked.input_type), ("--output-type", asked.output_type)):
        if value is not None and value not in recipe.io_types:
            raise UsageError(
                f"{option} {value} is not possible in mode {recipe.name!r}; expected {' | '.join(recipe.io_types)}",
                hint="'quant modes' lists the input and output types of each mode",
            )
    if recipe.format == "float":
        for option, value in (("--format", asked.format), ("--fallback", asked.fallback)):
            if value is not None:
                raise UsageError(f"{option} means nothing in mode {recipe.name!r}: its graph computes in float")
    if (asked.portable or recipe.portable) and recipe.scheme.activations.dtype == "float32":
        raise UsageError(f"--portable means nothing in mode {recipe.name!r}: it multiplies no integers")
    if asked.stats is not None and not recipe.needs_data:
        raise UsageError(f"--stats means nothing in mode {recipe.name!r}: it calibrates nothing")
    if asked.calibrator is not None and not any(s.name == "calibrate" for s in recipe.passes):
        raise UsageError(f"--calibrator means nothing in mode {recipe.name!r}: it calibrates nothing")


def _check_passes(recipe: Recipe, asked: Options) -> None:
    """Raise for an unknown pass or a wrong option of one, before any work."""
    try:
        plugins.passes_of(recipe)
    except RecipeError as error:
        if asked.settings:
            raise UsageError(f"--set: {error.message}", hint=error.hint) from error
        raise


# What the emitters write, by format: (dtype, symmetric, granularity) of activations and of weights.
_EIGHT: Final = ("uint8", False, "per-tensor")
_SIXTEEN: Final = ("int16", True, "per-tensor")
_FLOAT: Final = ("float32", True, "per-tensor")
_STATIC_WEIGHTS: Final = tuple(
    (dtype, True, granularity)
    for dtype, granularity in itertools.product(("int8", "int4"), ("per-channel", "per-tensor"))
)
_STORED_WEIGHTS: Final = tuple(
    (dtype, symmetric, granularity)
    for dtype, symmetric, granularity in itertools.product(
        ("int8", "int4", "uint8", "uint4"), (True, False), ("per-tensor", "per-channel", "per-block")
    )
    if symmetric == dtype.startswith("int")
)
_SUPPORTED: Final = {
    "qdq": ((_EIGHT, _SIXTEEN), _STATIC_WEIGHTS),
    "integer": ((_EIGHT, _SIXTEEN), _STATIC_WEIGHTS),
    "float": ((_EIGHT, _FLOAT), (*_STORED_WEIGHTS, ("float16", True, "per-tensor"), ("float32", True, "per-tensor"))),
}

_FAST: Final = "uint8 activations and int8 weights are the form that onnxruntime's integer kernels run fast"
_BLOCKS: Final = (
    "an integer product adds up all inputs before its one scale per output channel applies, so blocks of inputs need "
    "products in float: weight-only-int8, weight-only-int4 and dynamic-range take per-block"
)


def _check_scheme(recipe: Recipe) -> None:
    """Refuse schemes that no emitter of ours writes, instead of writing something else."""
    scheme = recipe.scheme
    for kind, tensor, supported in zip(
        ("activations", "weights"), (scheme.activations, scheme.weights), _SUPPORTED[recipe.format], strict=True
    ):
        if (tensor.dtype, tensor.symmetric, tensor.granularity) not in supported:
            known = ", ".join(_said(*s) for s in supported)
            asked = _said(tensor.dtype, tensor.symmetric, tensor.granularity)
            raise UnsupportedError(
                f"scheme.{kind}: {asked} cannot be emitted in mode {recipe.name!r}; supported: {known}",
                hint=_BLOCKS if tensor.granularity == "per-block" and recipe.format != "float" else _FAST,
            )
        if tensor.granularity == "per-block" and tensor.block_size not in BLOCK_SIZES:
            raise UnsupportedError(
                f"scheme.{kind}.block_size is {tensor.block_size}; expected {' | '.join(map(str, BLOCK_SIZES))}",
                hint="onnxruntime's block-wise kernels take these sizes",
            )


def _said(dtype: str, symmetric: bool, granularity: str) -> str:  # noqa: FBT001 - the three facts of a scheme
    return f"{dtype} {'symmetric' if symmetric else 'asymmetric'} {granularity}"
