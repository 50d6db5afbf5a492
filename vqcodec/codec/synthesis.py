# SPDX-License-Identifier: MIT
"""Latents of tiles -> pixels, strip by strip from the top: the synthesis with its halos. No bytes and no priors here.

A strip is some rows of tiles. Beside their own latents the synthesis looks at a few latents around them, so the rows of
tiles above and below must be known too; more than that never lies in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import Floats
from vqcodec.bitstream.colour import Colour
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

    def colour(self, tile: Tile) -> Colour | None:
        """The colour layer; None where there is none."""


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
    all_tiles = grid.tiles_in(area)
    rows = _TileRows(grid, source, grid.with_halo(grid.latents_of(area), halo), at_once)
    columns = all_tiles[-1].column - all_tiles[0].column + 1
    height = -(-at_once // columns)  # rows of tiles in a strip: enough work for everyone
    done = 0
    for start in range(0, len(all_tiles), height * columns):
        tiles = all_tiles[start : start + height * columns]
        top, bottom = max(area.y0, tiles[0].pixels.y0), min(area.y1, tiles[-1].pixels.y1)
        rows.need(grid.with_halo(grid.latents_of(Rect(area.x0, top, area.x1, bottom)), halo))
        strip = np.empty((bottom - top, area.width, 3), np.uint8)

        def one(tile: Tile, strip: NDArray[np.uint8] = strip, top: int = top) -> None:
            p = tile.pixels.intersection(area)
            weights = source.weights(tile)
            part = strip[p.y0 - top : p.y1 - top, p.x0 - area.x0 : p.x1 - area.x0]
            if weights is None:
                part[:] = MISSING_GRAY
                return
            window = grid.with_halo(grid.latents_of(p), halo)
            latents, seen = rows.window(window), window.scaled(LATENT_STRIDE)
            if texture:
                pixels = model.realistic(latents, weights, texture, seen, source.colour(tile))
            else:
                pixels = model.synthesis(latents, weights, source.colour(tile))
            part[:] = pixels[p.relative_to(seen).slices]

        for _ in in_order(one, tiles, min(at_once, REALISTIC_AT_ONCE) if texture else at_once):
            done += 1
            if progress:
                progress(done, len(all_tiles))
        yield strip


class _TileRows:
    """The latents at hand: of the tiles that the strip at work and its halo meet, and the last few lines above them.

    Args:
        field: the latents that will be asked for, from the top; tiles outside are not decoded.
    """

    def __init__(self, grid: Grid, source: TileSource, field: Rect, at_once: int) -> None:
        self.grid, self.source, self.at_once = grid, source, at_once
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
        for tile, latents in zip(wanted, in_order(self.source.latents, wanted, self.at_once), strict=True):
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
