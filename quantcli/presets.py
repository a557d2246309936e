"""Presets: changes to the passes of any mode that has them, as data. Knows the mapping's shape, reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quantcli.errors import RecipeError, UsageError, did_you_mean

Change = Mapping[str, object] | bool


@dataclass(frozen=True, slots=True)
class Preset:
    """What a preset changes.

    Attributes:
        name: Its name.
        summary: What it does, in words.
        data_free: Whether samples are made up for the model instead of given.
        passes: By name of a pass, whether it runs, or with which options it does.
    """

    name: str
    summary: str = ""
    data_free: bool = False
    passes: Mapping[str, Change] = field(default_factory=dict)


def from_mapping(wanted: Mapping[str, object], *, where: str) -> Preset:
    """Build a preset from a mapping.

    Raises:
        RecipeError: An unknown key, or a value that is none.
    """
    known = ("name", "summary", "data_free", "passes")
    for key in wanted:
        if key not in known:
            raise RecipeError(
                f"{where}: unknown key {key!r}{did_you_mean(key, known) or '; known: ' + ', '.join(known)}"
            )
    passes = wanted.get("passes", {})
    if not isinstance(passes, Mapping) or not all(isinstance(c, Mapping | bool) for c in passes.values()):
        raise RecipeError(f"{where}: passes is {passes!r}, expected on, off or options for each pass")
    free = wanted.get("data_free", False)
    if not isinstance(free, bool):
        raise RecipeError(f"{where}: data_free is {free!r}, expected true or false")
    return Preset(str(wanted.get("name", "")), str(wanted.get("summary", "")), free, dict(passes))


def with_preset(mapping: Mapping[str, object], preset: Preset) -> dict[str, object]:
    """Return a recipe's mapping with the changes of a preset.

    Raises:
        UsageError: The recipe lacks a pass that the preset switches on or gives options.
    """
    steps = mapping["passes"]
    if not isinstance(steps, list):
        raise TypeError("a resolved recipe lists its passes")
    present = {next(iter(step)) for step in steps}
    missing = [name for name, change in preset.passes.items() if change is not False and name not in present]
    if missing:
        raise UsageError(
            f"--preset {preset.name} means nothing in mode {mapping['name']!r}: it has no pass {missing[0]!r}",
            hint="presets are for modes that calibrate; a recipe of your own may list the pass as off",
        )
    return {**mapping, "passes": [_changed(step, preset.passes) for step in steps]}


def _changed(step: Mapping[str, object], changes: Mapping[str, Change]) -> dict[str, object]:
    ((name, old),) = step.items()
    change = changes.get(name)
    options = old if isinstance(old, Mapping) else {}
    if change is None:
        return dict(step)
    if isinstance(change, Mapping):
        return {name: {**options, **change}}
    return {name: options if change else "off"}
