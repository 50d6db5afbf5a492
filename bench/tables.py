# SPDX-License-Identifier: MIT
"""A table of text, and the cells that the reports share. Nothing is computed from results here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.bd import BdRate
from bench.errors import BenchError

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table as text: the first column is names, the others are figures."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def filled(self) -> Table:
        """Without the columns that hold nothing."""
        kept = [i for i in range(len(self.head)) if any(row[i] != NOTHING for row in self.rows)]
        return Table(tuple(self.head[i] for i in kept), [tuple(row[i] for i in kept) for row in self.rows])

    def _widths(self) -> list[int]:
        return [max(len(row[i]) for row in [self.head, *self.rows]) for i in range(len(self.head))]

    def _line(self, row: Sequence[str], gap: str) -> str:
        cells = [cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(self._pairs(row))]
        return gap.join(cells)

    def _pairs(self, row: Sequence[str]) -> list[tuple[str, int]]:
        return list(zip(row, self._widths(), strict=True))

    def plain(self) -> str:
        """For a terminal."""
        rule = "  ".join("─" * width for width in self._widths())
        return "\n".join([self._line(self.head, "  "), rule, *(self._line(row, "  ") for row in self.rows)])

    def markdown(self) -> str:
        """For pages of the documentation."""
        rule = "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(self._widths()))
        lines = [f"| {self._line(row, ' | ')} |" for row in [self.head, *self.rows]]
        return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def signed(percent: float) -> str:
    """A difference in percent, with its sign."""
    return f"{percent:+.1f} %".replace("-", "−")


def percent(bd: BdRate | None) -> str:
    """A BD-rate for a table cell."""
    return NOTHING if bd is None else signed(bd.percent)


def span(bd: BdRate | None) -> str:
    """The range of quality that a BD-rate was taken over."""
    return NOTHING if bd is None else f"{bd.low:.1f}–{bd.high:.1f}"


def enumerated(names: Sequence[str], limit: int = 6) -> str:
    """Names with commas, the first few of them."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def write_section(page: Path, content: str, begin: str, end: str) -> bool:
    """Put `content`, which has the marks, in the place of what stands between them; returns whether anything changed.

    Raises:
        BenchError: the marks are not there.
    """
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{page} has no place for the results; put these two lines where they belong: {begin} {end}")
    new = before + content + after
    if new != old:
        page.write_text(new, encoding="utf-8")
    return new != old
