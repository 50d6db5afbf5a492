# SPDX-License-Identifier: MIT
"""Latents of tiles -> pixels, strip by strip from the top: the synthesis with its halos. No bytes and no priors here.

A strip is some rows of tiles. Beside their own latents the synthesis looks at a few latents around them, so the rows of
tiles above and below must be known too; more than that never lies in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import Floats
from vqcodec.bitstream.corrections import Corrections
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid, Rect, Tile
from vqcodec.model.zoo import Model
from vqcodec.threads import Progress, in_order

Latents = NDArray[np.float32]
MISSING_GRAY = 128
REALISTIC_AT_ONCE = 2  # tiles: each takes some 400 MB


class TileSource(Protocol):
    """Where the latents of tiles come from; of each tile the latents are asked for first, and once."""

    def latents(self, tile: Tile) -> Latents:
        """[h, w, M]."""

    def weights(self, tile: Tile) -> Floats | None:
        """For the synthesis (`Model.synthesis_weights`); None for a tile to be shown gray."""

    def corrections(self, tile: Tile) -> Corrections:
        """What is to be added to the restored tile."""


class Strip(NamedTuple):
    """Some rows of tiles and the latents that their synthesis needs."""

    pixels: Rect  # of the area
    tiles: list[Tile]
    rows: _TileRows
    halo: int  # latents

    def latents(self, inner: Rect) -> tuple[Latents, Rect]:
        """The latents for an area of a tile (pixels) with those around it, and where they lie, in pixels."""
        grid = self.rows.grid
        window = grid.with_halo(grid.latents_of(inner), self.halo)
        return self.rows.window(window), window.scaled(LATENT_STRIDE)


def strips(grid: Grid, latents_of: Callable[[Tile], Latents], halo: int, at_once: int, area: Rect) -> Iterator[Strip]:
    """Goes through an area of the picture from the top.

    Args:
        latents_of: asked once for each tile that the area or its halo meets, when a strip needs it.
        halo: latents that the synthesis looks at around a tile.
        at_once: how many tiles are worked on at a time.
        area: in pixels, inside the picture and not empty.
    """
    tiles = grid.tiles_in(area)
    rows = _TileRows(grid, latents_of, grid.with_halo(grid.latents_of(area), halo), at_once)
    columns = tiles[-1].column - tiles[0].column + 1
    height = -(-at_once // columns)  # rows of tiles in a strip: enough work for everyone
    for start in range(0, len(tiles), height * columns):
        part = tiles[start : start + height * columns]
        top, bottom = max(area.y0, part[0].pixels.y0), min(area.y1, part[-1].pixels.y1)
        pixels = Rect(area.x0, top, area.x1, bottom)
        rows.need(grid.with_halo(grid.latents_of(pixels), halo))
        yield Strip(pixels, part, rows, halo)


def restore(
    model: Model,
    grid: Grid,
    source: TileSource,
    at_once: int,
    area: Rect,
    texture: float = 0.0,
    progress: Progress | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yields an area of the picture as strips [h, area.width, 3] uint8, from the top.

    Args:
        source: asked for each tile that the area or its halo meets.
        at_once: how many tiles to work on at a time.
        area: in pixels, inside the picture and not empty.
        texture: above 0, up to 1: by the realistic decoder.
        progress: called with (done, all) after each tile.
    """
    halo = model.realistic_halo if texture else model.synthesis_halo
    done, count = 0, len(grid.tiles_in(area))
    for strip in strips(grid, source.latents, halo, at_once, area):
        picture = np.empty((strip.pixels.height, area.width, 3), np.uint8)

        def one(tile: Tile, strip: Strip = strip, picture: NDArray[np.uint8] = picture) -> None:
            inner = tile.pixels.intersection(area)
            weights = source.weights(tile)
            part = picture[inner.relative_to(strip.pixels).slices]
            if weights is None:
                part[:] = MISSING_GRAY
                return
            latents, seen = strip.latents(inner)
            if texture:
                pixels = model.realistic(latents, weights, texture, seen, source.corrections(tile))
            else:
                pixels = model.synthesis(latents, weights, seen, source.corrections(tile))
            part[:] = pixels[inner.relative_to(seen).slices]

        for _ in in_order(one, strip.tiles, min(at_once, REALISTIC_AT_ONCE) if texture else at_once):
            done += 1
            if progress:
                progress(done, count)
        yield picture


class _TileRows:
    """The latents at hand: of the tiles that the strip at work and its halo meet, and the last few lines above them.

    Args:
        field: the latents that will be asked for, from the top; tiles outside are not decoded.
    """

    def __init__(self, grid: Grid, latents_of: Callable[[Tile], Latents], field: Rect, at_once: int) -> None:
        self.grid, self.latents_of, self.at_once = grid, latents_of, at_once
        self.side = grid.tile_side // LATENT_STRIDE
        self.columns = range(field.x0 // self.side, -(-field.x1 // self.side))
        self.lines: dict[int, Latents] = {}  # by the number of their first line in the grid of latents
        self.known = field.y0 // self.side  # rows of tiles decoded so far, or not needed

    def need(self, window: Rect) -> None:
        """Have the latents of a window ready, and forget what lies above it."""
        for top, lines in list(self.lines.items()):
            if top < window.y0:
                del self.lines[top]
                if window.y0 < top + len(lines):
                    self.lines[window.y0] = lines[window.y0 - top :].copy()
        stop = max(self.known, -(-window.y1 // self.side))
        wanted = [
            self.grid.tile(row * self.grid.columns + column)
            for row in range(self.known, stop)
            for column in self.columns
        ]
        left = wanted[0].latents.x0 if wanted else 0
        for tile, latents in zip(wanted, in_order(self.latents_of, wanted, self.at_once), strict=True):
            r = tile.latents
            if tile.column == self.columns.start:
                width = min(self.grid.latent_width, self.columns.stop * self.side) - left
                self.lines[r.y0] = np.empty((r.height, width, latents.shape[2]), np.float32)
            self.lines[r.y0][:, r.x0 - left : r.x1 - left] = latents
        self.known = stop

    def window(self, window: Rect) -> Latents:
        """Latents of a rectangle (in latents) that lies within the lines at hand."""
        left, parts = self.columns.start * self.side, []
        for top in sorted(self.lines):
            rows = slice(max(0, window.y0 - top), max(0, window.y1 - top))
            part = self.lines[top][rows, window.x0 - left : window.x1 - left]
            if part.shape[0]:
                parts.append(part)
        latents = np.concatenate(parts, axis=0)
        assert latents.shape[:2] == (window.height, window.width)
        return latents
