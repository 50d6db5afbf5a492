# SPDX-License-Identifier: MIT
"""The errors a user can meet, each with the exit code of the command line. Nothing else lives here.

Every mistake that comes from outside (a file, an option, a full disk) is a `VqcError` whose message is one
sentence that says what to do; `assert` is for our own mistakes only.
"""

from __future__ import annotations


class VqcError(Exception):
    """Base of all errors that vqcodec raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(VqcError):
    """The options do not make sense together, or a value is out of range."""

    exit_code = 2


class InputError(VqcError):
    """The input cannot be read (missing, not a picture, broken), or the output cannot be written."""

    exit_code = 3


class DamagedError(VqcError):
    """The .vqc file is damaged, truncated, of an unknown version, or not a .vqc file at all."""

    exit_code = 4


class ModelError(VqcError):
    """The model that the file names (or that was asked for) is not there, or fails its checksum."""

    exit_code = 5


class OutputExistsError(VqcError):
    """The output exists already and overwriting was not asked for."""

    exit_code = 6


class LimitError(VqcError):
    """The picture is larger than a limit (pixels, bytes) allows."""

    exit_code = 7


class PartialError(VqcError):
    """A damaged file was restored as far as it goes (`--allow-partial`), and the picture written: it is not whole."""

    exit_code = 8
