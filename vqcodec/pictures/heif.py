# SPDX-License-Identifier: MIT
"""Pictures in ISO's box files (HEIC, AVIF): what Pillow does not say of them, and HEIC itself, which it does not read.

A box: u32 size of all of it (1: a u64 size follows the name; 0: up to the end), 4 letters, body; big-endian (ISO/IEC
14496-12:2022). What is said of a picture stands in the box "meta": "pitm" names the first item, "iprp" holds the
properties ("ipco") and which items have them ("ipma") (ISO/IEC 23008-12:2022).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image

from vqcodec.errors import InputError

_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_MAX_META_BYTES = 1 << 20
_GAIN_MAP = b"tmap"  # brand of a file whose picture has one (ISO 21496-1:2025)


@dataclass(frozen=True)
class Coding:
    """How the samples of a picture are coded."""

    bit_depth: int = 8
    primaries: int = 2  # of Rec. ITU-T H.273; 2 is "unspecified"
    transfer: int = 2
    gain_map: bool = False


def is_heic(start: bytes) -> bool:
    """Whether a file that begins so is of the HEIC family, which Pillow does not read."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


def open_heic(stream: BinaryIO, name: str) -> Image.Image:
    """Opens a HEIC picture so far that its size is known; upright, whatever the file says of its orientation.

    Raises:
        InputError: pillow-heif is not installed.
    """
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise InputError(f"cannot read {name}: HEIC pictures need pip install 'vqcodec[heic]'") from None
    image: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call]
    return image


def coding_of_heic(info: Mapping[Any, Any]) -> Coding:
    """How a HEIC picture is coded, from what pillow-heif says of it."""
    colours = info.get("nclx_profile") or {}
    primaries, transfer = (int(colours.get(name, 2)) for name in ("color_primaries", "transfer_characteristics"))
    return Coding(int(info.get("bit_depth", 8)), primaries, transfer)


def coding_of_avif(stream: BinaryIO) -> Coding:
    """How the first picture of a file is coded; where the file does not say it, or is odd, as if it were 8-bit sRGB."""
    try:
        return _coding(stream)
    except (struct.error, ValueError, IndexError):
        return Coding()


def _coding(stream: BinaryIO) -> Coding:
    stream.seek(0)
    brands, meta = b"", b""
    while not meta and len(head := stream.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        header = 8
        if size == 1:
            (size,), header = struct.unpack(">Q", stream.read(8)), 16
        if name in (b"ftyp", b"meta"):
            body = stream.read(min(size - header if size else _MAX_META_BYTES, _MAX_META_BYTES))
            brands, meta = (body, meta) if name == b"ftyp" else (brands, body)
        elif size < header:
            break
        else:
            stream.seek(size - header, 1)
    boxes = dict(_boxes(meta[4:]))
    properties = dict(_boxes(boxes.get(b"iprp", b"")))
    every = list(_boxes(properties.get(b"ipco", b"")))
    item = struct.unpack_from(">H" if boxes[b"pitm"][0] == 0 else ">I", boxes[b"pitm"], 4)[0] if b"pitm" in boxes else 0
    own = dict(every[index - 1] for index in _of_item(properties.get(b"ipma", bytes(8)), item) if index)
    colours = own.get(b"colr", b"")
    primaries, transfer = struct.unpack_from(">HH", colours, 4) if colours[:4] == b"nclx" else (2, 2)
    return Coding(_bit_depth(own, every), primaries, transfer, _GAIN_MAP in brands)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each box; ValueError where they make no sense."""
    place = 0
    while place < len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        size, header = (struct.unpack_from(">Q", data, place + 8)[0], 16) if size == 1 else (size, 8)
        size = size or len(data) - place
        if size < header:
            raise ValueError("a box that is smaller than its header")
        yield name, data[place + header : place + size]
        place += size


def _of_item(associations: bytes, wanted: int) -> list[int]:
    """Numbers, from 1, of the properties that an item has."""
    version, wide = associations[0], associations[3] & 1
    (count,), place = struct.unpack_from(">I", associations, 4), 8
    for _ in range(count):
        item, number = struct.unpack_from(">IB" if version else ">HB", associations, place)
        place += 5 if version else 3
        found = struct.unpack_from(f">{number}{'H' if wide else 'B'}", associations, place)
        place += number * (2 if wide else 1)
        if item == wanted:
            return [index & (0x7FFF if wide else 0x7F) for index in found]
    return []


def _bit_depth(own: dict[bytes, bytes], every: list[tuple[bytes, bytes]]) -> int:
    """Bits of a sample, from "pixi" or the configuration of AV1; a grid has that of its pieces alone."""
    if b"pixi" in own:
        return max(own[b"pixi"][5:])
    config = own.get(b"av1C") or dict(every).get(b"av1C") or bytes(4)
    return 8 if not config[2] & 0x40 else 12 if config[2] & 0x20 else 10
