"""Reads recipes. Strict: unknown keys and wrong values are errors with file and line. Reads text, never files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import yaml

from quantcli.errors import RecipeError, did_you_mean
from quantcli.recipe import (
    FALLBACKS,
    FORMATS,
    GRANULARITIES,
    IO_TYPES,
    NUMBERS,
    About,
    Override,
    Recipe,
    Scheme,
    Step,
    TensorScheme,
    to_mapping,
)

T = TypeVar("T")


def parse(text: str, *, where: str, base: Mapping[str, Mapping[str, object]] | None = None) -> Recipe:
    """Parse a recipe.

    Args:
        text: The YAML text.
        where: Its name, for messages.
        base: Mappings of the recipes that ``extends`` may name.

    Raises:
        RecipeError: Not YAML, an unknown key, a wrong type or value.
    """
    return from_mapping(load_mapping(text, where=where), where=where, base=base)


def from_mapping(
    wanted: Mapping[str, object], *, where: str, base: Mapping[str, Mapping[str, object]] | None = None
) -> Recipe:
    """Build a recipe from a mapping, resolving ``extends``."""
    return _Reader(where, getattr(wanted, "lines", {})).recipe(_extended(wanted, base or {}, where))


class _Lines(dict[str, object]):
    """A mapping that remembers the line of each key."""

    lines: dict[str, int]


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and remembers lines."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, object]:  # type: ignore[override]  # noqa: FBT001, FBT002, ARG002 - PyYAML's signature
        """Build a mapping with lines."""
        found = _Lines()
        found.lines = {}
        for key_node, value_node in node.value:
            key = str(self.construct_object(key_node))
            if key in found:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} given twice", problem_mark=key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
            found.lines[key] = key_node.start_mark.line + 1
        return found


def _construct(loader: _Loader, node: yaml.MappingNode) -> dict[str, object]:
    return loader.construct_mapping(node)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct)


def load_mapping(text: str, *, where: str) -> Mapping[str, object]:
    """Read YAML text that must be a mapping; its keys know their lines."""
    try:
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{where}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{where}: not valid YAML: {getattr(error, 'reason', error)}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{where}: expected a mapping of settings, found {type(found).__name__}")
    return found


class _Reader:
    """Turns a mapping into a Recipe, naming file and line of whatever is wrong."""

    def __init__(self, where: str, lines: Mapping[str, int]) -> None:
        self._where = where
        self._lines = lines

    def recipe(self, wanted: Mapping[str, object]) -> Recipe:
        self._known(wanted, to_mapping(Recipe("")).keys(), "")
        scheme = self._mapping(wanted, "scheme")
        self._known(scheme, ("activations", "weights"), "scheme.")
        return Recipe(
            name=self._typed(wanted, "name", str, "recipe"),
            summary=self._typed(wanted, "summary", str, ""),
            about=self._about(self._mapping(wanted, "about")),
            needs_data=self._typed(wanted, "needs_data", bool, default=True),
            format=self._choice(wanted, "format", FORMATS, "qdq"),
            fallback=self._choice(wanted, "fallback", FALLBACKS, "float"),
            inputs=self._choice(wanted, "inputs", IO_TYPES, "float32"),
            outputs=self._choice(wanted, "outputs", IO_TYPES, "float32"),
            io_types=self._io_types(wanted),
            portable=self._typed(wanted, "portable", bool, default=False),
            exclude=self._strings(wanted, "exclude"),
            scheme=Scheme(
                self._tensor(self._mapping(scheme, "activations"), "scheme.activations", Scheme().activations),
                self._tensor(self._mapping(scheme, "weights"), "scheme.weights", Scheme().weights),
            ),
            overrides=tuple(self._override(o) for o in self._list(wanted, "overrides")),
            passes=tuple(self._step(s) for s in self._list(wanted, "passes")),
        )

    def _about(self, wanted: Mapping[str, object]) -> About:
        self._known(wanted, About.__slots__, "about.")
        return About(**{key: self._typed(wanted, key, str, "") for key in wanted})

    def _tensor(self, wanted: Mapping[str, object], path: str, default: TensorScheme) -> TensorScheme:
        self._known(wanted, TensorScheme.__slots__, f"{path}.")
        return replace(
            default,
            dtype=self._choice(wanted, "dtype", NUMBERS, default.dtype),
            symmetric=self._typed(wanted, "symmetric", bool, default.symmetric),
            granularity=self._choice(wanted, "granularity", GRANULARITIES, default.granularity),
            narrow_range=self._typed(wanted, "narrow_range", bool, default.narrow_range),
            block_size=self._typed(wanted, "block_size", int, default.block_size),
        )

    def _override(self, entry: object) -> Override:
        expected = "{tensor: PATTERN, calibrator: NAME} or {tensor: PATTERN, range: [LOW, HIGH]}"
        if not isinstance(entry, Mapping) or "tensor" not in entry or ("calibrator" in entry) == ("range" in entry):
            raise RecipeError(f"{self._where}: overrides: expected {expected}, found {entry!r}")
        tensor = self._typed(entry, "tensor", str, "")
        if "calibrator" in entry:
            name = self._typed(entry, "calibrator", str, "")
            options = {k: v for k, v in entry.items() if k not in {"tensor", "calibrator"}}
            return Override(tensor, name, options)
        self._known(entry, ("tensor", "range"), "overrides.")
        ends = [e for e in self._list(entry, "range") if isinstance(e, int | float) and not isinstance(e, bool)]
        if len(ends) != 2 or len(entry["range"]) != 2 or not (-math.inf < ends[0] < ends[1] < math.inf):
            at = self._at("range", entry)
            raise RecipeError(f"{at}: overrides: range of {tensor!r} is {entry['range']!r}, expected [LOW, HIGH]")
        return Override(tensor, range=(float(ends[0]), float(ends[1])))

    def _step(self, entry: object) -> Step:
        if isinstance(entry, str):
            return Step(entry)
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise RecipeError(f"{self._where}: passes: expected a name or one NAME: OPTIONS, found {entry!r}")
        ((name, options),) = entry.items()
        if options is False or options == "off":
            return Step(name, enabled=False)
        if options is True or options is None or options == "on":
            return Step(name)
        if not isinstance(options, Mapping):
            raise RecipeError(f"{self._where}: passes.{name}: expected on, off or options, found {options!r}")
        return Step(name, dict(options))

    def _io_types(self, wanted: Mapping[str, object]) -> tuple[str, ...]:
        allowed = self._strings(wanted, "io_types") or Recipe("").io_types
        for side, name in (("inputs", wanted.get("inputs")), ("outputs", wanted.get("outputs"))):
            if name in IO_TYPES and name not in allowed:
                raise RecipeError(f"{self._at(side, wanted)}: {side} is {name!r}, expected {' | '.join(allowed)}")
        unknown = [t for t in allowed if t not in IO_TYPES]
        if unknown:
            raise RecipeError(f"{self._at('io_types', wanted)}: io_types {unknown[0]!r}; known: {', '.join(IO_TYPES)}")
        return allowed

    def _known(self, wanted: Mapping[str, object], known: Iterable[str], prefix: str) -> None:
        names = list(known)
        for key in wanted:
            if key not in names:
                near = did_you_mean(key, names) or f"; known: {', '.join(names)}"
                raise RecipeError(f"{self._at(key, wanted)}: unknown key {prefix + key!r}{near}")

    def _mapping(self, wanted: Mapping[str, object], key: str) -> Mapping[str, object]:
        return self._typed(wanted, key, dict, {})

    def _list(self, wanted: Mapping[str, object], key: str) -> list[object]:
        return self._typed(wanted, key, list, [])

    def _strings(self, wanted: Mapping[str, object], key: str) -> tuple[str, ...]:
        return tuple(str(s) for s in self._list(wanted, key))

    def _choice(self, wanted: Mapping[str, object], key: str, known: tuple[str, ...], default: str) -> str:
        value = self._typed(wanted, key, str, default)
        if value not in known:
            near = did_you_mean(value, known)
            raise RecipeError(f"{self._at(key, wanted)}: {key} is {value!r}, expected {' | '.join(known)}{near}")
        return value

    def _typed(self, wanted: Mapping[str, object], key: str, kind: type[T], default: T) -> T:
        value = wanted.get(key, default)
        if not isinstance(value, kind):
            raise RecipeError(f"{self._at(key, wanted)}: {key} is {value!r}, expected {kind.__name__}")
        return value

    def _at(self, key: str, wanted: Mapping[str, object]) -> str:
        line = getattr(wanted, "lines", self._lines).get(key)
        return f"{self._where}:{line}" if line else self._where


def _extended(
    wanted: Mapping[str, object], base: Mapping[str, Mapping[str, object]], where: str
) -> Mapping[str, object]:
    name = wanted.get("extends")
    if name is None:
        return wanted
    if not isinstance(name, str) or name not in base:
        raise RecipeError(f"{where}: extends {name!r}, which is not a mode{did_you_mean(str(name), base)}")
    own = {k: v for k, v in wanted.items() if k != "extends"}
    merged = _Lines(_merged(_extended(base[str(name)], base, where), own))
    merged.lines = dict(getattr(wanted, "lines", {}))
    return merged


def _merged(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    result = _Lines(below)
    result.lines = dict(getattr(above, "lines", {}))
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
