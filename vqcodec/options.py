# SPDX-License-Identifier: MIT
"""What a caller may choose: defaults, ranges and rules, each written once. No picture, no model, no bytes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from vqcodec.errors import UsageError

BASE_ONLY_QUALITY = 1  # the lowest quality: the base layer alone
MAX_QUALITY = 100
DEFAULT_QUALITY = 75
MAX_EFFORT = 9
DEFAULT_EFFORT = 5
DEFAULT_MAX_PIXELS = 268_435_456  # 2^28 pixels, 16,384 x 16,384
BYTES_PER_PIXEL = 16  # no picture or .vqc file that anybody writes takes more, but for metadata:
METADATA_BYTES = 64 << 20
TILE_LOG2 = 10
SCALES = (1, 2, 4, 8)
DECODERS = ("faithful", "realistic")
TUNES = ("psnr", "eye")  # what a file serves: least squared error, or what people see
DEFAULT_TUNE = "eye"  # of models that have it

ModelName = str | os.PathLike[str]  # a shipped model's id, or a folder
Region = tuple[int, int, int, int]  # x, y, width, height in pixels


def most_file_bytes(max_pixels: int) -> int:
    """More bytes than any file of a picture of so many pixels has: where reading a stream that does not end stops."""
    return BYTES_PER_PIXEL * max_pixels + METADATA_BYTES


def check_quality(quality: int) -> None:
    """Refuse what is no quality.

    Raises:
        UsageError: it is not a whole number from 1 to 100.
    """
    if not (isinstance(quality, int) and BASE_ONLY_QUALITY <= quality <= MAX_QUALITY):
        raise UsageError(f"quality must be a whole number from 1 to 100, not {quality!r}")


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode, whatever the quality.

    Attributes:
        effort: 1 to 9; more is smaller and slower.
        threads: 0 for all processors.
        model: None for the default.
        strip: leave out EXIF and XMP.
        tile_log2: of the side of a tile in pixels.
        tune: "psnr" or "eye"; None for "eye", where the model has it.

    Raises:
        UsageError: a value out of range.
    """

    effort: int = DEFAULT_EFFORT
    threads: int = 0
    model: ModelName | None = None
    strip: bool = False
    tile_log2: int = TILE_LOG2
    tune: str | None = None

    def __post_init__(self) -> None:
        if self.tune not in (None, *TUNES):
            raise UsageError(f"there is no tune {self.tune!r}; known are {' and '.join(TUNES)}")
        if not (isinstance(self.effort, int) and 1 <= self.effort <= MAX_EFFORT):
            raise UsageError(f"effort must be a whole number from 1 to {MAX_EFFORT}, not {self.effort!r}")


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode; see `api.decode`.

    Raises:
        UsageError: no such scale or decoder, a realism outside 0 to 1, or one for the faithful decoder.
    """

    decoder: str | None = None
    realism: float | None = None
    region: Region | None = None
    scale: int = 1
    threads: int = 0
    model: ModelName | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    allow_partial: bool = False

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(f"scale must be 1, 2, 4 or 8, not {self.scale!r}")
        if self.decoder not in (None, *DECODERS):
            raise UsageError(f"there is no decoder {self.decoder!r}; known are {' and '.join(DECODERS)}")
        if self.realism is not None and not 0 <= self.realism <= 1:
            raise UsageError(f"realism must be a number from 0 to 1, not {self.realism:g}")
        if self.decoder == "faithful" and self.realism:
            raise UsageError("realism is for the realistic decoder; the faithful one has none")

    @property
    def texture(self) -> float:
        """How much of the realistic decoder's texture: 0, the faithful picture, to 1."""
        if self.realism is not None:
            return float(self.realism)
        return 1.0 if self.decoder == "realistic" else 0.0


@dataclass(frozen=True)
class Target:
    """What a file is to be: one of the four, or none for the default quality.

    Raises:
        UsageError: more than one, or a value that cannot be.
    """

    bpp: float | None = None  # bits of the whole file per pixel
    psnr: float | None = None  # [dB] of the RGB samples
    max_bytes: int | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("quality", "bpp", "psnr", "max_bytes") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} cannot both be met: give one of them")
        if self.quality is not None:
            check_quality(self.quality)
        for name in ("bpp", "psnr", "max_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int if name == "max_bytes" else int | float):
                raise UsageError(f"{name} must be a {'whole ' if name == 'max_bytes' else ''}number, not {value!r}")
            if not 0 < value < math.inf:
                raise UsageError(f"{name} must be greater than 0, not {value!r}")

    @property
    def aim(self) -> float | None:
        """What is searched for; None for a quality."""
        return next((value for value in (self.bpp, self.psnr, self.max_bytes) if value is not None), None)
