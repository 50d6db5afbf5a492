# SPDX-License-Identifier: MIT
"""Decode: .vqc file -> indices -> latents -> picture.

    container -> range coder + priors -> indices -> latents -> synthesis (with halos) -> picture

Damage is refused, or (`allow_partial`) made up for and noted. The mirror of encode.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import colour, container
from vqcodec.bitstream.codebook import Floats, Ints, Setting, real
from vqcodec.bitstream.colour import Colour
from vqcodec.bitstream.entropy import Decoder
from vqcodec.bitstream.tiles import Grid, Rect, Tile
from vqcodec.codec.synthesis import restore
from vqcodec.errors import DamagedError, UsageError
from vqcodec.model import zoo
from vqcodec.model.walk import Predicted
from vqcodec.model.zoo import Model
from vqcodec.options import DecodeOptions, Region
from vqcodec.pictures import metadata, png
from vqcodec.pictures.picture import Picture, Strips, gray_means
from vqcodec.threads import Progress, share, with_single_blas

MAX_PLACES = 12  # of damaged tiles that are listed


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
    model.prepare("realistic" if options.texture else "synthesis")
    damage = [*contents.damage]
    alpha = _alpha(contents, options.allow_partial, damage)
    reader = TileReader(model, contents, options.allow_partial)

    def rows() -> Iterator[NDArray[np.uint8]]:
        strips = restore(model, grid, reader, at_once, area, options.texture, progress)
        for rgb in with_single_blas(strips):
            yield gray_means(rgb) if header.gray else rgb
        damage.extend(reader.losses())

    if alpha is not None:
        alpha = alpha[area.slices]
    icc = profile_of(header, contents.icc)
    strips = Strips(area.width, area.height, rows(), alpha, header.gray, icc, contents.exif, damage, contents.xmp)
    return strips.reduced(options.scale)


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
    at_once, each = share(options.threads, grid.tile_count)
    return Opened(contents, zoo.load(zoo.by_checksum(header.model, options.model), each), grid, at_once)


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


def payloads_of(contents: container.PartialContents, tile: Tile) -> tuple[bytes | None, bytes | None]:
    """A tile's base and refinement payload; None where damaged, and None for a refinement that no tile has."""
    return contents.base[tile.index], None if contents.refinement is None else contents.refinement[tile.index]


def decode_tile(
    model: Model, tile: Tile, header: container.Header, base: bytes, refinement: bytes | None
) -> tuple[NDArray[np.float32], Ints, Ints | None]:
    """One tile's payloads -> latents [h, w, M] float32 and the indices of both layers.

    Raises:
        DamagedError: the payloads do not decode under this model.
    """
    indices = decode_base(model, tile, header, base)
    if refinement is None:
        return real(model.base_latents(indices)), indices, None
    setting = model.setting(header.quality, header.tune)
    latents, levels = decode_refinement(model, indices, setting, refinement)
    return real(latents), indices, levels


def decode_base(model: Model, tile: Tile, header: container.Header, payload: bytes) -> Ints:
    """One tile's base layer: payload -> indices [h, w] int64."""
    coder = Decoder(payload)
    if coloured(header, tile.index):
        colour.read(coder, model.tables)
    shape = tile.latents.height, tile.latents.width
    indices = model.walk_base(shape, lambda _, frequencies: coder.get_base(frequencies))
    if not coder.exhausted():
        raise DamagedError("data is left over behind the base layer")
    return indices


def decode_refinement(model: Model, base: Ints, setting: Setting, payload: bytes) -> tuple[Floats, Ints]:
    """One tile's refinement: payload, base indices [h, w] -> latents (2**-LATENT_BITS) and indices, [h, w, M]."""
    coder = Decoder(payload)

    def read(predicted: Predicted) -> Ints:
        return coder.get_refinement(predicted.classes, model.tables)

    latents, indices = model.walk_refinement(base, setting, read)
    if not coder.exhausted():
        raise DamagedError("data is left over behind the refinement layer")
    return latents, indices


def coloured(header: container.Header, number: int) -> bool:
    """Whether the base payload of the tile of this number begins with the colour layer."""
    return header.colour and number == 0


def colour_layer(model: Model, contents: container.PartialContents, partial: bool) -> Colour | None:
    """The colour layer; None where there is none, or (`partial`) it is damaged."""
    if not coloured(contents.header, 0) or contents.base[0] is None:
        return None
    try:
        return colour.read(Decoder(contents.base[0]), model.tables)
    except DamagedError:
        if partial:
            return None
        raise


@contextmanager
def named(tile: Tile) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{tile.place}: {error}") from None


@dataclass
class TileReader:
    """Reads the latents of tiles; a damaged tile ends it all, or (`partial`) is made up for and noted."""

    model: Model
    contents: container.PartialContents
    partial: bool
    reasons: list[str] = field(default_factory=list)  # payloads whose checksum is right and whose contents are not
    coarse: dict[int, str] = field(default_factory=dict)  # tiles restored from the base layer alone: where they are
    missing: dict[int, str] = field(default_factory=dict)  # tiles of which nothing is left

    def __post_init__(self) -> None:
        header = self.contents.header
        setting = self.model.setting(header.quality, header.tune)
        self._layer = colour_layer(self.model, self.contents, self.partial)
        self._weights = [self.model.synthesis_weights(setting, base_only=base_only) for base_only in (False, True)]

    def weights(self, tile: Tile) -> Floats | None:
        """Weights for the synthesis of the tile; None for a missing one."""
        if tile.index in self.missing:
            return None
        return self._weights[self.contents.refinement is None or tile.index in self.coarse]

    def colour(self, tile: Tile) -> Colour | None:
        """The colour layer, which was fitted to tiles with their refinement."""
        return None if tile.index in self.coarse else self._layer

    def latents(self, tile: Tile) -> NDArray[np.float32]:
        """The tile's latents [h, w, M]; zeros for a missing one."""
        base, refinement = payloads_of(self.contents, tile)
        layered = self.contents.refinement is not None
        for fine in [None] if base is None or refinement is None else [refinement, None]:
            if base is None:
                break
            try:
                with named(tile):
                    latents = decode_tile(self.model, tile, self.contents.header, base, fine)[0]
            except DamagedError as error:
                if not self.partial:
                    raise
                self.reasons.append(str(error))
                continue
            if layered and fine is None:
                self.coarse[tile.index] = tile.place
            return latents
        self.missing[tile.index] = tile.place
        return np.zeros((tile.latents.height, tile.latents.width, self.model.prior.latents), np.float32)

    def losses(self) -> list[str]:
        """What to say of the tiles that are not as they were."""
        count = len(self.contents.base)
        lost = ((self.coarse, "restored coarsely, from the base layer alone"), (self.missing, "lost, and shown gray"))
        sentences = [*self.reasons]
        for tiles, fate in lost:
            if tiles:
                places = [tiles[number] for number in sorted(tiles)]
                more = f" and {len(places) - MAX_PLACES} more" if len(places) > MAX_PLACES else ""
                sentences.append(f"{len(tiles)} of {count} tiles {fate}: {', '.join(places[:MAX_PLACES])}{more}")
        if self.contents.header.colour and self._layer is None and len(self.coarse) + len(self.missing) < count:
            sentences.append("the colour layer, which stands in tile 0, is lost: colours are a little off")
        return sentences
