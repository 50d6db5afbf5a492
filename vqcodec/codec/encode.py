# SPDX-License-Identifier: MIT
"""Encode: picture -> latents -> indices -> .vqc file.

    picture -> tiles -> analysis -> base indices + refinement indices -> priors -> range coder -> container

Files, options and people are the command line's affair (cli/). The mirror of decode.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec import memory
from vqcodec.bitstream import container, range_coder
from vqcodec.bitstream.codebook import Floats, Ints, quantise, real
from vqcodec.bitstream.corrections import NONE, Corrections
from vqcodec.bitstream.entropy import Encoder
from vqcodec.bitstream.patches import Patches
from vqcodec.bitstream.quality import Setting
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid, Rect, Tile
from vqcodec.codec.fit import Fit, Seen
from vqcodec.codec.patching import Chooser, Filled, Survey, Watch, silent
from vqcodec.codec.search import CURVATURE, improved
from vqcodec.codec.side_data import SideData, side_data
from vqcodec.codec.synthesis import Strip, strips
from vqcodec.codec.tradeoff import CHEAPEN_EFFORT, COLOUR_EFFORT, PATCH_EFFORT, ROUNDS, Tradeoff, cheapen
from vqcodec.model import zoo
from vqcodec.model.walk import Base, Predicted
from vqcodec.model.walk import Chooser as IndexChooser
from vqcodec.model.zoo import Graph, Model
from vqcodec.options import DEFAULT_QUALITY, EncodeOptions, check_quality
from vqcodec.pictures import webp
from vqcodec.pictures.picture import Picture
from vqcodec.threads import MAX_TILES_AT_ONCE, Once, Progress, in_order, share, single_blas

LARGE_PIXELS = 64_000_000  # from here on the aim's 300 MB for a tile are spent on one tile at a time, by all threads
BASE_BITS = 7.0  # of a base index, about


def encode(
    picture: Picture,
    quality: int = DEFAULT_QUALITY,
    options: EncodeOptions = EncodeOptions(),
    progress: Progress | None = None,
) -> bytes:
    """Encode a loaded picture; see `api.encode`. `progress(done, tiles)` is called after each tile."""
    return PictureEncoder(picture, options, progress).file(check_quality(quality))


class PictureEncoder:
    """Encodes a picture, once or at several qualities; what does not depend on the quality is done once."""

    def __init__(
        self, picture: Picture, options: EncodeOptions = EncodeOptions(), progress: Progress | None = None
    ) -> None:
        range_coder.choose()  # imports it here: see there
        self.picture, self.options, self.progress = picture, options, progress
        self.height, self.width = picture.rgb.shape[:2]
        self.grid = Grid(self.width, self.height, 1 << options.tile_log2)
        if self.grid.tile_count > 1:
            memory.trim()  # what reading it left behind, Pillow's own copy above all: 4 bytes a pixel
        most = 1 if options.effort in ROUNDS and self.width * self.height >= LARGE_PIXELS else MAX_TILES_AT_ONCE
        self.at_once, each = share(options.threads, self.grid.tile_count, most)
        self.model = zoo.load(zoo.find(options.model), each, options.execution)

    @property
    def tune(self) -> str:
        """The tune of the file."""
        return self.model.tune(self.options.tune)

    @cached_property
    def side(self) -> SideData:
        """What the file holds beside the indices."""
        return side_data(self.picture, strip=self.options.strip)

    def file(self, quality: int, lambda_scale: float = 1.0) -> bytes:
        """The whole file at a quality."""
        return self.pack(quality, self.layers(quality, lambda_scale))

    def layers(self, quality: int, lambda_scale: float = 1.0) -> Layers:
        """The payloads of all tiles at a quality."""
        tradeoff = Tradeoff(quality, self.options.effort, lambda_scale, self.options.tune)
        job = self.model, self.picture.rgb, tradeoff, self.grid, self.at_once
        if not self.patching:
            return encode_layers(*job, progress=self.progress)
        return patched_layers(*job, self.survey, self.progress)

    @property
    def patching(self) -> bool:
        """Whether blocks may be kept without loss."""
        return self.options.patches and self.options.effort >= PATCH_EFFORT and webp.available()

    @cached_property
    def survey(self) -> Survey:
        """What is seen of the picture before it is coded."""
        return Survey(self.picture.rgb)

    def pack(self, quality: int, layers: Layers) -> bytes:
        """The file that holds these payloads."""
        header = container.Header(
            self.width, self.height, quality, self.model.files.checksum, self.picture.gray, self.options.tile_log2,
            srgb=self.side.srgb, tune=self.tune,
        )  # fmt: skip
        colour = layers.colour.payload(self.model.tables)
        patches = None if layers.patches is None else layers.patches.payload()
        _, alpha, icc, exif, xmp = self.side
        noise = container.noise_section(self.picture.denoised) if self.picture.denoised else None
        return container.pack(
            container.Contents(header, layers.base, layers.refinement, colour, alpha, icc, exif, xmp, patches, noise)
        )


# ---- all tiles -------------------------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """The payloads of all tiles, and the colour layer of the picture."""

    base: tuple[bytes, ...]
    refinement: tuple[bytes, ...] | None
    colour: Corrections = NONE
    patches: Patches | None = None
    restored: float | None = None  # mean squared error of what comes back, in levels, where it is known

    @property
    def size_bytes(self) -> int:
        """Of payloads and patches."""
        patches = 0 if self.patches is None else len(self.patches.payload())
        return sum(map(len, self.base)) + sum(map(len, self.refinement or ())) + patches


def patched_layers(
    model: Model,
    rgb: NDArray[np.uint8],
    tradeoff: Tradeoff,
    grid: Grid,
    at_once: int,
    survey: Survey,
    progress: Progress | None = None,
) -> Layers:
    """As `encode_layers`, with the blocks that are better kept without loss (codec/patching.py)."""
    chooser = Chooser(survey, tradeoff.quality, tradeoff.lagrangian(model), tradeoff.effort)
    if chooser.at_once():
        return kept_whole(chooser, grid)
    watch = Watch(grid.width, grid.height, bool(survey.plain.any()))
    layers = encode_layers(model, rgb, tradeoff, grid, at_once, progress=progress, watch=watch)
    layers = layers._replace(restored=float(watch.errors.sum()) / rgb.size)
    if tradeoff.base_only:  # promises nothing, so that nothing can be far from it
        return kept_whole(chooser, grid) if chooser.smaller(layers.size_bytes) else layers
    mask = chooser.choose(watch, 8 * layers.size_bytes)
    if mask is None:
        return layers
    if not mask.all():
        patches, seen = chooser.patches(mask), Filled(rgb, mask)
        mixed = encode_layers(model, seen, tradeoff, grid, at_once, kept=patches)
        mixed = mixed._replace(patches=patches, restored=float(watch.errors[~mask].sum()) / rgb.size)
        if not chooser.smaller(mixed.size_bytes):
            return mixed
    return kept_whole(chooser, grid)


def kept_whole(chooser: Chooser, grid: Grid) -> Layers:
    """Nothing but the picture without loss."""
    return Layers((b"",) * grid.tile_count, None, patches=chooser.whole, restored=0.0)


def encode_layers(
    model: Model,
    rgb: NDArray[np.uint8] | Filled,
    tradeoff: Tradeoff,
    grid: Grid,
    at_once: int = 1,
    *,
    progress: Progress | None = None,
    visit: Callable[[Tile, CodedTile], None] | None = None,
    watch: Watch | None = None,
    kept: Patches | None = None,
) -> Layers:
    """The payloads of all tiles of a picture [H, W, 3], and its colour layer (effort 3 and more).

    `at_once` is how many tiles to work on at a time. `visit` sees every tile, on the thread that coded it. `watch`
    takes down what each block takes and how it comes back (effort 3 and more). Of what `kept` holds as little is coded
    as possible.
    """
    model.prepare("analysis")
    aims, fits = tradeoff.effort in ROUNDS and not tradeoff.base_only, tradeoff.effort >= COLOUR_EFFORT
    graphs: tuple[tuple[Graph, bool], ...] = (("aim", aims), ("synthesis", fits))
    model.prepare_aside(*(name for name, wanted in graphs if wanted))
    tiles = _Tiles(model, rgb, tradeoff, grid, at_once, visit, watch, kept)
    layer = NONE
    with single_blas():
        if fits:
            layer = _colour_layer(tiles, progress)
        else:
            for number, _ in enumerate(in_order(tiles.latents, grid.tiles, at_once)):
                if progress:
                    progress(number + 1, grid.tile_count)
    numbers = range(grid.tile_count)
    fine = None if tradeoff.base_only else tuple(tiles.refinement[number] for number in numbers)
    return Layers(tuple(tiles.base[number] for number in numbers), fine, layer)


def _colour_layer(tiles: _Tiles, progress: Progress | None) -> Corrections:
    """Codes all tiles, restores them, and fits the colour layer."""
    model, rgb, grid, tradeoff = tiles.model, tiles.rgb, tiles.grid, tiles.tradeoff
    weights = model.synthesis_weights(tradeoff.setting(model), base_only=tradeoff.base_only)
    fit = Fit(grid.width, grid.height, tradeoff.worth(model))  # not scaled: sizes would jump
    done = 0
    for strip in strips(grid, tiles.latents, model.synthesis_halo, tiles.at_once, grid.pixels):

        def see(tile: Tile, strip: Strip = strip) -> Seen | None:
            if tiles.all_kept(tile):
                return None
            latents, window = strip.latents(tile.pixels)
            rows, columns = tile.pixels.relative_to(window).slices
            restored = model.synthesis.unrounded(latents, weights)[0, :, rows, columns]
            seen = fit.see(restored, rgb[tile.pixels.slices], tile.pixels)
            if tiles.watch is not None:
                tiles.watch.see(restored, rgb[tile.pixels.slices], tile.pixels)
            return seen

        for seen in in_order(see, strip.tiles, tiles.at_once):
            if seen is not None:
                fit.add(seen)
            done += 1
            if progress:
                progress(done, grid.tile_count)
    return fit.solve(model.tables)


class _Tiles:
    """Codes the tiles of a picture one by one, in any order and from several threads; each once.

    A tile's refinement depends on the base layers of the tiles around it, so they are analysed first. What has been
    analysed waits until it is coded.
    """

    def __init__(
        self,
        model: Model,
        rgb: NDArray[np.uint8] | Filled,
        tradeoff: Tradeoff,
        grid: Grid,
        at_once: int,
        visit: Callable[[Tile, CodedTile], None] | None,
        watch: Watch | None,
        kept: Patches | None,
    ) -> None:
        self.model, self.rgb, self.tradeoff, self.grid, self.at_once = model, rgb, tradeoff, grid, at_once
        self.visit, self.watch, self.kept = visit, watch, kept
        self._silent = None if kept is None else silent(kept.mask, grid.latent_height, grid.latent_width)
        self.base: dict[int, bytes] = {}
        self.refinement: dict[int, bytes] = {}
        self._indices = np.zeros((grid.latent_height, grid.latent_width), np.int32)  # of the base layer
        self._analysed: dict[int, NDArray[np.float32]] = {}
        self._analyse_once = Once(self._analyse)

    def all_kept(self, tile: Tile) -> bool:
        """Whether nothing of a tile needs to be coded."""
        return self.kept is not None and self.kept.covers(tile.pixels)

    def latents(self, tile: Tile) -> NDArray[np.float32]:
        """Code a tile, and give the latents [h, w, M] that a decoder will have."""
        if self.all_kept(tile):
            self.base[tile.index] = self.refinement[tile.index] = b""
            return np.zeros((tile.latents.height, tile.latents.width, self.model.prior.latents), np.float32)
        halo = self.model.prior.halo
        for near in self.grid.tiles_around(tile, halo):
            self._analyse_once(near.index)
        base = Base.of(self._indices, self.grid, tile, halo)
        latents = self._analysed.pop(tile.index)
        here = tile.latents.slices
        aside = Aside(
            None if self._silent is None else self._silent[here],
            None if self.watch is None or not self.watch.counts else self.watch.bits[here],
        )
        coded = encode_tile(self.model, padded(self.rgb, tile.latents), latents, base, self.tradeoff, aside)
        if self.visit:
            self.visit(tile, coded)
        self.base[tile.index] = coded.base
        if coded.refinement is not None:
            self.refinement[tile.index] = coded.refinement
        return coded.latents

    def _analyse(self, index: int) -> None:
        tile = self.grid.tile(index)
        if self.all_kept(tile):
            return  # its indices are 0
        latents, vectors = analyse(self.model, self.rgb, self.grid, tile, self.tradeoff.setting(self.model))
        self._indices[tile.latents.slices] = nearest(self.model, vectors)
        self._analysed[index] = latents


# ---- one tile --------------------------------------------------------------------------------------------------------


def analyse(
    model: Model, rgb: NDArray[np.uint8] | Filled, grid: Grid, tile: Tile, setting: Setting
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A tile of a picture [H, W, 3] -> its latents [h, w, M] and base vectors [h, w, D], seen with a halo."""
    window = grid.with_halo(tile.latents, model.analysis_halo)
    latents, vectors = model.analysis(padded(rgb, window), model.anchor_weights(setting))
    inside = tile.latents.relative_to(window).slices
    return latents[inside], vectors[inside]


def padded(rgb: NDArray[np.uint8] | Filled, window: Rect) -> NDArray[np.uint8]:
    """The pixels of a window given in latents; beyond the right and lower edge the last pixel is repeated."""
    s = LATENT_STRIDE
    part = rgb[window.y0 * s : window.y1 * s, window.x0 * s : window.x1 * s]
    down = (window.y1 - window.y0) * s - part.shape[0]
    right = (window.x1 - window.x0) * s - part.shape[1]
    return np.pad(part, ((0, down), (0, right), (0, 0)), "edge") if down or right else part


Coded = tuple[bytes, Ints, Floats]  # payload, indices [h, w, M], latents [h, w, M] (2**-LATENT_BITS)


class CodedTile(NamedTuple):
    """What a file holds of a tile, and what a decoder will make of it."""

    base: bytes
    refinement: bytes | None
    base_indices: Ints  # [h, w]
    indices: Ints | None  # of the refinement, [h, w, M]
    latents: NDArray[np.float32]  # [h, w, M]


class Aside(NamedTuple):
    """What patches have to do with a tile."""

    silent: NDArray[np.bool_] | None = None  # [h, w] latents of which nothing is seen: their indices are 0
    bits: NDArray[np.float32] | None = None  # [h, w], takes what each latent's refinement costs


NOTHING = Aside()


def encode_tile(
    model: Model,
    rgb: NDArray[np.uint8],
    latents: NDArray[np.float32],
    base: Base,
    tradeoff: Tradeoff,
    aside: Aside = NOTHING,
) -> CodedTile:
    """One tile: pixels [16 h, 16 w, 3], latents [h, w, M], and the base layer."""
    coarse = encode_base(model, base.inner)
    if tradeoff.base_only:
        return CodedTile(coarse, None, base.inner, None, real(model.base_latents(base)))

    rounds = ROUNDS.get(tradeoff.effort, 0)
    if rounds:

        def choose(aim: NDArray[np.float32], weight: float) -> IndexChooser:
            scaled = replace(tradeoff, lambda_scale=weight * tradeoff.lambda_scale)
            return _codable(model, cheapest(model, aim, scaled), aside.silent)

        latents = improved(model, rounds, rgb, latents, base, tradeoff.setting(model), choose)
        tradeoff = replace(tradeoff, lambda_scale=CURVATURE * tradeoff.lambda_scale)
    fine, indices, decoded = encode_refinement(model, latents, base, tradeoff, aside)
    return CodedTile(coarse, fine, base.inner, indices, real(decoded))


def encode_base(model: Model, indices: Ints) -> bytes:
    """The payload of one tile's base layer, of its indices [h, w] int64."""
    coder = Encoder()

    def put(where: NDArray[np.bool_], frequencies: Floats) -> Ints:
        coder.put_base(indices[where], frequencies)
        return indices[where]

    model.walk_base((indices.shape[0], indices.shape[1]), put)
    return coder.finish()


def nearest(model: Model, vectors: NDArray[np.float32]) -> Ints:
    """Base vectors [h, w, D] -> indices [h, w] int64 of the codewords nearest to them."""
    return model.codebook.nearest(vectors.reshape(-1, vectors.shape[2])).reshape(vectors.shape[:2])


def encode_refinement(
    model: Model, latents: NDArray[np.float32], base: Base, tradeoff: Tradeoff, aside: Aside = NOTHING
) -> Coded:
    """One tile's refinement: latents [h, w, M], base layer -> payload, indices, latents (2**-LATENT_BITS)."""
    return encode_indices(model, base, tradeoff.setting(model), cheapest(model, latents, tradeoff), aside)


def cheapest(model: Model, latents: NDArray[np.float32], tradeoff: Tradeoff) -> IndexChooser:
    """Chooses indices for latents [h, w, M]: the nearest, or (effort 2 and more) those of least rate + lambda error."""
    real_latents = latents.astype(np.float64)
    setting, lagrangian = tradeoff.setting(model), tradeoff.lagrangian(model)

    def choose(p: Predicted) -> Ints:
        indices, t = quantise(real_latents[:, :, p.step.channels][p.where], p.means, p.sizes)
        if tradeoff.effort >= CHEAPEN_EFFORT:
            # A place with coarser steps hides errors better: an error of a step weighs the same everywhere
            size = model.prior.step_size[setting.row, p.step.channels]
            cheapen(indices, t, p.classes, size, model.tables, lagrangian)
        return indices

    return choose


def _codable(model: Model, choose: IndexChooser, silent: NDArray[np.bool_] | None) -> IndexChooser:
    """Indices that can be coded: zero in a class without code, and where nothing is seen."""

    def put(p: Predicted) -> Ints:
        indices = choose(p)
        indices[model.tables.limits[p.classes] == 0] = 0
        if silent is not None:
            indices[silent[p.where]] = 0
        return indices

    return put


def encode_indices(model: Model, base: Base, setting: Setting, choose: IndexChooser, aside: Aside = NOTHING) -> Coded:
    """As `encode_refinement`, of the indices that `choose` gives; those of a class without code become zero."""
    coder, codable = Encoder(), _codable(model, choose, aside.silent)
    if aside.bits is not None:
        aside.bits[:] = BASE_BITS

    def put(p: Predicted) -> Ints:
        indices = codable(p)
        if aside.bits is not None:
            aside.bits[p.where] += model.tables.costs[p.classes, np.clip(indices, -256, 255) + 256].sum(1)
        coder.put_refinement(indices, p.classes, model.tables)
        return indices

    latents, indices = model.walk_refinement(base, setting, put)
    return coder.finish(), indices, latents
