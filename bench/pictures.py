# SPDX-License-Identifier: MIT
"""Which pictures: a folder, some files, or a set that arrives with scikit-image. Everything becomes 8-bit RGB.

The built-in sets hold only pictures whose licence is stated and free: see `docs/benchmark.md`.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.errors import BenchError, MissingError
from vqcodec import VqcError
from vqcodec.pictures.read import load

Rgb = NDArray[np.uint8]  # [H, W, 3]

# Files in skimage/data, inside the wheel
BUILT_IN = {
    "photographs": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg"),
    "graphics": ("text.png", "logo.png", "page.png", "color.png"),
}
MAX_SIDE = 512  # the built-in pictures are reduced to this, so that a first run is short


@dataclass(frozen=True)
class PictureFile:
    """One picture of a set; `pixels` reads it."""

    name: str
    path: Path
    max_side: int | None = None

    def pixels(self) -> Rgb:
        """[H, W, 3] uint8, upright, without alpha, profile or metadata.

        Raises:
            BenchError: it cannot be read.
        """
        try:
            rgb = load(self.path).rgb
        except VqcError as error:
            raise BenchError(str(error)) from None
        if self.max_side is None or max(rgb.shape[:2]) <= self.max_side:
            return rgb
        image = Image.fromarray(rgb)
        image.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        return np.asarray(image)


@dataclass(frozen=True)
class PictureSet:
    """A named list of pictures."""

    name: str
    files: tuple[PictureFile, ...]

    def facts(self) -> dict[str, dict[str, int | str]]:
        """Picture name -> width, height and sha256 of its pixels."""
        found: dict[str, dict[str, int | str]] = {}
        for file in self.files:
            rgb = file.pixels()
            digest = hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).hexdigest()[:16]
            found[file.name] = {"width": rgb.shape[1], "height": rgb.shape[0], "sha256": digest}
        return found


def find(images: str, every: int = 1) -> PictureSet:
    """The set of that name, or the pictures of a folder in alphabetical order, or one file.

    Args:
        images: "photographs" or "graphics", a folder, or a file.
        every: take every Nth picture only.

    Raises:
        BenchError: nothing there that Pillow reads.
        MissingError: a built-in set was asked for, and scikit-image is not installed.
    """
    path = Path(images)
    if images in BUILT_IN and not path.is_dir():
        files = _built_in(images)
        name = images
    elif path.is_dir():
        known = Image.registered_extensions()
        paths = sorted(p for p in path.iterdir() if p.suffix.lower() in known and p.is_file())
        files = [PictureFile(p.name, p) for p in paths]
        name = path.resolve().name
    elif path.is_file():
        files = [PictureFile(path.name, path)]
        name = path.stem
    else:
        raise BenchError(f"{images}: no such folder or file; built-in sets are {', '.join(BUILT_IN)}")
    files = files[::every]
    if not files:
        raise BenchError(f"{images}: there is no picture in it that Pillow reads")
    return PictureSet(name, tuple(files))


def _built_in(name: str) -> list[PictureFile]:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingError(
            "the built-in pictures come with scikit-image: pip install '.[bench]', or give a folder with --images"
        )
    folder = Path(spec.origin).with_name("data")
    found = [PictureFile(file, folder / file, MAX_SIDE) for file in BUILT_IN[name] if (folder / file).is_file()]
    if not found:
        raise MissingError("this scikit-image came without its pictures; give a folder with --images")
    return found


def grown(rgb: Rgb, pixels: int) -> Rgb:
    """A picture of about that many pixels in the shape 3:2, by repeating `rgb` in mirror image: [H, W, 3] uint8."""
    height = max(16, round((pixels / 1.5) ** 0.5))
    width = max(16, round(height * 1.5))

    def mirrored(length: int, period: int) -> NDArray[np.int64]:
        place = np.arange(length) % (2 * period)
        return np.minimum(place, 2 * period - 1 - place)

    return rgb[mirrored(height, rgb.shape[0])][:, mirrored(width, rgb.shape[1])]
