# SPDX-License-Identifier: MIT
"""The patches section: blocks of the picture that are kept without loss, and pasted over what is restored.

    u8                  0: all of the picture; 1: a map of bits follows; 2: a map of runs follows
    map                 one bit per block of 32 x 32 pixels, in raster order; see below
    piece, piece, ...   lossless WebP (VP8L); in front of each but the last its length in bytes (varint)

Where all of the picture is kept, the pieces are bands of it, 4,096 rows each. Otherwise the blocks of the map stand
beside each other on sheets, in raster order: `Patches.sheets`. Sizes follow from the header and the map, and a WebP
that says another size is refused before it is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Rect
from vqcodec.bitstream.varint import read_varint, write_varint
from vqcodec.errors import DamagedError

SIDE = 32  # [pixels] of a block, both ways; those at the right and lower edge are cut off where the picture ends
MAX_WIDTH, MAX_HEIGHT = 8192, 4096  # [pixels] of a piece
WHOLE, BITS, RUNS = 0, 1, 2

Mask = NDArray[np.bool_]


def blocks(width: int, height: int) -> tuple[int, int]:
    """Rows and columns of blocks of a picture."""
    return -(-height // SIDE), -(-width // SIDE)


class Sheet(NamedTuple):
    """One piece: which blocks it holds, and its size."""

    first: int  # of the blocks in the map
    amount: int
    columns: int  # blocks beside each other
    width: int  # [pixels]
    height: int


@dataclass(frozen=True)
class Patches:
    """What the section says.

    Attributes:
        width, height: of the picture in pixels.
        mask: [rows, columns] bool, the blocks that are kept.
        pieces: lossless WebP of `sheets` (or of `bands`).
        whole: all of the picture, as it lies.
    """

    width: int
    height: int
    mask: Mask
    pieces: tuple[bytes, ...]
    whole: bool = False

    def payload(self) -> bytes:
        """The section."""
        out = bytearray([WHOLE]) if self.whole else bytearray(_map(self.mask))
        for piece in self.pieces[:-1]:
            out += write_varint(len(piece)) + piece
        return bytes(out + self.pieces[-1])

    def bands(self) -> list[Rect]:
        """Where the pieces lie in the picture [pixels], if all of it is kept."""
        return [
            Rect(0, top, self.width, min(top + MAX_HEIGHT, self.height)) for top in range(0, self.height, MAX_HEIGHT)
        ]

    def sheets(self) -> list[Sheet]:
        """What the pieces hold, if some blocks are kept: as many beside each other as the picture has, or there are."""
        count = int(self.mask.sum())
        columns = min(count, self.mask.shape[1], MAX_WIDTH // SIDE)
        most = columns * (MAX_HEIGHT // SIDE)
        parts = [(first, min(most, count - first)) for first in range(0, count, most)]
        return [Sheet(first, n, columns, columns * SIDE, -(-n // columns) * SIDE) for first, n in parts]

    def covers(self, pixels: Rect) -> bool:
        """Whether every pixel of a rectangle is kept."""
        return bool(self.mask[blocks_of(pixels)].all())

    def pixels(self, window: Rect) -> Mask:
        """Which pixels of a window of the picture are kept: [h, w]."""
        rows, columns = blocks_of(window)
        wide = np.repeat(np.repeat(self.mask[rows, columns], SIDE, 0), SIDE, 1)
        top, left = window.y0 - rows.start * SIDE, window.x0 - columns.start * SIDE
        return wide[top : top + window.height, left : left + window.width]


def blocks_of(pixels: Rect) -> tuple[slice, slice]:
    """The rows and columns of the blocks that a rectangle meets."""
    return slice(pixels.y0 // SIDE, -(-pixels.y1 // SIDE)), slice(pixels.x0 // SIDE, -(-pixels.x1 // SIDE))


def read(data: bytes, width: int, height: int) -> Patches:
    """What `Patches.payload` gave, for a picture of this size in pixels. No pixels are unpacked.

    Raises:
        DamagedError: it cannot have been written by it.
    """
    shape = blocks(width, height)
    if not data:
        raise _damaged("it is empty")
    if data[0] == WHOLE:
        if width > MAX_WIDTH:
            raise _damaged("the picture is too wide to be kept as it lies")
        patches, position = Patches(width, height, np.ones(shape, bool), (), whole=True), 1
        count = len(patches.bands())
    elif data[0] in (BITS, RUNS):
        mask, position = (_read_bits if data[0] == BITS else _read_runs)(data, 1, shape)
        if not mask.any():
            raise _damaged("its map is empty")
        patches = Patches(width, height, mask, ())
        count = len(patches.sheets())
    else:
        raise _damaged("it is of a kind that there is not")
    pieces = tuple(_read_pieces(data, position, count))
    return Patches(width, height, patches.mask, pieces, patches.whole)


def _read_pieces(data: bytes, position: int, count: int) -> Iterator[bytes]:
    for _ in range(count - 1):
        size_bytes, position = _number(data, position)
        if position + size_bytes > len(data):
            raise _damaged("a piece is cut off")
        yield data[position : position + size_bytes]
        position += size_bytes
    yield data[position:]


# ---- the map ---------------------------------------------------------------------------------------------------------
# Bits: the map in raster order, the first block in the highest bit of the first byte, zeros behind the last.
# Runs: each block's bit XOR that of the block above it (0 above the first row), in raster order, as the lengths of runs
# (varints) of equal bits, the first run of zeros; it alone may have length 0. They end with the last block.


def _map(mask: Mask) -> bytes:
    bits = bytes([BITS]) + np.packbits(mask).tobytes()
    changes = _changes(mask).ravel()
    ends = np.flatnonzero(np.diff(np.concatenate([[False], changes]).astype(np.int8)))  # starts of runs but the first
    lengths = np.diff(np.concatenate([[0], ends, [changes.size]]))
    runs = bytes([RUNS]) + b"".join(write_varint(int(length)) for length in lengths)
    return min(bits, runs, key=len)


def _changes(mask: Mask) -> Mask:
    changes = mask.copy()
    changes[1:] ^= mask[:-1]
    return changes


def _read_bits(data: bytes, position: int, shape: tuple[int, int]) -> tuple[Mask, int]:
    count = shape[0] * shape[1]
    end = position + -(-count // 8)
    if end > len(data):
        raise _damaged("its map is cut off")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, end - position, position))
    if bits[count:].any():
        raise _damaged("its map goes on behind the picture")
    return bits[:count].reshape(shape).astype(bool), end


def _read_runs(data: bytes, position: int, shape: tuple[int, int]) -> tuple[Mask, int]:
    changes, done, bit = np.zeros(shape[0] * shape[1], bool), 0, False
    while done < changes.size:
        length, position = _number(data, position)
        if length > changes.size - done or (not length and (done or bit)):
            raise _damaged("its map has runs that do not fit")
        changes[done : done + length] = bit
        done, bit = done + length, not bit
    return np.logical_xor.accumulate(changes.reshape(shape), axis=0), position


def _number(data: bytes, position: int) -> tuple[int, int]:
    try:
        return read_varint(data, position)
    except DamagedError:
        raise _damaged("a number in it is not valid") from None


def _damaged(what: str) -> DamagedError:
    return DamagedError(f"the patches are damaged ({what})")
