"""``--set PATH=VALUE``: overrides on a recipe's mapping. Knows the mapping's shape, not what its values mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import yaml

from quantcli.errors import UsageError, did_you_mean


def with_overrides(mapping: Mapping[str, object], settings: Iterable[str]) -> dict[str, object]:
    """Apply ``a.b.c=value`` settings to a recipe's mapping; ``passes.NAME=off`` switches a pass."""
    result = _copied(mapping)
    for setting in settings:
        path, sign, value = setting.partition("=")
        if not sign or not path:
            raise UsageError(
                f"--set {setting!r}: expected PATH=VALUE", hint="for example --set scheme.weights.dtype=int8"
            )
        keys = path.split(".")
        if keys[0] == "passes":
            _override_pass(result, keys[1:], value, setting)
        else:
            _override(result, keys, _value(value, setting), setting)
    return result


def _copied(value: Mapping[str, object]) -> dict[str, object]:
    return {
        k: _copied(v) if isinstance(v, Mapping) else list(v) if isinstance(v, list) else v for k, v in value.items()
    }


def _override(mapping: dict[str, object], keys: list[str], value: object, setting: str) -> None:
    for key in keys[:-1]:
        inner = mapping.get(key)
        if not isinstance(inner, dict):
            raise UsageError(f"--set {setting!r}: the recipe has no {key!r}{did_you_mean(key, mapping)}")
        mapping = inner
    if keys[-1] not in mapping:
        near = did_you_mean(keys[-1], mapping) or f"; known: {', '.join(mapping)}"
        raise UsageError(f"--set {setting!r}: the recipe has no {keys[-1]!r}{near}")
    mapping[keys[-1]] = value


def _override_pass(mapping: dict[str, object], keys: list[str], value: str, setting: str) -> None:
    steps = mapping["passes"]
    if not isinstance(steps, list) or not 1 <= len(keys) <= 2:
        raise UsageError(f"--set {setting!r}: expected passes.NAME=on|off or passes.NAME.OPTION=VALUE")
    names = [next(iter(s)) for s in steps]
    if keys[0] not in names:
        raise UsageError(f"--set {setting!r}: the recipe has no pass {keys[0]!r}{did_you_mean(keys[0], names)}")
    where = names.index(keys[0])
    if len(keys) == 1:
        if value not in ("on", "off"):
            raise UsageError(f"--set {setting!r}: expected on or off, found {value!r}")
        old = steps[where][keys[0]]
        steps[where] = {keys[0]: "off" if value == "off" else (old if isinstance(old, Mapping) else {})}
    else:
        old = steps[where][keys[0]]
        options = {keys[1]: _value(value, setting)}
        steps[where] = {keys[0]: {**_kept(old if isinstance(old, Mapping) else {}, options), **options}}


def _kept(old: Mapping[str, object], new: Mapping[str, object]) -> Mapping[str, object]:
    """Return the options of a pass that still count: another calibrator has options of its own."""
    other = "calibrator" in new and old.get("calibrator") != new["calibrator"]
    return {} if other else old


def _value(text: str, setting: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--set {setting!r}: {text!r} is not a YAML value") from error
