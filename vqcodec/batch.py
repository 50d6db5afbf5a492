# SPDX-License-Identifier: MIT
"""Many pictures at once, for programs: `encode_batch` and `decode_batch`, with threads over pictures. No folders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from PIL import Image

from vqcodec import api
from vqcodec.codec import decode as decode_module
from vqcodec.codec.denoise import before_coding
from vqcodec.codec.target import encode_to_target
from vqcodec.errors import UsageError, VqcError, VqcWarning
from vqcodec.options import (
    DEFAULT_EFFORT,
    DEFAULT_MAX_PIXELS,
    DecodeOptions,
    EncodeOptions,
    ModelName,
    Region,
    Target,
)
from vqcodec.pictures import read, write
from vqcodec.threads import in_order, processors

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["decode_batch", "encode_batch"]


def encode_batch(
    images: Iterable[read.Source],
    quality: int | None = None,
    *,
    bpp: float | None = None,
    psnr: float | None = None,
    max_bytes: int | None = None,
    lossless: bool = False,
    effort: int = DEFAULT_EFFORT,
    tune: str | None = None,
    threads: int = 0,
    model: ModelName | None = None,
    strip: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    execution: str = "cpu",
    denoise: str | float | None = None,
) -> list[bytes]:
    """Compress many pictures, several at a time; each file is the one that `encode` gives.

    Args:
        images: a list (or what else gives one after the other) of anything that `encode` takes, or one array: [N, H, W,
            3], [N, H, W, 4] or [N, H, W, 1], uint8.
        threads: how many pictures to work on at a time; 0 for one per processor. Left-over threads work inside
            pictures.

    All other arguments, warnings and errors are those of `encode`. An error names the picture by its number, from 0.

    Returns:
        the files' bytes, in the order of the pictures.

    Raises:
        UsageError: also where `images` is a single picture.

    Examples:
        >>> import numpy as np, vqcodec
        >>> pictures = np.full((3, 32, 48, 3), 128, np.uint8)
        >>> files = vqcodec.encode_batch(pictures, quality=50)
        >>> len(files), files[0] == vqcodec.encode(pictures[0], quality=50)
        (3, True)
    """
    target = Target(bpp, psnr, max_bytes, quality, lossless)
    options = EncodeOptions(effort, threads, model, strip, tune=tune, execution=execution, denoise=denoise)
    given = _listed(images, "images")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        shape = list(images.shape)
        raise UsageError(f"an array of many pictures is [pictures, height, width, bands], not {shape}")
    at_once, each = _shared(options.threads, len(given))
    options = replace(options, threads=each)

    def one(image: read.Source) -> tuple[bytes, tuple[str, ...]]:
        picture = read.load(image, max_pixels=max_pixels)
        return encode_to_target(before_coding(picture, options), target, options).data, picture.notes

    coded = _each(one, given, at_once)
    for number, (_, notes) in enumerate(coded):  # now that all are read: reading silences the process's warnings
        for note in notes:
            warnings.warn(f"picture {number}: {note}", VqcWarning, stacklevel=2)
    return [data for data, _ in coded]


def decode_batch(
    files: Iterable[api.Source],
    *,
    decoder: str | None = None,
    realism: float | None = None,
    region: Region | None = None,
    scale: int = 1,
    threads: int = 0,
    model: ModelName | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    execution: str = "cpu",
    steps: int | None = None,
    seed: int | None = None,
) -> list[Image.Image]:
    """Restore the pictures of many .vqc files, several at a time; each is the one that `decode` gives.

    Args:
        files: a list (or what else gives one after the other) of files' bytes, paths or binary streams.
        threads: how many pictures to work on at a time; 0 for one per processor. Left-over threads work inside
            pictures.

    All other arguments and errors are those of `decode`. An error names the file by its number, from 0.

    Returns:
        PIL images, in the order of the files. Those of one size become an array with
        `np.stack([np.asarray(picture) for picture in pictures])`.

    Raises:
        UsageError: also where `files` is a single file.

    Examples:
        >>> import numpy as np, vqcodec
        >>> files = vqcodec.encode_batch(np.full((3, 32, 48, 3), 128, np.uint8), quality=50)
        >>> pictures = vqcodec.decode_batch(files)
        >>> np.stack([np.asarray(picture) for picture in pictures]).shape
        (3, 32, 48, 3)
    """
    options = DecodeOptions(
        decoder, realism, region, scale, threads, model, max_pixels, execution=execution, steps=steps, seed=seed
    )
    given = _listed(files, "files")
    at_once, each = _shared(options.threads, len(given))
    options = replace(options, threads=each)

    def one(file: api.Source) -> Image.Image:
        return write.to_pil(decode_module.decode(read.file_bytes(file, options.max_pixels), options))

    return _each(one, given, at_once)


def _listed(items: Iterable[T], name: str) -> list[T]:
    """The items of anything that has some.

    Raises:
        UsageError: it is a single one.
    """
    if isinstance(items, str | bytes | bytearray | memoryview) or hasattr(items, "read"):
        raise UsageError(f"{name} must be a list, not {type(items).__name__}")
    try:
        return list(items)
    except TypeError:
        raise UsageError(f"{name} must be a list, not {type(items).__name__}") from None


def _shared(threads: int, count: int) -> tuple[int, int]:
    """How many pictures to work on at a time, and how many threads each may use."""
    threads = threads or processors()
    at_once = max(1, min(threads, count))
    return at_once, threads // at_once


def _each(work: Callable[[T], R], items: list[T], at_once: int) -> list[R]:
    """Maps over pictures; an error says which one."""

    def one(numbered: tuple[int, T]) -> R:
        number, item = numbered
        try:
            return work(item)
        except VqcError as error:
            raise type(error)(f"picture {number}: {error}") from None

    return list(in_order(one, enumerate(items), at_once, trims=False))
