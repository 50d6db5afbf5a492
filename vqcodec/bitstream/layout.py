# SPDX-License-Identifier: MIT
"""The header of a .vqc file and the place of every section behind it, written and read side by side.

Its layout stands in `docs/FORMAT.md`, whose tables a test compares with this module. All integers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from vqcodec.bitstream.varint import header_cut_off, read_varint, write_varint
from vqcodec.errors import DamagedError

MAGIC = b"\xb1VQC"
VERSION = 1
MAX_SIDE = 1 << 24  # [pixels]
MAX_TILES = 1 << 20
MAX_METADATA_BYTES = 16 << 20  # ICC or EXIF, uncompressed
MIN_TILE_LOG2, MAX_TILE_LOG2 = 8, 10

FLAG_GRAY, FLAG_ALPHA, FLAG_ICC, FLAG_EXIF, FLAG_REFINEMENT = 1, 2, 4, 8, 16
TILE_SHIFT = 5  # of the tile side's three bits in the flags
MORE_FLAGS = 0x80  # in the byte of the quality
MORE_SRGB, MORE_SECTIONS, MORE_COLOUR, MORE_EYE = 1, 2, 4, 8
MORE_ALL = MORE_SRGB | MORE_SECTIONS | MORE_COLOUR | MORE_EYE
MAX_FURTHER = 64  # sections
KIND_XMP, KIND_PATCHES, KIND_NOISE = 2, 3, 4
WORD_BYTES = 4
CRC_BYTES = 4

ICC, EXIF, XMP, ALPHA = "ICC profile", "EXIF data", "XMP data", "alpha channel"
COLOUR, BASE, REFINEMENT, PATCHES = "colour layer", "base layer", "refinement layer", "patches"
NOISE = "level of removed noise"
FURTHER = {KIND_XMP: XMP, KIND_PATCHES: PATCHES, KIND_NOISE: NOISE}

FIELDS = (("magic", "4s"), ("version", "B"), ("flags", "B"), ("model", "4s"), ("quality", "B"))
_FIXED = struct.Struct("<" + "".join(form for _, form in FIELDS))
CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Header:
    """What a decoder must know about the picture before the first payload."""

    width: int  # [pixels] of the picture, without padding
    height: int
    quality: int  # 1..100
    model: bytes  # first 4 bytes of the model's SHA-256
    gray: bool = False
    tile_log2: int = 10
    srgb: bool = False  # the picture came with a profile that says sRGB; without it sRGB is assumed, too
    tune: str = "psnr"  # or "eye": which of the model's tables

    @property
    def tile_side(self) -> int:
        """Side of a tile in pixels."""
        return 1 << self.tile_log2

    @property
    def columns(self) -> int:
        """Number of tiles beside each other."""
        return -(-self.width // self.tile_side)

    @property
    def rows(self) -> int:
        """Number of tiles above each other."""
        return -(-self.height // self.tile_side)

    @property
    def tile_count(self) -> int:
        """Number of tiles; tile `i` stands in row `i // columns`, column `i % columns`."""
        return self.columns * self.rows


@dataclass(frozen=True)
class Lengths:
    """Length of every section in bytes, checksums not counted; None where the section is absent."""

    base: tuple[int, ...]  # per tile, multiples of 4
    refinement: tuple[int, ...] | None = None  # per tile, multiples of 4
    icc: int | None = None  # compressed
    exif: int | None = None  # compressed
    colour: int | None = None  # a multiple of 4
    alpha: int | None = None
    further: tuple[tuple[int, int], ...] = ()  # kind and length


class Section(NamedTuple):
    """One section and where it lies; its CRC-32 stands at `offset + size_bytes`."""

    number: int  # counted from 0 through the file
    kind: str  # ICC, EXIF, COLOUR, BASE, REFINEMENT, ALPHA, XMP, PATCHES, NOISE or a name made up for an unknown kind
    tile: int | None  # index, for BASE and REFINEMENT
    offset: int  # [bytes] from the start of the file
    size_bytes: int


@dataclass(frozen=True)
class Layout:
    """A file as its header describes it: enough for `vqcodec info`, and to find every section."""

    header: Header
    lengths: Lengths
    header_size_bytes: int  # with its CRC; the first section starts here
    header_crc: int

    def sections(self) -> Iterator[Section]:
        """Yields every section, in the order of the file."""
        offset = self.header_size_bytes
        for number, (kind, tile, size_bytes) in enumerate(_in_order(self.lengths)):
            yield Section(number, kind, tile, offset, size_bytes)
            offset += size_bytes + CRC_BYTES

    @property
    def checksum_size_bytes(self) -> int:
        """Bytes that the CRCs of the sections take."""
        return CRC_BYTES * sum(1 for _ in _in_order(self.lengths))

    @property
    def file_size_bytes(self) -> int:
        """Size of the whole file, if nothing is missing."""
        payload_bytes = sum(size_bytes for _, _, size_bytes in _in_order(self.lengths))
        return self.header_size_bytes + payload_bytes + self.checksum_size_bytes


def write_header(header: Header, lengths: Lengths) -> bytes:
    """Returns the header, its CRC included."""
    flags = (
        (FLAG_GRAY if header.gray else 0)
        | (FLAG_ALPHA if lengths.alpha is not None else 0)
        | (FLAG_ICC if lengths.icc is not None else 0)
        | (FLAG_EXIF if lengths.exif is not None else 0)
        | (FLAG_REFINEMENT if lengths.refinement is not None else 0)
        | (header.tile_log2 - MIN_TILE_LOG2) << TILE_SHIFT
    )
    more = MORE_SRGB * header.srgb | MORE_SECTIONS * bool(lengths.further) | MORE_COLOUR * (lengths.colour is not None)
    more |= MORE_EYE * (header.tune == "eye")
    out = bytearray(_FIXED.pack(MAGIC, VERSION, flags, header.model, header.quality | (MORE_FLAGS if more else 0)))
    out += bytes([more] if more else [])
    out += write_varint(header.width) + write_varint(header.height)
    for kind, _, size_bytes in _in_order(replace(lengths, further=())):
        out += write_varint(size_bytes // _unit_bytes(kind))
    if lengths.further:
        out += write_varint(len(lengths.further))
        for number, size_bytes in lengths.further:
            out += write_varint(number) + write_varint(size_bytes)
    return bytes(out + CRC.pack(zlib.crc32(out)))


def read_header(data: bytes) -> Layout:
    """Reads and verifies the header; needs no more than its bytes, and looks at none behind them.

    Args:
        data: the file, or as much of its start as holds the header (24 bytes for a plain picture of one tile).

    Returns:
        The picture's properties and the place of every section. Work and memory are bounded by `len(data)`.

    Raises:
        DamagedError: not a .vqc file, a newer version, cut off, a field out of range, or a wrong checksum.
    """
    if not data:
        raise DamagedError("The file is empty.")
    if data[: len(MAGIC)] != MAGIC:
        raise DamagedError("This is not a .vqc file.")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise _wrong_version(data[len(MAGIC)])
    if len(data) < _FIXED.size:
        raise header_cut_off()
    _, _, flags, model, quality = _FIXED.unpack_from(data)
    tile_log2 = MIN_TILE_LOG2 + (flags >> TILE_SHIFT)
    more, position = 0, _FIXED.size
    if quality & MORE_FLAGS:
        quality -= MORE_FLAGS
        if position >= len(data):
            raise header_cut_off()
        more, position = data[position], position + 1
        if not 1 <= more <= MORE_ALL or (more & MORE_SRGB and flags & FLAG_ICC):
            raise _reserved_bits()
    if tile_log2 > MAX_TILE_LOG2:
        raise _reserved_bits()
    width, position = read_varint(data, position)
    height, position = read_varint(data, position)
    if not (1 <= quality <= 100 and 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise DamagedError(f"The header is damaged: quality {quality}, {width} x {height} pixels is not possible.")
    gray, srgb = bool(flags & FLAG_GRAY), bool(more & MORE_SRGB)
    header = Header(width, height, quality, model, gray, tile_log2, srgb, "eye" if more & MORE_EYE else "psnr")
    lengths, position = _read_table(data, position, header.tile_count, flags, more)
    if position + CRC_BYTES > len(data):
        raise header_cut_off()
    crc = CRC.unpack_from(data, position)[0]
    if crc != zlib.crc32(memoryview(data)[:position]):
        raise DamagedError("The header is damaged: its checksum does not match.")
    for number, _ in lengths.further:
        if number % 2 and number not in FURTHER:  # told only now, when it is sure that nothing is damaged
            raise DamagedError(f"The file has a section of kind {number}, which only a newer vqcodec can read.")
    return Layout(header, lengths, position + CRC_BYTES, crc)


def _read_table(data: bytes, position: int, tile_count: int, flags: int, more: int) -> tuple[Lengths, int]:
    """Reads the table of lengths; returns it and the position behind it.

    The number of tiles comes from an unverified width and height, so it is held against the bytes there first.
    """
    layers = 2 if flags & FLAG_REFINEMENT else 1
    if tile_count > MAX_TILES:
        raise DamagedError(f"The header is damaged: {tile_count} tiles are more than a .vqc file can have.")
    if position + tile_count * layers + CRC_BYTES > len(data):  # a length takes at least one byte
        raise header_cut_off()

    def one(present: object) -> int | None:
        nonlocal position
        if not present:
            return None
        size_bytes, position = read_varint(data, position)
        return size_bytes

    def per_tile() -> tuple[int, ...]:
        nonlocal position
        sizes = []
        for _ in range(tile_count):
            size_words, position = read_varint(data, position)
            sizes.append(size_words * WORD_BYTES)
        return tuple(sizes)

    icc = one(flags & FLAG_ICC)
    exif = one(flags & FLAG_EXIF)
    colour_words = one(more & MORE_COLOUR)
    colour = None if colour_words is None else colour_words * WORD_BYTES
    base = per_tile()
    refinement = per_tile() if flags & FLAG_REFINEMENT else None
    alpha = one(flags & FLAG_ALPHA)
    further: list[tuple[int, int]] = []
    count = one(more & MORE_SECTIONS) or 0
    if more & MORE_SECTIONS and not 1 <= count <= MAX_FURTHER:
        raise DamagedError(f"The header is damaged: {count} further sections are not possible.")
    for _ in range(count):
        number, size_bytes = one(True) or 0, one(True) or 0
        if number <= (further[-1][0] if further else 0):
            raise DamagedError("The header is damaged: the kinds of its further sections do not ascend.")
        further.append((number, size_bytes))
    return Lengths(base, refinement, icc, exif, colour, alpha, tuple(further)), position


def _in_order(lengths: Lengths) -> Iterator[tuple[str, int | None, int]]:
    """Yields kind, tile and size in bytes of every section that is present: the order of table and file."""
    if lengths.icc is not None:
        yield ICC, None, lengths.icc
    if lengths.exif is not None:
        yield EXIF, None, lengths.exif
    if lengths.colour is not None:
        yield COLOUR, None, lengths.colour
    for tile, size_bytes in enumerate(lengths.base):
        yield BASE, tile, size_bytes
    for tile, size_bytes in enumerate(lengths.refinement or ()):
        yield REFINEMENT, tile, size_bytes
    if lengths.alpha is not None:
        yield ALPHA, None, lengths.alpha
    for number, size_bytes in lengths.further:
        yield FURTHER.get(number, f"section of kind {number}"), None, size_bytes


def _unit_bytes(kind: str) -> int:
    """Returns the unit in which the table counts sections of this kind."""
    return WORD_BYTES if kind in (COLOUR, BASE, REFINEMENT) else 1


def _reserved_bits() -> DamagedError:
    return DamagedError("The header uses reserved bits: the file is damaged, or written by a newer vqcodec.")


def _wrong_version(version: int) -> DamagedError:
    if version > VERSION:
        return DamagedError(f"The file is written by a newer vqcodec (format version {version}), or damaged.")
    return DamagedError(f"The file is damaged: there is no format version {version}.")
