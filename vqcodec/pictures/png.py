# SPDX-License-Identifier: MIT
"""PNG where Pillow's is not enough: checksums verified, alpha as a small file, pictures written strip by strip.

Signature (8 bytes), then chunks: u32 length, 4 letters, body, u32 CRC-32 of letters and body; big-endian (PNG third
edition, 2025). Those of alpha: IHDR (13 bytes: u32 width, u32 height, depth 8, colour 0, 0, 0, interlace 0), IDAT
one or more times, IEND, and nothing else.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqcodec.errors import DamagedError
from vqcodec.messages import one_line
from vqcodec.pictures.heif import Coding
from vqcodec.pictures.pillow import strict_pillow
from vqcodec.spans import span

XMP_KEYWORD = "XML:com.adobe.xmp"  # of the text chunk that holds XMP (ISO 16684-3)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yields name and body of each chunk up to IEND; ValueError if one is cut off or its checksum does not match."""
    if stream.read(8) != _PNG_SIGNATURE:
        raise ValueError("not a PNG")
    name = b""
    while name != b"IEND":
        head = stream.read(8)
        length = int.from_bytes(head[:4], "big")
        body = b"".join(_blocks(stream, length)) if len(head) == 8 else b""
        checksum = stream.read(4)
        if len(head) < 8 or len(body) < length or len(checksum) < 4:
            raise ValueError("truncated")
        name = head[4:]
        if name[:1].isupper() and zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(checksum, "big"):
            label = name.decode("ascii", "replace") if name.isalpha() else name.hex()
            raise ValueError(f"the checksum of {label} does not match")
        yield name, body


def _blocks(stream: BinaryIO, length: int) -> Iterator[bytes]:
    """Reads `length` bytes or what there is, piece by piece: the length is a stranger's word."""
    while length > 0 and (block := stream.read(min(length, 1 << 20))):
        yield block
        length -= len(block)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def check_png(stream: BinaryIO) -> Coding | None:
    """Pillow decodes pixel data whose checksum is wrong or whose end is missing; we refuse it (ValueError).

    Returns:
        what the chunk cICP says, of which Pillow knows nothing: u8 colour primaries, u8 transfer characteristics, ...;
        None where there is none.
    """
    stream.seek(0)
    coding = None
    for name, body in _png_chunks(stream):
        if name == b"cICP" and len(body) == 4:
            coding = Coding(primaries=body[0], transfer=body[1])
    return coding


# ---- alpha -----------------------------------------------------------------------------------------------------------


def encode_alpha(alpha: NDArray[np.uint8]) -> bytes:
    """Compresses alpha without loss to a PNG of 8-bit gray; the same alpha and the same zlib give the same bytes.

    One filter for all rows (none, left or up), found by trial: for masks smaller than PNG's usual row-by-row guess.

    Args:
        alpha: `[H, W] uint8`.
    """
    assert alpha.dtype == np.uint8
    assert alpha.ndim == 2
    height, width = alpha.shape
    trials = [(len(zlib.compress(_filtered(alpha, kind).data, 1)), kind) for kind in (0, 1, 2)]
    rows = zlib.compress(_filtered(alpha, min(trials)[1]).data, 9)
    header = struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return _PNG_SIGNATURE + b"".join(_chunk(name, body) for name, body in chunks)


def _filtered(alpha: NDArray[np.uint8], kind: int) -> NDArray[np.uint8]:
    """PNG's rows `[H, 1 + W]`: the filter, then the samples (0) or the difference to the left (1), above (2)."""
    rows = np.empty((alpha.shape[0], alpha.shape[1] + 1), np.uint8)
    rows[:, 0] = kind
    rows[:, 1:] = alpha
    if kind == 1:
        rows[:, 2:] -= alpha[:, :-1]
    elif kind == 2:
        rows[1:, 1:] -= alpha[:-1]
    return rows


def decode_alpha(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Undoes `encode_alpha`.

    Args:
        data: the bytes.
        width, height: the size that alpha must have; checked before anything is decompressed or allocated.

    Returns:
        `[height, width] uint8`.

    Raises:
        DamagedError: anything is wrong with the bytes.
    """
    _check_alpha_png(data, width, height)
    try:
        with strict_pillow(width * height), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            alpha = np.array(image)
    except Exception as error:
        raise DamagedError(f"the alpha channel is damaged ({one_line(error)})") from error
    if alpha.shape != (height, width) or alpha.dtype != np.uint8:
        raise DamagedError("the alpha channel is damaged (it is not 8-bit gray)")
    return alpha


def _check_alpha_png(data: bytes, width: int, height: int) -> None:
    """Exactly the chunks of `encode_alpha`, whole, with the size expected, and nothing behind them."""
    try:
        header, *rest = _png_chunks(stream := io.BytesIO(data))
    except ValueError as error:
        raise DamagedError(f"the alpha channel is damaged ({error})") from None
    if header != (b"IHDR", struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)):
        raise DamagedError(f"the alpha channel is damaged (it is not 8-bit gray of {width}x{height})")
    if len(rest) < 2 or any(name != b"IDAT" for name, _ in rest[:-1]) or stream.read(1):
        raise DamagedError("the alpha channel is damaged (unexpected chunks)")


# ---- a picture, strip by strip ---------------------------------------------------------------------------------------

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # bands -> gray, gray with alpha, RGB, RGBA
_ROWS = 32  # filtered at once: the five candidates stay in the cache
_LEVEL = 2  # of zlib; 4 takes half as long again, for photographs that are smaller by 2 %, or larger by 5


class PngWriter:
    """Writes a PNG of 8-bit samples whose rows come one strip after the other.

    Args:
        write: takes the file's bytes, piece by piece.
        width, height: of the picture in pixels.
        bands: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
        icc, exif, xmp: a profile, a bare TIFF structure, and an XMP packet in UTF-8, or None.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        width: int,
        height: int,
        bands: int,
        icc: bytes | None = None,
        exif: bytes | None = None,
        xmp: bytes | None = None,
    ) -> None:
        self._write = write
        self._zlib = zlib.compressobj(_LEVEL, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
        self._above = np.zeros(width * bands, np.uint8)
        self._bands = bands
        write(_PNG_SIGNATURE)
        write(_chunk(b"IHDR", struct.pack(">II5B", width, height, 8, _COLOUR_TYPES[bands], 0, 0, 0)))
        if icc is not None:
            write(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
        if exif is not None:
            write(_chunk(b"eXIf", exif))
        if xmp is not None:
            write(_chunk(b"iTXt", XMP_KEYWORD.encode() + b"\0\0\0\0\0" + xmp))  # not compressed, no language

    @span("picture file")
    def rows(self, samples: NDArray[np.uint8]) -> None:
        """Writes the next rows: `[h, width, bands] uint8`."""
        lines = samples.reshape(len(samples), -1)
        for top in range(0, len(lines), _ROWS):
            part = lines[top : top + _ROWS]
            packed = self._zlib.compress(_least(part, self._above, self._bands))
            self._above = part[-1]
            if packed:
                self._write(_chunk(b"IDAT", packed))

    @span("picture file")
    def finish(self) -> None:
        """Writes the end, after the last row."""
        self._write(_chunk(b"IDAT", self._zlib.flush()) + _chunk(b"IEND", b""))


def _least(lines: NDArray[np.uint8], above: NDArray[np.uint8], bands: int) -> bytes:
    """Rows [h, n] with the filter that leaves the least sum of absolute differences, row by row (PNG, 12.7)."""
    height, size = lines.shape
    up = np.vstack([above[None], lines[:-1]])
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, bands:], corner[:, bands:] = lines[:, :-bands], up[:, :-bands]
    candidates = np.empty((5, height, size), np.uint8)
    candidates[0] = lines
    np.subtract(lines, left, out=candidates[1])
    np.subtract(lines, up, out=candidates[2])
    np.subtract(lines, (left >> 1) + (up >> 1) + (left & up & 1), out=candidates[3])
    np.subtract(lines, _paeth(left, up, corner), out=candidates[4])
    effort = np.minimum(candidates, np.negative(candidates)).sum(2, dtype=np.int64)  # |difference| as a signed byte
    best = effort.argmin(0)
    out = np.empty((height, 1 + size), np.uint8)
    out[:, 0] = best
    out[:, 1:] = candidates[best, np.arange(height)]
    return out.tobytes()


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paeth's predictor (PNG, 9.4): of left, above and corner the one closest to left + above - corner."""
    a, b = up.astype(np.int16) - corner, left.astype(np.int16) - corner  # distances of left and above, signed
    c = np.abs(a + b)
    np.abs(a, out=a)
    np.abs(b, out=b)
    return np.where((a <= b) & (a <= c), left, np.where(b <= c, up, corner))
