# SPDX-License-Identifier: MIT
"""An opened PIL image of any mode -> its samples in 8 bits: gray or RGB, alpha, colour key. No files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def stored_samples(image: Image.Image) -> tuple[str, bool]:
    """The raw mode of the file's samples, as far as Pillow shows it, and whether it will cut them from 16 bits to 8."""
    tiles = getattr(image, "tile", None) or []
    args = tiles[0][3] if tiles and len(tiles[0]) > 3 else ""
    rawmode = args if isinstance(args, str) else str(args[0]) if isinstance(args, tuple) and args else ""
    deep_ppm = image.format == "PPM" and isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255
    deep = deep_ppm or re.search(r";16[BLN]$", rawmode) is not None
    return rawmode, deep and image.mode in ("RGB", "RGBA", "CMYK")


def in_8_bits(
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
        samples[rows] = scaled(strip, white)
        if keyed is not None and key is not None:
            keyed[rows] = strip == key[0]
    kind = "floating-point" if image.mode == "F" else "32-bit" if image.mode == "I" and white > 65535 else "16-bit"
    if white != 255 or image.mode == "F":
        scale = "" if white == 65535 else f", with {white:g} as white"
        notes.append(f"{kind} samples reduced to 8 bits{scale}")
    return samples, None, keyed


def scaled(samples: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Maps [0, white] to [0, 255], rounding; what lies outside is clipped, not-a-number becomes 0."""
    values = np.nan_to_num(samples.astype(np.float64), nan=0.0) * (255.0 / white)
    return np.floor(np.clip(values, 0.0, 255.0) + 0.5).astype(np.uint8)


def _strips(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yields the picture in strips of a few megabytes, so that it never lies in memory three times."""
    step = max(1, (1 << 22) // image.width)
    for top in range(0, image.height, step):
        bottom = min(image.height, top + step)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))


def colour_key(image: Image.Image, rawmode: str) -> NDArray[Any] | None:
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


def three_planes(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return samples if samples.ndim == 3 else np.repeat(samples[..., None], 3, axis=2)


def turned(samples: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns and mirrors `[H, W, ...]` as EXIF's Orientation (1 to 8) asks for."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return np.ascontiguousarray(samples)
