# SPDX-License-Identifier: MIT
"""Pixels without loss, as WebP's lossless bitstream (RFC 9649) without the RIFF file around it."""

from __future__ import annotations

import io
import struct
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from vqcodec.errors import DamagedError, InputError
from vqcodec.messages import one_line
from vqcodec.pictures.pillow import strict_pillow

MAX_SIDE = 16383  # [pixels] of a WebP picture
_SIGNATURE = 0x2F
_FILE = struct.Struct("<4sI4s4sI")  # RIFF, bytes behind this field, WEBP, VP8L, bytes of the chunk
_USUAL = ((4, 80), (4, 100))  # methods and qualities of libwebp of which the smallest is taken; the first is Pillow's
_SLOW = (6, 100)  # takes twenty times as long
_QUICK = (2, 50)


@cache
def available() -> bool:
    """Whether this Pillow can read and write WebP."""
    return bool(features.check("webp"))


def encode(rgb: NDArray[np.uint8], *, slow: bool = False, quick: bool = False) -> bytes:
    """Compress without loss.

    Args:
        rgb: [H, W, 3], at most MAX_SIDE pixels a side.
        slow: some percent smaller, for much more time. quick: for an estimate of the size.

    Returns:
        the content of a chunk VP8L; the same pixels and the same libwebp give the same bytes.
    """
    levels = (_QUICK,) if quick else (*_USUAL, _SLOW) if slow else _USUAL
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return min((_payload(image, method, quality) for method, quality in levels), key=len)


def _payload(image: Image.Image, method: int, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=True, method=method, quality=quality)
    data = stream.getvalue()
    riff, _, webp, name, size_bytes = _FILE.unpack_from(data)
    assert (riff, webp, name) == (b"RIFF", b"WEBP", b"VP8L"), data[:16]
    return data[_FILE.size : _FILE.size + size_bytes]


def decode(payload: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Undo `encode`.

    Args:
        payload: the content of a chunk VP8L.
        width, height: the size that it must have; checked before anything is decompressed or allocated.

    Returns:
        [height, width, 3] uint8.

    Raises:
        DamagedError: anything is wrong with the bytes.
        InputError: this Pillow cannot read WebP.
    """
    if not available():
        raise InputError("this Pillow was built without WebP, which the file's patches need: install Pillow's wheel")
    if len(payload) < 5 or payload[0] != _SIGNATURE:
        raise DamagedError("the patches are damaged (not lossless WebP)")
    fields = int.from_bytes(payload[1:5], "little")  # 14 bits width - 1, 14 bits height - 1, alpha, 3 bits version
    if fields != (width - 1) | (height - 1) << 14:
        raise DamagedError(f"the patches are damaged (they are not RGB of {width} x {height} pixels)")
    padding = len(payload) % 2
    head = _FILE.pack(b"RIFF", _FILE.size - 8 + len(payload) + padding, b"WEBP", b"VP8L", len(payload))
    try:
        stream = io.BytesIO(head + payload + bytes(padding))
        with strict_pillow(width * height), Image.open(stream, formats=("WEBP",)) as image:
            rgb = np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:
        raise DamagedError(f"the patches are damaged ({one_line(error)})") from error
    if rgb.shape != (height, width, 3) or rgb.dtype != np.uint8:
        raise DamagedError("the patches are damaged (WebP of another size)")
    return rgb
