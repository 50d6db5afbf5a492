# SPDX-License-Identifier: MIT
"""Which file becomes which: inputs, and folders of them, to pairs of input and output."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vqcodec.cli import streams
from vqcodec.cli.processes import Pair
from vqcodec.cli.streams import DASH, shown
from vqcodec.errors import InputError, OutputExistsError, UsageError
from vqcodec.messages import reason

# What a folder is searched for; a file that is named itself may have any suffix.
PICTURE_SUFFIXES = frozenset(
    (
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".avif",
        ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".gif", ".heic", ".heif",
    )
)  # fmt: skip
FILE_SUFFIXES = PICTURE_SUFFIXES | {".vqc"}  # an output so named is no folder


@dataclass
class Todo:
    """What there is to do: pairs of input and output, and what went wrong while they were looked for."""

    pairs: list[Pair] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)  # exit code, message
    several: bool = False  # inputs into a folder, as against IN OUT


def todo(
    paths: tuple[str, ...], output: str | None, suffix: str, wanted: frozenset[str], *, recursive: bool = False
) -> Todo:
    """Pairs of input and output: one input and its file, or every input with its place in a folder.

    Args:
        paths: inputs; without `output`, the last of several is the output.
        output: a file or a folder, as `-o` gives it.
        suffix: of the outputs in a folder, and of the output beside a single input that has no other.
        wanted: suffixes of the files to take from an input that is a folder.
        recursive: search below such a folder, too; what lies deeper has the same place below the output folder.

    Raises:
        UsageError: the arguments make no sense together.
        InputError: there is nothing to do, or the output folder cannot be made.
    """
    option = output is not None
    if output is None and len(paths) > 1:
        *paths_in, output = paths
    else:
        paths_in = list(paths)
    several = len(paths_in) > 1 or os.path.isdir(paths_in[0])
    if output is None:
        if several:
            raise UsageError(f"{shown(paths[0])} is a folder: give an output folder with -o DIR")
        if DASH in paths:
            raise UsageError("stdin has no name to keep: give the output a name, or - for stdout")
        output = os.path.splitext(paths[0])[0] + suffix
    into_folder = _is_folder(output) or (option and _may_become_folder(output, several))
    if several and not into_folder:
        if option:
            raise UsageError(f"{shown(output, 'stdout')} is one file: give an output folder with -o DIR")
        raise UsageError(f"{shown(output, 'stdout')} is no folder: give an output folder with -o DIR, or end it in /")
    if not into_folder:
        if recursive:
            raise UsageError("-r is for folders: give the output folder with -o DIR")
        return Todo([(paths_in[0], output)])
    return _into(output, paths_in, suffix, wanted, recursive)


def _is_folder(name: str) -> bool:
    """Whether it is a folder, or can be nothing else."""
    return name.endswith(("/", os.sep)) or os.path.isdir(name)


def _may_become_folder(name: str, several: bool) -> bool:
    """Whether a name after -o that is not there yet is that of a folder to make."""
    if name == DASH or os.path.exists(name):
        return False
    suffix = Path(name).suffix.lower()
    return suffix not in FILE_SUFFIXES if several else not suffix


def _into(folder: str, paths: list[str], suffix: str, wanted: frozenset[str], recursive: bool) -> Todo:
    """Every input with its place in the output folder, which is made."""
    if DASH in paths:
        raise UsageError("stdin has no name to keep in a folder: give files or folders")
    work = Todo(several=True)
    for place, source in _sources(paths, wanted, recursive, work.failures):
        work.pairs.append((source, os.path.join(folder, place, Path(source).stem + suffix)))
    if not work.pairs and work.failures:
        raise InputError(work.failures[0][1])
    make_folder(folder)
    return work


def inputs(paths: tuple[str, ...], wanted: frozenset[str], *, recursive: bool = False) -> Todo:
    """All inputs that become one output together. Arguments as for `todo`.

    In place of outputs they have a number, and behind it, as in a path, their place below the folder that was given.

    Raises:
        InputError: there is nothing to do.
    """
    work = Todo(several=True)
    sources = _sources(paths, wanted, recursive, work.failures)
    work.pairs = [(source, os.path.join(str(number), place)) for number, (place, source) in enumerate(sources)]
    if not work.pairs and work.failures:
        raise InputError(work.failures[0][1])
    return work


def _sources(
    paths: Sequence[str], wanted: frozenset[str], recursive: bool, failures: list[tuple[int, str]]
) -> list[tuple[str, str]]:
    """The inputs, folders replaced by their files whose suffix is wanted: place below the folder, and path."""
    sources = []
    for path in paths:
        sources += _files(path, wanted, recursive, failures) if os.path.isdir(path) else [("", path)]
    return sources


def make_folder(folder: str) -> None:
    """Makes an output folder, unless it is there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot write to the folder {shown(folder)}: {reason(error)}") from None


def _files(
    folder: str, wanted: frozenset[str], recursive: bool, failures: list[tuple[int, str]]
) -> list[tuple[str, str]]:
    """The files in (or below) a folder whose suffix is wanted, sorted: place below the folder, and path."""
    before, files = len(failures), []
    for place, names in _folders(folder, recursive, failures):
        paths = [os.path.join(folder, place, name) for name in names if not name.startswith(".")]
        files += [(place, p) for p in paths if Path(p).suffix.lower() in wanted and os.path.isfile(p)]
    if not files and len(failures) == before:
        below = "there or below" if recursive else "there"
        message = f"nothing to do in {shown(folder)}: no file {below} ends in {' '.join(sorted(wanted))}"
        failures.append((InputError.exit_code, message))
    return files


def _folders(folder: str, recursive: bool, failures: list[tuple[int, str]]) -> Iterator[tuple[str, list[str]]]:
    """The folder and, if asked for, those below it (not through links, not hidden): place, sorted names of files."""

    def refused(error: OSError) -> None:
        name = shown(str(error.filename or folder))
        failures.append((InputError.exit_code, f"cannot read the folder {name}: {reason(error)}"))

    for path, folders, names in os.walk(folder, onerror=refused):
        place = os.path.relpath(path, folder)
        yield "" if place == os.curdir else place, sorted(names)
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))


def check_not_beside(source: str, target: str) -> None:
    """Refuses to replace, one of many, a picture that lies beside its .vqc file: it may be the original.

    Raises:
        OutputExistsError: it does.
    """
    with suppress(OSError):
        if os.path.samefile(os.path.dirname(source) or ".", os.path.dirname(target) or "."):
            raise OutputExistsError(
                f"{shown(target)} lies beside {shown(source)} and may be its original: give another folder with -o, "
                "or both names to overwrite it"
            )


def check_target(source: str, target: str, force: bool) -> None:
    """Refuses early what would be refused at the end, and what would cost the user the input."""
    streams.check_output(target, force)
    if DASH not in (source, target) and os.path.isfile(source) and os.path.isfile(target):
        with suppress(OSError):
            if os.path.samefile(source, target):
                raise UsageError(f"{shown(source)} is both input and output: give the output another name")
