# SPDX-License-Identifier: MIT
"""Which file becomes which: IN OUT as given, or many inputs and an output folder, one after the other.

Here is also decided what an error of one file means for the rest, and how it is told. What is done with a file is the
caller's affair.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from vqcodec import streams
from vqcodec.errors import InputError, LimitError, OutputExistsError, UsageError, VqcError
from vqcodec.streams import DASH, shown

# What a folder is searched for; a file that is named itself may have any suffix.
PICTURE_SUFFIXES = frozenset(
    (
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".avif",
        ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".gif",
    )
)  # fmt: skip
Pair = tuple[str, str]


def failure(error: VqcError | OSError | MemoryError) -> tuple[int, str]:
    """The exit code and the message that an error of one file stands for."""
    match error:
        case VqcError():
            return error.exit_code, str(error)
        case MemoryError():
            return LimitError.exit_code, "not enough memory: reduce the picture, or take fewer --threads"
        case _:  # output.py and image.py have named theirs; what is left is stdout, or a broken system
            streams.abandon_stdout()
            place = f" {shown(str(error.filename))}" if error.filename else ""
            return InputError.exit_code, f"cannot read or write{place}: {streams.reason(error)}"


def run(todo: list[Pair], one: Callable[[str, str], None]) -> None:
    """Runs every job; one that fails is reported and the rest goes on. Ends with the exit code of the first failure."""
    if len(todo) == 1:
        one(*todo[0])
        return
    exit_code = 0
    written: dict[str, str] = {}
    for source, target in todo:
        try:
            if target in written:
                raise OutputExistsError(f"{shown(source)}: {shown(target)} was just written from {written[target]}")
            one(source, target)
            written[target] = shown(source)
        except (VqcError, OSError, MemoryError) as error:
            code, message = failure(error)
            streams.complain(message)
            exit_code = exit_code or code
    if exit_code:
        raise click.exceptions.Exit(exit_code)


# ---- file names ------------------------------------------------------------------------------------------------------


def pairs(paths: tuple[str, ...], folder: str | None, suffix: str, wanted: frozenset[str]) -> list[Pair]:
    """Pairs of input and output: IN OUT as given, or every input with its place in `folder`.

    Args:
        suffix: of the outputs in `folder`.
        wanted: suffixes of the files to take from an input that is a folder; not searched below it.
    """
    if folder is None:
        if len(paths) != 2:
            raise UsageError("give one input and one output, or the output folder of several inputs with -o DIR")
        if os.path.isdir(paths[0]):
            raise UsageError(f"{shown(paths[0])} is a folder: give an output folder with -o DIR")
        return [(paths[0], paths[1])]
    if DASH in paths:
        raise UsageError("stdin has no name to keep: with -o DIR give files or folders")
    sources = expanded(paths, wanted)
    make_folder(folder)
    return [(source, os.path.join(folder, Path(source).stem + suffix)) for source in sources]


def expanded(paths: tuple[str, ...], wanted: frozenset[str]) -> list[str]:
    """The inputs, with those that are folders replaced by the files in them whose suffix is wanted."""
    sources: list[str] = []
    for path in paths:
        sources += _files(path, wanted) if os.path.isdir(path) else [path]
    return sources


def make_folder(folder: str) -> None:
    """Makes an output folder, unless it is there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot write to the folder {shown(folder)}: {streams.reason(error)}") from None


def _files(folder: str, wanted: frozenset[str]) -> list[str]:
    """The files in a folder whose suffix is wanted, sorted."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"cannot read the folder {shown(folder)}: {streams.reason(error)}") from None
    paths = [os.path.join(folder, name) for name in names if not name.startswith(".")]
    found = [path for path in paths if Path(path).suffix.lower() in wanted and os.path.isfile(path)]
    if not found:
        raise InputError(f"nothing to do in {shown(folder)}: no file there ends in {' '.join(sorted(wanted))}")
    return found


def check_target(source: str, target: str, force: bool) -> None:
    """Refuses early what would be refused at the end, and what would cost the user the input."""
    streams.check_output(target, force)
    if DASH not in (source, target) and os.path.isfile(source) and os.path.isfile(target):
        with suppress(OSError):
            if os.path.samefile(source, target):
                raise UsageError(f"{shown(source)} is both input and output: give the output another name")
