# SPDX-License-Identifier: MIT
"""A line on the terminal: how much of a step is done, and how long the rest will take. Nothing is measured here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

WIDTH = 79
Say = Callable[[str], None]


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some: 2:05, 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class Progress:
    """Counts the work of one step, by kind: each kind of work has its own pace.

    On a terminal one line is redrawn in place. Elsewhere a line is written for each tenth of the work.
    """

    def __init__(self, title: str, work: Mapping[str, float], stream: TextIO | None = None) -> None:
        """`work` holds the amount of each kind, in any unit; `stream` is stderr unless given."""
        self.title = title
        self.left, self.total = dict(work), sum(work.values())
        self.spent: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self._tenth = -1
        self._mark = time.perf_counter()

    def step(self, kind: str, amount: float, seconds: float | None = None, text: str = "") -> None:
        """Count work that is done; `seconds` None means the time since the last step."""
        now = time.perf_counter()
        seconds, self._mark = (now - self._mark if seconds is None else seconds), now
        self.left[kind] -= amount
        self.done[kind] = self.done.get(kind, 0) + amount
        self.spent[kind] = self.spent.get(kind, 0) + seconds
        self._show(text)

    def seconds_left(self) -> float:
        """An estimate: each kind at its own pace, those not met yet at the mean pace."""
        mean = sum(self.spent.values()) / max(sum(self.done.values()), 1e-9)
        pace = {kind: self.spent[kind] / self.done[kind] for kind in self.done if self.done[kind] > 0}
        return max(0.0, sum(amount * pace.get(kind, mean) for kind, amount in self.left.items()))

    def _show(self, text: str) -> None:
        share = sum(self.done.values()) / self.total if self.total else 1.0
        rest = clock(self.seconds_left())
        if self.terminal:
            bar = "█" * int(20 * share) + "·" * (20 - int(20 * share))
            line = f"{self.title} {bar} {share:4.0%}  {rest} left  {text}"
            self.stream.write("\r" + line[:WIDTH].ljust(WIDTH))
        elif int(10 * share + 1e-9) > self._tenth:
            self.stream.write(f"{self.title} {share:4.0%}  {rest} left\n")
        self._tenth = max(self._tenth, int(10 * share + 1e-9))
        self.stream.flush()

    def say(self, line: str) -> None:
        """Write a line of its own, above the progress line."""
        self.clear()
        self.stream.write(line + "\n")
        self.stream.flush()

    def clear(self) -> None:
        """Remove the progress line from the terminal; the next step draws it again."""
        if self.terminal:
            self.stream.write("\r" + " " * WIDTH + "\r")
            self.stream.flush()
