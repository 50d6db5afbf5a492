# SPDX-License-Identifier: MIT
"""Token files: the codebook indices of many pictures in one .npz, written and read side by side; `vqcodec tokens`.

A token file is NumPy's .npz (a zip archive of .npy arrays, no pickled objects) of n pictures:

    names            [n] str                the inputs' file names without folder and suffix
    sizes            [n, 2] int32           width and height in pixels
    qualities        [n] int32              1 for the base layer alone
    gray             [n] bool               the picture goes back as gray
    tile_sides       [n] int32              pixels
    model            [] str                 8 hexadecimal digits: the checksum that .vqc files name
    codebook_size    [] int32               K: base indices lie in [0, K)
    latent_channels  [] int32               M
    base_0 ...       [h, w] int32           of each picture, h and w its sides over 16, rounded up
    refinement_0 ... [h, w, M] int32        of each picture whose quality is not 1
    colour_0 ...     [1 + K, 3] int32       of each picture that has a colour layer
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from vqcodec import codec, container, image, jobs, streams, tokens, zoo
from vqcodec.codebook import BASE_ONLY_QUALITY
from vqcodec.colour import Colour
from vqcodec.errors import InputError, LimitError, UsageError, VqcError
from vqcodec.image import DEFAULT_MAX_PIXELS
from vqcodec.streams import DASH, shown
from vqcodec.tiles import LATENT_STRIDE
from vqcodec.tokens import Tokens
from vqcodec.workers import Outcome
from vqcodec.zoo import Model

SUFFIX, VQC_SUFFIX = ".npz", ".vqc"
MAX_FILE_BYTES = 1 << 34
_MAX_OTHERS_BYTES = 256 << 20  # of all arrays but the indices, which are held against the pictures' sizes
_NPY_HEADER_BYTES = 4096


class Writer:
    """Writes a token file in memory, picture by picture; the same tokens give the same bytes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._names: list[str] = []
        self._tokens: list[tuple[int, int, int, bool, int]] = []
        self._buffer = io.BytesIO()
        self._archive = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_DEFLATED)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, tokens: Tokens) -> None:
        """Append a picture's tokens."""
        number = len(self)
        self._put(f"base_{number}", tokens.base)
        if tokens.refinement is not None:
            self._put(f"refinement_{number}", tokens.refinement)
        if tokens.colour is not None:
            self._put(f"colour_{number}", tokens.colour.array())
        self._names.append(name)
        self._tokens.append((tokens.width, tokens.height, tokens.quality, tokens.gray, tokens.tile_side))

    def finish(self) -> bytes:
        """The file's bytes."""
        facts = np.array([[int(value) for value in row] for row in self._tokens], np.int32).reshape(-1, 5)
        self._put("names", np.array(self._names, np.str_))
        self._put("sizes", facts[:, :2].copy())
        self._put("qualities", facts[:, 2].copy())
        self._put("gray", facts[:, 3].astype(bool))
        self._put("tile_sides", facts[:, 4].copy())
        self._put("model", np.array(self.model.files.checksum.hex()))
        self._put("codebook_size", np.array(self.model.codebook.size, np.int32))
        self._put("latent_channels", np.array(self.model.prior.latents, np.int32))
        self._archive.close()
        return self._buffer.getvalue()

    def _put(self, name: str, array: NDArray[Any]) -> None:
        entry = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980: no clock in a file
        entry.compress_type = zipfile.ZIP_DEFLATED
        with self._archive.open(entry, "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)


class Reader:
    """Reads a token file.

    Args:
        data: its bytes.
        max_pixels: refuse pictures with more.

    Raises:
        InputError: it is not a token file, or damaged.
    """

    def __init__(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"this is not a token file ({error})") from None
        self._room = _MAX_OTHERS_BYTES
        self.names = [str(name) for name in self._get("names", "U", 1)]
        self._sizes, self._qualities = self._get("sizes", "i", 2), self._get("qualities", "i", 1)
        self._gray, self._tile_sides = self._get("gray", "b", 1), self._get("tile_sides", "i", 1)
        self.checksum = str(self._get("model", "U", 0))
        if not re.fullmatch("[0-9a-f]{8}", self.checksum):
            raise InputError("this token file is damaged: it names no model")
        self._channels = int(self._get("latent_channels", "i", 0))
        shapes = {len(a) for a in (self.names, self._sizes, self._qualities, self._gray, self._tile_sides)}
        if len(shapes) > 1 or self._sizes.shape[1:] != (2,):
            raise InputError("this token file is damaged: its arrays are not of one length")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Tokens:
        """The tokens of one picture, not yet held against the model.

        Raises:
            InputError, LimitError
        """
        width, height = (int(side) for side in self._sizes[number])
        if not (1 <= width <= container.MAX_SIDE and 1 <= height <= container.MAX_SIDE):
            raise InputError(f"this token file is damaged: a picture of {width} x {height} pixels")
        if width * height > self._max_pixels:
            raise LimitError(f"a picture of {width} x {height} pixels is more than the limit of {self._max_pixels:,}")
        quality, rows, columns = int(self._qualities[number]), -(-height // LATENT_STRIDE), -(-width // LATENT_STRIDE)
        base = self._get(f"base_{number}", "iu", 2, (rows, columns))
        refinement = None
        if quality != BASE_ONLY_QUALITY:
            refinement = self._get(f"refinement_{number}", "iu", 3, (rows, columns, self._channels))
        colour = None
        if f"colour_{number}.npy" in self._archive.NameToInfo:
            colour = Colour.of_array(self._get(f"colour_{number}", "iu", 2))
        gray, tile_side = bool(self._gray[number]), int(self._tile_sides[number])
        return Tokens(base, refinement, width, height, quality, gray, tile_side, colour)

    def _get(self, name: str, kinds: str, ndim: int, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """One array; how much it may unpack to is known before it is unpacked."""
        try:
            entry = self._archive.getinfo(f"{name}.npy")
            room = self._room if shape is None else 8 * int(np.prod(shape)) + _NPY_HEADER_BYTES
            if entry.file_size > room:
                raise ValueError("it is larger than it can be")
            if shape is None:
                self._room -= entry.file_size
            array = _read_npy(self._archive.read(entry))
        except KeyError:
            raise InputError(f"this is not a token file: it has no array {name!r}") from None
        except MemoryError:
            raise
        except Exception as error:  # of zipfile, zlib, numpy: each raises what it likes on garbage
            raise InputError(f"this token file is damaged: {name!r} cannot be read ({error})") from None
        if array.dtype.kind not in kinds or array.ndim != ndim or (shape is not None and array.shape != shape):
            raise InputError(f"this token file is damaged: {name!r} is {array.dtype} of shape {list(array.shape)}")
        return array


def _read_npy(data: bytes) -> NDArray[Any]:
    """An array in NumPy's .npy format, of whose header nothing is believed that the bytes behind it do not bear out."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not a .npy array of version 1")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or fortran or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("its header does not fit its data")
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
    return array


# ---- the command -----------------------------------------------------------------------------------------------------


def write(
    paths: tuple[str, ...],
    *,
    target: str,
    recursive: bool = False,
    quality: int | None,
    effort: int | None,
    force: bool,
    threads: int,
    model: str | None,
    max_pixels: int | None,
) -> None:
    """Write the tokens of pictures, .vqc files and folders of them; one that fails is reported, the rest goes on.

    Raises:
        VqcError: as the codec does, and for an output that cannot be written.
    """
    if target != DASH and Path(target).suffix.lower() != SUFFIX:
        raise UsageError(f"{shown(target)}: give the token file a name that ends in {SUFFIX}")
    todo = jobs.inputs(paths, jobs.PICTURE_SUFFIXES | {VQC_SUFFIX}, recursive=recursive)
    for source, _ in todo.pairs:
        jobs.check_target(source, target, force)
    limit = max_pixels or DEFAULT_MAX_PIXELS
    out = Writer(zoo.load(zoo.find(model), threads))

    def one(source: str, target: str, *, alone: bool) -> Outcome:
        notes: tuple[str, ...]
        data = streams.NamedBytes(streams.read(source, MAX_FILE_BYTES))
        data.name = shown(source)
        if data.getvalue().startswith(container.MAGIC):
            with _about(data.name):
                layout = container.read_header(data.getvalue())
                if layout.header.model != out.model.files.checksum:
                    raise InputError("it was written with another model than the token file: give it with --model")
                found = tokens.of_file(data.getvalue(), threads=threads, model=model, max_pixels=limit)
                notes, alpha = (), layout.lengths.alpha is not None
        else:
            picture = image.load(data, max_pixels=limit)
            notes, alpha = picture.notes, picture.alpha is not None
            wanted = codec.DEFAULT_QUALITY if quality is None else quality
            strength = codec.DEFAULT_EFFORT if effort is None else effort
            found = tokens.of_picture(picture, wanted, effort=strength, threads=threads, model=model)
        notes = (*notes, "transparency is no part of the tokens: dropped")[: None if alpha else -1]
        place = Path(target).parts[1:]
        out.add("stdin" if source == DASH else "/".join([*place, Path(source).stem]), found)
        return Outcome(found.width * found.height, notes=tuple(f"{data.name}: {note}" for note in notes))

    try:
        jobs.run(todo, one)
    except click.exceptions.Exit:  # some failed, and it was said
        if len(out):
            streams.write(target, out.finish(), force=force)
        raise
    streams.write(target, out.finish(), force=force)


def back(
    paths: tuple[str, ...],
    *,
    target: str,
    form: str,
    force: bool,
    threads: int,
    model: str | None,
    max_pixels: int | None,
) -> None:
    """Restore the pictures of token files into the folder `target`, as .vqc files if `form` is "vqc".

    Raises:
        VqcError: as the codec does, and for outputs that cannot be written.
    """
    suffix = "." + form.lower().removeprefix(".")
    limit = max_pixels or DEFAULT_MAX_PIXELS
    found: dict[str, tuple[Reader, int]] = {}
    todo = jobs.Todo(several=True)
    for path in paths:
        data = streams.read(path, MAX_FILE_BYTES)
        with _about(shown(path)):
            reader = Reader(data, max_pixels=limit)
        for number, name in enumerate(reader.names):
            output = os.path.join(target, _file_name(name) + suffix)
            found.setdefault(output, (reader, number))
            todo.pairs.append((f"{path}, picture {number} ({name})", output))
    if not todo.pairs:
        raise InputError("nothing to do: there is no picture in the token file")
    jobs.make_folder(target)

    def one(source: str, target: str, *, alone: bool) -> Outcome:
        streams.check_output(target, force)
        reader, number = found[target]
        with _about(shown(source)):
            own = zoo.by_checksum(bytes.fromhex(reader.checksum), model).folder
            taken = reader[number]
            if suffix == VQC_SUFFIX:
                data, notes = tokens.to_file(taken, model=own), tuple[str, ...]()
            else:
                data, notes = image.encode_picture(tokens.to_picture(taken, threads=threads, model=own), suffix)
        streams.write(target, data, force=force)
        return Outcome(
            taken.width * taken.height,
            out_bytes=len(data),
            notes=tuple(f"{shown(target)}: {note}" for note in notes),
        )

    jobs.run(todo, one)


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Puts a name in front of the errors that come of what is in a file."""
    try:
        yield
    except VqcError as error:
        raise type(error)(f"{name}: {error}") from error


def _file_name(name: str) -> str:
    """A name that a stranger's file gives, made one that stays in its folder."""
    return re.sub(r"[^\w .,()+=@-]", "_", name)[:200].lstrip(".") or "picture"
