# SPDX-License-Identifier: MIT
"""Encode and decode: the whole way, both directions.

    picture -> tiles -> analysis -> base indices + refinement indices -> priors -> range coder -> container
    container -> range coder + priors -> indices -> latents -> synthesis (with halos) -> picture

Both directions walk the priors with the same code (`walk_base`, `walk_refinement`); what differs is whether the
indices of a step are chosen and written, or read. Files, options and people are the command line's affair (cli.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec import colour, container, image, metadata, zoo
from vqcodec.codebook import (
    BASE_ONLY_QUALITY,
    LATENT_BITS,
    MAX_INDEX,
    MAX_QUALITY,
    Floats,
    Ints,
    dequantise,
    quantise,
)
from vqcodec.colour import Colour
from vqcodec.entropy import ClassTables, Decoder, Encoder
from vqcodec.errors import DamagedError, UsageError
from vqcodec.image import DEFAULT_MAX_PIXELS, Picture, Strips
from vqcodec.prior import Step, checkerboard, quarter
from vqcodec.refine import PLANS, refine
from vqcodec.restore import restore
from vqcodec.threads import in_order, share, single_blas
from vqcodec.tiles import LATENT_STRIDE, Grid, Rect, Tile
from vqcodec.zoo import Model

DEFAULT_QUALITY = 75
DEFAULT_EFFORT = 5
COLOUR_EFFORT = 3  # from here on the encoder fits a colour layer
COLOUR_TILES = 16  # to the pixels of about so many tiles at most
TILE_LOG2 = 10
SCALES = (1, 2, 4, 8)
DECODERS = ("faithful", "realistic")
MAX_PLACES = 12  # of damaged tiles that are listed

# Chooses or reads the indices of one step: (step, positions, means, classes) -> indices
Chooser = Callable[[Step, NDArray[np.bool_], Floats, Ints], Ints]
Region = tuple[int, int, int, int]  # x, y, width, height in pixels


class Indices(NamedTuple):
    """The codebook indices of a picture: all that a .vqc file says of its pixels.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=1)
        >>> found = vqcodec.indices(data)
        >>> found.base.shape, found.refinement is None
        ((3, 7), True)
    """

    base: NDArray[np.int32]  # [ceil(H/16), ceil(W/16)], in [0, codebook size)
    refinement: NDArray[np.int32] | None  # [ceil(H/16), ceil(W/16), latent channels]; None in a base-only file
    colour: NDArray[np.int32] | None  # the colour layer, [1 + K, 3] (colour.py); None in a file without


def walk_base(model: Model, shape: tuple[int, int], visit: Callable[[NDArray[np.bool_], Ints], Ints]) -> Ints:
    """Go through the base layer's four passes; `visit(positions, frequencies)` gives the indices of each: [h, w]."""
    indices, known = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for number in range(4):
        where = quarter(*shape, number)
        if where.any():
            indices[where] = visit(where, model.base_prior.frequencies(indices, known, number))
            known |= where
    return indices


def walk_refinement(model: Model, base: Ints, quality: int, choose: Chooser) -> tuple[Floats, Ints]:
    """Go through the refinement's steps.

    Returns:
        latents [h, w, M] (2**-LATENT_BITS) and indices [h, w, M] int64.
    """
    prior = model.prior
    features, base_mean = prior.base(model.codebook.values(base))
    latents, indices = base_mean.copy(), np.zeros(base_mean.shape, np.int64)
    known, before = np.zeros_like(base_mean), None
    for step in prior.steps:
        where = checkerboard(base.shape[0], base.shape[1], step.half)
        mean, classes, before = prior.predict(step, known, features, base_mean, quality, before)
        chosen = choose(step, where, mean, classes)
        shrink = model.tables.reconstruction(chosen, classes)
        values = dequantise(chosen, mean, prior.step_size[quality - 1, step.channels], shrink)
        # Boolean index on the positions, slice on the channels
        latents[:, :, step.channels][where] = values
        indices[:, :, step.channels][where] = chosen
        around = base_mean[:, :, step.channels][where]
        known[:, :, step.channels][where] = prior.normalise(values, around, step.channels)
    return latents, indices


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


def _coloured(header: container.Header, number: int) -> bool:
    """Whether the base payload of the tile of this number begins with the colour layer."""
    return header.colour and number == 0


def _decode_tile(
    model: Model, tile: Tile, header: container.Header, base: bytes, refinement: bytes | None
) -> tuple[NDArray[np.float32], Ints, Ints | None]:
    """One tile's payloads -> latents [h, w, M] float32 and the indices of both layers.

    Raises:
        DamagedError: the payloads do not decode under this model.
    """
    coder = Decoder(base)
    if _coloured(header, tile.index):
        colour.read(coder, model.tables)
    shape = tile.latents.height, tile.latents.width
    indices = walk_base(model, shape, lambda _, frequencies: coder.get_base(frequencies))
    if not coder.exhausted():
        raise DamagedError("data is left over behind the base layer")
    scale = np.float32(2.0**-LATENT_BITS)
    if refinement is None:
        _, mean = model.prior.base(model.codebook.values(indices))
        return mean.astype(np.float32) * scale, indices, None
    reader = Decoder(refinement)
    latents, levels = walk_refinement(
        model, indices, header.quality, lambda _s, _w, _m, classes: reader.get_refinement(classes, model.tables)
    )
    if not reader.exhausted():
        raise DamagedError("data is left over behind the refinement layer")
    return latents.astype(np.float32) * scale, indices, levels


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


def check_options(quality: int, effort: int) -> None:
    if not (isinstance(quality, int) and BASE_ONLY_QUALITY <= quality <= MAX_QUALITY):
        raise UsageError(f"quality must be a whole number from 1 to 100, not {quality!r}")
    if not (isinstance(effort, int) and 1 <= effort <= 9):
        raise UsageError(f"effort must be a whole number from 1 to 9, not {effort!r}")


def analyse(
    model: Model, rgb: NDArray[np.uint8], grid: Grid, tile: Tile, quality: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A tile of a picture [H, W, 3] -> its latents [h, w, M] and base vectors [h, w, D], seen with a halo."""
    window = grid.with_halo(tile.latents, model.analysis_halo)
    y, z = model.analysis(padded(rgb, window), model.analysis_hat(quality))
    rows, columns = _inside(window, tile.latents)
    return y[rows, columns], z[rows, columns]


def encode_picture(
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
    return pack(header, layers, beside(picture, strip=strip))


class Beside(NamedTuple):
    """What a file holds beside the indices."""

    srgb: bool
    alpha: bytes | None
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None


def beside(picture: Picture, *, strip: bool = False) -> Beside:
    """Alpha and metadata of a picture as a file holds them; with `strip` no more than its colours need."""
    srgb = picture.icc is not None and metadata.is_srgb(picture.icc)
    return Beside(
        srgb=srgb and not strip,
        alpha=None if picture.alpha is None else image.encode_alpha(picture.alpha),
        icc=None if srgb else picture.icc,  # not stripped: without it the colours would be others
        exif=None if strip else picture.exif,
        xmp=None if strip else picture.xmp,
    )


class Layers(NamedTuple):
    """The payloads of all tiles."""

    base: tuple[bytes, ...]
    refinement: tuple[bytes, ...] | None
    colour: Colour | None = None  # the layer with which the first of `base` begins


def pack(header: container.Header, layers: Layers, parts: Beside) -> bytes:
    """A whole file from its layers' payloads and what stands beside them."""
    header = replace(header, srgb=parts.srgb, colour=layers.colour is not None)
    payloads = layers.base, layers.refinement
    return container.pack(container.Contents(header, *payloads, parts.alpha, parts.icc, parts.exif, parts.xmp))


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


def _opened(
    data: bytes, max_pixels: int, model: str | os.PathLike[str] | None, threads: int, partial: bool = False
) -> tuple[container.PartialContents, Model, Grid, int]:
    """Contents (whole, unless `partial`), model, tiles, and how many of them to work on at a time."""
    contents = container.unpack_partial(data, max_pixels=max_pixels)
    if not partial:
        container.check_whole(contents)
    header = contents.header
    grid = Grid(header.width, header.height, 1 << header.tile_log2)
    at_once, each = share(threads, grid.tile_count)
    return contents, zoo.load(zoo.by_checksum(header.model, model), each), grid, at_once


def _payloads(contents: container.PartialContents, tile: Tile) -> tuple[bytes | None, bytes | None]:
    """A tile's base and refinement payload; None where damaged, and None for a refinement that no tile has."""
    return contents.base[tile.index], None if contents.refinement is None else contents.refinement[tile.index]


@contextmanager
def _named(tile: Tile) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{_place(tile)}: {error}") from None


def _place(tile: Tile) -> str:
    p = tile.pixels
    return f"tile {tile.index} (x {p.x0}..{p.x1 - 1}, y {p.y0}..{p.y1 - 1})"


@dataclass
class _TileReader:
    """Reads the latents of tiles; a damaged tile ends it all, or (`partial`) is made up for and noted."""

    model: Model
    contents: container.PartialContents
    partial: bool
    reasons: list[str] = field(default_factory=list)  # payloads whose checksum is right and whose contents are not
    coarse: dict[int, str] = field(default_factory=dict)  # tiles restored from the base layer alone: where they are
    missing: dict[int, str] = field(default_factory=dict)  # tiles of which nothing is left

    def __call__(self, tile: Tile) -> NDArray[np.float32]:
        """The tile's latents [h, w, M]; zeros for a missing one."""
        base, refinement = _payloads(self.contents, tile)
        layered = self.contents.refinement is not None
        for fine in [None] if base is None or refinement is None else [refinement, None]:
            if base is None:
                break
            try:
                with _named(tile):
                    latents = _decode_tile(self.model, tile, self.contents.header, base, fine)[0]
            except DamagedError as error:
                if not self.partial:
                    raise
                self.reasons.append(str(error))
                continue
            if layered and fine is None:
                self.coarse[tile.index] = _place(tile)
            return latents
        self.missing[tile.index] = _place(tile)
        return np.zeros((tile.latents.height, tile.latents.width, self.model.prior.latents), np.float32)

    def losses(self) -> list[str]:
        """What to say of the tiles that are not as they were."""
        count = len(self.contents.base)
        lost = ((self.coarse, "restored coarsely, from the base layer alone"), (self.missing, "lost, and shown gray"))
        found = [*self.reasons]
        for tiles, fate in lost:
            if tiles:
                places = [tiles[number] for number in sorted(tiles)]
                more = f" and {len(places) - MAX_PLACES} more" if len(places) > MAX_PLACES else ""
                found.append(f"{len(tiles)} of {count} tiles {fate}: {', '.join(places[:MAX_PLACES])}{more}")
        return found


def _colour_layer(model: Model, contents: container.PartialContents, partial: bool) -> Colour | None:
    """The colour layer; None where there is none, or (`partial`) it is damaged."""
    if not _coloured(contents.header, 0) or contents.base[0] is None:
        return None
    try:
        return colour.read(Decoder(contents.base[0]), model.tables)
    except DamagedError:
        if partial:
            return None
        raise


def area_of(header: container.Header, region: Region | None) -> Rect:
    """The pixels that a region asks for; all for None.

    Raises:
        UsageError: it is empty, or does not lie inside the picture.
    """
    if region is None:
        return Rect(0, 0, header.width, header.height)
    x, y, width, height = region
    if min(x, y) < 0 or min(width, height) < 1 or x + width > header.width or y + height > header.height:
        raise UsageError(
            f"the region {x},{y},{width},{height} does not lie inside the picture, which is "
            f"{header.width} x {header.height} pixels (a region is x, y, width, height)"
        )
    return Rect(x, y, x + width, y + height)


def profile_of(header: container.Header, icc: bytes | None) -> bytes | None:
    """The colour profile of a picture: the file's own, or one of sRGB where the file has its mark."""
    return metadata.srgb_profile() if header.srgb and not header.gray else icc


def realism_of(decoder: str | None, realism: float | None) -> float:
    """What the reader's choice of a decoder means: 0 for the faithful one, more for the realistic one.

    Raises:
        UsageError: no such decoder, a realism outside 0 to 1, or one for the faithful decoder.
    """
    if decoder not in (None, *DECODERS):
        raise UsageError(f"there is no decoder {decoder!r}; known are {' and '.join(DECODERS)}")
    if realism is not None and not 0 <= realism <= 1:
        raise UsageError(f"realism must be a number from 0 to 1, not {realism:g}")
    if decoder == "faithful" and realism:
        raise UsageError("realism is for the realistic decoder; the faithful one has none")
    if decoder == "faithful" or (decoder is None and realism is None):
        return 0.0
    return 1.0 if realism is None else float(realism)


def decode_strips(
    data: bytes,
    *,
    decoder: str | None = None,
    realism: float | None = None,
    region: Region | None = None,
    scale: int = 1,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    allow_partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Strips:
    """Decode from the top to the bottom, a row of tiles at a time; see `decode` and `decode_picture`.

    Errors that only the payloads show are raised while the strips are walked.
    """
    if scale not in SCALES:
        raise UsageError(f"scale must be 1, 2, 4 or 8, not {scale!r}")
    weight = realism_of(decoder, realism)
    contents, loaded, grid, at_once = _opened(data, max_pixels, model, threads, allow_partial)
    header = contents.header
    area = area_of(header, region)
    _ = loaded.realistic if weight else loaded.synthesis  # loaded here, before several threads ask for it
    alpha, damage = None, [*contents.damage]
    if contents.has_alpha:
        try:
            if contents.alpha is not None:
                alpha = image.decode_alpha(contents.alpha, header.width, header.height)
        except DamagedError as error:
            if not allow_partial:
                raise
            damage.append(str(error))
        if alpha is None:
            alpha = np.full((header.height, header.width), 255, np.uint8)
        alpha = alpha[area.slices]
    layer = _colour_layer(loaded, contents, allow_partial)
    reader = _TileReader(loaded, contents, allow_partial)
    hats = [loaded.synthesis_hat(header.quality, base_only) for base_only in (False, True)]

    def hat(tile: Tile) -> NDArray[np.float64] | None:
        if tile.index in reader.missing:
            return None
        return hats[contents.refinement is None or tile.index in reader.coarse]

    def colour_of(tile: Tile) -> Colour | None:
        return None if tile.index in reader.coarse else layer

    def rows() -> Iterator[NDArray[np.uint8]]:
        with single_blas():
            for rgb in restore(loaded, grid, reader, hat, at_once, area, progress, weight, colour_of):
                if header.gray:
                    rgb[:] = np.rint(rgb.mean(2, keepdims=True)).astype(np.uint8)
                yield rgb
        damage.extend(reader.losses())
        if header.colour and layer is None and len(reader.coarse) + len(reader.missing) < grid.tile_count:
            damage.append("the colour layer, which stands in tile 0, is lost: colours are a little off")

    icc = profile_of(header, contents.icc)
    strips = Strips(area.width, area.height, rows(), alpha, header.gray, icc, contents.exif, damage, contents.xmp)
    return strips.reduced(scale)


def decode_picture(
    data: bytes,
    *,
    decoder: str | None = None,
    realism: float | None = None,
    region: Region | None = None,
    scale: int = 1,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    allow_partial: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Picture:
    """Decode to a `Picture`; see `decode`. `progress(done, tiles)` is called after each tile."""
    return decode_strips(
        data,
        decoder=decoder,
        realism=realism,
        region=region,
        scale=scale,
        threads=threads,
        model=model,
        max_pixels=max_pixels,
        allow_partial=allow_partial,
        progress=progress,
    ).gathered()


def indices(
    data: bytes,
    *,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Indices:
    """The codebook indices of a .vqc file, the same on every machine.

    Arguments and errors are those of `decode`.

    Returns:
        base indices [h, w] int32 and refinement indices [h, w, M] int32 (None in a base-only file), with h, w the
        picture's size over 16, rounded up; and the colour layer, [1 + K, 3] int32 (None in a file without one), whose
        first row is the exponent of its step.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=50)
        >>> base, refinement, colour = vqcodec.indices(data)
        >>> base.shape, base.dtype, refinement.shape[:2]
        ((3, 7), dtype('int32'), (3, 7))
    """
    contents, loaded, grid, at_once = _opened(data, max_pixels, model, threads)
    base = np.empty((grid.latent_height, grid.latent_width), np.int32)
    refinement = None
    if contents.refinement is not None:
        refinement = np.empty((*base.shape, loaded.prior.latents), np.int32)

    def work(tile: Tile) -> tuple[Tile, Ints, Ints | None]:
        base_payload, payload = _payloads(contents, tile)
        assert base_payload is not None  # the file is whole
        with _named(tile):
            found = _decode_tile(loaded, tile, contents.header, base_payload, payload)
        return tile, found[1], found[2]

    with single_blas():
        for tile, coarse, fine in in_order(work, grid.tiles, at_once):
            base[tile.latents.slices] = coarse
            if refinement is not None and fine is not None:
                assert np.abs(fine).max(initial=0) <= 2 * MAX_INDEX
                refinement[tile.latents.slices] = fine
    layer = _colour_layer(loaded, contents, False)
    return Indices(base, refinement, None if layer is None else layer.array())
