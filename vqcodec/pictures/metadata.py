# SPDX-License-Identifier: MIT
"""What comes along with the samples: colour profiles, EXIF with its orientation and thumbnail.

Which profile says no more than "sRGB" is found out here by asking LittleCMS what it does to colours, not by its name.
How the metadata is stored is the container's affair.
"""

from __future__ import annotations

import io
import re
import struct
from functools import cache, lru_cache

import numpy as np
from PIL import ExifTags, Image

SRGB_TOLERANCE = 1  # levels of 255: real sRGB profiles differ by their rounding, others by dozens
_THUMBNAIL_OFFSET, _THUMBNAIL_BYTES = 0x0201, 0x0202  # tags JPEGInterchangeFormat and its length (EXIF 3.0)
# What a TIFF file's directory says about the picture rather than about its layout: description, maker, model,
# resolution (3), software, date, artist, host, copyright, rating (2)
_DESCRIPTIVE_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, 0x4746, 0x4749)
_PROFILE_DATE = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # 2000-01-01, in place of the current time


# ---- colour profiles -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)  # the pictures of one camera have one profile
def is_srgb(icc: bytes) -> bool:
    """Whether an RGB profile describes sRGB: no colour of a grid moves by more than a level on its way to sRGB.

    Args:
        icc: an ICC profile (ICC.1:2022). A damaged one, and any where Pillow has no LittleCMS, is not sRGB.
    """
    if icc[16:20] != b"RGB ":
        return False
    grid = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(64, 64, 3)
    grays = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(4, 64, 3)
    colours = np.concatenate([cube, grays])
    from PIL import ImageCms  # without LittleCMS it is the first call that raises ImportError

    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
        for intent in (ImageCms.Intent.PERCEPTUAL, ImageCms.Intent.RELATIVE_COLORIMETRIC):
            image = ImageCms.profileToProfile(Image.fromarray(colours), source, target, renderingIntent=intent)
            moved = np.abs(np.asarray(image).astype(np.int16) - colours)
            if moved.max() > SRGB_TOLERANCE:
                return False
    except (ImportError, OSError, ImageCms.PyCMSError):
        return False
    return True


@cache
def srgb_profile() -> bytes | None:
    """An ICC profile of sRGB, the same bytes at any time; None where Pillow has no LittleCMS."""
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    except (ImportError, OSError):
        return None
    return profile[:24] + _PROFILE_DATE + profile[36:]


# ---- EXIF: orientation and thumbnail ---------------------------------------------------------------------------------


def exif_of(image: Image.Image, notes: list[str]) -> tuple[bytes | None, int]:
    """The EXIF block with its Orientation reset, and the Orientation that it had (1 when it had none)."""
    orientation = 1
    try:
        parsed = image.getexif()  # knows PNG's old text chunk, XMP's orientation and TIFF's own directory as well
        value = parsed.get(ExifTags.Base.Orientation, 1)
        orientation = value if isinstance(value, int) and 1 <= value <= 8 else 1
        raw = image.info.get("exif")
        if raw is None and hasattr(image, "tag_v2"):
            raw = _exif_of_tiff(parsed)
        elif raw is None and any(tag != ExifTags.Base.Orientation for tag in parsed):
            raw = parsed.tobytes()
        raw = re.sub(rb"^(Exif\x00\x00)+", b"", raw or b"")
        return (upright(without_thumbnail(raw)) if raw else None), orientation
    except Exception:  # any nonsense may stand there, and it is not the picture
        notes.append("damaged EXIF data dropped")
        return None, orientation


def _exif_of_tiff(parsed: Image.Exif) -> bytes | None:
    """An EXIF block of those tags of a TIFF file that describe the picture; its layout tags would be wrong."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in parsed:
            kept[tag] = parsed[tag]
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if entries := parsed.get_ifd(directory):
            kept[directory] = entries
    return kept.tobytes() if len(kept) else None


def _byte_order(exif: bytes) -> str:
    """As `struct` writes it; ValueError if it is not a TIFF structure."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise ValueError("not a TIFF structure")
    return order


def upright(exif: bytes) -> bytes:
    """Sets Orientation to 1 in place: every other byte, maker notes with their offsets included, stays as it is.

    Args:
        exif: a TIFF structure. Its first directory: u16 count, entries of 12 bytes (u16 tag, u16 type, u32 count,
            value).

    Raises:
        ValueError, struct.error: it is not a TIFF structure.
    """
    order, out = _byte_order(exif), bytearray(exif)
    (start,) = struct.unpack_from(order + "I", out, 4)
    (count,) = struct.unpack_from(order + "H", out, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, _length = struct.unpack_from(order + "HHI", out, entry)
        if tag == ExifTags.Base.Orientation:
            struct.pack_into(order + ("I" if kind == 4 else "Hxx"), out, entry + 8, 1)
    return bytes(out)


def without_thumbnail(exif: bytes) -> bytes:
    """EXIF data without its thumbnail, a second picture of some kilobytes that any program can make anew.

    Every other byte stays in its place, for maker notes are full of offsets; what was the thumbnail becomes zeros,
    which cost next to nothing once they are compressed.

    Args:
        exif: a TIFF structure. Its directories: u16 count, entries of 12 bytes (u16 tag, u16 type, u32 count, value),
            u32 offset of the next directory; the second one is the thumbnail's.

    Raises:
        ValueError, struct.error: it is not a TIFF structure.
    """
    order, out = _byte_order(exif), bytearray(exif)

    def directory(start: int) -> tuple[dict[int, int], int]:
        (count,) = struct.unpack_from(order + "H", out, start)
        end = start + 2 + 12 * count
        return {
            tag: value for tag, _, _, value in struct.iter_unpack(order + "HHII", out[start + 2 : end])
        }, end  # fmt: skip

    (first,) = struct.unpack_from(order + "I", out, 4)
    _, link = directory(first)
    if link + 4 > len(out):
        return exif
    (second,) = struct.unpack_from(order + "I", out, link)
    if not second:
        return exif
    struct.pack_into(order + "I", out, link, 0)
    try:
        tags, _ = directory(second)
        start, length = tags[_THUMBNAIL_OFFSET], tags[_THUMBNAIL_BYTES]
    except (struct.error, KeyError):
        return bytes(out)  # a thumbnail of another kind, or none: unlinked
    if out[start : start + 2] == b"\xff\xd8":  # a JPEG file stands there, and nothing else is wiped out
        out[start : start + length] = bytes(len(out[start : start + length]))
    return bytes(out)
