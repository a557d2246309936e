"""``quant modes``: lists the modes; ``quant modes show NAME`` prints a recipe in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import options, terminal

if TYPE_CHECKING:
    from quantcli.recipe import Recipe

HELP: Final = (
    "List the modes: whether each needs calibration data, its I/O types, what it stores, what computes, and the size "
    "and speed to expect relative to float on onnxruntime's CPU provider."
)
SHOW_HELP: Final = "Print the resolved recipe of mode NAME as YAML; it serves 'quant convert --recipe' as a start."


@click.pass_context
def _list(context: click.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from quantcli import modes  # noqa: PLC0415 - help must not load the YAML reader
    from quantcli.cli.sections import Section  # noqa: PLC0415 - needed only now

    rows = tuple(_row(modes.resolve(name)) for name in modes.names())
    header = ("mode", "data", "inputs, outputs", "stores", "computes", "size", "speed")
    terminal.show([Section("modes", rows, header)])


def _row(recipe: Recipe) -> tuple[str, ...]:
    about, needed = recipe.about, "needed" if recipe.needs_data else "-"
    return recipe.name, needed, ", ".join(recipe.io_types), about.stores, about.computes, about.size, about.speed


def _show(name: str, preset: str | None) -> None:
    from quantcli import modes  # noqa: PLC0415 - help must not load the YAML reader

    terminal.say(modes.resolve(name, preset_name=preset).dump().rstrip("\n"))


command: Final = click.Group(
    "modes", callback=_list, invoke_without_command=True, help=HELP, params=[options.debug_option()]
)
command.add_command(
    click.Command(
        "show",
        callback=_show,
        help=SHOW_HELP,
        params=[
            click.Argument(["name"], shell_complete=options.complete_modes),
            options.preset_option(),
            options.debug_option(),
        ],
    )
)
