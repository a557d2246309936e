"""What may be asked of a conversion, and the recipe that mode and options resolve to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantcli import modes, plugins
from quantcli.errors import RecipeError, UnsupportedError, UsageError
from quantcli.recipe import FORMATS, IO_TYPES, Recipe, Scheme, TensorScheme

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of a conversion beyond mode, model, data and output.

    Attributes:
        recipe: A recipe file instead of a mode.
        settings: ``PATH=VALUE`` overrides on the recipe.
        samples: At most this many calibration samples.
        random_data: Calibrate on this many random samples; only when asked for, and stamped into the result.
        calibrator: Name of the calibration method.
        input_type: ``float32``, ``int8`` or ``uint8``; None is the recipe's.
        output_type: Likewise.
        keep_float: Patterns of nodes that stay float.
        format: ``qdq`` or ``integer``; None is the recipe's.
        min_sqnr: Smallest acceptable SQNR of the worst output, in dB.
        strict: Any float operator is a failure.
        keep: Write the output although it is below ``min_sqnr``.
        threads: Threads; None for all that may be used.
        dry_run: Plan only.
        save_temps: Folder for the model after each pass.
    """

    recipe: Path | None = None
    settings: tuple[str, ...] = ()
    samples: int | None = None
    random_data: int | None = None
    calibrator: str | None = None
    input_type: str | None = None
    output_type: str | None = None
    keep_float: tuple[str, ...] = ()
    format: str | None = None
    min_sqnr: float | None = None
    strict: bool = False
    keep: bool = False
    threads: int | None = None
    dry_run: bool = False
    save_temps: Path | None = None


def resolved(mode: str, asked: Options) -> Recipe:
    """Return the recipe of a mode or recipe file with every option applied.

    Raises:
        UsageError: A value that does not exist.
        RecipeError: The recipe file is wrong.
        UnsupportedError: A scheme that no emitter writes.
    """
    for name, value, known in (
        ("input_type", asked.input_type, IO_TYPES),
        ("output_type", asked.output_type, IO_TYPES),
        ("format", asked.format, FORMATS),
    ):
        if value is not None and value not in known:
            raise UsageError(f"{name} is {value!r}, expected {' | '.join(known)}")
    for name, number in (("samples", asked.samples), ("random_data", asked.random_data), ("threads", asked.threads)):
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}, expected at least 1")
    if asked.min_sqnr is not None and not math.isfinite(asked.min_sqnr):
        raise UsageError(f"min_sqnr is {asked.min_sqnr}, expected a number of decibels")
    recipe = modes.resolve(mode, asked.recipe, asked.settings)
    _check_passes(recipe, asked)
    recipe = replace(
        recipe,
        format=asked.format or recipe.format,
        inputs=asked.input_type or recipe.inputs,
        outputs=asked.output_type or recipe.outputs,
        exclude=(*recipe.exclude, *asked.keep_float),
    )
    if asked.calibrator:
        plugins.check_calibrator(asked.calibrator)
        steps = [replace(s, options={**s.options, "calibrator": asked.calibrator}) if s.name == "calibrate" else s
                 for s in recipe.passes]  # fmt: skip
        recipe = replace(recipe, passes=tuple(steps))
    _check_scheme(recipe.scheme)
    return recipe


def _check_passes(recipe: Recipe, asked: Options) -> None:
    """Raise for an unknown pass or a wrong option of one, before any work."""
    try:
        plugins.passes_of(recipe)
    except RecipeError as error:
        if asked.settings:
            raise UsageError(f"--set: {error.message}", hint=error.hint) from error
        raise


def _check_scheme(scheme: Scheme) -> None:
    """Refuse schemes that no emitter of ours writes, instead of writing something else."""
    supported = {
        "activations": (("uint8", "per-tensor"),),
        "weights": (("int8", "per-channel"), ("int8", "per-tensor")),
    }
    asked: dict[str, TensorScheme] = {"activations": scheme.activations, "weights": scheme.weights}
    for kind, tensor in asked.items():
        if (tensor.dtype, tensor.granularity) not in supported[kind]:
            known = " or ".join(f"{d} {g}" for d, g in supported[kind])
            raise UnsupportedError(
                f"scheme.{kind}: {tensor.dtype} {tensor.granularity} cannot be emitted; supported: {known}",
                hint="uint8 activations and int8 weights are the form that onnxruntime's integer kernels run fast",
            )
    if not scheme.weights.symmetric or scheme.activations.symmetric:
        raise UnsupportedError(
            "only symmetric weights and asymmetric activations can be emitted",
            hint="set scheme.weights.symmetric to true and scheme.activations.symmetric to false",
        )
