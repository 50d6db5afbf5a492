# SPDX-License-Identifier: MIT
"""Which file becomes which, and many of them: one after the other or in several processes, with a progress bar.

Here is also decided what an error of one file means for the rest, and how it is told. What is done with a file is the
caller's affair.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from vqcodec.cli import processes, streams
from vqcodec.cli.names import Todo
from vqcodec.cli.processes import Outcome, Pair, Work
from vqcodec.cli.streams import DASH, shown
from vqcodec.errors import OutputExistsError, PartialError


def run(
    todo: Todo,
    work: Work,
    *,
    jobs: int = 1,
    skip_existing: bool = False,
    say: Callable[[str], None] = streams.tell,
) -> None:
    """Runs every job; of several, one that fails is reported at the end and the rest goes on.

    Args:
        work: what is done with a pair; told with `single` whether it may show progress of its own.
        jobs: number of processes, at least 1; with more than one, `work` must be picklable.
        skip_existing: leave out the pairs whose output is there.
        say: takes the report of each job that has one.

    Raises:
        VqcError, OSError, MemoryError: of a single job.
        click.exceptions.Exit: with the exit code of the first failure, in the order of the inputs; that of a file
            restored in part only where nothing worse happened.
    """
    if not todo.several:
        ((source, target),) = todo.pairs
        if skip_existing and target != DASH and os.path.exists(target):
            return
        outcome = work(source, target, single=True)
        for note in outcome.notes:
            streams.complain(f"note: {note}")
        _for_people(outcome.summary)
        if outcome.report:
            say(outcome.report)
        if outcome.failure:  # and yet something was written
            raise PartialError(outcome.failure[1])
        return
    pairs, failures = _distinct(todo.pairs)
    left = {number: pair for number, pair in pairs.items() if not (skip_existing and os.path.isfile(pair[1]))}
    skipped, pairs = len(pairs) - len(left), left
    started, done = time.perf_counter(), Outcome()
    try:
        with _Bar(len(pairs), say) as bar:
            for number, outcome in processes.outcomes(pairs, work, jobs):
                if outcome.failure:
                    failures[number] = outcome.failure
                done += outcome
                bar.update(outcome)
    finally:  # also after Ctrl-C
        told = todo.failures + [failure for _, failure in sorted(failures.items())]
        for _, message in told:
            streams.complain(message)
    if len(todo.pairs) > 1:
        seconds = time.perf_counter() - started
        _for_people(_summary(len(pairs) - len(told), skipped, len(told), done, seconds))
    if told:
        codes = [code for code, _ in told]
        raise click.exceptions.Exit(next((code for code in codes if code != PartialError.exit_code), codes[0]))


def _distinct(todo: list[Pair]) -> tuple[dict[int, Pair], dict[int, tuple[int, str]]]:
    """The pairs by number, without those whose output another input has already; a failure for each of these."""
    pairs: dict[int, Pair] = {}
    failures: dict[int, tuple[int, str]] = {}
    taken: dict[str, tuple[int, str]] = {}
    for number, (source, target) in enumerate(todo):
        key = os.path.normcase(os.path.abspath(target))
        if sys.platform in ("darwin", "win32"):  # where names that differ by their case are one file
            key = unicodedata.normalize("NFC", key).casefold()
        place, first = taken.setdefault(key, (number, source))
        if place == number:
            pairs[number] = (source, target)
        elif os.path.abspath(first) != os.path.abspath(source):  # a file that is named twice is done once
            message = f"{shown(source)}: left out, because {shown(target)} is written from {shown(first)}"
            failures[number] = OutputExistsError.exit_code, message
    return pairs, failures


def _summary(done: int, skipped: int, failed: int, total: Outcome, seconds: float) -> str:
    """One line about all files."""
    parts = [f"{done:,} file{'' if done == 1 else 's'}"]
    if total.pixels and seconds:
        rate = f"{total.pixels / 1e6 / seconds:.1f} megapixels/s"
        parts += [f"{total.in_bytes:,} -> {total.out_bytes:,} bytes", f"{seconds:.1f} s", rate]
    parts += [f"{skipped:,} skipped"] if skipped else []
    parts += [f"{failed:,} failed"] if failed else []
    return ", ".join(parts)


def _for_people(line: str) -> None:
    """A line for the person at the terminal; nothing for scripts."""
    if line and streams.on_terminal(sys.stderr):
        with suppress(OSError):
            sys.stderr.write(line + "\n")


class _Bar:
    """A progress bar over many files on a terminal's stderr: count, time left and megapixels per second."""

    def __init__(self, count: int, say: Callable[[str], None]) -> None:
        self._bar: Any = None
        self._say = say
        self._pixels, self._started = 0, time.perf_counter()
        if count > 1 and streams.on_terminal(sys.stderr):
            self._bar = click.progressbar(
                length=count, show_pos=True, show_eta=True, item_show_func=lambda _: self._rate(), file=sys.stderr
            )

    def _rate(self) -> str:
        seconds = time.perf_counter() - self._started
        return f"{self._pixels / 1e6 / seconds:.1f} megapixels/s" if seconds and self._pixels else ""

    def __enter__(self) -> _Bar:
        if self._bar is not None:
            self._bar.__enter__()
            self._bar.render_progress()
        return self

    def update(self, outcome: Outcome) -> None:
        """One file more is done, well or badly."""
        self._pixels += outcome.pixels
        if self._bar is not None and (outcome.notes or outcome.report):
            with suppress(OSError):
                sys.stderr.write("\r\x1b[2K")  # the bar is drawn again below
        for note in outcome.notes:
            streams.complain(f"note: {note}")
        if outcome.report:
            self._say(outcome.report)
        if self._bar is not None:
            self._bar.update(1)

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)
