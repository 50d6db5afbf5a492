# SPDX-License-Identifier: MIT
"""Bytes to a file, all of them or none: a temporary file in the same folder, synced, then renamed or linked.

Whoever interrupts or fills the disk finds the old file as it was and no litter. What the bytes mean, and "-" for
stdout, is the caller's business.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vqcodec.errors import InputError, OutputExistsError
from vqcodec.messages import printable

PathName = str | os.PathLike[str]

# A file system without hard links answers with one of these.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


@dataclass(frozen=True)
class _Target:
    """Where the bytes really go: `path` with links followed, its folder, and what is there already."""

    path: str
    folder: str
    existing: os.stat_result | None

    @property
    def is_device(self) -> bool:
        """/dev/null, a pipe and the like: nothing to preserve, nothing to rename."""
        return self.existing is not None and not stat.S_ISREG(self.existing.st_mode)


def check_writable(path: PathName, force: bool) -> None:
    """Finds out early, before minutes of work, whether `write_atomic` would refuse; creates nothing.

    Args:
        path: the file to be written.
        force: whether an existing file may be replaced.

    Raises:
        OutputExistsError: the file exists and `force` is not given.
        InputError: the folder is missing or not writable, or the path is a folder.
    """
    with _one_sentence(path):
        target = _resolve(path, force)
        if target.is_device:
            if not os.access(target.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        elif not os.access(target.folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


class Sink:
    """Takes the bytes of a file that is being written."""

    def __init__(self, handle: int, path: PathName) -> None:
        self._handle, self._path = handle, path

    def write(self, data: bytes) -> None:
        """Appends, all of it.

        Raises:
            InputError: it cannot be written.
        """
        rest = memoryview(data)
        with _one_sentence(self._path):
            while rest:
                rest = rest[os.write(self._handle, rest) :]


def write_atomic(path: PathName, data: bytes, *, force: bool) -> None:
    """Writes a file so that it is there whole or not at all; see `open_atomic`."""
    with open_atomic(path, force=force) as sink:
        sink.write(data)


@contextmanager
def open_atomic(path: PathName, *, force: bool) -> Iterator[Sink]:
    """A file to be written piece by piece, which is there whole when the block ends, or not at all when it fails.

    A link is followed and stays a link. A new file gets the usual permissions (umask), a replaced one keeps its own
    (and its owner, where the system lets us). Devices and pipes are written to directly.

    Args:
        path: the file to write.
        force: replace an existing file. Without it not even a file that appears meanwhile is overwritten.

    Raises:
        OutputExistsError: the file exists and `force` is not given.
        InputError: it cannot be written; the message is one line that says why.
    """
    with _one_sentence(path):  # around our own steps alone: what the block raises is its own affair
        target = _resolve(path, force)
    if target.is_device:
        with _opened(path, target.path, os.O_WRONLY) as handle:
            yield Sink(handle, path)
        return
    temporary = os.path.join(target.folder, f".vqcodec-{secrets.token_hex(8)}.tmp")
    try:
        with _opened(path, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as handle:
            with _one_sentence(path):
                _take_over(handle, target.existing)
            yield Sink(handle, path)
            with _one_sentence(path):
                os.fsync(handle)
        with _one_sentence(path):
            if force:
                os.replace(temporary, target.path)
            else:
                _rename_no_replace(temporary, target.path)
    finally:  # also on KeyboardInterrupt and SystemExit; after a rename there is nothing left to remove
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync_folder(target.folder)


def _resolve(path: PathName, force: bool) -> _Target:
    """Follows links and checks what stands at the end of them."""
    name = os.fspath(path)
    if not name or name.endswith(("/", os.sep)):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    try:
        existing = os.stat(name)
    except FileNotFoundError:
        existing = None  # new, or a link to what is not there yet
    if existing is not None and stat.S_ISDIR(existing.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if existing is not None and not stat.S_ISREG(existing.st_mode):
        return _Target(name, os.path.dirname(name) or ".", existing)
    if existing is not None and not force:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    real = os.path.realpath(name)
    folder = os.path.dirname(real)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return _Target(real, folder, existing)


@contextmanager
def _opened(shown: PathName, path: str, flags: int) -> Iterator[int]:
    with _one_sentence(shown):
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _take_over(handle: int, replaced: os.stat_result | None) -> None:
    """Gives the new file the owner and permissions of the one that it will replace, before anything is in it."""
    if replaced is not None and hasattr(os, "fchmod"):
        with suppress(OSError):
            if (replaced.st_uid, replaced.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle, replaced.st_uid, replaced.st_gid)
        os.fchmod(handle, stat.S_IMODE(replaced.st_mode) & 0o777)


def _rename_no_replace(temporary: str, path: str) -> None:
    """Gives the finished file its name, or raises FileExistsError when that name is taken, in one step."""
    try:
        os.link(temporary, path)
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    # No hard links here (FAT, some network drives): take the name first, then put the file over our own empty one.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            if os.path.getsize(path) == 0:
                os.unlink(path)
        raise


def _sync_folder(folder: str) -> None:
    """Makes the new name durable where the system can; where it cannot, the file itself is safe all the same."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _one_sentence(path: PathName) -> Iterator[None]:
    """Turns what the system raises into an error that says what to do."""
    name = printable(str(os.fspath(path))) or "''"
    try:
        yield
    except FileExistsError:
        raise OutputExistsError(f"{name} exists already: choose another name, or overwrite it with -f") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot write {name}: {_reason(error, name)}") from error


def _reason(error: OSError | ValueError, name: str) -> str:
    if not isinstance(error, OSError):
        return str(error)
    folder = os.path.dirname(name) or "."
    reasons = {
        errno.ENOENT: f"the folder {folder} does not exist",
        errno.ENOTDIR: f"{folder} is not a folder",
        errno.EISDIR: "it is a folder; give a file name",
        errno.EACCES: "no permission to write there",
        errno.EPERM: "no permission to write there",
        errno.EROFS: "the disk is read-only",
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.ENAMETOOLONG: "the name is too long",
        errno.ELOOP: "its links go in a circle",
    }
    return reasons.get(error.errno or 0, error.strerror or str(error))
