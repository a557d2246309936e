"""Tables of text, plain or Markdown. Knows nothing of what is in them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A title, one line of names and the rows below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def plain(self) -> str:
        """Return the table for a terminal; columns of figures are aligned to the right."""
        lines = (self.header, *self.rows)
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        right = [self._is_numeric(i) for i in range(len(self.header))]
        text = [self.title, *("  " + _line(line, widths, right) for line in lines), *(f"  {n}" for n in self.notes)]
        return "\n".join(text) + "\n"

    def markdown(self) -> str:
        """Return the table for a page."""
        rules = ["---:" if self._is_numeric(i) else "---" for i in range(len(self.header))]
        rows = [_markdown_row(r) for r in (self.header, rules, *self.rows)]
        return "\n".join([f"### {self.title}", "", *rows, "", *(f"- {n}" for n in self.notes)]).rstrip("\n") + "\n"

    def _is_numeric(self, column: int) -> bool:
        cells = [row[column] for row in self.rows if row[column] not in ("", "-", "exact")]
        return bool(cells) and all(c.lstrip("-+")[:1].isdigit() for c in cells)


def _line(cells: tuple[str, ...], widths: list[int], right: list[bool]) -> str:
    columns = zip(cells, widths, right, strict=True)
    return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in columns).rstrip()


def _markdown_row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |"
