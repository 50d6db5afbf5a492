# SPDX-License-Identifier: MIT
"""The patches section: blocks and flat areas of the picture that are kept without loss, pasted over what is restored.

    u8                  0: all of the picture; 1: a map of bits follows; 2: a map of runs follows; 3, 4: 1, 2, and areas
    map                 one bit per block of 32 x 32 pixels, in raster order; see below
    areas               their number (varint), then of each: top minus the top before (varint), left, width, height
                        (varints), u8 0: its colour is that of the one before; 1: r, g, b follow
    piece, piece, ...   lossless WebP (VP8L); in front of each but the last its length in bytes (varint)

Where all of the picture is kept, the pieces are bands of it, 4,096 rows each. Otherwise the blocks of the map stand
beside each other on sheets, in raster order: `Patches.sheets`. Sizes follow from the header and the map, and a WebP
that says another size is refused before it is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Rect
from vqcodec.bitstream.varint import read_varint, write_varint
from vqcodec.errors import DamagedError

SIDE = 32  # [pixels] of a block, both ways; those at the right and lower edge are cut off where the picture ends
MAX_WIDTH, MAX_HEIGHT = 8192, 4096  # [pixels] of a piece
WHOLE, BITS, RUNS = 0, 1, 2
WITH_AREAS = 2  # is added to BITS and RUNS
MAX_AREAS = 4096

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


class Area(NamedTuple):
    """A rectangle of one colour."""

    place: Rect  # [pixels]
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Patches:
    """What the section says.

    Attributes:
        width, height: of the picture in pixels.
        mask: [rows, columns] bool, the blocks that are kept.
        pieces: lossless WebP of `sheets` (or of `bands`).
        whole: all of the picture, as it lies.
        areas: rectangles of one colour, by their tops.
    """

    width: int
    height: int
    mask: Mask
    pieces: tuple[bytes, ...]
    whole: bool = False
    areas: tuple[Area, ...] = ()

    def payload(self) -> bytes:
        """The section."""
        out = bytearray([WHOLE]) if self.whole else bytearray(_map(self.mask))
        if self.areas:
            out[0] += WITH_AREAS
            out += _written(self.areas)
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
        kept = wide[top : top + window.height, left : left + window.width]
        for place, _ in self.areas:
            kept[place.intersection(window).relative_to(window).slices] = True
        return kept


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
    elif BITS <= data[0] <= RUNS + WITH_AREAS:
        mask, position = (_read_runs if data[0] % 2 == 0 else _read_bits)(data, 1, shape)
        if not mask.any():
            raise _damaged("its map is empty")
        areas: tuple[Area, ...] = ()
        if data[0] > RUNS:
            areas, position = _read_areas(data, position, Rect(0, 0, width, height))
        patches = Patches(width, height, mask, (), areas=areas)
        count = len(patches.sheets())
    else:
        raise _damaged("it is of a kind that there is not")
    pieces = tuple(_read_pieces(data, position, count))
    return replace(patches, pieces=pieces)


def _read_pieces(data: bytes, position: int, count: int) -> Iterator[bytes]:
    for _ in range(count - 1):
        size_bytes, position = _number(data, position)
        if position + size_bytes > len(data):
            raise _damaged("a piece is cut off")
        yield data[position : position + size_bytes]
        position += size_bytes
    yield data[position:]


# ---- areas of one colour ---------------------------------------------------------------------------------------------


def _written(areas: tuple[Area, ...]) -> bytes:
    out, top, colour = bytearray(write_varint(len(areas))), 0, None
    for place, own in areas:
        for number in (place.y0 - top, place.x0, place.width, place.height):
            out += write_varint(number)
        out += bytes([0]) if own == colour else bytes([1, *own])
        top, colour = place.y0, own
    return bytes(out)


def _read_areas(data: bytes, position: int, picture: Rect) -> tuple[tuple[Area, ...], int]:
    count, position = _number(data, position)
    if not 0 < count <= MAX_AREAS:
        raise _damaged("there cannot be so many areas")
    areas: list[Area] = []
    top, colour, room = 0, None, picture.width * picture.height
    for _ in range(count):
        down, position = _number(data, position)
        left, position = _number(data, position)
        width, position = _number(data, position)
        height, position = _number(data, position)
        fresh = data[position : position + 1]
        top, position = top + down, position + 1
        if fresh == b"\1" and position + 3 <= len(data):
            colour, position = (data[position], data[position + 1], data[position + 2]), position + 3
        elif fresh != b"\0" or colour is None:
            raise _damaged("an area has no colour")
        place = Rect(left, top, left + width, top + height)
        room -= place.area
        if place.empty or place.intersection(picture) != place or room < 0:
            raise _damaged("an area does not fit")
        areas.append(Area(place, colour))
    return tuple(areas), position


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
