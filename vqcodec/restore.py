# SPDX-License-Identifier: MIT
"""Latents of tiles -> pixels, strip by strip from the top: the synthesis with its halos. No bytes and no priors here.

A strip is some rows of tiles. Beside their own latents the synthesis looks at a few latents around them, so the rows of
tiles above and below must be known too; more than that never lies in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from vqcodec.threads import in_order
from vqcodec.tiles import LATENT_STRIDE, Grid, Rect, Tile
from vqcodec.zoo import Model

Latents = NDArray[np.float32]
MISSING_GRAY = 128


def restore(
    model: Model,
    grid: Grid,
    latents_of: Callable[[Tile], Latents],
    hat_of: Callable[[Tile], NDArray[np.float64] | None],
    at_once: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Yields the picture as strips [h, grid.width, 3] uint8, from the top.

    Args:
        latents_of: gives a tile's latents [h, w, M]; asked once for each.
        hat_of: weights for the synthesis of a tile (`Model.synthesis_hat`), asked after its latents; None: plain gray.
        at_once: how many tiles to work on at a time.
        progress: called with (done, all) after each tile.
    """
    rows = _TileRows(grid, latents_of, model.synthesis_halo, at_once)
    height = -(-at_once // grid.columns)  # rows of tiles in a strip: enough work for everyone
    for first in range(0, grid.rows, height):
        last = min(first + height, grid.rows)
        rows.need(first, last)
        tiles = [grid.tile(number) for number in range(first * grid.columns, last * grid.columns)]
        top = tiles[0].pixels.y0
        strip = np.empty((tiles[-1].pixels.y1 - top, grid.width, 3), np.uint8)

        def one(tile: Tile, strip: NDArray[np.uint8] = strip, top: int = top) -> None:
            p = tile.pixels
            hat = hat_of(tile)
            part = strip[p.y0 - top : p.y1 - top, p.x0 : p.x1]
            if hat is None:
                part[:] = MISSING_GRAY
                return
            window = grid.with_halo(tile.latents, model.synthesis_halo)
            pixels = model.synthesis(rows.window(window), hat)
            inside = tile.latents.relative_to(window).scaled(LATENT_STRIDE)
            part[:] = pixels[inside.y0 : inside.y0 + p.height, inside.x0 : inside.x0 + p.width]

        for done, _ in enumerate(in_order(one, tiles, at_once), start=tiles[0].index + 1):
            if progress:
                progress(done, grid.tile_count)
        yield strip


class _TileRows:
    """The latents at hand: of some rows of tiles, the one below them, and the last few lines of those above."""

    def __init__(self, grid: Grid, latents_of: Callable[[Tile], Latents], halo: int, at_once: int) -> None:
        self.grid, self.latents_of, self.halo, self.at_once = grid, latents_of, halo, at_once
        self.lines: dict[int, Latents] = {}  # by the number of their first line in the grid of latents
        self.known = 0  # rows of tiles decoded so far

    def need(self, first: int, last: int) -> None:
        """Have rows of tiles first .. last (and its halo) ready, and forget what lies above `first` and its halo."""
        side = self.grid.tile_side // LATENT_STRIDE
        start = max(0, first * side - self.halo)
        for top, lines in list(self.lines.items()):
            if top < start:
                del self.lines[top]
                if start < top + len(lines):
                    self.lines[start] = lines[start - top :].copy()
        stop = min(self.grid.rows, last + 1)
        wanted = [self.grid.tile(n) for n in range(self.known * self.grid.columns, stop * self.grid.columns)]
        for tile, latents in zip(wanted, in_order(self.latents_of, wanted, self.at_once), strict=True):
            r = tile.latents
            if tile.column == 0:
                self.lines[r.y0] = np.empty((r.height, self.grid.latent_width, latents.shape[2]), np.float32)
            self.lines[r.y0][:, r.x0 : r.x1] = latents
        self.known = stop

    def window(self, window: Rect) -> Latents:
        """Latents of a rectangle (in latents) that lies within the lines at hand."""
        parts = []
        for top in sorted(self.lines):
            part = self.lines[top][max(0, window.y0 - top) : max(0, window.y1 - top), window.x0 : window.x1]
            if part.shape[0]:
                parts.append(part)
        found = np.concatenate(parts, axis=0)
        assert found.shape[:2] == (window.height, window.width)
        return found
