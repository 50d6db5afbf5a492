# SPDX-License-Identifier: MIT
"""The errors a user can meet, each with the exit code of the command line. Nothing else lives here.

Every mistake that comes from outside (a file, an option, a full disk) is a `VqcError` whose message is one
sentence that says what to do; `assert` is for our own mistakes only.
"""

from __future__ import annotations

EXIT_INTERRUPTED = 130  # by Ctrl-C


class VqcError(Exception):
    """Base of all errors that vqcodec raises on purpose; `exit_code` is what the command line ends with.

    Examples:
        >>> import vqcodec
        >>> try:
        ...     vqcodec.decode(b"no picture")
        ... except vqcodec.VqcError as error:
        ...     print(error.exit_code, error)
        4 This is not a .vqc file.
    """

    exit_code = 1


class VqcWarning(UserWarning):
    """Something of a picture is not kept: bits beyond 8, a colour space, frames, damaged metadata.

    `vqcodec.encode` and the Pillow plugin warn; the command line writes a note instead.

    Examples:
        >>> import warnings, numpy as np, vqcodec
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     data = vqcodec.encode(np.full((8, 8), 40_000, np.uint16))
        >>> print(caught[0].category.__name__, caught[0].message)
        VqcWarning 16-bit samples reduced to 8 bits
    """


class UsageError(VqcError):
    """The options do not make sense together, or a value is out of range.

    Examples:
        >>> import numpy as np, vqcodec
        >>> vqcodec.encode(np.zeros((8, 8, 3), np.uint8), quality=0)
        Traceback (most recent call last):
        vqcodec.errors.UsageError: quality must be a whole number from 1 to 100, not 0
    """

    exit_code = 2


class InputError(VqcError):
    """The input cannot be read (missing, not a picture, broken), or the output cannot be written.

    Examples:
        >>> import vqcodec
        >>> vqcodec.encode("nowhere.png")
        Traceback (most recent call last):
        vqcodec.errors.InputError: cannot read nowhere.png: there is no such file
    """

    exit_code = 3


class DamagedError(VqcError):
    """The .vqc file is damaged, truncated, of an unknown version, or not a .vqc file at all.

    Examples:
        >>> import vqcodec
        >>> vqcodec.info(b"")
        Traceback (most recent call last):
        vqcodec.errors.DamagedError: The file is empty.
    """

    exit_code = 4


class ModelError(VqcError):
    """The model that the file names (or that was asked for) is not there, or fails its checksum.

    Examples:
        >>> import numpy as np, vqcodec
        >>> vqcodec.encode(np.zeros((8, 8, 3), np.uint8), model="nonesuch")
        Traceback (most recent call last):
        vqcodec.errors.ModelError: there is no model 'nonesuch'; known are ...
    """

    exit_code = 5


class OutputExistsError(VqcError):
    """The output exists already and overwriting was not asked for.

    Examples:
        >>> import pathlib
        >>> from vqcodec.cli.atomic import write_atomic
        >>> pathlib.Path("mine.vqc").touch()
        >>> write_atomic("mine.vqc", b"", force=False)
        Traceback (most recent call last):
        vqcodec.errors.OutputExistsError: mine.vqc exists already: choose another name, or overwrite it with -f
    """

    exit_code = 6


class LimitError(VqcError):
    """The picture is larger than a limit (pixels, bytes) allows.

    Examples:
        >>> import numpy as np, vqcodec
        >>> vqcodec.encode(np.zeros((8, 8, 3), np.uint8), max_pixels=63)
        Traceback (most recent call last):
        vqcodec.errors.LimitError: the array has 8x8 = 64 pixels, more than the limit of 63: ...
    """

    exit_code = 7


class PartialError(VqcError):
    """A damaged file was restored as far as it goes (`--allow-partial`), and the picture written: it is not whole.

    Only the command line ends with it; `vqcodec.decode` says in `info["damage"]` what is missing.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.zeros((8, 8, 3), np.uint8), quality=50)
        >>> vqcodec.decode(data[:-1], allow_partial=True).info["damage"] != []
        True
    """

    exit_code = 8
