# SPDX-License-Identifier: MIT
"""Token files: the codebook indices of many pictures in one .npz, written and read side by side; `vqcodec tokens`.

A token file is NumPy's .npz (a zip archive of .npy arrays, no pickled objects) of n pictures:

    names            [n] str                the inputs' file names without folder and suffix
    sizes            [n, 2] int32           width and height in pixels
    qualities        [n] int32              1 for the base layer alone
    gray             [n] bool               the picture goes back as gray
    tile_sides       [n] int32              pixels
    tunes            [n] str                "psnr" or "eye"
    model            [] str                 8 hexadecimal digits: the checksum that .vqc files name
    codebook_size    [] int32               K: base indices lie in [0, K)
    latent_channels  [] int32               M
    base_0 ...       [h, w] int32           of each picture, h and w its sides over 16, rounded up
    refinement_0 ... [h, w, M] int32        of each picture whose quality is not 1
    colour_0 ...     [1 + K, 3] int32       of each picture whose colour layer has a polynomial
    drift_0 ...      [1 + r, c, 3] int32    of each picture whose colour layer has slow shifts, of r x c cells
"""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import container
from vqcodec.bitstream.arrays import read_array
from vqcodec.bitstream.tiles import LATENT_STRIDE
from vqcodec.codec.tokens import Tokens, colour_layer
from vqcodec.errors import InputError, LimitError
from vqcodec.model.zoo import Model
from vqcodec.options import BASE_ONLY_QUALITY, DEFAULT_MAX_PIXELS, TUNES

SUFFIX = ".npz"
_MAX_OTHERS_BYTES = 256 << 20  # of all arrays but the indices, which are held against the pictures' sizes
_NPY_HEADER_BYTES = 4096


class Writer:
    """Writes a token file in memory, picture by picture; the same tokens give the same bytes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._names: list[str] = []
        self._tokens: list[tuple[int, int, int, bool, int]] = []
        self._tunes: list[str] = []
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
        for kind, part in tokens.colour._asdict().items():
            if part is not None:
                self._put(f"{kind}_{number}", part.array())
        self._names.append(name)
        self._tunes.append(self.model.tune(tokens.tune))
        self._tokens.append((tokens.width, tokens.height, tokens.quality, tokens.gray, tokens.tile_side))

    def finish(self) -> bytes:
        """The file's bytes."""
        facts = np.array([[int(value) for value in row] for row in self._tokens], np.int32).reshape(-1, 5)
        self._put("names", np.array(self._names, np.str_))
        self._put("sizes", facts[:, :2].copy())
        self._put("qualities", facts[:, 2].copy())
        self._put("gray", facts[:, 3].astype(bool))
        self._put("tile_sides", facts[:, 4].copy())
        self._put("tunes", np.array(self._tunes, np.str_))
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
        self._tunes = [str(tune) for tune in self._get("tunes", "U", 1)]
        if not set(self._tunes) <= set(TUNES):
            raise InputError("this token file is damaged: it names a tune that does not exist")
        self.checksum = str(self._get("model", "U", 0))
        if not re.fullmatch("[0-9a-f]{8}", self.checksum):
            raise InputError("this token file is damaged: it names no model")
        self._channels = int(self._get("latent_channels", "i", 0))
        shapes = {len(a) for a in (self.names, self._sizes, self._qualities, self._gray, self._tile_sides, self._tunes)}
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
        parts = [
            self._get(f"{name}_{number}", "iu", ndim) if f"{name}_{number}.npy" in self._archive.NameToInfo else None
            for name, ndim in (("colour", 2), ("drift", 3))
        ]
        gray, tile_side = bool(self._gray[number]), int(self._tile_sides[number])
        return Tokens(
            base, refinement, width, height, quality, gray, tile_side, colour_layer(*parts), self._tunes[number]
        )

    def _get(self, name: str, kinds: str, ndim: int, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """One array; how much it may unpack to is known before it is unpacked."""
        try:
            entry = self._archive.getinfo(f"{name}.npy")
            room = self._room if shape is None else 8 * int(np.prod(shape)) + _NPY_HEADER_BYTES
            if entry.file_size > room:
                raise ValueError("it is larger than it can be")
            if shape is None:
                self._room -= entry.file_size
            array = read_array(self._archive.read(entry), "biufU")
        except KeyError:
            raise InputError(f"this is not a token file: it has no array {name!r}") from None
        except MemoryError:
            raise
        except Exception as error:  # of zipfile, zlib, numpy: each raises what it likes on garbage
            raise InputError(f"this token file is damaged: {name!r} cannot be read ({error})") from None
        if array.dtype.kind not in kinds or array.ndim != ndim or (shape is not None and array.shape != shape):
            raise InputError(f"this token file is damaged: {name!r} is {array.dtype} of shape {list(array.shape)}")
        return array
