"""A click group that knows its commands by name and imports one only when it is called. Knows no command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

import click

from quantcli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


class LazyGroup(click.Group):
    """A group whose help is written from a map of name -> (module, help line)."""

    def __init__(
        self, name: str, *, modules: Mapping[str, tuple[str, str]], text: str, context_settings: dict[str, object]
    ) -> None:
        super().__init__(
            name, help=text, context_settings=context_settings, callback=_no_command, invoke_without_command=True
        )
        self.modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the map."""
        del ctx
        return list(self.modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return its ``command``."""
        del ctx
        if cmd_name not in self.modules:
            return None
        module, _ = self.modules[cmd_name]
        return cast("click.Command", import_module(module).command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with; raise with near names where there is none."""
        name = args[0]
        if name not in self.modules and not name.startswith("-") and not ctx.resilient_parsing:
            raise UsageError(
                f"unknown command {name!r}{did_you_mean(name, self.modules)}", hint="quant --help lists the commands"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines of the map; no command is imported for it."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.modules.items()])


@click.pass_context
def _no_command(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)
