# SPDX-License-Identifier: MIT
"""Any picture in: path, bytes, stream, PIL image or array -> `Picture`.

Whatever Pillow raises or warns ends as one `VqcError`. Nothing about codecs, tiles or .vqc files may live here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vqcodec.errors import InputError, LimitError, VqcError
from vqcodec.messages import on_one_line, one_line
from vqcodec.options import DEFAULT_MAX_PIXELS, most_file_bytes, whole_number
from vqcodec.pictures import colorimetry, heif, metadata, pixels
from vqcodec.pictures.picture import Picture
from vqcodec.pictures.pillow import strict_pillow
from vqcodec.pictures.png import check_png
from vqcodec.pictures.xmp import xmp_of
from vqcodec.spans import span

_BLOCK_BYTES = 1 << 20
_CODING = "vqcodec coding"  # key of `Image.info` for what we found out ourselves

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]


@span("picture file")
def load(source: Source, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Reads a picture of any kind that Pillow reads, or an array.

    Args:
        source: a path, the bytes of a file, a binary stream (read from where it stands to its end), a PIL image
            (its current frame), or an array `[H, W]`, `[H, W, 1..4]` of uint8, bool, uint16 or float in [0, 1].
        max_pixels: the most pixels accepted, checked before any of them is decoded.

    Returns:
        The picture, upright. No file is left open, and a PIL image given is not changed.

    Raises:
        InputError: it is missing, not a picture, truncated or corrupt; the message is one line with its name.
        LimitError: it has more than `max_pixels` pixels.
    """
    name, max_pixels = _name(source), whole_number("max_pixels", max_pixels, 1)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    with strict_pillow(max_pixels), ExitStack() as opened:
        try:
            image = source if isinstance(source, Image.Image) else _open(source, name, opened, max_pixels)
            _check_size(name, image.width, image.height, max_pixels)
            return _read(image)
        except VqcError:
            raise
        except UnidentifiedImageError as error:
            raise InputError(f"cannot read {name}: not a picture, or its header is damaged") from error
        except Image.DecompressionBombError as error:
            raise LimitError(f"{name} has more pixels than the limit of {max_pixels:,}: raise the limit") from error
        except MemoryError as error:
            raise InputError(f"cannot read {name}: not enough memory") from error
        except Exception as error:  # Pillow's decoders raise nearly anything on garbage
            raise InputError(f"cannot read {name}: truncated, corrupt or unsupported ({one_line(error)})") from error


# ---- opening ---------------------------------------------------------------------------------------------------------


def _open(
    source: str | os.PathLike[str] | bytes | BinaryIO, name: str, opened: ExitStack, max_pixels: int
) -> Image.Image:
    """Opens a path, bytes or stream so far that the size is known; what must be closed goes into `opened`."""
    stream: Any = source
    if isinstance(source, str | os.PathLike):
        with _one_sentence(name):
            stream = opened.enter_context(open(source, "rb"))  # noqa: SIM115
    elif isinstance(source, bytes | bytearray | memoryview):
        stream = io.BytesIO(source)
    elif not hasattr(source, "read"):
        raise InputError(f"cannot read a picture from {name}: give a path, bytes, a stream, a PIL image or an array")
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or not stream.seekable():
        stream = io.BytesIO(_read_up_to(stream, most_file_bytes(max_pixels), name))
    if not stream.read(1):
        raise InputError(f"cannot read {name}: it is empty")
    stream.seek(0)
    heic = heif.is_heic(stream.read(12))
    stream.seek(0)
    image = opened.enter_context(heif.open_heic(stream, name) if heic else Image.open(stream))
    opened.callback(image.close)  # its pixels, 4 bytes each, would wait for the garbage collector
    position = stream.tell()
    if image.format == "PNG":
        image.info[_CODING] = check_png(stream)
    elif image.format == "AVIF":
        image.info[_CODING] = heif.coding_of_avif(stream)
    stream.seek(position)
    if image.format == "EPS":  # Pillow would start Ghostscript and let a file from anywhere run as a program
        raise InputError(f"cannot read {name}: PostScript is a program, not a picture; convert it first")
    return image


def file_bytes(source: bytes | str | os.PathLike[str] | BinaryIO, max_pixels: int) -> bytes:
    """The bytes of a file of a picture of so many pixels at most, given as they are, as a path or as a binary stream.

    Raises:
        InputError: it cannot be read, or is none of these.
        LimitError: it is larger than any such file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    name, limit = _name(source), most_file_bytes(max_pixels)
    with _one_sentence(name):
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as stream:
                return _read_up_to(stream, limit, name)
        if hasattr(source, "read"):
            return _read_up_to(source, limit, name)
    raise InputError(f"cannot read {name}: give the bytes of a .vqc file, its path or a stream")


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Turns what the system raises on opening and reading into an error that says what it is."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"cannot read {name}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"cannot read {name}: it is a folder") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"cannot read {name}: {reason or one_line(error)}") from None


def _read_up_to(stream: Any, limit_bytes: int, name: str) -> bytes:
    """What is left of a stream, in pieces, so that an endless one is found out in time."""
    blocks, size_bytes = [], 0
    while block := stream.read(_BLOCK_BYTES):
        if not isinstance(block, bytes):
            raise InputError(f"cannot read {name}: open it in binary mode")
        size_bytes += len(block)
        if size_bytes > limit_bytes:
            raise LimitError(
                f"{name} is larger than {limit_bytes:,} bytes: raise the limit of pixels if it is a picture"
            )
        blocks.append(block)
    return b"".join(blocks)


def _name(source: object) -> str:
    """How an error message calls the source; nothing in it steers a terminal."""
    if isinstance(source, str | os.PathLike):
        return on_one_line(str(os.fspath(source))) or "''"
    if isinstance(source, bytes | bytearray | memoryview):
        return "the given bytes"
    if isinstance(source, Image.Image):
        return on_one_line(str(getattr(source, "filename", ""))) or "the given image"
    stream_name = getattr(source, "name", None)
    if isinstance(stream_name, str) and stream_name:
        return on_one_line(stream_name)
    return "the given stream" if hasattr(source, "read") else f"an object of type {type(source).__name__}"


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"cannot read {name}: it has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise LimitError(
            f"{name} has {width}x{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}: "
            "raise the limit, or reduce the picture"
        )


# ---- from PIL --------------------------------------------------------------------------------------------------------


def _read(image: Image.Image) -> Picture:
    """Decodes an opened PIL image into a `Picture`."""
    rawmode, deep = pixels.stored_samples(image)
    image.load()
    notes = ["16-bit samples reduced to 8 bits"] if deep else []
    exif, orientation = metadata.exif_of(image, notes)
    key = pixels.colour_key(image, rawmode)
    samples, alpha, keyed = pixels.in_8_bits(image, rawmode, key, notes)
    if keyed is not None:
        alpha = np.where(keyed, np.uint8(0), np.uint8(255))
    gray = samples.ndim == 2
    icc = None if image.mode in ("CMYK", "LAB") else _profile(image, gray, notes)  # those are sRGB now
    xmp = xmp_of(image, notes)
    _note_frames(image, notes)
    samples = pixels.turned(samples, orientation)
    return Picture(
        rgb=pixels.three_planes(samples),
        alpha=None if alpha is None else pixels.turned(alpha, orientation),
        gray=gray,
        icc=icc,
        exif=exif,
        notes=tuple(notes),
        xmp=xmp,
    )


def _profile(image: Image.Image, gray: bool, notes: list[str]) -> bytes | None:
    """The ICC profile of the samples: the file's own, or one for the colour space that it gives as numbers.

    A profile counts more than numbers: where a file has both, the profile says the same to more programs.
    """
    coding = heif.coding_of_heic(image.info) if image.format == "HEIF" else image.info.get(_CODING)
    if isinstance(coding, heif.Coding):
        if coding.bit_depth > 8:
            notes.append(f"{coding.bit_depth}-bit samples reduced to 8 bits")
        if coding.gain_map:
            notes.append("HDR gain map dropped")
    icc = image.info.get("icc_profile")
    if icc:
        return _fitting_profile(icc, gray, notes)
    if isinstance(coding, heif.Coding):
        icc, more = colorimetry.of_cicp(coding.primaries, coding.transfer, gray)
    else:
        icc, more = colorimetry.of_png(image.info, gray) if image.format == "PNG" else (None, [])
    notes += more
    return icc


def _fitting_profile(icc: object, gray: bool, notes: list[str]) -> bytes | None:
    """The ICC profile if it is one and describes this kind of samples (ICC.1:2022, 7.2); else None and a note."""
    if not isinstance(icc, bytes) or not icc:
        return None
    space = icc[16:20]
    if len(icc) < 132 or icc[36:40] != b"acsp":
        notes.append("damaged colour profile dropped")
    elif space != (b"GRAY" if gray else b"RGB "):
        label = space.decode("latin-1").strip() if space.strip().isalnum() else "unknown"
        notes.append(f"{label} colour profile dropped: the picture is {'gray' if gray else 'RGB'}")
    else:
        return icc
    return None


def _note_frames(image: Image.Image, notes: list[str]) -> None:
    """Says it when the file holds more than the one picture that is kept."""
    try:
        frames = int(getattr(image, "n_frames", 1)) if image.format != "PSD" else 1
        position = image.tell() + 1
    except Exception:  # counting walks through the file; a broken tail does not harm the frame we have
        return
    if frames < 2:
        return
    kept = "the first" if position == 1 else f"number {position}"
    if image.format in ("GIF", "PNG", "WEBP", "AVIF", "FLI"):
        notes.append(f"animated: only {kept} of {frames} frames is kept")
    else:
        notes.append(f"several pictures in one file: only {kept} of {frames} is kept")


# ---- from an array ---------------------------------------------------------------------------------------------------


def _from_array(array: NDArray[Any], max_pixels: int) -> Picture:
    """An array `[H, W]` or `[H, W, 1..4]` (gray, gray + alpha, RGB, RGBA) as a `Picture`; the array is copied."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4):
        raise InputError(
            f"an array of shape {list(array.shape)} is not a picture: give [height, width] or [height, width, 1 to 4]"
        )
    _check_size("the array", array.shape[1], array.shape[0], max_pixels)
    notes: tuple[str, ...] = ()
    if array.dtype == np.bool_:
        samples = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint8:
        samples = array.astype(np.uint8)  # a copy
    elif array.dtype == np.uint16:
        samples, notes = pixels.scaled(array, 65535.0), ("16-bit samples reduced to 8 bits",)
    elif array.dtype.kind == "f":
        if not (float(array.min()) >= 0.0 and float(array.max()) <= 1.0):  # so that not-a-number fails too
            raise InputError("an array of floats must lie in [0, 1]: scale it, or convert it with .astype(np.uint8)")
        samples, notes = pixels.scaled(array, 1.0), ("floating-point samples reduced to 8 bits",)
    else:
        raise InputError(f"an array of {array.dtype} has no known white: convert it with .astype(np.uint8)")
    if samples.ndim == 2:
        samples = samples[..., None]
    bands = samples.shape[2]
    gray = bands < 3
    return Picture(
        rgb=np.ascontiguousarray(pixels.three_planes(samples[..., 0]) if gray else samples[..., :3]),
        alpha=np.ascontiguousarray(samples[..., -1]) if bands in (2, 4) else None,
        gray=gray,
        notes=notes,
    )
