# SPDX-License-Identifier: MIT
"""Decode: .vqc file -> indices -> latents -> picture.

    container -> range coder + priors -> indices -> latents -> synthesis (with halos) -> picture

Damage is refused, or (`allow_partial`) made up for and noted. The mirror of encode.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import container, corrections, patches, range_coder
from vqcodec.bitstream.codebook import Floats, Ints, real
from vqcodec.bitstream.corrections import NONE, Corrections
from vqcodec.bitstream.entropy import CutDecoder, Decoder
from vqcodec.bitstream.quality import Setting
from vqcodec.bitstream.tiles import Grid, Rect, Tile
from vqcodec.codec import diffusion
from vqcodec.codec.patching import Paster
from vqcodec.codec.synthesis import restore
from vqcodec.errors import DamagedError, UsageError
from vqcodec.model import zoo
from vqcodec.model.prior import PASSES
from vqcodec.model.walk import Base, Predicted
from vqcodec.model.zoo import Model
from vqcodec.options import DEFAULT_STEPS, DecodeOptions, Region
from vqcodec.pictures import metadata, png
from vqcodec.pictures.picture import Picture, Strips, gray_means
from vqcodec.threads import Once, Progress, share, with_single_blas

MAX_PLACES = 12  # of damaged tiles that are listed
LOST, MADE_UP = "lost, and shown gray", "lost, and made up from what is around"
MADE_UP_SIDE = 320  # pixels: lost tiles that are no longer, one way or the other, can be made up
COARSE = "restored coarsely, from the base layer alone"


def decode(data: bytes, options: DecodeOptions = DecodeOptions(), progress: Progress | None = None) -> Picture:
    """Decode to a `Picture`; see `api.decode`. `progress(done, tiles)` is called after each tile."""
    return decode_strips(data, options, progress).gathered()


def decode_strips(data: bytes, options: DecodeOptions = DecodeOptions(), progress: Progress | None = None) -> Strips:
    """Decode from the top to the bottom, a row of tiles at a time; see `decode`.

    Errors that only the payloads show are raised while the strips are walked.
    """
    contents, model, grid, at_once = open_file(data, options)
    header = contents.header
    area = area_of(header, options.region)
    damage = [*contents.damage]
    alpha = _alpha(contents, options.allow_partial, damage)
    reader = TileReader(model, grid, contents, options.allow_partial)
    if not all(reader.kept(tile.index) for tile in grid.tiles_in(area)):
        if options.texture:
            model.prepare("realistic")  # the model may lack it
        if options.decoder == "diffusion" or reader.made_up:
            model.prepare("denoiser")  # the same
        model.prepare_aside("synthesis")

    def rows() -> Iterator[NDArray[np.uint8]]:
        for rgb in with_single_blas(_restored(reader, options, area, at_once, progress)):
            yield gray_means(rgb) if header.gray else rgb
        damage.extend(reader.losses())

    if alpha is not None:
        alpha = alpha[area.slices]
    icc = profile_of(header, contents.icc)
    strips = Strips(area.width, area.height, rows(), alpha, header.gray, icc, contents.exif, damage, contents.xmp)
    return strips.reduced(options.scale)


def _restored(
    reader: TileReader, options: DecodeOptions, area: Rect, at_once: int, progress: Progress | None
) -> Iterator[NDArray[np.uint8]]:
    """Strips of the area: the decoder's, with patches, and what is made up."""
    model, grid, layers = reader.model, reader.grid, diffusion.Layers(reader.model, reader.grid.pixels, at_once)
    if reader.made_up:
        layers.add(diffusion.made_up(model, reader.lost_pixels), DEFAULT_STEPS)
    if options.decoder == "diffusion":
        sampling = diffusion.sampling_of(options, reader.contents.header.quality)
        layers.add(diffusion.diffused(model, sampling, reader.kept_pixels), sampling.steps)
    given = layers.needs(area)

    def pasted() -> Iterator[NDArray[np.uint8]]:
        top = given.y0
        for rgb in restore(model, grid, reader, at_once, given, options.texture, progress):
            reader.paste(rgb, Rect(given.x0, top, given.x1, top + len(rgb)))
            top += len(rgb)
            yield rgb

    return layers.through(pasted(), area)


class Opened(NamedTuple):
    """A file, and what reads it."""

    contents: container.PartialContents  # whole, unless a part is enough
    model: Model
    grid: Grid
    at_once: int  # how many tiles to work on at a time


def open_file(data: bytes, options: DecodeOptions) -> Opened:
    """Read the container, and load the model that it names.

    Raises:
        DamagedError, LimitError, ModelError
    """
    contents = container.unpack_partial(data, max_pixels=options.max_pixels)
    if not options.allow_partial:
        container.check_whole(contents)
    header = contents.header
    grid = Grid(header.width, header.height, header.tile_side)
    range_coder.choose()  # imports it here: see there
    at_once, each = share(options.threads, grid.tile_count)
    model = zoo.load(zoo.by_checksum(header.model, options.model), each, options.execution)
    return Opened(contents, model, grid, at_once)


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


def _alpha(contents: container.PartialContents, partial: bool, damage: list[str]) -> NDArray[np.uint8] | None:
    """The alpha channel, [H, W]; a damaged one is opaque (`partial`), and said in `damage`."""
    if not contents.has_alpha:
        return None
    width, height = contents.header.width, contents.header.height
    try:
        if contents.alpha is not None:
            return png.decode_alpha(contents.alpha, width, height)
    except DamagedError as error:
        if not partial:
            raise
        damage.append(str(error))
    return np.full((height, width), 255, np.uint8)


# ---- one tile --------------------------------------------------------------------------------------------------------


def decode_base(model: Model, tile: Tile, payload: bytes) -> Ints:
    """One tile's base layer: payload -> indices [h, w] int64."""
    coder = Decoder(payload)
    shape = tile.latents.height, tile.latents.width
    indices = model.walk_base(shape, lambda _, frequencies: coder.get_base(frequencies))
    if not coder.exhausted():
        raise DamagedError("data is left over behind the base layer")
    return indices


def decode_refinement(model: Model, base: Base, setting: Setting, payload: bytes) -> tuple[Floats, Ints]:
    """One tile's refinement: payload, base layer -> latents (2**-LATENT_BITS) and indices, [h, w, M]."""
    coder = Decoder(payload)

    def read(predicted: Predicted) -> Ints:
        return coder.get_refinement(predicted.classes, model.tables)

    latents, indices = model.walk_refinement(base, setting, read)
    if not coder.exhausted():
        raise DamagedError("data is left over behind the refinement layer")
    return latents, indices


def decode_cut_base(model: Model, tile: Tile, cut: container.Cut) -> tuple[Ints, int]:
    """A base layer that was cut off: indices [h, w], the most probable ones from where it ends; whole passes read."""
    coder, passes = CutDecoder(cut.start, cut.size_bytes), 0

    def choose(where: NDArray[np.bool_], frequencies: Floats) -> Ints:
        nonlocal passes
        indices = coder.get_base(frequencies)
        passes += indices is not None
        return frequencies.argmax(1) if indices is None else indices

    return model.walk_base((tile.latents.height, tile.latents.width), choose), passes


def decode_cut_refinement(model: Model, base: Base, setting: Setting, cut: container.Cut) -> tuple[Floats, int]:
    """A refinement that was cut off: latents (2**-LATENT_BITS), the predicted means from where it ends; whole steps."""
    coder, steps = CutDecoder(cut.start, cut.size_bytes), 0

    def choose(predicted: Predicted) -> Ints:
        nonlocal steps
        indices = coder.get_refinement(predicted.classes, model.tables)
        steps += indices is not None
        return np.zeros(predicted.classes.shape, np.int64) if indices is None else indices

    return model.walk_refinement(base, setting, choose)[0], steps


@contextmanager
def named(tile: Tile) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{tile.place}: {error}") from None


class _Coarse(NamedTuple):
    """What is known of a tile's base layer."""

    there: bool  # its indices can be used
    fate: str | None  # what to say of it; None: it is as it was


class TileReader:
    """Reads the latents of tiles; a damaged tile ends it all, or (`partial`) is made up for and noted.

    A tile's refinement depends on the base layers of the tiles around it. Each of them is read once.
    """

    def __init__(self, model: Model, grid: Grid, contents: container.PartialContents, partial: bool) -> None:
        self.model, self.grid, self.contents, self.partial = model, grid, contents, partial
        self.base = np.zeros((grid.latent_height, grid.latent_width), np.int32)  # indices, of the tiles read so far
        self.reasons: list[str] = []  # payloads whose checksum is right and whose contents are not
        self.fates: dict[int, str] = {}  # what became of tiles that are not as they were
        header = contents.header
        self._setting = model.setting(header.quality, header.tune)
        self._weights = [model.synthesis_weights(self._setting, base_only=base_only) for base_only in (False, True)]
        self._read_once = Once(self._read_base)
        self._coarse: set[int] = set()  # tiles shown as if the file had no refinement
        self.layer = NONE
        if contents.colour is not None:
            with self._forgiven():
                self.layer = corrections.read(contents.colour, model.tables, header.width, header.height)
        self._paster: Paster | None = None
        if contents.patches is not None:
            with self._forgiven():
                self._paster = Paster(patches.read(contents.patches, header.width, header.height))
        self.made_up = self._made_up() if partial and model.has_denoiser else frozenset()

    def kept(self, index: int) -> bool:
        """Whether all of a tile is kept without loss, and none of it coded; its indices and latents are 0."""
        if not self.contents.has_patches or self.contents.base[index] != b"":
            return False
        return self._paster is None or self._paster.patches.covers(self.grid.tile(index).pixels)

    def _check_kept(self, index: int) -> None:
        """Raises DamagedError (unless `partial`) if there is a refinement of a tile that is not coded."""
        if self.contents.refinement is not None and self.contents.refinement[index]:
            with self._forgiven(), named(self.grid.tile(index)):
                raise DamagedError("it is kept without loss, and has a refinement all the same")

    def paste(self, picture: NDArray[np.uint8], window: Rect) -> None:
        """Put what is kept without loss over the restored pixels [h, w, 3] of a window of the picture, in place."""
        if self._paster is not None:
            with self._forgiven():
                self._paster.paste(picture, window)

    def _made_up(self) -> frozenset[int]:
        """Lost tiles that are small, and beside one that is not lost."""
        cut, lost = self.contents.cut, {number for number, base in enumerate(self.contents.base) if base is None}
        if cut is not None and cut.kind == container.BASE:
            lost.discard(cut.tile)
        found = set()
        for number in lost:
            tile = self.grid.tile(number)
            beside = [
                (tile.row + dy) * self.grid.columns + tile.column + dx
                for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))
                if 0 <= tile.row + dy < self.grid.rows and 0 <= tile.column + dx < self.grid.columns
            ]
            if min(tile.pixels.width, tile.pixels.height) <= MADE_UP_SIDE and not lost.issuperset(beside):
                found.add(number)
        return frozenset(found)

    def lost_pixels(self, window: Rect) -> NDArray[np.bool_]:
        """Where in a window of the picture something is to be made up: [h, w]."""
        out = np.zeros((window.height, window.width), bool)
        for tile in self.grid.tiles_in(window):
            if tile.index in self.made_up:
                out[tile.pixels.intersection(window).relative_to(window).slices] = True
        return out & ~self.kept_pixels(window)

    def kept_pixels(self, window: Rect) -> NDArray[np.bool_]:
        """Where a window of the picture is kept without loss: [h, w]."""
        if self._paster is None:
            return np.zeros((window.height, window.width), bool)
        return self._paster.patches.pixels(window)

    def weights(self, tile: Tile) -> Floats | None:
        """Weights for the synthesis of the tile; None for a missing one, and one that is kept."""
        if self.fates.get(tile.index) in (LOST, MADE_UP) or self.kept(tile.index):
            return None
        return self._weights[self.contents.refinement is None or tile.index in self._coarse]

    def corrections(self, tile: Tile) -> Corrections:
        """The colour layer, which was fitted to tiles with their refinement."""
        return NONE if tile.index in self._coarse else self.layer

    def latents(self, tile: Tile) -> NDArray[np.float32]:
        """The tile's latents [h, w, M]; zeros for a missing one, and one that is kept."""
        there, fate = self._read_once(tile.index)
        if self.kept(tile.index) and self._paster is None:
            fate = LOST
        if fate is not None:
            self.fates[tile.index] = MADE_UP if tile.index in self.made_up else fate
        if not there or self.kept(tile.index):
            return np.zeros((tile.latents.height, tile.latents.width, self.model.prior.latents), np.float32)
        base = self.around(tile)
        if self.contents.refinement is not None:
            fine = None if base is None else self._refinement(tile, base)
            if fine is not None:
                return real(fine)
            self._coarse.add(tile.index)
            self.fates.setdefault(tile.index, COARSE)
        return real(self.model.base_latents(base or Base.of(self.base, self.grid, tile, 0)))

    def around(self, tile: Tile) -> Base | None:
        """The base layer of the tile and around it; None where (`partial`) something of it is not as it was."""
        halo = self.model.prior.halo
        for near in self.grid.tiles_around(tile, halo):
            if self._read_once(near.index) != _Coarse(True, None):
                return None
        return Base.of(self.base, self.grid, tile, halo)

    def _read_base(self, index: int) -> _Coarse:
        """Read a tile's base indices, as far as there is something left of them."""
        if self.kept(index):
            self._check_kept(index)
            return _Coarse(True, None)
        tile, payload, cut = self.grid.tile(index), self.contents.base[index], self.contents.cut
        if payload is not None:
            with self._forgiven(), named(tile):
                self.base[tile.latents.slices] = decode_base(self.model, tile, payload)
                return _Coarse(True, None)
        elif cut is not None and (cut.kind, cut.tile) == (container.BASE, index):
            indices, passes = decode_cut_base(self.model, tile, cut)
            if passes:
                self.base[tile.latents.slices] = indices
                return _Coarse(True, f"restored coarsely, from {passes} of {PASSES} passes of the base layer")
        return _Coarse(False, LOST)

    def _refinement(self, tile: Tile, base: Base) -> Floats | None:
        """The tile's latents [h, w, M] in units of 2**-LATENT_BITS; None where the base layer's are as good."""
        assert self.contents.refinement is not None
        payload, cut = self.contents.refinement[tile.index], self.contents.cut
        if payload is not None:
            with self._forgiven(), named(tile):
                return decode_refinement(self.model, base, self._setting, payload)[0]
        elif cut is not None and (cut.kind, cut.tile) == (container.REFINEMENT, tile.index):
            latents, steps = decode_cut_refinement(self.model, base, self._setting, cut)
            if steps:
                count = len(self.model.prior.steps)
                self.fates[tile.index] = f"restored from {steps} of {count} steps of the refinement layer"
                return latents
        return None

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        """Notes damage, or (unless `partial`) raises it."""
        try:
            yield
        except DamagedError as error:
            if not self.partial:
                raise
            self.reasons.append(str(error))

    def losses(self) -> list[str]:
        """What to say of the tiles that are not as they were."""
        count = len(self.contents.base)
        sentences = [*self.reasons]
        for fate in dict.fromkeys(fate for _, fate in sorted(self.fates.items())):
            tiles = [tile for tile, found in sorted(self.fates.items()) if found == fate]
            places = [self.grid.tile(number).place for number in tiles[:MAX_PLACES]]
            more = f" and {len(tiles) - MAX_PLACES} more" if len(tiles) > MAX_PLACES else ""
            sentences.append(f"{len(tiles)} of {count} tiles {fate}: {', '.join(places)}{more}")
        return sentences
