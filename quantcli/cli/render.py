"""All that is drawn with rich: sections for a terminal, and the progress bars. Nothing else imports rich."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as EtaColumn
from rich.table import Table
from rich.text import Text

from quantcli.cli.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from quantcli.cli.sections import Section
    from quantcli.state import State


def text(sections: Sequence[Section], *, width: int | None = None) -> str:
    """Return the sections with the control codes of a terminal."""
    console = Console(force_terminal=True, width=width)
    with console.capture() as captured:
        for section in sections:
            _print(console, section)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def _print(console: Console, section: Section) -> None:
    console.print(Text(section.title, style="bold yellow" if section.urgent else "bold cyan"))
    if section.rows:
        console.print(Padding(_table(section), (0, 0, 0, 2), expand=False))
    for line in section.lines:
        console.print(Text(f"  {line}"), soft_wrap=True)  # unbroken, so that code can be copied
    console.print()


def _table(section: Section) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD if section.header else None,
        show_header=bool(section.header),
        show_edge=False,
        pad_edge=False,
    )
    for i in range(len(section.rows[0])):
        name = section.header[i] if section.header else ""
        table.add_column(name, justify="right" if i in section.right else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))  # Text: brackets in names are no markup
    return table


class Bars:
    """Instrument: one bar per pass, with what is done and how long it will take."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def before(self, name: str, state: State) -> None:
        """Begin a bar that moves without knowing how far."""
        del state
        self._task = self._progress.add_task(name, total=None)

    def tick(self, name: str, done: int, total: int) -> None:
        """Move the bar."""
        del name
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def after(self, name: str, state: State, seconds: float) -> None:
        """Fill the bar; its clock stops."""
        del name, state, seconds
        if self._task is not None:
            total = self._progress.tasks[self._task].total or 1
            self._progress.update(self._task, completed=total, total=total)


@contextmanager
def bars(console: Console | None = None) -> Iterator[Bars]:
    """Draw progress bars on stderr for as long as the context lasts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        EtaColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        yield Bars(progress)
