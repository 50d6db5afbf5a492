# SPDX-License-Identifier: MIT
"""The bytes of a .vqc file: sections and checksums behind the header (`layout.py`), written and read side by side.

Nothing here knows what a payload means (that is `entropy.py` and `model/prior.py`) or where a tile's pixels go
(`tiles.py`); no other module reads or writes these bytes. Their layout stands in `docs/FORMAT.md`, whose tables a test
compares with this module. All integers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple, cast

from vqcodec.bitstream.layout import (
    ALPHA,
    BASE,
    COLOUR,
    CRC,
    CRC_BYTES,
    EXIF,
    FURTHER,
    ICC,
    KIND_NOISE,
    KIND_PATCHES,
    KIND_XMP,
    MAGIC,
    MAX_METADATA_BYTES,
    MAX_SIDE,
    MAX_TILE_LOG2,
    MAX_TILES,
    MIN_TILE_LOG2,
    NOISE,
    PATCHES,
    REFINEMENT,
    VERSION,
    WORD_BYTES,
    XMP,
    Header,
    Layout,
    Lengths,
    Section,
    read_header,
    write_header,
)
from vqcodec.bitstream.tiles import Grid
from vqcodec.errors import DamagedError, LimitError
from vqcodec.spans import span

__all__ = [  # beside its own names, those of the header that others need
    "BASE", "CRC_BYTES", "EXIF", "FURTHER", "ICC", "KIND_NOISE", "KIND_PATCHES", "KIND_XMP", "MAGIC", "MAX_SIDE",
    "MAX_TILE_LOG2", "MIN_TILE_LOG2", "NOISE", "PATCHES", "REFINEMENT", "VERSION", "XMP", "Contents", "Cut", "Header",
    "Layout", "PartialContents", "check_whole", "noise_level", "noise_section", "pack", "read_header", "read_section",
    "unpack", "unpack_partial",
]  # fmt: skip
_CRC_SEED = struct.Struct("<II")  # header's CRC, section's number


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
    noise: bytes | None = None  # `noise_section`


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
    noise: bytes | None = None


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
    kinds = ((KIND_XMP, xmp), (KIND_PATCHES, contents.patches), (KIND_NOISE, contents.noise))
    further = {number: body for number, body in kinds if body is not None}
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
    header = write_header(contents.header, lengths)
    header_crc = CRC.unpack(header[-CRC_BYTES:])[0]
    out = [header]
    for number, body in enumerate(body for body in bodies if body is not None):
        out += [body, CRC.pack(_section_crc(header_crc, number, body))]
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
    patches, noise = contents.patches, contents.noise
    return Contents(contents.header, base, refinement, colour, alpha, icc, exif, xmp, patches, noise)


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
    kinds = (ICC, EXIF, COLOUR, BASE, REFINEMENT, ALPHA, XMP, PATCHES, NOISE)
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
        noise=bodies[NOISE][0] if bodies[NOISE] else None,
    )


def _cut(data: bytes, section: Section) -> Cut | None:
    """What is there of the payload of a tile that is cut off; None for other sections."""
    if section.tile is None:
        return None
    start = data[section.offset : section.offset + section.size_bytes]
    whole_words = start[: len(start) // WORD_BYTES * WORD_BYTES]
    return Cut(section.kind, section.tile, whole_words, section.size_bytes)


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
    if CRC.unpack_from(data, end)[0] != _section_crc(layout.header_crc, section.number, body):
        raise DamagedError(f"{_place(layout.header, section)}: checksum does not match; the file is damaged.")
    return _inflate(section.kind, body) if section.kind in (ICC, EXIF, XMP) else body


def noise_section(level: float) -> bytes:
    """The section that says how much noise was removed before coding, in levels of 255: half levels, 1 to 255."""
    return bytes([min(max(round(2 * level), 1), 255)])


def noise_level(section: bytes) -> float:
    """What `noise_section` said.

    Raises:
        DamagedError: it cannot have said that.
    """
    if len(section) != 1 or not section[0]:
        raise DamagedError(f"{NOISE}: it is not one byte of 1 to 255; the file is damaged.")
    return section[0] / 2


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
