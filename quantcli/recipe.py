"""A recipe says what is wanted: a scheme, what may stay float, and an ordered list of passes. A mode is a recipe.

Strict: unknown keys and wrong values are errors with file and line. Reads text, never files; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import yaml

from quantcli.dtypes import BY_NAME
from quantcli.errors import RecipeError, did_you_mean

Scalar = str | int | float | bool | None
IO_TYPES: Final = ("float32", "int8", "uint8")
FORMATS: Final = ("qdq", "integer")
FALLBACKS: Final = ("float", "refuse")
GRANULARITIES: Final = ("per-tensor", "per-channel")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorScheme:
    """How one kind of tensor is quantized."""

    dtype: str = "uint8"
    symmetric: bool = False
    granularity: str = "per-tensor"
    narrow_range: bool = False


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
class Recipe:
    """Everything that decides the result, apart from the model and the data."""

    name: str
    summary: str = ""
    needs_data: bool = True
    format: str = "qdq"
    fallback: str = "float"
    inputs: str = "float32"
    outputs: str = "float32"
    exclude: tuple[str, ...] = ()
    scheme: Scheme = Scheme()
    passes: tuple[Step, ...] = ()

    def enabled(self, name: str) -> bool:
        """Tell whether the pass ``name`` will run."""
        return any(step.name == name and step.enabled for step in self.passes)

    def dump(self) -> str:
        """Return the resolved recipe as YAML, which parses to an equal recipe."""
        return yaml.safe_dump(to_mapping(self), sort_keys=False, width=110)


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


def to_mapping(recipe: Recipe) -> dict[str, object]:
    """Return the mapping that ``from_mapping`` turns back into the recipe."""

    def tensor(t: TensorScheme) -> dict[str, object]:
        return {
            "dtype": t.dtype,
            "symmetric": t.symmetric,
            "granularity": t.granularity,
            "narrow_range": t.narrow_range,
        }

    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "needs_data": recipe.needs_data,
        "format": recipe.format,
        "fallback": recipe.fallback,
        "inputs": recipe.inputs,
        "outputs": recipe.outputs,
        "exclude": list(recipe.exclude),
        "scheme": {"activations": tensor(recipe.scheme.activations), "weights": tensor(recipe.scheme.weights)},
        "passes": [{s.name: dict(s.options) if s.enabled else "off"} for s in recipe.passes],
    }


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
            needs_data=self._typed(wanted, "needs_data", bool, default=True),
            format=self._choice(wanted, "format", FORMATS, "qdq"),
            fallback=self._choice(wanted, "fallback", FALLBACKS, "float"),
            inputs=self._choice(wanted, "inputs", IO_TYPES, "float32"),
            outputs=self._choice(wanted, "outputs", IO_TYPES, "float32"),
            exclude=self._strings(wanted, "exclude"),
            scheme=Scheme(
                self._tensor(self._mapping(scheme, "activations"), "scheme.activations", Scheme().activations),
                self._tensor(self._mapping(scheme, "weights"), "scheme.weights", Scheme().weights),
            ),
            passes=tuple(self._step(s) for s in self._list(wanted, "passes")),
        )

    def _tensor(self, wanted: Mapping[str, object], path: str, default: TensorScheme) -> TensorScheme:
        self._known(wanted, TensorScheme.__slots__, f"{path}.")
        return replace(
            default,
            dtype=self._choice(wanted, "dtype", tuple(BY_NAME), default.dtype),
            symmetric=self._typed(wanted, "symmetric", bool, default.symmetric),
            granularity=self._choice(wanted, "granularity", GRANULARITIES, default.granularity),
            narrow_range=self._typed(wanted, "narrow_range", bool, default.narrow_range),
        )

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
