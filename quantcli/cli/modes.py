"""``quant modes``: lists the modes; ``quant modes show NAME`` prints a recipe in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import options, terminal

if TYPE_CHECKING:
    from quantcli.recipe import Recipe

HELP: Final = "List the modes: what each makes, whether it needs calibration data, its format and its I/O types."
SHOW_HELP: Final = "Print the resolved recipe of mode NAME as YAML; it serves 'quant convert --recipe' as a start."


@click.pass_context
def _list(context: click.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from quantcli import modes  # noqa: PLC0415 - help must not load the YAML reader
    from quantcli.cli.sections import Section  # noqa: PLC0415 - needed only now

    rows = tuple(_row(modes.resolve(name)) for name in modes.names())
    header = ("mode", "data", "format", "inputs", "outputs", "summary")
    terminal.show([Section("modes", rows, header)])


def _row(recipe: Recipe) -> tuple[str, ...]:
    needed = "needed" if recipe.needs_data else "not needed"
    return recipe.name, needed, recipe.format, recipe.inputs, recipe.outputs, recipe.summary


def _show(name: str) -> None:
    from quantcli import modes  # noqa: PLC0415 - help must not load the YAML reader

    terminal.say(modes.resolve(name).dump().rstrip("\n"))


command: Final = click.Group(
    "modes", callback=_list, invoke_without_command=True, help=HELP, params=[options.debug_option()]
)
command.add_command(
    click.Command(
        "show",
        callback=_show,
        help=SHOW_HELP,
        params=[click.Argument(["name"], shell_complete=options.complete_modes), options.debug_option()],
    )
)
