# SPDX-License-Identifier: MIT
"""The Python interface: what `import vqcodec` offers. Any picture in, bytes out, and back; no file is written."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqcodec.bitstream import container
from vqcodec.bitstream.codebook import CODE_BITS
from vqcodec.codec import decode as decode_module
from vqcodec.codec import tokens
from vqcodec.codec.denoise import before_coding
from vqcodec.codec.facts import denoised, describe, patched_blocks
from vqcodec.codec.indices import Indices, read_indices
from vqcodec.codec.sample import Sampler
from vqcodec.codec.target import encode_to_target
from vqcodec.errors import ModelError, VqcWarning
from vqcodec.model import zoo
from vqcodec.options import (
    DEFAULT_EFFORT,
    DEFAULT_MAX_PIXELS,
    KEEP_BASE,
    SAMPLE_TEMPERATURE,
    TILE_LOG2,
    DecodeOptions,
    EncodeOptions,
    ModelName,
    Region,
    SampleOptions,
    Target,
)
from vqcodec.pictures import read, write
from vqcodec.pictures.picture import Picture

__all__ = ["Indices", "codebook", "decode", "decode_indices", "encode", "from_indices", "indices", "info", "sample"]

Source = bytes | str | os.PathLike[str] | BinaryIO  # of a .vqc file


def encode(
    image_like: read.Source,
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
    patches: bool = True,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    execution: str = "cpu",
    denoise: str | float | None = None,
) -> bytes:
    """Compress a picture to the bytes of a .vqc file.

    Args:
        image_like: a path, the bytes of a picture file, a PIL image, or a [H, W], [H, W, 3] or [H, W, 4] uint8 array.
        quality: 1 to 100; more is better and larger. 1 keeps the base layer alone. Default 75.
        bpp: instead of a quality: bits per pixel of the whole file, met within 2 % where the scale of qualities allows.
        psnr: instead of a quality: the lowest quality that restores the picture with this RGB PSNR in dB.
        max_bytes: instead of a quality: the best file that is not larger.
        lossless: instead of a quality: keep every pixel, as lossless WebP inside the file.
        effort: 1 to 9; more is smaller and slower. Never changes what a decoder must do.
        tune: "psnr" for the least squared error, "eye" for what people see; None for "eye", where the model has it.
        threads: 0 for all processors.
        model: id or folder of a model; None for the default.
        strip: leave out EXIF and XMP, and a colour profile that says no more than sRGB.
        patches: keep screens, text and patterns without loss where that is smaller, or where they would come back wrong
            (effort 3 and more). False for a file whose indices stand for all of the picture.
        max_pixels: refuse larger pictures.
        execution: "cuda" runs the transforms on an NVIDIA GPU, with onnxruntime-gpu in onnxruntime's place. The encoder
            may then choose a few other indices; every decoder reads the same ones.
        denoise: remove noise first, if the model has a denoiser: its standard deviation in levels of 255 (0 to 100), or
            "auto" to estimate it. `info` says how much was removed (`denoised`).

    Returns:
        the file's bytes; the same input and options give the same bytes.

    Warns:
        VqcWarning: for each thing that is not kept: bits beyond 8, a colour space, frames, damaged metadata.

    Raises:
        InputError: the picture cannot be read.
        LimitError: too many pixels; or no quality reaches `psnr`, or is as small as `max_bytes`.
        ModelError: there is no such model, or it has no denoiser and `denoise` is given.
        UsageError: an option out of range; more than one of quality, bpp, psnr, max_bytes and lossless; or no CUDA.

    Examples:
        >>> import numpy as np, vqcodec
        >>> photo = np.full((64, 96, 3), (200, 120, 40), np.uint8)
        >>> data = vqcodec.encode(photo, quality=75)
        >>> len(data) < photo.size / 50
        True
        >>> len(vqcodec.encode(photo, max_bytes=200)) <= 200
        True
        >>> vqcodec.encode(photo, quality=101)
        Traceback (most recent call last):
        vqcodec.errors.UsageError: quality must be a whole number from 1 to 100, not 101
    """
    target = Target(bpp, psnr, max_bytes, quality, lossless)
    options = EncodeOptions(
        effort, threads, model, strip, tune=tune, execution=execution, patches=patches, denoise=denoise
    )
    picture = read.load(image_like, max_pixels=max_pixels)
    for note in picture.notes:
        warnings.warn(note, VqcWarning, stacklevel=2)
    return encode_to_target(before_coding(picture, options), target, options).data


def decode(
    data: Source,
    *,
    decoder: str | None = None,
    realism: float | None = None,
    region: Region | None = None,
    scale: int = 1,
    threads: int = 0,
    model: ModelName | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    allow_partial: bool = False,
    execution: str = "cpu",
    steps: int | None = None,
    seed: int | None = None,
) -> Image.Image:
    """Restore the picture of a .vqc file.

    Args:
        data: the bytes of the file, its path, or a binary stream.
        decoder: "faithful" (the default: what is nearest to the original), "realistic" (with texture, made up, where
            the faithful picture is smooth for want of bits), or "diffusion" (an experiment: the model's denoiser, if it
            has one, in some steps from the faithful picture with noise). The file is the same.
        realism: 0 to 1, how much of it: 0 is the faithful picture, 1 (the default of the realistic decoder) the most.
        region: (x, y, width, height) in pixels of the whole picture: decode only what it needs. Its pixels are those of
            the whole picture within one level.
        scale: 2, 4 or 8 for a picture of half, a quarter or an eighth of the width and height (rounded up): the mean
            of each scale x scale pixels, counted from the region's corner.
        threads: 0 for all processors; the indices are the same with any number.
        model: folder of a model that is not shipped, if the file was written with one.
        max_pixels: refuse larger pictures, before anything is allocated; it counts the whole picture's pixels.
        allow_partial: restore what is left of a damaged file whose header is intact: a tile whose refinement is damaged
            from its base layer alone, one in which the file was cut off as far as it goes, a lost one as flat gray (or,
            if it is no longer than 320 pixels one way and the model has a denoiser, made up from what is around it), a
            lost alpha channel as opaque.
        execution: "cuda" runs the transforms on an NVIDIA GPU, with onnxruntime-gpu in onnxruntime's place. The indices
            are the same; a pixel may differ by one level.
        steps, seed: of the diffusion decoder: 1 to 8 steps (default 4), and a number whose noise it begins with (0 to
            2**63 - 1, default 0). The same seed gives the same picture.

    Returns:
        a PIL image of mode L, LA, RGB or RGBA with its ICC profile, EXIF and XMP in `info`; with `allow_partial`,
        `info["damage"]` holds a sentence for each part that is not as it was (an empty list for a whole file).

    Raises:
        DamagedError: it is not a .vqc file, or not as it was written.
        LimitError: the picture has more than `max_pixels` pixels.
        ModelError: the model that the file names is not there, or has no such decoder.
        UsageError: a region outside the picture, another scale, decoder or realism, an option of another
            decoder, or no CUDA.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((64, 96, 3), (200, 120, 40), np.uint8))
        >>> picture = vqcodec.decode(data)
        >>> picture.mode, picture.size
        ('RGB', (96, 64))
        >>> vqcodec.decode(data, region=(10, 20, 30, 40), scale=2).size
        (15, 20)
        >>> vqcodec.decode(data, decoder="realistic", realism=0.5).size
        (96, 64)
        >>> vqcodec.decode(data[:-1])
        Traceback (most recent call last):
        vqcodec.errors.DamagedError: ...
    """
    options = DecodeOptions(
        decoder, realism, region, scale, threads, model, max_pixels, allow_partial, execution, steps, seed
    )
    picture = decode_module.decode(read.file_bytes(data, options.max_pixels), options)
    restored = write.to_pil(picture)
    if allow_partial:
        restored.info["damage"] = list(picture.notes)
    return restored


def indices(
    data: Source, *, threads: int = 0, model: ModelName | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Indices:
    """The codebook indices of a .vqc file, the same on every machine.

    Arguments and errors are those of `decode`.

    Returns:
        base indices [h, w] int32 and refinement indices [h, w, M] int32 (None in a base-only file), with h, w the
        picture's size over 16, rounded up; and the two parts of the colour layer (None in a file without): its
        polynomial, [1 + K, 3] int32, and its slow shifts, [1 + rows, columns, 3] int32. The first row of each holds the
        exponent of its step. What a file keeps without loss (`info` says how many `patched_blocks`) is not among them.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=50, patches=False)
        >>> base, refinement, colour, drift = vqcodec.indices(data)
        >>> base.shape, base.dtype, refinement.shape[:2]
        ((3, 7), dtype('int32'), (3, 7))
    """
    options = DecodeOptions(threads=threads, model=model, max_pixels=max_pixels)
    return read_indices(read.file_bytes(data, options.max_pixels), options)


def codebook(model: ModelName | None = None) -> NDArray[np.float32]:
    """The vectors that base indices stand for: `codebook()[base]` is [h, w, D].

    Args:
        model: id or folder of a model; None for the default.

    Returns:
        [K, D] float32, a copy: K vectors of D numbers, exactly those of the decoder.

    Raises:
        ModelError: there is no such model.

    Examples:
        >>> import numpy as np, vqcodec
        >>> base = vqcodec.indices(vqcodec.encode(np.zeros((32, 48, 3), np.uint8), quality=1)).base
        >>> vqcodec.codebook()[base].shape[:2]
        (2, 3)
    """
    words = zoo.load(zoo.find(EncodeOptions(model=model).model)).codebook.vectors
    return words.astype(np.float32) * np.float32(2.0**-CODE_BITS)


def info(data: Source) -> dict[str, Any]:
    """What the header of a .vqc file says (sizes in bytes, rates in bits per pixel), as a plain dict.

    Raises:
        DamagedError: not a .vqc file, or its header is damaged.

    Examples:
        >>> import numpy as np, vqcodec
        >>> facts = vqcodec.info(vqcodec.encode(np.zeros((40, 100, 3), np.uint8), quality=30))
        >>> facts["width"], facts["height"], facts["quality"], facts["model_id"]
        (100, 40, 30, 'photo-1')
    """
    bytes_there = read.file_bytes(data, DEFAULT_MAX_PIXELS)
    layout = container.read_header(bytes_there)
    blocks, noise = patched_blocks(bytes_there, layout), denoised(bytes_there, layout)
    facts = {**describe(layout), "patched_blocks": blocks, "denoised": noise}
    try:
        facts["model_id"] = zoo.by_checksum(bytes.fromhex(str(facts["model"]))).id
    except ModelError:
        facts["model_id"] = None
    return facts


def from_indices(
    base: NDArray[Any],
    refinement: NDArray[Any] | None = None,
    colour: NDArray[Any] | None = None,
    drift: NDArray[Any] | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    quality: int | None = None,
    tune: str | None = None,
    gray: bool = False,
    tile_side: int = 1 << TILE_LOG2,
    model: ModelName | None = None,
) -> bytes:
    """Write a .vqc file that holds these codebook indices; `indices` of it gives them back.

    Args:
        base: [h, w] integers in [0, codebook size).
        refinement: [h, w, M] integers, as `indices` gives them; None for the base layer alone.
        colour, drift: integers of the colour layer, as `indices` gives them; None for none.
        width, height: of the picture in pixels; default 16 w and 16 h, at most 15 less.
        quality: 2 to 100, the one that the refinement was made with; none for the base layer alone.
        tune: the one that the refinement was made with (`info` says it); None for the model's default.
        gray: the picture is gray.
        tile_side: 256, 512 or 1024, the one that the refinement was made with (`info` says it).
        model: id or folder of the model whose indices these are; None for the default.

    Returns:
        the file's bytes.

    Raises:
        InputError: arrays that are no indices of this model; or an index for which its prior has no code (no `encode`
            makes one, your own model may; `decode_indices` takes those, too).
        ModelError: there is no such model.
        UsageError: a quality or a tile side that is not possible.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.from_indices(np.zeros((3, 7), np.int32), width=100, height=40)
        >>> vqcodec.indices(data).base.shape
        (3, 7)
    """
    given = tokens.of_arrays(base, refinement, width, height, quality, gray, tile_side, colour, drift, tune)
    return tokens.to_file(given, model=EncodeOptions(model=model).model)


def decode_indices(
    base: NDArray[Any],
    refinement: NDArray[Any] | None = None,
    colour: NDArray[Any] | None = None,
    drift: NDArray[Any] | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    quality: int | None = None,
    tune: str | None = None,
    gray: bool = False,
    tile_side: int = 1 << TILE_LOG2,
    threads: int = 0,
    model: ModelName | None = None,
    execution: str = "cpu",
) -> Image.Image:
    """Restore the picture that these codebook indices stand for, without a file in between.

    Arguments are those of `from_indices`, and `threads` and `execution` those of `decode`.

    Returns:
        a PIL image of mode L or RGB.

    Raises:
        InputError: arrays that are no indices of this model.
        ModelError: there is no such model.
        UsageError: a quality or a tile side that is not possible.

    Examples:
        >>> import numpy as np, vqcodec
        >>> vqcodec.decode_indices(np.zeros((3, 7), np.int32)).size
        (112, 48)
    """
    given = tokens.of_arrays(base, refinement, width, height, quality, gray, tile_side, colour, drift, tune)
    options = DecodeOptions(threads=threads, model=model, execution=execution)
    return write.to_pil(tokens.to_picture(given, options))


def sample(
    size: tuple[int, int] | None = None,
    *,
    like: read.Source | None = None,
    keep: str | int = KEEP_BASE,
    seed: int = 0,
    temperature: float = SAMPLE_TEMPERATURE,
    quality: int | None = None,
    tune: str | None = None,
    decoder: str | None = None,
    threads: int = 0,
    model: ModelName | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image.Image:
    """Draw a picture from the model's priors alone, or a variation of a picture.

    The priors know colours, edges and texture, but no objects: what they draw is abstract.

    Args:
        size: width and height of a picture to draw.
        like: instead of a size: a picture to vary, as `encode` takes it, or a .vqc file (path or bytes).
        keep: of that picture: "base" for the base layer alone, or a number of steps of the refinement (1 to 7 with the
            shipped models) that are kept as well. The rest is drawn.
        seed: 0 to 2**63 - 1; the same seed draws the same indices on every machine.
        temperature: 0 (always the most probable index) to 4; 1 for the probabilities of the priors.
        quality: 1 to 100, of which the steps of the refinement depend; 1 draws the base layer alone. Default: 50, or
            that of the .vqc file to vary.
        tune, threads, model: as `encode` takes them.
        decoder: "faithful" (the default), "realistic" or "diffusion".
        max_pixels: refuse larger pictures.

    Returns:
        a PIL image of mode RGB, or L for a variation of a gray picture.

    Raises:
        DamagedError, InputError: the picture to vary cannot be read.
        LimitError: more than `max_pixels` pixels.
        ModelError: there is no such model, or it has no such decoder.
        UsageError: an option out of range; neither a size nor a picture, or both.

    Examples:
        >>> import numpy as np, vqcodec
        >>> vqcodec.sample((96, 64), seed=7).size
        (96, 64)
        >>> photo = np.full((40, 100, 3), (200, 120, 40), np.uint8)
        >>> vqcodec.sample(like=photo, keep=4, seed=7).size
        (100, 40)
    """
    options = SampleOptions(temperature, quality, tune, decoder, keep, threads, model, max_pixels)
    return write.to_pil(Sampler(options, size=size, like=_to_vary(like, max_pixels)).picture(seed))


def _to_vary(source: read.Source | None, max_pixels: int) -> Picture | bytes | None:
    """A picture that was given, or the bytes of a .vqc file that was."""
    if isinstance(source, str | os.PathLike):
        with suppress(OSError), open(source, "rb") as stream:
            if stream.read(len(container.MAGIC)) == container.MAGIC:
                return read.file_bytes(source, max_pixels)
    if isinstance(source, bytes) and source.startswith(container.MAGIC):
        return source
    return None if source is None else read.load(source, max_pixels=max_pixels)
