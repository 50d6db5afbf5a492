# SPDX-License-Identifier: MIT
"""Decode: .vqc file -> indices -> latents -> picture.

    container -> range coder + priors -> indices -> latents -> synthesis (with halos) -> picture

Damage is refused, or (`allow_partial`) made up for and noted. The mirror of encode.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import colour, container
from vqcodec.bitstream.codebook import LATENT_BITS, Ints
from vqcodec.bitstream.colour import Colour
from vqcodec.bitstream.entropy import Decoder
from vqcodec.bitstream.tiles import Grid, Rect, Tile
from vqcodec.codec.synthesis import restore
from vqcodec.codec.walk import walk_base, walk_refinement
from vqcodec.errors import DamagedError, UsageError
from vqcodec.model import zoo
from vqcodec.model.zoo import Model
from vqcodec.options import DEFAULT_MAX_PIXELS, SCALES, Region, realism_of
from vqcodec.pictures import metadata, png
from vqcodec.pictures.picture import Picture, Strips
from vqcodec.threads import share, single_blas

MAX_PLACES = 12  # of damaged tiles that are listed


def coloured(header: container.Header, number: int) -> bool:
    """Whether the base payload of the tile of this number begins with the colour layer."""
    return header.colour and number == 0


def decode_tile(
    model: Model, tile: Tile, header: container.Header, base: bytes, refinement: bytes | None
) -> tuple[NDArray[np.float32], Ints, Ints | None]:
    """One tile's payloads -> latents [h, w, M] float32 and the indices of both layers.

    Raises:
        DamagedError: the payloads do not decode under this model.
    """
    coder = Decoder(base)
    if coloured(header, tile.index):
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


def opened(
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


def payloads_of(contents: container.PartialContents, tile: Tile) -> tuple[bytes | None, bytes | None]:
    """A tile's base and refinement payload; None where damaged, and None for a refinement that no tile has."""
    return contents.base[tile.index], None if contents.refinement is None else contents.refinement[tile.index]


@contextmanager
def named(tile: Tile) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{_place(tile)}: {error}") from None


def _place(tile: Tile) -> str:
    p = tile.pixels
    return f"tile {tile.index} (x {p.x0}..{p.x1 - 1}, y {p.y0}..{p.y1 - 1})"


@dataclass
class TileReader:
    """Reads the latents of tiles; a damaged tile ends it all, or (`partial`) is made up for and noted."""

    model: Model
    contents: container.PartialContents
    partial: bool
    reasons: list[str] = field(default_factory=list)  # payloads whose checksum is right and whose contents are not
    coarse: dict[int, str] = field(default_factory=dict)  # tiles restored from the base layer alone: where they are
    missing: dict[int, str] = field(default_factory=dict)  # tiles of which nothing is left

    def __call__(self, tile: Tile) -> NDArray[np.float32]:
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
    """Decode from the top to the bottom, a row of tiles at a time; see `api.decode` and `decode`.

    Errors that only the payloads show are raised while the strips are walked.
    """
    if scale not in SCALES:
        raise UsageError(f"scale must be 1, 2, 4 or 8, not {scale!r}")
    weight = realism_of(decoder, realism)
    contents, loaded, grid, at_once = opened(data, max_pixels, model, threads, allow_partial)
    header = contents.header
    area = area_of(header, region)
    _ = loaded.realistic if weight else loaded.synthesis  # loaded here, before several threads ask for it
    alpha, damage = None, [*contents.damage]
    if contents.has_alpha:
        try:
            if contents.alpha is not None:
                alpha = png.decode_alpha(contents.alpha, header.width, header.height)
        except DamagedError as error:
            if not allow_partial:
                raise
            damage.append(str(error))
        if alpha is None:
            alpha = np.full((header.height, header.width), 255, np.uint8)
        alpha = alpha[area.slices]
    layer = colour_layer(loaded, contents, allow_partial)
    reader = TileReader(loaded, contents, allow_partial)
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


def decode(
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
    """Decode to a `Picture`; see `api.decode`. `progress(done, tiles)` is called after each tile."""
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
