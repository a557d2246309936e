"""What options are made of: help in titled groups, and the completion of mode names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quantcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PRESETS: Final = ("imagenet-torch", "imagenet-tf", "unit", "signed")
ALL: Final = "all"  # in the place of a mode: every one


class GroupedCommand(click.Command):
    """A command whose options are shown under titles."""

    def __init__(
        self, name: str, *, callback: Callable[..., None], text: str, groups: Mapping[str, Sequence[click.Parameter]]
    ) -> None:
        super().__init__(name, callback=callback, help=text, params=[p for group in groups.values() for p in group])
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group under its title, and what click adds last."""
        ours = {id(p) for group in self.groups.values() for p in group}
        added = [p for p in self.get_params(ctx) if id(p) not in ours]
        for title, group in {**self.groups, "Help": added}.items():
            options = [p for p in group if isinstance(p, click.Option)]
            records = [record for p in options if (record := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def picked(groups: Mapping[str, Sequence[click.Parameter]], *names: str) -> tuple[click.Parameter, ...]:
    """Return some parameters of another command, by name."""
    known = {str(p.name): p for group in groups.values() for p in group}
    return tuple(known[name] for name in names)


def without(group: Sequence[click.Parameter], *names: str) -> tuple[click.Parameter, ...]:
    """Return a group of parameters without some of them."""
    return tuple(p for p in group if p.name not in names)


def complete_modes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the mode names that begin with what was typed, from a look into the folder: a shell is waiting."""
    del ctx, param
    return sorted(p.stem for p in _configs().glob("*.yaml") if p.stem.startswith(incomplete))


def complete_presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the preset names that begin with what was typed."""
    del ctx, param
    return sorted(p.stem for p in (_configs() / "presets").glob("*.yaml") if p.stem.startswith(incomplete))


def complete_modes_and_all(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the mode names and ``all``, as far as they begin with what was typed."""
    return [*complete_modes(ctx, param, incomplete), *([ALL] if ALL.startswith(incomplete) else [])]


def dataset_option(text: str) -> click.Option:
    """Return ``--representative-dataset`` with this help."""
    kinds = "a YAML spec, an .npz, .csv or .jsonl file, an input_list.txt, a folder, or FILE.py:FUNCTION."
    return click.Option(
        ["--representative-dataset"], type=click.Path(path_type=Path), metavar="SPEC", help=f"{text}: {kinds}"
    )


def image_preset_option(*other: str) -> click.Option:
    """Return ``--image-preset``, which may have other names too."""
    return click.Option(
        [*other, "--image-preset", "image_preset"],
        type=click.Choice(PRESETS),
        help="How a folder or table of images is fed: size, crop and formula.",
    )


def custom_op_lib_option() -> click.Option:
    """Return ``--custom-op-lib``."""
    return click.Option(
        ["--custom-op-lib", "custom_op_libs"],
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="LIB",
        help="A shared library of custom operators that the model needs; they stay float.  [repeatable]",
    )


def presets_of(asked: Mapping[str, object]) -> dict[str, str | None]:
    """Return what the presets that were given are for: the passes, and the images.

    Raises:
        UsageError: Two of one kind are given.
    """
    given = asked["preset"] if isinstance(asked["preset"], tuple) else ()
    pictured = asked["image_preset"]
    images = [*([str(pictured)] if pictured is not None else []), *(n for n in given if n in PRESETS)]
    passes = [n for n in given if n not in PRESETS]
    for names, kind in ((images, "how images are fed"), (passes, "the passes of a mode")):
        if len(names) > 1:
            raise UsageError(f"presets {' and '.join(names)} both say {kind}", hint="give one of them")
    return {"preset": passes[0] if passes else None, "image_preset": images[0] if images else None}


def preset_option(*, images: bool = False) -> click.Option:
    """Return ``--preset``; with ``images``, it takes those of images too, and ``presets_of`` tells them apart."""
    more = "  Or how images are fed, as --image-preset.  [repeatable: one of each kind]" if images else ""
    passes = "Change the passes of the mode: fast, accurate, or data-free ('quant modes show MODE --preset NAME')."
    return click.Option(
        ["--preset"],
        multiple=images,
        metavar="NAME",
        shell_complete=complete_presets,
        help=passes + more,
    )


def debug_option() -> click.Option:
    """Return ``--debug``, which the error boundary reads."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, help="With an error, show where it came from (a traceback)."
    )


def _configs() -> Path:
    package = Path(__file__).resolve().parent.parent
    return next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), package)
