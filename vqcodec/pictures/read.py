# SPDX-License-Identifier: MIT
"""Any picture in: path, bytes, stream, PIL image or array -> `Picture`.

Whatever Pillow raises or warns ends as one `VqcError`. Nothing about codecs, tiles or .vqc files may live here.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vqcodec.errors import InputError, LimitError, VqcError
from vqcodec.messages import on_one_line, one_line
from vqcodec.options import DEFAULT_MAX_PIXELS, most_file_bytes, whole_number
from vqcodec.pictures import colorimetry, heif, metadata
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
    rawmode, deep = _stored_samples(image)
    image.load()
    notes = ["16-bit samples reduced to 8 bits"] if deep else []
    exif, orientation = _exif(image, notes)
    key = _colour_key(image, rawmode)
    samples, alpha, keyed = _samples(image, rawmode, key, notes)
    if keyed is not None:
        alpha = np.where(keyed, np.uint8(0), np.uint8(255))
    gray = samples.ndim == 2
    icc = None if image.mode in ("CMYK", "LAB") else _profile(image, gray, notes)  # those are sRGB now
    xmp = xmp_of(image, notes)
    _note_frames(image, notes)
    samples = _upright(samples, orientation)
    return Picture(
        rgb=_three_planes(samples),
        alpha=None if alpha is None else _upright(alpha, orientation),
        gray=gray,
        icc=icc,
        exif=exif,
        notes=tuple(notes),
        xmp=xmp,
    )


def _stored_samples(image: Image.Image) -> tuple[str, bool]:
    """The raw mode of the file's samples, as far as Pillow shows it, and whether it will cut them from 16 bits to 8."""
    tiles = getattr(image, "tile", None) or []
    args = tiles[0][3] if tiles and len(tiles[0]) > 3 else ""
    rawmode = args if isinstance(args, str) else str(args[0]) if isinstance(args, tuple) and args else ""
    deep_ppm = image.format == "PPM" and isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255
    deep = deep_ppm or re.search(r";16[BLN]$", rawmode) is not None
    return rawmode, deep and image.mode in ("RGB", "RGBA", "CMYK")


def _samples(
    image: Image.Image, rawmode: str, key: NDArray[Any] | None, notes: list[str]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, NDArray[np.bool_] | None]:
    """The pixels in 8 bits.

    Returns:
        Gray `[H, W]` or colour `[H, W, 3]`; alpha `[H, W]` or None; where the colour key matches, `[H, W]`, or None.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_gray(image, rawmode, key, notes)
    image = _standard_mode(image, notes)
    bands = len(image.getbands())
    colour_bands = 1 if bands < 3 or rawmode.startswith("LA;") else 3
    shape = (image.height, image.width)
    samples = np.empty(shape if colour_bands == 1 else (*shape, 3), np.uint8)
    alpha = np.empty(shape, np.uint8) if bands in (2, 4) else None
    keyed = np.empty(shape, np.bool_) if key is not None and alpha is None else None
    for rows, strip in _strips(image):
        strip = strip.reshape(*strip.shape[:2], bands)
        samples[rows] = strip[..., 0] if colour_bands == 1 else strip[..., :3]
        if alpha is not None:
            alpha[rows] = strip[..., -1]
        elif keyed is not None:
            keyed[rows] = (strip == key).all(axis=-1)
    return samples, alpha, keyed


def _standard_mode(image: Image.Image, notes: list[str]) -> Image.Image:
    """Converts every mode of 8 bits or less to L, LA, RGB or RGBA."""
    mode = image.mode
    if mode in ("L", "LA", "RGB", "RGBA"):
        return image
    if mode == "CMYK":
        return _cmyk_to_rgb(image, notes)
    if mode in ("LAB", "HSV"):
        notes.append(f"{mode} converted to RGB")
    simple = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    if mode == "P":
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert(simple.get(mode, "RGB"))


def _cmyk_to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """CMYK to sRGB through the embedded profile; without one (or without LittleCMS) by the plain formula."""
    icc = image.info.get("icc_profile")
    if isinstance(icc, bytes) and icc[16:20] == b"CMYK":
        from PIL import ImageCms

        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, ImportError, OSError):
            converted = None
        if converted is not None:
            notes.append("CMYK converted to RGB through its embedded profile")
            return converted
    notes.append("CMYK converted to RGB without a profile: its colours are approximate")
    return image.convert("RGB")


def _deep_gray(
    image: Image.Image, rawmode: str, key: NDArray[Any] | None, notes: list[str]
) -> tuple[NDArray[np.uint8], None, NDArray[np.bool_] | None]:
    """Gray of more than 8 bits (modes I;16, I and F) to 8 bits, rounded; what is white is stated in a note."""
    shape = (image.height, image.width)
    if rawmode == "I;12":
        white = 4095.0
    elif image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
        white = 65535.0
    else:
        highest = max(float(np.nan_to_num(strip, posinf=0.0).max()) for _, strip in _strips(image))
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        white = next((level for level in usual if highest <= level), highest)
    samples = np.empty(shape, np.uint8)
    keyed = None if key is None else np.empty(shape, np.bool_)
    for rows, strip in _strips(image):
        samples[rows] = _scaled(strip, white)
        if keyed is not None and key is not None:
            keyed[rows] = strip == key[0]
    kind = "floating-point" if image.mode == "F" else "32-bit" if image.mode == "I" and white > 65535 else "16-bit"
    if white != 255 or image.mode == "F":
        scale = "" if white == 65535 else f", with {white:g} as white"
        notes.append(f"{kind} samples reduced to 8 bits{scale}")
    return samples, None, keyed


def _scaled(samples: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Maps [0, white] to [0, 255], rounding; what lies outside is clipped, not-a-number becomes 0."""
    values = np.nan_to_num(samples.astype(np.float64), nan=0.0) * (255.0 / white)
    return np.floor(np.clip(values, 0.0, 255.0) + 0.5).astype(np.uint8)


def _strips(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yields the picture in strips of a few megabytes, so that it never lies in memory three times."""
    step = max(1, (1 << 22) // image.width)
    for top in range(0, image.height, step):
        bottom = min(image.height, top + step)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))


def _colour_key(image: Image.Image, rawmode: str) -> NDArray[Any] | None:
    """The one transparent colour (PNG's tRNS, GIF), `[1]` or `[3]`, in the scale of the samples that Pillow decodes.

    Pillow leaves the key as the file has it, while it stretches gray of 2 and 4 bits and cuts colours of 16 bits.
    """
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple | list) and len(key) == 3:
        return np.array([part >> 8 for part in key] if ";16" in rawmode else key)
    if image.mode == "1" and isinstance(key, int):
        return np.array([255 if key else 0])  # 1 or 255, depending on Pillow's version
    if image.mode == "L" and isinstance(key, int):
        return np.array([key * {"L;2": 85, "L;4": 17}.get(rawmode, 1)])
    if image.mode.startswith("I;16") and isinstance(key, int):
        return np.array([key])
    return None


def _three_planes(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return samples if samples.ndim == 3 else np.repeat(samples[..., None], 3, axis=2)


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


# ---- orientation and EXIF --------------------------------------------------------------------------------------------

# What a TIFF file's directory says about the picture rather than about its layout: description, maker, model,
# resolution (3), software, date, artist, host, copyright, rating (2)
_DESCRIPTIVE_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, 0x4746, 0x4749)


def _upright(samples: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns and mirrors `[H, W, ...]` as EXIF's Orientation (1 to 8) asks for."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)


def _exif(image: Image.Image, notes: list[str]) -> tuple[bytes | None, int]:
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
        return (metadata.upright(metadata.without_thumbnail(raw)) if raw else None), orientation
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
        samples, notes = _scaled(array, 65535.0), ("16-bit samples reduced to 8 bits",)
    elif array.dtype.kind == "f":
        if not (float(array.min()) >= 0.0 and float(array.max()) <= 1.0):  # so that not-a-number fails too
            raise InputError("an array of floats must lie in [0, 1]: scale it, or convert it with .astype(np.uint8)")
        samples, notes = _scaled(array, 1.0), ("floating-point samples reduced to 8 bits",)
    else:
        raise InputError(f"an array of {array.dtype} has no known white: convert it with .astype(np.uint8)")
    if samples.ndim == 2:
        samples = samples[..., None]
    bands = samples.shape[2]
    gray = bands < 3
    return Picture(
        rgb=np.ascontiguousarray(_three_planes(samples[..., 0]) if gray else samples[..., :3]),
        alpha=np.ascontiguousarray(samples[..., -1]) if bands in (2, 4) else None,
        gray=gray,
        notes=notes,
    )
