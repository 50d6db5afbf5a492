# SPDX-License-Identifier: MIT
"""The bytes of a .vqc file: header, sections, lengths and checksums, written and read side by side.

Nothing here knows what a payload means (that is `entropy.py` and `model/prior.py`) or where a tile's pixels go
(`tiles.py`); no other module reads or writes these bytes. Their layout stands in `docs/FORMAT.md`, whose tables a test
compares with this module. All integers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from vqcodec.bitstream.tiles import Grid
from vqcodec.bitstream.varint import header_cut_off, read_varint, write_varint
from vqcodec.errors import DamagedError, LimitError
from vqcodec.spans import span

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
KIND_XMP, KIND_PATCHES = 2, 3
WORD_BYTES = 4
CRC_BYTES = 4

ICC, EXIF, XMP, ALPHA = "ICC profile", "EXIF data", "XMP data", "alpha channel"
COLOUR, BASE, REFINEMENT, PATCHES = "colour layer", "base layer", "refinement layer", "patches"
FURTHER = {KIND_XMP: XMP, KIND_PATCHES: PATCHES}

FIELDS = (("magic", "4s"), ("version", "B"), ("flags", "B"), ("model", "4s"), ("quality", "B"))
_FIXED = struct.Struct("<" + "".join(form for _, form in FIELDS))
_CRC = struct.Struct("<I")
_CRC_SEED = struct.Struct("<II")  # header's CRC, section's number


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
    kind: str  # ICC, EXIF, COLOUR, BASE, REFINEMENT, ALPHA, XMP, PATCHES or a name made up for an unknown kind
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


@dataclass(frozen=True)
class Contents:
    """What `pack` takes and `unpack` gives. ICC, EXIF and XMP are uncompressed here."""

    header: Header
    base: tuple[bytes, ...]  # per tile, little-endian 32-bit words
    refinement: tuple[bytes, ...] | None = None  # per tile; None: the file holds the base layer only
    colour: bytes | None = None  # little-endian 32-bit words
    alpha: bytes | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    patches: bytes | None = None


class Cut(NamedTuple):
    """The payload of a tile in which a file was cut off."""

    kind: str  # BASE or REFINEMENT
    tile: int
    start: bytes  # what is there of it, unchecked, in whole 32-bit words
    size_bytes: int  # of all of it


@dataclass(frozen=True)
class PartialContents:
    """What `unpack_partial` could save: None in place of each damaged section, and a sentence for each in `damage`.

    `refinement` is None only where the file never had that layer. `colour`, `alpha`, `icc`, `exif`, `xmp` and `patches`
    are None where absent or damaged. No `damage` means that the file is whole.
    """

    header: Header
    base: tuple[bytes | None, ...]
    refinement: tuple[bytes | None, ...] | None
    colour: bytes | None
    alpha: bytes | None
    icc: bytes | None
    exif: bytes | None
    damage: tuple[str, ...]
    has_alpha: bool = False  # the file has an alpha channel, damaged or not
    xmp: bytes | None = None
    cut: Cut | None = None
    patches: bytes | None = None
    has_patches: bool = False  # the file has patches, damaged or not


# ---- the whole file ------------------------------------------------------------------------------------------------


@span(".vqc file")
def pack(contents: Contents) -> bytes:
    """Writes a .vqc file.

    Args:
        contents: header and payloads; as many payloads as the header has tiles, each of whole 32-bit words.

    Returns:
        The bytes of the file: the same for the same contents (and the same zlib, if there is metadata).

    Raises:
        LimitError: the picture has too large a side or too many tiles, or ICC, EXIF or XMP is over 16 MiB.
    """
    _check_packable(contents)
    icc = None if contents.icc is None else zlib.compress(contents.icc, 9)
    exif = None if contents.exif is None else zlib.compress(contents.exif, 9)
    xmp = None if contents.xmp is None else zlib.compress(contents.xmp, 9)
    further = {number: body for number, body in ((KIND_XMP, xmp), (KIND_PATCHES, contents.patches)) if body is not None}
    layers = [*contents.base, *(contents.refinement or ())]
    bodies = [icc, exif, contents.colour, *layers, contents.alpha, *further.values()]
    lengths = Lengths(
        base=tuple(map(len, contents.base)),
        refinement=None if contents.refinement is None else tuple(map(len, contents.refinement)),
        icc=None if icc is None else len(icc),
        exif=None if exif is None else len(exif),
        colour=None if contents.colour is None else len(contents.colour),
        alpha=None if contents.alpha is None else len(contents.alpha),
        further=tuple((number, len(body)) for number, body in further.items()),
    )
    header = _write_header(contents.header, lengths)
    header_crc = _CRC.unpack(header[-CRC_BYTES:])[0]
    out = [header]
    for number, body in enumerate(body for body in bodies if body is not None):
        out += [body, _CRC.pack(_section_crc(header_crc, number, body))]
    return b"".join(out)


def unpack(data: bytes, *, max_pixels: int) -> Contents:
    """Reads a .vqc file of which every byte is as it was written.

    Args:
        data: the whole file.
        max_pixels: largest width x height to accept.

    Returns:
        The contents, every checksum verified.

    Raises:
        DamagedError: not a .vqc file, a newer version, cut off, bytes left over, or a checksum does not match.
        LimitError: the picture has more pixels than `max_pixels`.
    """
    contents = unpack_partial(data, max_pixels=max_pixels)
    check_whole(contents)
    refinement = cast("tuple[bytes, ...] | None", contents.refinement)
    base = cast("tuple[bytes, ...]", contents.base)
    colour, alpha, icc, exif, xmp = contents.colour, contents.alpha, contents.icc, contents.exif, contents.xmp
    return Contents(contents.header, base, refinement, colour, alpha, icc, exif, xmp, contents.patches)


def check_whole(contents: PartialContents) -> None:
    """Raises DamagedError, with the first damage and how many more there are, unless there is none."""
    if contents.damage:
        more = len(contents.damage) - 1
        raise DamagedError(contents.damage[0] + (f" (and {more} more damaged)" if more else ""))


@span(".vqc file")
def unpack_partial(data: bytes, *, max_pixels: int) -> PartialContents:
    """Reads what is left of a .vqc file whose header is intact.

    Args:
        data: the file, or its first part.
        max_pixels: largest width x height to accept.

    Returns:
        Every section whose checksum matches, None for the others, and a sentence for each damage, in file order.

    Raises:
        DamagedError: not a .vqc file, a newer version, or a damaged header.
        LimitError: the picture has more pixels than `max_pixels`.
    """
    layout = read_header(data)
    header = layout.header
    if header.width * header.height > max_pixels:
        raise LimitError(
            f"The picture is {header.width} x {header.height} pixels, more than the limit of {max_pixels}; "
            "raise the limit if you trust the file."
        )
    damage: list[str] = []
    kinds = (ICC, EXIF, COLOUR, BASE, REFINEMENT, ALPHA, XMP, PATCHES)
    bodies: dict[str, list[bytes | None]] = {kind: [] for kind in kinds}
    cut_off: list[Section] = []
    for section in layout.sections():
        body = None
        if section.offset + section.size_bytes + CRC_BYTES > len(data):
            cut_off.append(section)
        else:
            try:
                body = read_section(data, layout, section)
            except DamagedError as error:
                damage.append(str(error))
        bodies.setdefault(section.kind, []).append(body)
    damage += _size_damage(layout, len(data), cut_off)
    return PartialContents(
        header=header,
        base=tuple(bodies[BASE]),
        refinement=None if layout.lengths.refinement is None else tuple(bodies[REFINEMENT]),
        colour=bodies[COLOUR][0] if bodies[COLOUR] else None,
        alpha=bodies[ALPHA][0] if bodies[ALPHA] else None,
        icc=bodies[ICC][0] if bodies[ICC] else None,
        exif=bodies[EXIF][0] if bodies[EXIF] else None,
        xmp=bodies[XMP][0] if bodies[XMP] else None,
        damage=tuple(damage),
        has_alpha=layout.lengths.alpha is not None,
        cut=_cut(data, cut_off[0]) if cut_off else None,
        patches=bodies[PATCHES][0] if bodies[PATCHES] else None,
        has_patches=bool(bodies[PATCHES]),
    )


def _cut(data: bytes, section: Section) -> Cut | None:
    """What is there of the payload of a tile that is cut off; None for other sections."""
    if section.tile is None:
        return None
    start = data[section.offset : section.offset + section.size_bytes]
    whole_words = start[: len(start) // WORD_BYTES * WORD_BYTES]
    return Cut(section.kind, section.tile, whole_words, section.size_bytes)


# ---- the header ----------------------------------------------------------------------------------------------------


def _write_header(header: Header, lengths: Lengths) -> bytes:
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
    return bytes(out + _CRC.pack(zlib.crc32(out)))


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
    crc = _CRC.unpack_from(data, position)[0]
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


# ---- one section ---------------------------------------------------------------------------------------------------


def _section_crc(header_crc: int, number: int, body: bytes) -> int:
    """Returns the CRC-32 that follows a section; it also covers the header's CRC and the section's number."""
    return zlib.crc32(body, zlib.crc32(_CRC_SEED.pack(header_crc, number)))


def read_section(data: bytes, layout: Layout, section: Section) -> bytes:
    """Returns the bytes of a section that lies wholly inside `data`, verified, ICC, EXIF and XMP uncompressed.

    Raises:
        DamagedError: cut off, a checksum that does not match, or a damaged zlib stream.
    """
    if section.offset + section.size_bytes + CRC_BYTES > len(data):
        raise DamagedError(f"{_place(layout.header, section)} is cut off.")
    end = section.offset + section.size_bytes
    body = data[section.offset : end]
    if _CRC.unpack_from(data, end)[0] != _section_crc(layout.header_crc, section.number, body):
        raise DamagedError(f"{_place(layout.header, section)}: checksum does not match; the file is damaged.")
    return _inflate(section.kind, body) if section.kind in (ICC, EXIF, XMP) else body


def _inflate(kind: str, body: bytes) -> bytes:
    """Returns the uncompressed bytes; stops at the limit, so that a small file cannot fill the memory."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(body, MAX_METADATA_BYTES + 1)
    except zlib.error as error:
        raise DamagedError(f"{kind}: not a zlib stream; the file is damaged.") from error
    if len(plain) > MAX_METADATA_BYTES:
        raise DamagedError(f"{kind}: more than {MAX_METADATA_BYTES >> 20} MiB uncompressed, which no file may have.")
    if not inflater.eof or inflater.unused_data:
        raise DamagedError(f"{kind}: the zlib stream does not end where the section ends; the file is damaged.")
    return plain


# ---- checks and sentences ------------------------------------------------------------------------------------------


def _check_packable(contents: Contents) -> None:
    """Raises LimitError for a picture that the format cannot hold; asserts what callers must have got right."""
    header = contents.header
    assert header.width >= 1
    assert header.height >= 1
    assert 1 <= header.quality <= 100
    assert len(header.model) == 4
    assert MIN_TILE_LOG2 <= header.tile_log2 <= MAX_TILE_LOG2
    if max(header.width, header.height) > MAX_SIDE:
        raise LimitError(f"A .vqc picture has at most {MAX_SIDE} pixels a side; scale or cut the picture.")
    if header.tile_count > MAX_TILES:
        raise LimitError(f"A .vqc picture has at most {MAX_TILES} tiles; use larger tiles or cut the picture.")
    for layer in (contents.base, contents.refinement):
        assert layer is None or len(layer) == header.tile_count
        assert all(len(payload) % WORD_BYTES == 0 for payload in layer or ())
    assert len(contents.colour or b"") % WORD_BYTES == 0
    assert not (header.srgb and contents.icc is not None)
    for kind, metadata in ((ICC, contents.icc), (EXIF, contents.exif), (XMP, contents.xmp)):
        if metadata is not None and len(metadata) > MAX_METADATA_BYTES:
            raise LimitError(f"{kind}: more than {MAX_METADATA_BYTES >> 20} MiB; strip it from the picture.")


def _size_damage(layout: Layout, size_bytes: int, cut_off: list[Section]) -> list[str]:
    """Returns at most one sentence: what is missing at the end of the file, or what is too much."""
    whole_bytes = layout.file_size_bytes
    if cut_off:
        others = f" and {len(cut_off) - 1} sections behind it are" if len(cut_off) > 1 else " is"
        place = _place(layout.header, cut_off[0])
        return [f"The file is cut off, {size_bytes} of {whole_bytes} bytes are there: {place}{others} missing."]
    if size_bytes > whole_bytes:
        return [f"{size_bytes - whole_bytes} bytes follow the end of the picture; the file is damaged."]
    return []


def _place(header: Header, section: Section) -> str:
    """Returns where a section belongs: 'tile 2 (x 1024..2047, y 0..511), base layer'."""
    if section.tile is None:
        return section.kind
    return f"{Grid(header.width, header.height, header.tile_side).tile(section.tile).place}, {section.kind}"


def _reserved_bits() -> DamagedError:
    return DamagedError("The header uses reserved bits: the file is damaged, or written by a newer vqcodec.")


def _wrong_version(version: int) -> DamagedError:
    if version > VERSION:
        return DamagedError(f"The file is written by a newer vqcodec (format version {version}), or damaged.")
    return DamagedError(f"The file is damaged: there is no format version {version}.")
