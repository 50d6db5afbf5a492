# SPDX-License-Identifier: MIT
"""One line that says how far a training run is, on a terminal; nothing anywhere else. No torch."""

from __future__ import annotations

import shutil
import sys
import time

INTERVAL = 0.5  # seconds between two drawings
BAR = 24


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Progress:
    """The line, drawn over itself on stderr; other output clears it first.

    Args:
        wanted: False shows nothing, as where stderr is no terminal.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.shown = wanted and sys.stderr.isatty()
        self.drawn = False
        self.begin(0.0)

    def begin(self, done: float) -> None:
        """Start the clock where `done`, a part of 1, is behind already."""
        self.started, self.first, self.last, self.steps = time.monotonic(), done, 0.0, 0

    def show(self, what: str, done: float, crops: int = 0) -> None:
        """One more step of so many crops has been taken; draw, unless that was just done."""
        self.steps += 1
        now = time.monotonic()
        if not self.shown or now - self.last < INTERVAL:
            return
        spent = now - self.started
        left = duration(spent * (1 - done) / (done - self.first)) if done > self.first else "?"
        full = round(BAR * done)
        speed = f"{self.steps * crops / max(spent, 1e-9):.1f} crops/s, " if crops else ""
        line = f"{what} [{'#' * full}{'-' * (BAR - full)}] {done:4.0%} {speed}{left} left"
        sys.stderr.write("\r" + line[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        sys.stderr.flush()
        self.last, self.drawn = now, True

    def clear(self) -> None:
        """Take the line away, so that something else may be written."""
        if self.drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self.drawn = False


class Stages:
    """What a long job is at: a line on stdout as each of its stages begins and ends, a progress line on a terminal.

    Args:
        job: its name.
        count: of the stages.
    """

    def __init__(self, job: str, count: int) -> None:
        self.job, self.count, self.number = job, count, 0
        self.stage, self.begun, self.started = "", 0.0, time.monotonic()
        self.progress = Progress()

    def __call__(self, stage: str, done: float) -> None:
        """So much of a stage, a part of 1, is done; another name than before begins the next one."""
        if stage != self.stage:
            self._end()
            self.stage, self.number, self.begun = stage, self.number + 1, time.monotonic()
            self.say(f"{self.job} {self.number}/{self.count}: {stage}")
            self.progress.begin(done)
        self.progress.show(f"{self.job} {self.number}/{self.count}", done)

    def say(self, line: str) -> None:
        """A line on stdout."""
        self.progress.clear()
        print(line, flush=True)

    def _end(self) -> None:
        if self.stage:
            self.say(f"{self.job} {self.number}/{self.count} took {duration(time.monotonic() - self.begun)}")

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.progress.clear()
        if kind is None:
            self._end()
            self.say(f"{self.job} took {duration(time.monotonic() - self.started)}")
