# SPDX-License-Identifier: MIT
"""Encode: picture -> latents -> indices -> .vqc file.

    picture -> tiles -> analysis -> base indices + refinement indices -> priors -> range coder -> container

Files, options and people are the command line's affair (cli/). The mirror of decode.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import colour, container
from vqcodec.bitstream.codebook import LATENT_BITS, Floats, Ints, quantise
from vqcodec.bitstream.colour import Colour
from vqcodec.bitstream.entropy import ClassTables, Encoder
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid, Rect, Tile
from vqcodec.codec.search import PLANS, refine
from vqcodec.codec.walk import walk_base, walk_refinement
from vqcodec.model import zoo
from vqcodec.model.prior import Step
from vqcodec.model.zoo import Model
from vqcodec.options import BASE_ONLY_QUALITY, DEFAULT_EFFORT, DEFAULT_QUALITY, TILE_LOG2, check_options
from vqcodec.pictures import metadata, png
from vqcodec.pictures.picture import Picture
from vqcodec.threads import in_order, share, single_blas

COLOUR_EFFORT = 3  # from here on the encoder fits a colour layer
COLOUR_TILES = 16  # to the pixels of about so many tiles at most


def cheapen(indices: Ints, t: Floats, classes: Ints, size: Floats, tables: ClassTables, lagrangian: float) -> None:
    """Take the next index towards zero wherever rate + lambda distortion gets smaller (in place).

    A unit of squared error of a latent is 1/768 of the mean squared error of its 256 pixels (the linear transform is
    close to orthonormal), so lambda per pixel weighs it with lambda / 3 in bits.

    Args:
        indices: [n, C] int64, the nearest indices; changed.
        t: [n, C] float64, the values in steps before rounding.
        classes: [n, C] int64 scale classes; size: [C] steps in units of 2**-LATENT_BITS.
        lagrangian: bits per pixel per unit of mean squared error.
    """
    weight = lagrangian / 3 * (size * 2.0**-LATENT_BITS) ** 2
    shrink, costs = tables.shrink * (1 / 256), tables.costs
    rows, columns = np.nonzero(indices)
    old, kind = indices[rows, columns], classes[rows, columns]
    place, sign = t[rows, columns], np.sign(old)

    def cost(index: Ints) -> Floats:
        value = index - sign * shrink[kind, np.minimum(np.abs(index), 2)]
        bits = costs[kind, np.clip(index, -256, 255) + 256]
        return np.asarray(bits + weight[columns] * (place - value) ** 2)

    new = old - sign
    indices[rows, columns] = np.where(cost(new) < cost(old), new, old)


@dataclass(frozen=True)
class _Chooser:
    """Chooses the refinement's indices in the encoder and writes them."""

    model: Model
    latents: Floats  # [h, w, M] from the analysis, real numbers
    quality: int
    effort: int
    coder: Encoder
    lambda_scale: float  # what a unit of distortion weighs, relative to the model's own Lagrangian

    def __call__(self, step: Step, where: NDArray[np.bool_], mean: Floats, classes: Ints) -> Ints:
        size = self.model.prior.step_size[self.quality - 1, step.channels]
        indices, t = quantise(self.latents[:, :, step.channels][where], mean, size)
        indices[self.model.tables.limits[classes] == 0] = 0
        if self.effort >= 2:
            lagrangian = self.lambda_scale * self.model.lagrangian(self.quality)
            cheapen(indices, t, classes, size, self.model.tables, lagrangian)
        self.coder.put_refinement(indices, classes, self.model.tables)
        return indices


class BasePayload:
    """One tile's base layer before it is written: the colour layer, which stands before it, is known last."""

    def __init__(self, model: Model, vectors: NDArray[np.float32]) -> None:
        h, w = vectors.shape[:2]
        wanted = model.codebook.nearest(vectors.reshape(h * w, -1)).reshape(h, w)
        self._model, self._passes = model, list[tuple[Ints, Ints]]()

        def put(where: NDArray[np.bool_], frequencies: Ints) -> Ints:
            self._passes.append((wanted[where], frequencies.astype(np.int32)))  # they are large, and below 2**24
            return wanted[where]

        self.indices = walk_base(model, (h, w), put)  # [h, w] int64

    def finish(self, layer: Colour | None = None) -> bytes:
        """The payload."""
        coder = Encoder()
        if layer is not None:
            layer.write(coder, self._model.tables)
        for indices, frequencies in self._passes:
            coder.put_base(indices, frequencies)
        return coder.finish()


def encode_base(model: Model, vectors: NDArray[np.float32]) -> tuple[bytes, Ints]:
    """One tile's base layer: vectors [h, w, D] -> payload, indices [h, w] int64."""
    payload = BasePayload(model, vectors)
    return payload.finish(), payload.indices


def encode_refinement(
    model: Model, latents: NDArray[np.float32], base: Ints, quality: int, effort: int, lambda_scale: float = 1.0
) -> tuple[bytes, Ints, Floats]:
    """One tile's refinement: latents [h, w, M], base indices [h, w] -> payload, indices, latents (2**-LATENT_BITS)."""
    chooser = _Chooser(model, latents.astype(np.float64), quality, effort, Encoder(), lambda_scale)
    decoded, indices = walk_refinement(model, base, quality, chooser)
    return chooser.coder.finish(), indices, decoded


def encode_indices(model: Model, wanted: Ints, base: Ints, quality: int) -> tuple[bytes, Ints, Floats]:
    """As `encode_refinement`, of indices [h, w, M] that are chosen already; zero where the class says so."""
    coder = Encoder()

    def put(step: Step, where: NDArray[np.bool_], _: Floats, classes: Ints) -> Ints:
        indices = wanted[:, :, step.channels][where]
        indices[model.tables.limits[classes] == 0] = 0
        coder.put_refinement(indices, classes, model.tables)
        return indices

    decoded, indices = walk_refinement(model, base, quality, put)
    return coder.finish(), indices, decoded


class CodedTile(NamedTuple):
    """What a file holds of a tile, and what a decoder will make of it."""

    base: BasePayload
    refinement: bytes | None
    indices: Ints | None  # of the refinement
    latents: NDArray[np.float32]  # [h, w, M]


def encode_tile(
    model: Model,
    rgb: NDArray[np.uint8],
    latents: NDArray[np.float32],
    vectors: NDArray[np.float32],
    quality: int,
    effort: int,
    lambda_scale: float = 1.0,
) -> CodedTile:
    """One tile: pixels [16 h, 16 w, 3], latents [h, w, M] and base vectors [h, w, D]."""
    base, scale = BasePayload(model, vectors), np.float32(2.0**-LATENT_BITS)
    if quality == BASE_ONLY_QUALITY:
        _, mean = model.prior.base(model.codebook.values(base.indices))
        return CodedTile(base, None, None, mean.astype(np.float32) * scale)
    fine, indices, decoded = encode_refinement(model, latents, base.indices, quality, effort, lambda_scale)
    if effort in PLANS and model.gradient is not None:
        features, base_mean = model.prior.base(model.codebook.values(base.indices))
        hat, size = model.analysis_hat(quality), model.prior.step_size[quality - 1]
        lagrangian = lambda_scale * model.lagrangian(quality)
        plan, tables = PLANS[effort], model.tables
        better = refine(model.gradient, plan, indices, tables, rgb, features, base_mean, hat, size, lagrangian)
        fine, indices, decoded = encode_indices(model, better, base.indices, quality)
    return CodedTile(base, fine, indices, decoded.astype(np.float32) * scale)


def padded(rgb: NDArray[np.uint8], window: Rect) -> NDArray[np.uint8]:
    """The pixels of a window given in latents; beyond the right and lower edge the last pixel is repeated."""
    s = LATENT_STRIDE
    part = rgb[window.y0 * s : window.y1 * s, window.x0 * s : window.x1 * s]
    down = (window.y1 - window.y0) * s - part.shape[0]
    right = (window.x1 - window.x0) * s - part.shape[1]
    return np.pad(part, ((0, down), (0, right), (0, 0)), "edge") if down or right else part


def _inside(window: Rect, tile: Rect) -> tuple[slice, slice]:
    """Where a tile lies in its window with halo."""
    return (
        slice(tile.y0 - window.y0, tile.y1 - window.y0),
        slice(tile.x0 - window.x0, tile.x1 - window.x0),
    )


def analyse(
    model: Model, rgb: NDArray[np.uint8], grid: Grid, tile: Tile, quality: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A tile of a picture [H, W, 3] -> its latents [h, w, M] and base vectors [h, w, D], seen with a halo."""
    window = grid.with_halo(tile.latents, model.analysis_halo)
    y, z = model.analysis(padded(rgb, window), model.analysis_hat(quality))
    rows, columns = _inside(window, tile.latents)
    return y[rows, columns], z[rows, columns]


def encode(
    picture: Picture,
    quality: int = DEFAULT_QUALITY,
    *,
    effort: int = DEFAULT_EFFORT,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    strip: bool = False,
    tile_log2: int = TILE_LOG2,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """Encode a loaded picture; see `api.encode`. `progress(done, tiles)` is called after each tile."""
    check_options(quality, effort)
    files = zoo.find(model)
    height, width = picture.rgb.shape[:2]
    at_once, each = share(threads, Grid(width, height, 1 << tile_log2).tile_count)
    loaded = zoo.load(files, each)
    layers = encode_layers(loaded, picture.rgb, quality, effort, at_once, tile_log2, progress=progress)
    header = container.Header(width, height, quality, files.checksum, picture.gray, tile_log2)
    return pack(header, layers, side_data(picture, strip=strip))


class SideData(NamedTuple):
    """What a file holds beside the indices."""

    srgb: bool
    alpha: bytes | None
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None


def side_data(picture: Picture, *, strip: bool = False) -> SideData:
    """Alpha and metadata of a picture as a file holds them; with `strip` no more than its colours need."""
    srgb = picture.icc is not None and metadata.is_srgb(picture.icc)
    return SideData(
        srgb=srgb and not strip,
        alpha=None if picture.alpha is None else png.encode_alpha(picture.alpha),
        icc=None if srgb else picture.icc,  # not stripped: without it the colours would be others
        exif=None if strip else picture.exif,
        xmp=None if strip else picture.xmp,
    )


class Layers(NamedTuple):
    """The payloads of all tiles."""

    base: tuple[bytes, ...]
    refinement: tuple[bytes, ...] | None
    colour: Colour | None = None  # the layer with which the first of `base` begins


def pack(header: container.Header, layers: Layers, side: SideData) -> bytes:
    """A whole file from its layers' payloads and what stands beside them."""
    header = replace(header, srgb=side.srgb, colour=layers.colour is not None)
    payloads = layers.base, layers.refinement
    return container.pack(container.Contents(header, *payloads, side.alpha, side.icc, side.exif, side.xmp))


def encode_layers(
    model: Model,
    rgb: NDArray[np.uint8],
    quality: int,
    effort: int,
    at_once: int = 1,
    tile_log2: int = TILE_LOG2,
    *,
    lambda_scale: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
    visit: Callable[[Tile, CodedTile], None] | None = None,
) -> Layers:
    """The payloads of all tiles of a picture [H, W, 3].

    `at_once` is how many tiles to work on at a time.
    `lambda_scale` weighs the distortion in the choice of indices (effort 2 and more): above 1 for more bits, below for
    fewer, by some percent. `visit` sees every tile, on the thread that coded it.
    """
    fits = effort >= COLOUR_EFFORT
    # loaded here, before several threads ask for them
    _ = model.analysis, effort in PLANS and model.gradient, fits and model.synthesis
    grid = Grid(rgb.shape[1], rgb.shape[0], 1 << tile_log2)
    hat = model.synthesis_hat(quality, quality == BASE_ONLY_QUALITY)
    fit = colour.Fit(rgb.shape[0] * rgb.shape[1], lambda_scale * model.lagrangian(max(quality, BASE_ONLY_QUALITY + 1)))
    every, stride = -(-grid.tile_count // COLOUR_TILES), 2 if grid.tile_count == 1 else 4

    def work(tile: Tile) -> tuple[BasePayload | bytes, bytes | None, colour.Sums | None]:
        latents, vectors = analyse(model, rgb, grid, tile, quality)
        pixels = padded(rgb, tile.latents)
        coded = encode_tile(model, pixels, latents, vectors, quality, effort, lambda_scale)
        if visit:
            visit(tile, coded)
        seen = None
        if fits and tile.index % every == 0:
            seen = colour.sums(model.synthesis.unrounded(coded.latents, hat), rgb[tile.pixels.slices], stride)
        return coded.base if tile.index == 0 else coded.base.finish(), coded.refinement, seen

    base: list[bytes] = []
    fine: list[bytes] = []
    first: BasePayload | None = None
    with single_blas():
        for number, (payload, refinement, seen) in enumerate(in_order(work, grid.tiles, at_once)):
            if isinstance(payload, BasePayload):
                first, payload = payload, b""
            base.append(payload)
            fine += [] if refinement is None else [refinement]
            if seen:
                fit.add(seen)
            if progress:
                progress(number + 1, grid.tile_count)
    assert first is not None
    layer = fit.solve(model.tables) if fits else None
    base[0] = first.finish(layer)
    return Layers(tuple(base), None if quality == BASE_ONLY_QUALITY else tuple(fine), layer)
