"""The modes that ship with the tool: recipes in ``configs``, found beside the package or inside the wheel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from quantcli import presets, recipe, recipe_reader
from quantcli.errors import RecipeError, UsageError, did_you_mean
from quantcli.settings import with_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator


def names() -> list[str]:
    """Return the names of the modes."""
    return sorted(p.stem for p in _folder("configs").glob("*.yaml"))


def mappings() -> Mapping[str, Mapping[str, object]]:
    """Return the unresolved mapping of every mode; each is read when it is asked for."""
    return _Shipped(_folder("configs"))


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(p.stem for p in (_folder("configs") / "presets").glob("*.yaml"))


def preset(name: str) -> presets.Preset:
    """Return the preset of a name.

    Raises:
        UsageError: There is none.
    """
    known = preset_names()
    if name not in known:
        near = did_you_mean(name, known) or f"; presets: {', '.join(known)}"
        raise UsageError(f"unknown preset {name!r}{near}", hint="leave --preset out for the mode as it is")
    path = _folder("configs") / "presets" / f"{name}.yaml"
    where = f"presets/{path.name}"
    return presets.from_mapping(recipe_reader.load_mapping(path.read_text("utf-8"), where=where), where=where)


def resolve(
    mode: str, file: Path | None = None, settings: tuple[str, ...] = (), preset_name: str | None = None
) -> recipe.Recipe:
    """Return the recipe of a mode, or of a recipe file, changed by a preset and then by ``--set`` settings.

    Raises:
        UsageError: No such mode or preset, a preset without meaning in the mode, or a setting that names nothing.
        RecipeError: The file is wrong.
    """
    known = mappings()
    if file is not None:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        chosen, where = recipe_reader.parse(text, where=str(file), base=known), str(file)
    elif mode in known:
        chosen, where = recipe_reader.from_mapping(known[mode], where=f"{mode}.yaml", base=known), f"{mode}.yaml"
    else:
        near = did_you_mean(mode, known) or f"; modes: {', '.join(sorted(known))}"
        raise UsageError(f"unknown mode {mode!r}{near}", hint="quant modes lists them")
    if preset_name is not None:
        mapping = presets.with_preset(recipe.to_mapping(chosen), preset(preset_name))
        chosen = recipe_reader.from_mapping(mapping, where=f"{where} with --preset {preset_name}")
    if not settings:
        return chosen
    try:
        return recipe_reader.from_mapping(
            with_overrides(recipe.to_mapping(chosen), settings), where=f"{where} with --set"
        )
    except RecipeError as error:
        raise UsageError(error.message, hint=error.hint) from error


def sample_folder() -> Path:
    """Return the folder of the bundled sample: a digits classifier, its calibration samples and dataset spec."""
    return _folder("calibration_samples")


def _folder(name: str) -> Path:
    here = Path(__file__).resolve().parent
    return next((f for f in (here / name, here.parent / name) if f.is_dir()), here / name)


class _Shipped(Mapping[str, Mapping[str, object]]):
    """The modes of a folder by name: most commands need one or two of them, and YAML is slow to read."""

    def __init__(self, folder: Path) -> None:
        self._paths = {p.stem: p for p in sorted(folder.glob("*.yaml"))}

    def __getitem__(self, name: str) -> Mapping[str, object]:
        return _read(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@cache
def _read(path: Path) -> Mapping[str, object]:
    return recipe_reader.load_mapping(path.read_text("utf-8"), where=path.name)
