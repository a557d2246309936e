"""The pages of the command line say what the code does. ``python tests/cli/test_docs.py`` writes docs/cli.md anew."""

from __future__ import annotations

import re
from pathlib import Path

import click

from quantcli import errors
from quantcli.cli import COMMANDS, boundary, quant

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEAD = """# Command line

Written by `python tests/cli/test_docs.py` from the commands themselves; do not edit.

Exit codes are listed in [exit-codes.md](exit-codes.md).
`quant --version` prints the version; `python -m quantcli` is the same command.

Completion of commands, options and modes: `eval "$(_QUANT_COMPLETE=bash_source quant)"` in `~/.bashrc`,
`eval "$(_QUANT_COMPLETE=zsh_source quant)"` in `~/.zshrc`, `_QUANT_COMPLETE=fish_source quant | source` for fish.
"""


def reference() -> str:
    """Return the text of docs/cli.md."""
    context = click.Context(quant, info_name="quant")
    return "\n".join([HEAD, *_pages(quant, context)])


def _pages(command: click.Command, context: click.Context) -> list[str]:
    page = _page(command, context) if context.parent else ""
    names = command.list_commands(context) if isinstance(command, click.Group) else []
    inner = [command.get_command(context, name) for name in names]
    below = [p for c in inner for p in _pages(c, click.Context(c, info_name=c.name, parent=context))]
    return [page, *below] if page else below


def _page(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = re.sub(r"\x08\n?", "", command.help)
    groups = getattr(command, "groups", {"Options": command.params})
    tables = [t for title, group in groups.items() if (t := _table(title, group))]
    return "\n".join([f"## {context.command_path}", "", f"`{usage}`", "", text.strip(), "", *tables])


def _table(title: str, group: tuple[click.Parameter, ...]) -> str:
    rows = [f"| `{_names(p)}` | {_cell(p)} |" for p in group if isinstance(p, click.Option)]
    return "\n".join([f"### {title}", "", "| option | meaning |", "|---|---|", *rows, ""]) if rows else ""


def _names(option: click.Option) -> str:
    value = "" if option.is_flag else option.metavar or "|".join(getattr(option.type, "choices", ()))
    return f"{', '.join(option.opts)} {value}".strip().replace("|", "\\|")


def _cell(option: click.Option) -> str:
    low, high = (getattr(option.type, side, None) for side in ("min", "max"))
    bounds = f" From {low:g}" + (f" to {high:g}." if high is not None else ".") if low is not None else ""
    default = f" Default: `{option.default}`." if option.show_default else ""
    return f"{option.help}{bounds}{default}".replace("|", "\\|")


def _exit_code_rows() -> dict[int, str]:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    return {int(code): row for code, row in rows}


def _kinds() -> list[type[errors.QuantError]]:
    tree = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.QuantError)]
    return [e for e in tree if e not in (errors.QuantError, errors.InputError)]  # these two are never raised themselves


def test_the_reference_is_that_of_the_commands():
    assert (DOCS / "cli.md").read_text() == reference(), "run: python tests/cli/test_docs.py"


def test_every_exit_code_is_documented_and_no_other():
    assert set(_exit_code_rows()) == {0, boundary.INTERRUPTED, *(e.exit_code for e in _kinds())}


def test_every_kind_of_error_stands_at_its_code():
    assert [e.kind for e in _kinds() if f"`{e.kind}`" not in _exit_code_rows()[e.exit_code]] == []


def test_help_of_convert_lists_every_exit_code():
    text = quant.get_command(click.Context(quant), "convert").help
    said = {int(n) for n in re.findall(r"\b(\d+) [a-z]", text[text.index("Exit codes") :])}
    assert said == set(_exit_code_rows())


def test_every_command_of_the_map_exists_with_its_name():
    context = click.Context(quant)
    assert [quant.get_command(context, name).name for name in COMMANDS] == list(COMMANDS)


def test_every_option_has_help():
    commands = [quant.get_command(click.Context(quant), name) for name in COMMANDS]
    assert [p.name for c in commands for p in c.params if isinstance(p, click.Option) and not p.help] == []


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(reference())
