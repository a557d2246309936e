"""``quant cache``: where conversions keep what they saw of samples, how much it is, and how to be rid of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import options, terminal
from quantcli.cli.quantities import size
from quantcli.cli.sections import Section

if TYPE_CHECKING:
    from quantcli.cache import Contents

HELP: Final = """Show the cache: its folder, its entries and their size; 'quant cache clear' empties it.

Conversions keep there what they saw of a model on its samples, so that the next mode or setting begins with it.
Results are the same without: --no-cache. QUANT_CACHE_DIR names another folder, or no cache where it is empty.
"""
CLEAR_HELP: Final = "Remove every entry of the cache."


@click.pass_context
def _show(context: click.Context, /) -> None:
    if context.invoked_subcommand is not None:
        return
    from quantcli import cache  # noqa: PLC0415 - help must not load numpy

    terminal.show([_section(cache.contents())])


def _clear() -> None:
    from quantcli import cache  # noqa: PLC0415 - help must not load numpy

    before = cache.clear()
    terminal.say(f"removed {before.entries} entries, {size(before.bytes)}")


def _section(found: Contents) -> Section:
    if found.folder is None:
        return Section("cache", lines=("switched off: QUANT_CACHE_DIR is empty, or there is no home folder",))
    rows = (("folder", str(found.folder)), ("entries", str(found.entries)), ("size", size(found.bytes)))
    return Section("cache", (*rows, ("at most", size(found.most_bytes))))


command: Final = click.Group(
    "cache", callback=_show, invoke_without_command=True, help=HELP, params=[options.debug_option()]
)
command.add_command(click.Command("clear", callback=_clear, help=CLEAR_HELP, params=[options.debug_option()]))
