"""What options are made of: help in titled groups, and the completion of mode names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


def complete_modes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the mode names that begin with what was typed, from a look into the folder: a shell is waiting."""
    del ctx, param
    package = Path(__file__).resolve().parent.parent
    folder = next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), package)
    return sorted(p.stem for p in folder.glob("*.yaml") if p.stem.startswith(incomplete))


def complete_modes_and_all(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the mode names and ``all``, as far as they begin with what was typed."""
    return [*complete_modes(ctx, param, incomplete), *([ALL] if ALL.startswith(incomplete) else [])]


def custom_op_lib_option() -> click.Option:
    """Return ``--custom-op-lib``."""
    return click.Option(
        ["--custom-op-lib", "custom_op_libs"],
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="LIB",
        help="A shared library of custom operators that the model needs; they stay float.  [repeatable]",
    )


def debug_option() -> click.Option:
    """Return ``--debug``, which the error boundary reads."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, help="With an error, show where it came from (a traceback)."
    )
