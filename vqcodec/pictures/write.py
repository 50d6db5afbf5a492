# SPDX-License-Identifier: MIT
"""A `Picture` out: as a PIL image, or as the bytes of a PNG, JPEG, TIFF, ..., whole or strip by strip."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from vqcodec.errors import InputError, UsageError
from vqcodec.messages import one_line
from vqcodec.pictures.picture import Picture, Strips
from vqcodec.pictures.pillow import strict_pillow
from vqcodec.pictures.png import XMP_KEYWORD, PngWriter
from vqcodec.spans import span

ICO_SIDE = 256
ICNS_PIXELS = 1024 * 1024  # of the largest picture in such a file
JPEG_XMP_BYTES = 65_502  # what one marker segment holds


@dataclass(frozen=True)
class _Format:
    """What a file format can hold; a missing "LA" is written as RGBA, a missing "L" as RGB."""

    name: str
    modes: tuple[str, ...]
    icc: bool = False
    exif: bool = False
    xmp: str = ""  # how: as "option" of the writer, in a PNG "chunk", under a TIFF "tag"
    options: dict[str, Any] = field(default_factory=dict)


_ALL_MODES = ("L", "LA", "RGB", "RGBA")
_JPEG_OPTIONS = {"quality": 95, "subsampling": 0, "optimize": True}
_AVIF_OPTIONS = {"quality": 95, "subsampling": "4:4:4"}
_JPEG = _Format("JPEG", ("L", "RGB"), icc=True, exif=True, xmp="option", options=_JPEG_OPTIONS)
_TIFF = _Format("TIFF", _ALL_MODES, icc=True, exif=True, xmp="tag")  # raw: through libtiff Pillow cannot write GPS data
_WEBP = _Format("WEBP", ("RGB", "RGBA"), icc=True, exif=True, xmp="option", options={"lossless": True, "exact": True})
_AVIF = _Format("AVIF", ("L", "RGB", "RGBA"), icc=True, exif=True, xmp="option", options=_AVIF_OPTIONS)
_BMP = _Format("BMP", ("L", "RGB"))  # Pillow writes an alpha that no reader sees, itself included
_PPM = _Format("PPM", ("L", "RGB"))
_FORMATS = {
    ".png": _Format("PNG", _ALL_MODES, icc=True, exif=True, xmp="chunk"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), _JPEG),
    **dict.fromkeys((".tif", ".tiff"), _TIFF),
    ".webp": _WEBP,
    ".avif": _AVIF,
    **dict.fromkeys((".bmp", ".dib"), _BMP),
    **dict.fromkeys((".ppm", ".pgm", ".pnm"), _PPM),
    ".tga": _Format("TGA", _ALL_MODES),
    ".jp2": _Format("JPEG2000", _ALL_MODES),
    ".gif": _Format("GIF", ("L", "RGB", "RGBA")),
    ".ico": _Format("ICO", ("RGB", "RGBA")),
}


def to_pil(picture: Picture) -> Image.Image:
    """The picture as a PIL image of mode L, LA, RGB or RGBA.

    Its `.info` holds "icc_profile", which Pillow's `save` takes by itself, and "exif" (with "Exif\\0\\0" in front)
    and "xmp", which `save` wants handed over: `image.save(path, exif=image.info["exif"])`.
    """
    planes = [picture.rgb[..., :1]] if picture.gray else [picture.rgb]
    if picture.alpha is not None:
        planes.append(picture.alpha[..., None])
    samples = np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0]
    image = Image.fromarray(np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples))
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    if picture.exif:
        image.info["exif"] = b"Exif\0\0" + picture.exif
    if picture.xmp:
        image.info["xmp"] = picture.xmp
    return image


@span("picture file")
def write_picture(picture: Picture, suffix: str) -> tuple[bytes, tuple[str, ...]]:
    """Writes the picture in the format that a file name's suffix stands for.

    PNG, TIFF, WebP, BMP, PPM, TGA and JPEG 2000 are lossless; JPEG and AVIF are written at quality 95 in 4:4:4. Any
    other suffix for which Pillow has a writer is tried with Pillow's own settings, without metadata.

    Args:
        picture: what to write.
        suffix: ".png" and the like, in any case.

    Returns:
        The file's bytes, and a sentence for each thing that the format cannot hold (alpha is laid over white).

    Raises:
        UsageError: the suffix is unknown.
        InputError: the format cannot hold this picture (WebP ends at 16,383 pixels a side).
    """
    target = _format_for(suffix)
    notes: list[str] = []
    image = _into_mode(to_pil(picture), target, notes)
    icc, exif = image.info.pop("icc_profile", None), image.info.pop("exif", None)
    xmp = image.info.pop("xmp", None)
    options = dict(target.options)
    if xmp is not None:
        if option := _xmp_option(xmp, target, exif):
            options.update(option)
        else:
            notes.append(f"{target.name} does not hold this XMP data: dropped")
    if icc is not None:
        if target.icc and (icc[16:20] == b"GRAY") == (image.mode in ("L", "LA")):
            options["icc_profile"] = icc
        else:
            notes.append(f"{target.name} does not hold this colour profile: dropped")
    if exif is not None:
        if target.exif and not (target.name == "JPEG" and len(exif) > 65533):
            options["exif"] = exif
        else:
            notes.append(f"{target.name} does not hold this EXIF data: dropped")
    try:
        return _save(image, target.name, options), tuple(notes)
    except Exception as error:  # as in `load`: each writer raises what it likes
        if "exif" not in options:
            raise InputError(f"cannot write this picture as {target.name}: {one_line(error)}") from error
    del options["exif"]  # TIFF rewrites the EXIF block and stumbles over odd ones
    options.update({} if xmp is None else _xmp_option(xmp, target, None))
    notes.append(f"{target.name} does not hold this EXIF data: dropped")
    try:
        return _save(image, target.name, options), tuple(notes)
    except Exception as error:
        raise InputError(f"cannot write this picture as {target.name}: {one_line(error)}") from error


def write_strips(strips: Strips, suffix: str, write: Callable[[bytes], object]) -> tuple[str, ...]:
    """Writes a picture in the format of a suffix while it is made.

    PNG and PPM take the rows as they come, and nothing but a strip lies in memory. Every other format needs the whole
    picture, as `write_picture` does.

    Args:
        strips: the picture; used up afterwards.
        suffix: ".png" and the like, in any case.
        write: takes the file's bytes, piece by piece.

    Returns:
        A sentence for each thing that the format cannot hold; what is damaged stands in `strips.damage`.

    Raises:
        UsageError, InputError: as `write_picture`. Whatever `strips.rows` and `write` raise passes through.
    """
    target = _format_for(suffix)
    bands = (1 if strips.gray else 3) + (strips.alpha is not None)
    if target.name == "PPM" and all(part is None for part in (strips.alpha, strips.icc, strips.exif, strips.xmp)):
        return _write_ppm(strips, write)
    profile_fits = strips.icc is None or (strips.icc[16:20] == b"GRAY") == strips.gray
    if target.name != "PNG" or not profile_fits or not _is_utf8(strips.xmp):
        encoded, notes = write_picture(strips.gathered(), suffix)
        write(encoded)
        return notes
    writer = PngWriter(write, strips.width, strips.height, bands, strips.icc, strips.exif, strips.xmp)
    top = 0
    for rgb in strips.rows:
        samples = rgb[..., :1] if strips.gray else rgb
        if strips.alpha is not None:
            samples = np.dstack([samples, strips.alpha[top : top + len(rgb)]])
        writer.rows(samples)
        top += len(rgb)
    writer.finish()
    return ()


def _is_utf8(text: bytes | None) -> bool:
    try:
        (text or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _write_ppm(strips: Strips, write: Callable[[bytes], object]) -> tuple[str, ...]:
    kind = "P5" if strips.gray else "P6"
    write(f"{kind}\n{strips.width} {strips.height}\n255\n".encode())
    for rgb in strips.rows:
        write((rgb[..., 0] if strips.gray else rgb).tobytes())
    return ()


def _xmp_option(xmp: bytes, target: _Format, exif: bytes | None) -> dict[str, Any]:
    """What Pillow's writer wants to be told about XMP data; nothing where the format does not hold it."""
    if target.xmp == "tag":
        tags = Image.Exif()  # Pillow takes these tags in place of EXIF, so EXIF has to be among them
        with suppress(Exception):  # odd EXIF is left out, and said where it is written
            tags.load(exif or b"")
        tags[700] = xmp
        return {"tiffinfo": tags}
    if target.xmp == "chunk":
        chunks = PngImagePlugin.PngInfo()
        try:
            chunks.add_itxt(XMP_KEYWORD, xmp.decode("utf-8"))
        except UnicodeDecodeError:
            return {}
        return {"pnginfo": chunks}
    fits = target.xmp == "option" and not (target.name == "JPEG" and len(xmp) > JPEG_XMP_BYTES)
    return {"xmp": xmp} if fits else {}


def _save(image: Image.Image, name: str, options: dict[str, Any]) -> bytes:
    """The file's bytes; ValueError where the format would take the picture in another size only (ICNS, large ICO)."""
    if name == "ICO" and max(image.size) > ICO_SIDE:
        raise ValueError(f"it ends at {ICO_SIDE} pixels a side")
    out = io.BytesIO()
    with strict_pillow(max(image.width * image.height, ICNS_PIXELS)):  # for the warnings
        image.save(out, name, **({"sizes": [image.size]} if name == "ICO" else {}), **options)
        if name in Image.OPEN:  # some formats are only written
            with Image.open(out) as written:
                if written.size != image.size:
                    raise ValueError(f"it would come out with {written.width}x{written.height} pixels")
    return out.getvalue()


def _format_for(suffix: str) -> _Format:
    """The table's format for a suffix, or what Pillow has for it."""
    key = "." + suffix.lower().removeprefix(".")
    if key in _FORMATS:
        return _FORMATS[key]
    name = Image.registered_extensions().get(key)
    if name is None or name not in Image.SAVE:
        known = " ".join(sorted(_FORMATS))
        raise UsageError(f"no picture format is known by the suffix '{suffix}': use one of {known}")
    return _Format(name, ("RGB",))


def _into_mode(image: Image.Image, target: _Format, notes: list[str]) -> Image.Image:
    """Brings the image into a mode that the format holds; alpha it does not hold is laid over white."""
    if image.mode.endswith("A") and "RGBA" not in target.modes:
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            notes.append(f"{target.name} does not hold transparency: laid over white")
        base = image.convert(image.mode[:-1])
        flat = Image.new(base.mode, base.size, "white")
        flat.paste(base, mask=alpha)
        flat.info = dict(image.info)
        image = flat
    if image.mode not in target.modes:
        image = image.convert("RGBA" if image.mode.endswith("A") else "RGB")
    if target.name == "GIF" and image.mode != "L":
        notes.append("GIF holds 256 colours and no half transparency: colours reduced")
    return image
