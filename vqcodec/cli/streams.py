# SPDX-License-Identifier: MIT
"""Standard input and output, and "-" as a file's name: read whole, written whole, never to or from a terminal.

Here the command line meets terminals, pipes and full disks. What the bytes mean is known elsewhere, and files with a
name are written by `atomic.py`, to which this module hands them on.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from vqcodec.cli import atomic
from vqcodec.errors import DamagedError, InputError, LimitError, ModelError, UsageError, VqcError
from vqcodec.messages import on_one_line, reason
from vqcodec.options import most_file_bytes
from vqcodec.spans import span

DASH = "-"
BLOCK_BYTES = 1 << 20


class NamedBytes(io.BytesIO):
    """What stdin held, with a name for error messages."""

    name = "stdin"


def shown(name: str, standard: str = "stdin") -> str:
    """How messages call an input (or, with `standard`, an output)."""
    return standard if name == DASH else on_one_line(name) or "''"


def fill_closed_descriptors() -> None:
    """Opens /dev/null in place of a closed stdin, stdout or stderr.

    Otherwise the next file that is opened would get its number, and a library's warning would land in the picture.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def complain(message: str) -> None:
    """One line on stderr; where there is no stderr, nothing."""
    with suppress(OSError, ValueError, AttributeError):  # full, closed, absent
        sys.stderr.write(f"vqcodec: {on_one_line(message)}\n")
        sys.stderr.flush()


def tell(line: str) -> None:
    """A line on stderr that is no complaint; where there is no stderr, nothing."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{on_one_line(line)}\n")
        sys.stderr.flush()


def on_terminal(stream: Any) -> bool:
    """Whether a person sits at this stream."""
    return stream is not None and not stream.closed and bool(stream.isatty())


@contextmanager
def about(name: str, *kinds: type[VqcError]) -> Iterator[None]:
    """Puts the file's name in front of errors that do not know it: of these kinds, or of those about what is in it."""
    kinds = kinds or (DamagedError, LimitError, ModelError)
    try:
        yield
    except kinds as error:
        raise type(error)(f"{shown(name)}: {error}") from error


def noted(name: str, notes: Sequence[str]) -> tuple[str, ...]:
    """Sentences about a file, each with its name."""
    return tuple(f"{name}: {note}" for note in notes)


# ---- in --------------------------------------------------------------------------------------------------------------


def picture_source(name: str, max_pixels: int) -> str | NamedBytes:
    """What `pictures.read.load` takes for a file's name, or for "-"."""
    return read_stdin(most_file_bytes(max_pixels)) if name == DASH else name


def begins_with(source: str | NamedBytes, magic: bytes) -> bool:
    """Whether a file, or what stdin held, begins so. A pipe that has a name does not: it can be read only once."""
    if not isinstance(source, str):
        return source.getvalue().startswith(magic)
    with suppress(OSError, ValueError):
        if os.path.isfile(source):
            with open(source, "rb") as stream:
                return stream.read(len(magic)) == magic
    return False


def read_stdin(limit_bytes: int) -> NamedBytes:
    """All of stdin.

    Raises:
        UsageError: it is a terminal.
        InputError: it is closed or broken.
        LimitError: it goes on beyond `limit_bytes`.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("cannot read from stdin: it is closed")
    if on_terminal(sys.stdin):
        raise UsageError("stdin is a terminal: redirect a file or a pipe to it, or give a file name")
    return NamedBytes(_read_up_to(sys.stdin.buffer, limit_bytes, "stdin"))


@span(".vqc file")
def read_marked(name: str, magic: bytes, limit_bytes: int) -> bytes:
    """A file (or stdin) that must begin with `magic`; of anything else not more than the first bytes is read.

    Raises:
        DamagedError: it begins with something else, or is empty.
        InputError, LimitError, UsageError: as `read_stdin`.
    """
    if name == DASH:
        data = read_stdin(limit_bytes).getvalue()
        _check_marked(data, magic, "stdin")
        return data
    with _one_sentence(name), open(name, "rb") as stream:
        start = stream.read(len(magic))
        _check_marked(start, magic, shown(name))
        return start + _read_up_to(stream, limit_bytes, shown(name))


def read(name: str, limit_bytes: int) -> bytes:
    """A file (or stdin) of any kind.

    Raises:
        InputError, LimitError, UsageError: as `read_stdin`.
    """
    if name == DASH:
        return read_stdin(limit_bytes).getvalue()
    with _one_sentence(name), open(name, "rb") as stream:
        return _read_up_to(stream, limit_bytes, shown(name))


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Turns what the system raises on reading into an error that says what it is."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"cannot read {shown(name)}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"cannot read {shown(name)}: it is a folder") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot read {shown(name)}: {reason(error)}") from None


def _check_marked(data: bytes, magic: bytes, name: str) -> None:
    if not data:
        raise DamagedError(f"{name}: the file is empty")
    if data[: len(magic)] != magic[: len(data)]:
        raise DamagedError(f"{name}: this is not a .vqc file")


def _read_up_to(stream: Any, limit_bytes: int, name: str) -> bytes:
    """What is left of a stream, in pieces, so that an endless one is found out in time."""
    blocks, size_bytes = [], 0
    try:
        while block := stream.read(BLOCK_BYTES):
            size_bytes += len(block)
            if size_bytes > limit_bytes:
                raise LimitError(f"{name} is larger than {limit_bytes:,} bytes: raise --max-pixels if it is a picture")
            blocks.append(block)
    except OSError as error:
        raise InputError(f"cannot read {name}: {reason(error)}") from None
    return b"".join(blocks)


# ---- out -------------------------------------------------------------------------------------------------------------


def check_output(name: str, force: bool) -> None:
    """Finds out before the work is done whether `write` would refuse.

    Raises:
        UsageError: stdout is a terminal.
        OutputExistsError, InputError: as `atomic.check_writable`.
    """
    if name != DASH:
        atomic.check_writable(name, force)
    elif sys.stdout is None or sys.stdout.closed:
        raise InputError("cannot write to stdout: it is closed")
    elif on_terminal(sys.stdout):
        raise UsageError("stdout is a terminal: redirect it to a file or a pipe, or give a file name")


@span(".vqc file")
def write(name: str, data: bytes, *, force: bool) -> None:
    """Writes a file whole or not at all; to stdout for "-".

    Raises:
        OutputExistsError, InputError: as `atomic.write_atomic`; InputError also for a stdout that takes no more.
    """
    if name != DASH:
        atomic.write_atomic(name, data, force=force)
        return
    if sys.stdout is None or sys.stdout.closed:
        raise InputError("cannot write to stdout: it is closed")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        abandon_stdout()
        raise InputError(f"cannot write to stdout: {reason(error)}") from None


@contextmanager
def opened(name: str, *, force: bool) -> Iterator[Callable[[bytes], object]]:
    """Gives a function that takes an output piece by piece.

    The output is there whole when the block ends, or not at all; what goes to stdout is kept until then.

    Raises:
        OutputExistsError, InputError: as `write`.
    """
    if name != DASH:
        with atomic.open_atomic(name, force=force) as sink:
            yield sink.write
        return
    pieces: list[bytes] = []
    yield pieces.append
    write(DASH, b"".join(pieces), force=force)


def write_text(text: str) -> None:
    """Text to stdout; what its encoding cannot say is escaped.

    Raises:
        InputError: stdout is closed, full, or nobody reads it.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    write(DASH, text.encode(encoding, "backslashreplace"), force=False)


def tell_scripts(line: str) -> None:
    """A line on stdout; raises as `write_text`."""
    write_text(line + "\n")


def abandon_stdout() -> None:
    """Points stdout to /dev/null, so that Python does not try, at exit, to write what could not be written."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
