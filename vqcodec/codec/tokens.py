# SPDX-License-Identifier: MIT
"""Codebook indices as tokens for other people's models: pictures to index arrays, and index arrays to pictures.

The arrays are those of `codec.indices`; how they stand in a file is said in token_file.py. What is no part of the
indices (alpha, ICC profile, EXIF) is not here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import container
from vqcodec.bitstream.codebook import LATENT_BITS, MAX_INDEX, Ints
from vqcodec.bitstream.colour import Colour
from vqcodec.bitstream.entropy import Encoder
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid, Tile
from vqcodec.codec import encode, walk
from vqcodec.codec.indices import read_indices
from vqcodec.codec.synthesis import restore
from vqcodec.errors import InputError, UsageError
from vqcodec.model import zoo
from vqcodec.model.prior import Step
from vqcodec.model.zoo import Model
from vqcodec.options import (
    BASE_ONLY_QUALITY,
    DEFAULT_EFFORT,
    DEFAULT_MAX_PIXELS,
    DEFAULT_QUALITY,
    MAX_QUALITY,
    TILE_LOG2,
    check_options,
)
from vqcodec.pictures.picture import Picture
from vqcodec.threads import share, single_blas

Name = str | os.PathLike[str]
TILE_SIDES = tuple(1 << log2 for log2 in range(container.MIN_TILE_LOG2, container.MAX_TILE_LOG2 + 1))


@dataclass(frozen=True)
class Tokens:
    """The indices of one picture and what a decoder must know besides.

    Attributes:
        base: [ceil(height / 16), ceil(width / 16)] int32 in [0, codebook size).
        refinement: [ceil(height / 16), ceil(width / 16), M] int32; None for the base layer alone.
        quality: 2 to 100, of which the steps of the refinement depend; 1 for the base layer alone.
        gray: the picture goes back as gray.
        tile_side: in pixels; the refinement is predicted within tiles, so the same indices in other tiles are another
            picture.
        colour: the colour layer; None for none.
    """

    base: NDArray[np.int32]
    refinement: NDArray[np.int32] | None
    width: int
    height: int
    quality: int
    gray: bool = False
    tile_side: int = 1 << TILE_LOG2
    colour: Colour | None = None


def of_file(
    data: bytes, *, threads: int = 0, model: Name | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Tokens:
    """The tokens of a .vqc file.

    Raises:
        DamagedError, LimitError, ModelError
    """
    header = container.read_header(data).header
    found = read_indices(data, threads=threads, model=model, max_pixels=max_pixels)
    quality = BASE_ONLY_QUALITY if found.refinement is None else header.quality
    layer = None if found.colour is None else Colour.of_array(found.colour)
    sides = header.width, header.height
    return Tokens(found.base, found.refinement, *sides, quality, header.gray, header.tile_side, layer)


def of_picture(
    picture: Picture,
    quality: int = DEFAULT_QUALITY,
    *,
    effort: int = DEFAULT_EFFORT,
    threads: int = 0,
    model: Name | None = None,
) -> Tokens:
    """The tokens that `encode.encode` would write for a picture.

    Raises:
        ModelError, UsageError
    """
    check_options(quality, effort)
    loaded = zoo.load(zoo.find(model), threads)
    height, width = picture.rgb.shape[:2]
    grid = Grid(width, height, 1 << TILE_LOG2)
    base = np.empty((grid.latent_height, grid.latent_width), np.int32)
    refinement = None
    if quality != BASE_ONLY_QUALITY:
        refinement = np.empty((*base.shape, loaded.prior.latents), np.int32)

    def visit(tile: Tile, coded: encode.CodedTile) -> None:
        base[tile.latents.slices] = coded.base.indices
        if refinement is not None and coded.indices is not None:
            refinement[tile.latents.slices] = coded.indices

    layer = encode.encode_layers(loaded, picture.rgb, quality, effort, visit=visit).colour
    return Tokens(base, refinement, width, height, quality, picture.gray, colour=layer)


# ---- and back --------------------------------------------------------------------------------------------------------


def to_file(tokens: Tokens, *, model: Name | None = None) -> bytes:
    """Write a .vqc file that holds these tokens.

    Raises:
        InputError: they are no indices of this model, or hold an index for which its prior has no code.
        ModelError, UsageError
    """
    loaded = zoo.load(zoo.find(model))
    tokens, grid = _checked(loaded, tokens)
    coarse, fine = zip(*(_coded(loaded, tokens, tile) for tile in grid.tiles), strict=True)
    tile_log2 = tokens.tile_side.bit_length() - 1
    sides, coloured = (tokens.width, tokens.height), tokens.colour is not None
    checksum = loaded.files.checksum
    header = container.Header(*sides, tokens.quality, checksum, tokens.gray, tile_log2, colour=coloured)
    return container.pack(container.Contents(header, coarse, None if tokens.refinement is None else fine))


def to_picture(tokens: Tokens, *, threads: int = 0, model: Name | None = None) -> Picture:
    """Restore the picture that these tokens stand for.

    Raises:
        InputError: they are no indices of this model.
        ModelError, UsageError
    """
    files = zoo.find(model)
    tokens, grid = _checked(zoo.load(files, 1), tokens)
    at_once, each = share(threads, grid.tile_count)
    loaded = zoo.load(files, each)
    _ = loaded.synthesis  # loaded here, before several threads ask for it

    def latents_of(tile: Tile) -> NDArray[np.float32]:
        base = tokens.base[tile.latents.slices].astype(np.int64)
        if tokens.refinement is None:
            latents = loaded.prior.base(loaded.codebook.values(base))[1]
        else:
            given = _Given(loaded, tokens.refinement[tile.latents.slices].astype(np.int64))
            latents = walk.walk_refinement(loaded, base, tokens.quality, given)[0]
        return latents.astype(np.float32) * np.float32(2.0**-LATENT_BITS)

    hat = loaded.synthesis_hat(tokens.quality, tokens.refinement is None)
    with single_blas():
        strips = restore(
            loaded, grid, latents_of, lambda _: hat, at_once, grid.pixels, colour_of=lambda _: tokens.colour
        )
        rgb = np.concatenate(list(strips))
    if tokens.gray:
        rgb[:] = np.rint(rgb.mean(2, keepdims=True)).astype(np.uint8)
    return Picture(rgb, gray=tokens.gray)


@dataclass(frozen=True)
class _Given:
    """Gives the refinement's indices [h, w, M] int64 of a tile as they are, and writes them if there is a coder."""

    model: Model
    indices: Ints
    coder: Encoder | None = None
    place: tuple[int, int] = (0, 0)  # row and column of the tile's first latent, for messages

    def __call__(self, step: Step, where: NDArray[np.bool_], mean: NDArray[np.float64], classes: Ints) -> Ints:
        chosen: Ints = self.indices[:, :, step.channels][where]
        if self.coder is not None:
            without = (chosen != 0) & (self.model.tables.limits[classes] == 0)
            if without.any():
                number, channel = np.argwhere(without)[0]
                row, column = np.argwhere(where)[number] + self.place
                raise InputError(
                    f"the refinement index {chosen[number, channel]} at row {row}, column {column}, channel "
                    f"{step.channels.start + channel} has no code under this model: it must be 0 in a file; "
                    "vqcodec.decode_indices restores the picture all the same"
                )
            self.coder.put_refinement(chosen, classes, self.model.tables)
        return chosen


def _coded(model: Model, tokens: Tokens, tile: Tile) -> tuple[bytes, bytes]:
    """The payloads of one tile; the refinement's is empty where there is none."""
    base = tokens.base[tile.latents.slices].astype(np.int64)
    coarse, fine = Encoder(), Encoder()
    if tokens.colour is not None and tile.index == 0:
        tokens.colour.write(coarse, model.tables)

    def put(where: NDArray[np.bool_], frequencies: Ints) -> Ints:
        coarse.put_base(base[where], frequencies)
        return base[where]

    walk.walk_base(model, (tile.latents.height, tile.latents.width), put)
    if tokens.refinement is None:
        return coarse.finish(), b""
    given = tokens.refinement[tile.latents.slices].astype(np.int64)
    chooser = _Given(model, given, fine, (tile.latents.y0, tile.latents.x0))
    walk.walk_refinement(model, base, tokens.quality, chooser)
    return coarse.finish(), fine.finish()


def of_arrays(
    base: NDArray[Any],
    refinement: NDArray[Any] | None,
    width: int | None,
    height: int | None,
    quality: int | None,
    gray: bool,
    tile_side: int,
    colour: NDArray[Any] | None = None,
) -> Tokens:
    """Tokens of what a user of the Python interface gave; see `api.from_indices`.

    Raises:
        InputError, UsageError
    """
    base = _integers("base", base, 2)
    if refinement is not None:
        refinement = _integers("refinement", refinement, 3)
    if (quality is None) != (refinement is None) and quality != BASE_ONLY_QUALITY:
        raise UsageError("give the quality that the refinement was made with, and none for the base layer alone")
    width = base.shape[1] * LATENT_STRIDE if width is None else width
    height = base.shape[0] * LATENT_STRIDE if height is None else height
    layer = None if colour is None else Colour.of_array(colour)
    return Tokens(base, refinement, width, height, quality or BASE_ONLY_QUALITY, gray, tile_side, layer)


def _checked(model: Model, tokens: Tokens) -> tuple[Tokens, Grid]:
    """The tokens, if they are indices of this model and fit together."""
    base, refinement, quality = tokens.base, tokens.refinement, tokens.quality
    if tokens.tile_side not in TILE_SIDES:
        raise UsageError(f"the side of a tile must be one of {TILE_SIDES}, not {tokens.tile_side!r}")
    width, height = max(1, tokens.width), max(1, tokens.height)
    grid = Grid(width, height, tokens.tile_side)
    if (tokens.width, tokens.height) != (width, height) or (grid.latent_height, grid.latent_width) != base.shape:
        raise InputError(
            f"base indices of {base.shape[0]} rows and {base.shape[1]} columns do not fit a picture of "
            f"{tokens.width} x {tokens.height} pixels"
        )
    _check_range("base", base, 0, model.codebook.size - 1)
    if refinement is None:
        if quality != BASE_ONLY_QUALITY:
            raise UsageError("the base layer alone has no quality: leave it out, or give the refinement")
        return tokens, grid
    if not isinstance(quality, int) or not BASE_ONLY_QUALITY < quality <= MAX_QUALITY:
        raise UsageError(f"a refinement needs the quality, 2 to 100, that it was made with, not {quality!r}")
    if refinement.shape != (*base.shape, model.prior.latents):
        raise InputError(
            f"the refinement has the shape {list(refinement.shape)}, not {[*base.shape, model.prior.latents]}: "
            "rows and columns of the base, and the model's latent channels"
        )
    _check_range("refinement", refinement, -MAX_INDEX, MAX_INDEX)
    return tokens, grid


def _integers(name: str, array: NDArray[Any], ndim: int) -> NDArray[np.int32]:
    array = np.asarray(array)
    if array.ndim != ndim or array.dtype.kind not in "iu":
        raise InputError(f"{name} indices must be integers in {ndim} dimensions, not {array.dtype} in {array.ndim}")
    _check_range(name, array, -(2**31), 2**31 - 1)
    return array.astype(np.int32)


def _check_range(name: str, array: NDArray[Any], low: int, high: int) -> None:
    if array.size and (array.min() < low or array.max() > high):
        raise InputError(f"{name} indices of this model lie in {low} to {high}, not {array.min()} to {array.max()}")
