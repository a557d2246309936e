"""What is shown to the user, as values: titled tables and lines. Knows neither rich nor what the text is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One titled part of a report.

    Attributes:
        title: Its heading.
        rows: Cells of a table.
        header: Names of the columns; empty for none.
        right: Numbers of the columns that are aligned to the right.
        lines: Text below the table.
        urgent: Whether the user must not overlook it.
    """

    title: str
    rows: tuple[tuple[str, ...], ...] = ()
    header: tuple[str, ...] = ()
    right: frozenset[int] = frozenset()
    lines: tuple[str, ...] = ()
    urgent: bool = False
