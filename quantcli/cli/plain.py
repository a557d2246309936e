"""Sections as plain aligned text, for pipes and files: no colours, no drawn boxes, one row per line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcli.cli.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantcli.cli.sections import Section


def text(sections: Sequence[Section]) -> str:
    """Return the sections, an empty line between two."""
    return "\n\n".join("\n".join([s.title, *(f"  {line}" for line in _body(s))]) for s in sections)


def _body(section: Section) -> list[str]:
    head = (section.header,) if section.header else ()
    cells = [tuple(one_line(c) for c in row) for row in (*head, *section.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [_row(row, widths, section.right) for row in cells] + list(section.lines)


def _row(cells: tuple[str, ...], widths: list[int], right: frozenset[int]) -> str:
    padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(padded).rstrip()
