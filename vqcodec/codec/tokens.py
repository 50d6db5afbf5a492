# SPDX-License-Identifier: MIT
"""Codebook indices as tokens for other people's models: pictures to index arrays, and index arrays to pictures.

The arrays are those of `codec.indices`; how they stand in a file is said in token_file.py. What is no part of the
indices (alpha, ICC profile, EXIF) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import container
from vqcodec.bitstream.codebook import MAX_INDEX, Floats, Ints, real
from vqcodec.bitstream.colour import Colour
from vqcodec.bitstream.corrections import NONE, Corrections
from vqcodec.bitstream.drift import Drift
from vqcodec.bitstream.quality import Setting
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid, Tile
from vqcodec.codec import diffusion
from vqcodec.codec.encode import CodedTile, PictureEncoder, encode_base, encode_indices, encode_layers
from vqcodec.codec.indices import read_indices
from vqcodec.codec.synthesis import restore
from vqcodec.codec.tradeoff import Tradeoff
from vqcodec.errors import InputError, UsageError
from vqcodec.model import zoo
from vqcodec.model.walk import Base, Predicted, given
from vqcodec.model.zoo import Model
from vqcodec.options import (
    BASE_ONLY_QUALITY,
    DEFAULT_QUALITY,
    MAX_QUALITY,
    TILE_LOG2,
    DecodeOptions,
    EncodeOptions,
    ModelName,
    check_quality,
    whole_number,
)
from vqcodec.pictures.picture import Picture, gray_means
from vqcodec.threads import share, single_blas

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
        colour: the colour layer.
        tune: "psnr" or "eye", on which the steps depend as well; None for the model's default.
    """

    base: NDArray[np.int32]
    refinement: NDArray[np.int32] | None
    width: int
    height: int
    quality: int
    gray: bool = False
    tile_side: int = 1 << TILE_LOG2
    colour: Corrections = NONE
    tune: str | None = None


def of_file(data: bytes, options: DecodeOptions = DecodeOptions()) -> Tokens:
    """The tokens of a .vqc file.

    Raises:
        DamagedError, LimitError, ModelError
    """
    header = container.read_header(data).header
    base, refinement, *parts = read_indices(data, options)
    quality = BASE_ONLY_QUALITY if refinement is None else header.quality
    layer = colour_layer(*parts)
    return Tokens(
        base, refinement, header.width, header.height, quality, header.gray, header.tile_side, layer, header.tune
    )


def colour_layer(colour: NDArray[Any] | None, drift: NDArray[Any] | None) -> Corrections:
    """The colour layer of its parts' arrays.

    Raises:
        InputError: no layer has them.
    """
    return Corrections(
        None if colour is None else Colour.of_array(colour), None if drift is None else Drift.of_array(drift)
    )


def of_picture(picture: Picture, quality: int = DEFAULT_QUALITY, options: EncodeOptions = EncodeOptions()) -> Tokens:
    """The tokens that `encode.encode` would write for a picture, without patches.

    Raises:
        ModelError, UsageError
    """
    quality = check_quality(quality)
    encoder, tradeoff = PictureEncoder(picture, options), Tradeoff(quality, options.effort, tune=options.tune)
    grid, model = encoder.grid, encoder.model
    base = np.empty((grid.latent_height, grid.latent_width), np.int32)
    refinement = None if tradeoff.base_only else np.empty((*base.shape, model.prior.latents), np.int32)

    def visit(tile: Tile, coded: CodedTile) -> None:
        base[tile.latents.slices] = coded.base_indices
        if refinement is not None and coded.indices is not None:
            refinement[tile.latents.slices] = coded.indices

    layer = encode_layers(model, picture.rgb, tradeoff, grid, encoder.at_once, visit=visit).colour
    return Tokens(
        base, refinement, encoder.width, encoder.height, quality, picture.gray, grid.tile_side, layer, encoder.tune
    )


# ---- and back --------------------------------------------------------------------------------------------------------


def to_file(tokens: Tokens, *, model: ModelName | None = None) -> bytes:
    """Write a .vqc file that holds these tokens.

    Raises:
        InputError: they are no indices of this model, or hold an index for which its prior has no code.
        ModelError, UsageError
    """
    loaded = zoo.load(zoo.find(model))
    tokens, grid = _checked(loaded, tokens)
    base, fine = zip(*(_payloads(loaded, tokens, grid, tile) for tile in grid.tiles), strict=True)
    header = container.Header(
        tokens.width, tokens.height, tokens.quality, loaded.files.checksum, tokens.gray,
        tokens.tile_side.bit_length() - 1, tune=loaded.tune(tokens.tune),
    )  # fmt: skip
    colour = tokens.colour.payload(loaded.tables)
    return container.pack(container.Contents(header, base, None if tokens.refinement is None else fine, colour))


def _payloads(model: Model, tokens: Tokens, grid: Grid, tile: Tile) -> tuple[bytes, bytes]:
    """The payloads of one tile; the refinement's is empty where there is none."""
    here = tile.latents.slices
    base = Base.of(tokens.base, grid, tile, model.prior.halo)
    coarse = encode_base(model, base.inner)
    if tokens.refinement is None:
        return coarse, b""
    fine = tokens.refinement[here].astype(np.int64)

    def choose(p: Predicted) -> Ints:
        indices: Ints = fine[:, :, p.step.channels][p.where]
        without = (indices != 0) & (model.tables.limits[p.classes] == 0)
        if without.any():
            number, channel = np.argwhere(without)[0]
            row, column = np.argwhere(p.where)[number] + (tile.latents.y0, tile.latents.x0)
            raise InputError(
                f"the refinement index {indices[number, channel]} at row {row}, column {column}, channel "
                f"{p.step.channels.start + channel} has no code under this model: it must be 0 in a file; "
                "vqcodec.decode_indices restores the picture all the same"
            )
        return indices

    return coarse, encode_indices(model, base, _setting(model, tokens), choose)[0]


def to_picture(tokens: Tokens, options: DecodeOptions = DecodeOptions()) -> Picture:
    """Restore the picture that these tokens stand for; of the options count the decoder, threads, model and execution.

    Raises:
        InputError: they are no indices of this model.
        ModelError, UsageError
    """
    files = zoo.find(options.model)
    tokens, grid = _checked(zoo.load(files, 1), tokens)
    at_once, each = share(options.threads, grid.tile_count)
    loaded = zoo.load(files, each, options.execution)
    loaded.prepare("realistic" if options.texture else "synthesis")
    layers = diffusion.Layers(loaded, grid.pixels, at_once)
    if options.decoder == "diffusion":
        loaded.prepare("denoiser")
        sampling = diffusion.sampling_of(options, tokens.quality or BASE_ONLY_QUALITY)
        layers.add(diffusion.diffused(loaded, sampling), sampling.steps)
    with single_blas():
        rows = restore(loaded, grid, _TokenTiles(loaded, tokens, grid), at_once, grid.pixels, options.texture)
        rgb = np.concatenate(list(layers.through(rows, grid.pixels)))
    return Picture(gray_means(rgb) if tokens.gray else rgb, gray=tokens.gray)


@dataclass(frozen=True)
class _TokenTiles:
    """What `restore` asks for, out of tokens."""

    model: Model
    tokens: Tokens
    grid: Grid

    def latents(self, tile: Tile) -> NDArray[np.float32]:
        base = Base.of(self.tokens.base, self.grid, tile, self.model.prior.halo)
        if self.tokens.refinement is None:
            return real(self.model.base_latents(base))
        fine = self.tokens.refinement[tile.latents.slices].astype(np.int64)
        return real(self.model.walk_refinement(base, _setting(self.model, self.tokens), given(fine))[0])

    def weights(self, tile: Tile) -> Floats:
        return self.model.synthesis_weights(_setting(self.model, self.tokens), base_only=self.tokens.refinement is None)

    def corrections(self, tile: Tile) -> Corrections:
        return self.tokens.colour


def _setting(model: Model, tokens: Tokens) -> Setting:
    return model.setting(tokens.quality, tokens.tune)


def of_arrays(
    base: NDArray[Any],
    refinement: NDArray[Any] | None,
    width: int | None,
    height: int | None,
    quality: int | None,
    gray: bool,
    tile_side: int,
    colour: NDArray[Any] | None = None,
    drift: NDArray[Any] | None = None,
    tune: str | None = None,
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
    quality = BASE_ONLY_QUALITY if quality is None else check_quality(quality)
    width = base.shape[1] * LATENT_STRIDE if width is None else whole_number("width", width, -(2**63))
    height = base.shape[0] * LATENT_STRIDE if height is None else whole_number("height", height, -(2**63))
    tile_side = whole_number("the side of a tile", tile_side, 1)
    layer = colour_layer(colour, drift)
    return Tokens(base, refinement, width, height, quality, gray, tile_side, layer, tune)


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
    drift = tokens.colour.drift
    if drift is not None and not drift.fits(width, height):
        rows, columns = drift.indices.shape[:2]
        raise InputError(
            f"a drift layer of {rows} x {columns} cells does not fit a picture of {width} x {height} pixels"
        )
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
