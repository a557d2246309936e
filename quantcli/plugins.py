"""Finds the pass or calibrator that a recipe names: a literal table of our own, then entry points of other packages.

Entry point groups: ``quantcli.passes``, ``quantcli.calibrators``; each names a class whose options are its arguments.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from quantcli import foreign
from quantcli.errors import RecipeError, UsageError, did_you_mean
from quantcli.pipeline import NamedPass
from quantcli.state import OfMethods, OfParts, Overridden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.recipe import Override, Recipe, Scalar, Step
    from quantcli.state import Calibrator, Pass

PASSES: Final = {
    "widen": "quantcli.passes.widen:Widen",
    "modernize": "quantcli.passes.modernize:Modernize",
    "convert_opset": "quantcli.passes.convert_opset:ConvertOpset",
    "simplify": "quantcli.passes.simplify:Simplify",
    "fold_batch_norm": "quantcli.passes.fold_batch_norm:FoldBatchNorm",
    "canonicalize": "quantcli.passes.canonicalize:Canonicalize",
    "recognize": "quantcli.passes.recognize:Recognize",
    "check_parity": "quantcli.passes.check_parity:CheckParity",
    "check_operators": "quantcli.passes.check_operators:CheckOperators",
    "cross_layer_equalization": "quantcli.passes.cross_layer_equalization:CrossLayerEqualization",
    "equalize": "quantcli.passes.equalize:Equalize",
    "absorb_high_bias": "quantcli.passes.absorb_high_bias:AbsorbHighBias",
    "smooth": "quantcli.passes.smooth:Smooth",
    "pointwise_products": "quantcli.passes.pointwise_products:PointwiseProducts",
    "expand_prelu": "quantcli.passes.expand_prelu:ExpandPrelu",
    "quantize_bodies": "quantcli.passes.quantize_bodies:QuantizeBodies",
    "make_plan": "quantcli.passes.make_plan:MakePlan",
    "calibrate": "quantcli.passes.calibrate:Calibrate",
    "choose_dynamic": "quantcli.passes.choose_dynamic:ChooseDynamic",
    "assign": "quantcli.passes.assign:Assign",
    "seq_mse": "quantcli.passes.seq_mse:SeqMse",
    "emit": "quantcli.passes.emit:Emit",
    "emit_float": "quantcli.passes.emit_float:EmitFloat",
    "emit_float16": "quantcli.passes.emit_float16:EmitFloat16",
    "plan_weights": "quantcli.passes.plan_weights:PlanWeights",
    "awq": "quantcli.passes.awq:Awq",
    "emit_weights": "quantcli.passes.emit_weights:EmitWeights",
    "gptq": "quantcli.passes.gptq:Gptq",
    "adaround": "quantcli.passes.adaround:Adaround",
    "pack_weights": "quantcli.passes.pack_weights:PackWeights",
    "bias_correction": "quantcli.passes.bias_correction:BiasCorrection",
    "store_weights": "quantcli.passes.store_weights:StoreWeights",
    "prune": "quantcli.passes.prune:Prune",
    "restore_types": "quantcli.passes.restore_types:RestoreTypes",
    "count_work": "quantcli.passes.count_work:CountWork",
    "verify": "quantcli.passes.verify:Verify",
}
CALIBRATORS: Final = {
    "minmax": "quantcli.calibrators.minmax:MinMax",
    "moving-average": "quantcli.calibrators.moving_average:MovingAverage",
    "percentile": "quantcli.calibrators.percentile:Percentile",
    "entropy": "quantcli.calibrators.entropy:Entropy",
    "mse": "quantcli.calibrators.mse:Mse",
    "sqnr": "quantcli.calibrators.sqnr:Sqnr",
    "auto": "quantcli.calibrators.auto:Auto",
}
_GROUP: Final = foreign.CALIBRATORS
_USUAL: Final = "minmax"


def passes_of(recipe: Recipe) -> list[NamedPass]:
    """Return the passes that a recipe lists and does not switch off, with their options.

    One that works on parts of a model is given those that do so on a part as on a whole model.
    """
    passes = [NamedPass(s.name, _pass(s)) for s in recipe.passes if s.enabled]
    overrides = tuple((o.tensor, o.range or _overriding(o)) for o in recipe.overrides)
    if overrides and not any(isinstance(p.run, Overridden) for p in passes):
        raise RecipeError(f"overrides: no pass of {recipe.name!r} chooses ranges", hint="leave the overrides out")
    passes = [replace(p, run=_overridden(p.run, overrides)) for p in passes]
    inner = tuple(p.run for p in passes if not getattr(p.run, "whole_model", False))
    return [replace(p, run=_complete(p.run, inner)) for p in passes]


def _complete(run: Pass, inner: tuple[Pass, ...]) -> Pass:
    return run.with_inner(inner) if isinstance(run, OfParts) else run


def _overridden(run: Pass, overrides: tuple[tuple[str, Calibrator | tuple[float, float]], ...]) -> Pass:
    return run.with_overrides(overrides) if isinstance(run, Overridden) else run


def _overriding(override: Override) -> Calibrator:
    try:
        return _calibrator(str(override.calibrator), override.options)
    except RecipeError as error:
        raise RecipeError(f"overrides: {override.tensor!r}: {error.message}", hint=error.hint) from error


def check_calibrator(name: str) -> None:
    """Raise for a calibrator that does not exist.

    Raises:
        UsageError: With the nearest names.
    """
    try:
        _find(name, CALIBRATORS, _GROUP)
    except RecipeError as error:
        raise UsageError(f"--calibrator: {error.message}") from error


def _pass(step: Step) -> Pass:
    options: dict[str, object] = dict(step.options)
    made = _find(step.name, PASSES, foreign.PASSES)
    taken = {f.name for f in fields(made)} if is_dataclass(made) else set(options)
    own = {name: value for name, value in options.items() if name not in taken} if "calibrator" in taken else {}
    if "calibrator" in options or own:  # what the pass itself does not take is an option of its calibrator
        name = str(options.get("calibrator", _USUAL))
        options = {key: value for key, value in options.items() if key not in own}
        options["calibrator"] = _calibrator(name, own)
    return cast("Pass", _made(step.name, PASSES, foreign.PASSES, options))


def _calibrator(name: str, options: Mapping[str, object]) -> Calibrator:
    made = cast("Calibrator", _made(name, CALIBRATORS, _GROUP, options))
    if isinstance(made, OfMethods):
        methods = {n: _made(n, CALIBRATORS, _GROUP, {}) for n in CALIBRATORS if n != name}
        made = made.with_methods(cast("Mapping[str, Calibrator]", methods))
    return made


def _made(name: str, known: Mapping[str, str], group: str, options: Mapping[str, object | Scalar]) -> object:
    made = _find(name, known, group)
    if is_dataclass(made):
        options_of = {f.name: f for f in fields(made) if "given" not in f.metadata}
        for option, value in options.items():
            if option not in options_of:
                near = did_you_mean(option, options_of) or f"; known: {', '.join(options_of) or 'none'}"
                raise RecipeError(f"{name!r} has no option {option!r}{near}")
            default = options_of[option].default
            if isinstance(default, int | float | str) and not _fits(value, default):
                raise RecipeError(f"{name}.{option} is {value!r}, expected {type(default).__name__}")
            if name in known and isinstance(default, int | float) and not isinstance(default, bool):
                _check_number(f"{name}.{option}", value, least=1 if isinstance(default, int) and default > 0 else 0)
    try:
        found = made(**options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name!r} does not take these options: {error}") from error
    if name not in known:
        foreign.check_contract(name, group, found)
    return found


def _check_number(option: str, value: object, *, least: int) -> None:
    """Raise for a count, size or factor of a pass of ours that is less than it can be, or no number."""
    if not (isinstance(value, int | float) and least <= value < math.inf):
        raise RecipeError(f"{option} is {value!r}, expected a number of at least {least}")


def _fits(value: object, default: float | str) -> bool:
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    return isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))


def _find(name: str, known: Mapping[str, str], group: str) -> type:
    if name in known:
        module, _, attribute = known[name].partition(":")
        return cast("type", getattr(import_module(module), attribute))
    others = foreign.offered(group)
    if name in others:
        return foreign.load(name, group)
    names = [*known, *others]
    near = did_you_mean(name, names) or f"; known: {', '.join(names)}"
    raise RecipeError(f"unknown {foreign.kind_of(group)} {name!r}{near}")
