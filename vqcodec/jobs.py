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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from vqcodec import streams, workers
from vqcodec.errors import InputError, OutputExistsError, PartialError, UsageError
from vqcodec.streams import DASH, shown
from vqcodec.workers import Outcome, Pair, Work

# What a folder is searched for; a file that is named itself may have any suffix.
PICTURE_SUFFIXES = frozenset(
    (
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".avif",
        ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".gif", ".heic", ".heif",
    )
)  # fmt: skip


@dataclass
class Todo:
    """What there is to do: pairs of input and output, and what went wrong while they were looked for."""

    pairs: list[Pair] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)  # exit code, message
    several: bool = False  # inputs into a folder, as against IN OUT


def run(todo: Todo, work: Work, *, jobs: int = 1, skip_existing: bool = False) -> None:
    """Runs every job; of several, one that fails is reported at the end and the rest goes on.

    Args:
        work: what is done with a pair; told with `alone` whether it may show progress of its own.
        jobs: number of processes, at least 1; with more than one, `work` must be picklable.
        skip_existing: leave out the pairs whose output is there.

    Raises:
        VqcError, OSError, MemoryError: of a single job.
        click.exceptions.Exit: with the exit code of the first failure, in the order of the inputs; that of a file
            restored in part only where nothing worse happened.
    """
    if not todo.several:
        ((source, target),) = todo.pairs
        if skip_existing and target != DASH and os.path.exists(target):
            return
        outcome = work(source, target, alone=True)
        for note in outcome.notes:
            streams.complain(f"note: {note}")
        _for_people(outcome.summary)
        if outcome.failure:  # and yet something was written
            raise PartialError(outcome.failure[1])
        return
    pairs, failures = _distinct(todo.pairs)
    left = {number: pair for number, pair in pairs.items() if not (skip_existing and os.path.isfile(pair[1]))}
    skipped, pairs = len(pairs) - len(left), left
    started, done = time.perf_counter(), Outcome()
    try:
        with _Bar(len(pairs)) as bar:
            for number, outcome in workers.outcomes(pairs, work, jobs):
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

    def __init__(self, count: int) -> None:
        self._bar: Any = None
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
        if self._bar is not None and outcome.notes:
            with suppress(OSError):
                sys.stderr.write("\r\x1b[2K")  # the bar is drawn again below
        for note in outcome.notes:
            streams.complain(f"note: {note}")
        if self._bar is not None:
            self._bar.update(1)

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)


# ---- file names ------------------------------------------------------------------------------------------------------


def todo(
    paths: tuple[str, ...], folder: str | None, suffix: str, wanted: frozenset[str], *, recursive: bool = False
) -> Todo:
    """Pairs of input and output: IN OUT as given, or every input with its place in `folder`.

    Args:
        suffix: of the outputs in `folder`.
        wanted: suffixes of the files to take from an input that is a folder.
        recursive: search below such a folder, too; what lies deeper has the same place below `folder`.

    Raises:
        UsageError: the arguments make no sense together.
        InputError: there is nothing to do, or the output folder cannot be made.
    """
    if folder is None:
        if len(paths) != 2:
            raise UsageError("give one input and one output, or the output folder of several inputs with -o DIR")
        if os.path.isdir(paths[0]):
            raise UsageError(f"{shown(paths[0])} is a folder: give an output folder with -o DIR")
        if recursive:
            raise UsageError("-r is for folders: give the output folder with -o DIR")
        return Todo([(paths[0], paths[1])])
    if DASH in paths:
        raise UsageError("stdin has no name to keep: with -o DIR give files or folders")
    found = Todo(several=True)
    for place, source in _sources(paths, wanted, recursive, found.failures):
        found.pairs.append((source, os.path.join(folder, place, Path(source).stem + suffix)))
    if not found.pairs and found.failures:
        raise InputError(found.failures[0][1])
    make_folder(folder)
    return found


def inputs(paths: tuple[str, ...], wanted: frozenset[str], *, recursive: bool = False) -> Todo:
    """All inputs that become one output together. Arguments as for `todo`.

    In place of outputs they have a number, and behind it, as in a path, their place below the folder that was given.

    Raises:
        InputError: there is nothing to do.
    """
    found = Todo(several=True)
    sources = _sources(paths, wanted, recursive, found.failures)
    found.pairs = [(source, os.path.join(str(number), place)) for number, (place, source) in enumerate(sources)]
    if not found.pairs and found.failures:
        raise InputError(found.failures[0][1])
    return found


def _sources(
    paths: tuple[str, ...], wanted: frozenset[str], recursive: bool, failures: list[tuple[int, str]]
) -> list[tuple[str, str]]:
    """The inputs, folders replaced by their files whose suffix is wanted: place below the folder, and path."""
    found = []
    for path in paths:
        found += _files(path, wanted, recursive, failures) if os.path.isdir(path) else [("", path)]
    return found


def make_folder(folder: str) -> None:
    """Makes an output folder, unless it is there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot write to the folder {shown(folder)}: {streams.reason(error)}") from None


def _files(
    folder: str, wanted: frozenset[str], recursive: bool, failures: list[tuple[int, str]]
) -> list[tuple[str, str]]:
    """The files in (or below) a folder whose suffix is wanted, sorted: place below the folder, and path."""
    before, found = len(failures), []
    for place, names in _folders(folder, recursive, failures):
        paths = [os.path.join(folder, place, name) for name in names if not name.startswith(".")]
        found += [(place, p) for p in paths if Path(p).suffix.lower() in wanted and os.path.isfile(p)]
    if not found and len(failures) == before:
        below = "there or below" if recursive else "there"
        message = f"nothing to do in {shown(folder)}: no file {below} ends in {' '.join(sorted(wanted))}"
        failures.append((InputError.exit_code, message))
    return found


def _folders(folder: str, recursive: bool, failures: list[tuple[int, str]]) -> Iterator[tuple[str, list[str]]]:
    """The folder and, if asked for, those below it (not through links, not hidden): place, sorted names of files."""

    def refused(error: OSError) -> None:
        name = shown(str(error.filename or folder))
        failures.append((InputError.exit_code, f"cannot read the folder {name}: {streams.reason(error)}"))

    for path, folders, names in os.walk(folder, onerror=refused):
        place = os.path.relpath(path, folder)
        yield "" if place == os.curdir else place, sorted(names)
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))


def check_target(source: str, target: str, force: bool) -> None:
    """Refuses early what would be refused at the end, and what would cost the user the input."""
    streams.check_output(target, force)
    if DASH not in (source, target) and os.path.isfile(source) and os.path.isfile(target):
        with suppress(OSError):
            if os.path.samefile(source, target):
                raise UsageError(f"{shown(source)} is both input and output: give the output another name")
