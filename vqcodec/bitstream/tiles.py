# SPDX-License-Identifier: MIT
"""Integer geometry: the grid of latents, the grid of tiles, halos and regions. No pixels and no bytes here.

A picture is padded on the right and at the bottom to whole latents, one per 16 x 16 pixels. It is coded in square
tiles counted in raster order; those at the right and bottom edges are smaller. A network that computes one tile looks
at a halo of latents around it, clipped to the picture, whose result is cropped away again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LATENT_STRIDE = 16  # [pixels] between latents, both ways


@dataclass(frozen=True, slots=True)
class Rect:
    """Half-open rectangle: x0 <= x < x1, y0 <= y < y1; pixels or latents, as its name says. It may be empty."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        assert self.x0 <= self.x1, self
        assert self.y0 <= self.y1, self

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    @property
    def area(self) -> int:
        """Number of places."""
        return self.width * self.height

    @property
    def empty(self) -> bool:
        """Whether nothing lies inside."""
        return self.x0 == self.x1 or self.y0 == self.y1

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array [H, W, ...]; coordinates must not be negative."""
        assert self.x0 >= 0, self
        assert self.y0 >= 0, self
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def intersection(self, other: Rect) -> Rect:
        """Returns what lies in both; empty (and inside `other`'s bounds) where they do not meet."""
        x0, x1 = (min(max(x, other.x0), other.x1) for x in (self.x0, self.x1))
        y0, y1 = (min(max(y, other.y0), other.y1) for y in (self.y0, self.y1))
        return Rect(x0, y0, x1, y1)

    def relative_to(self, outer: Rect) -> Rect:
        """Returns the same rectangle in coordinates that start at the corner of `outer`: the crop out of it."""
        return Rect(self.x0 - outer.x0, self.y0 - outer.y0, self.x1 - outer.x0, self.y1 - outer.y0)

    def grown(self, by: int) -> Rect:
        """Returns the rectangle that is larger by so much on every side."""
        return Rect(self.x0 - by, self.y0 - by, self.x1 + by, self.y1 + by)

    def scaled(self, factor: int) -> Rect:
        """Returns the rectangle with all coordinates times `factor`: latents to pixels with `LATENT_STRIDE`."""
        return Rect(self.x0 * factor, self.y0 * factor, self.x1 * factor, self.y1 * factor)


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a grid."""

    index: int  # in raster order, from 0
    column: int
    row: int
    pixels: Rect  # of the picture, without padding
    latents: Rect  # of the picture's grid of latents; times 16 it covers `pixels`, padding included

    @property
    def place(self) -> str:
        """For people: "tile 2 (x 1024..2047, y 0..511)"."""
        p = self.pixels
        return f"tile {self.index} (x {p.x0}..{p.x1 - 1}, y {p.y0}..{p.y1 - 1})"


@dataclass(frozen=True)
class Grid:
    """The tiles and latents of a picture; every member is computed when asked for.

    Args:
        width: of the picture in pixels, at least 1.
        height: of the picture in pixels, at least 1.
        tile_side: in pixels, a power of two and a multiple of 16.
    """

    width: int
    height: int
    tile_side: int

    def __post_init__(self) -> None:
        assert self.width >= 1
        assert self.height >= 1
        assert self.tile_side >= LATENT_STRIDE
        assert self.tile_side & (self.tile_side - 1) == 0

    @property
    def latent_width(self) -> int:
        """Latents beside each other in the padded picture."""
        return _ceil_div(self.width, LATENT_STRIDE)

    @property
    def latent_height(self) -> int:
        """Latents above each other in the padded picture."""
        return _ceil_div(self.height, LATENT_STRIDE)

    @property
    def columns(self) -> int:
        """Tiles beside each other."""
        return _ceil_div(self.width, self.tile_side)

    @property
    def rows(self) -> int:
        """Tiles above each other."""
        return _ceil_div(self.height, self.tile_side)

    @property
    def tile_count(self) -> int:
        """Number of tiles."""
        return self.columns * self.rows

    @property
    def pixels(self) -> Rect:
        """The whole picture, without padding."""
        return Rect(0, 0, self.width, self.height)

    @property
    def latents(self) -> Rect:
        """The whole grid of latents."""
        return Rect(0, 0, self.latent_width, self.latent_height)

    @property
    def tiles(self) -> Iterator[Tile]:
        """All tiles in raster order, each made when its turn comes; a fresh iterator at every access."""
        return (self.tile(index) for index in range(self.tile_count))

    def tile(self, index: int) -> Tile:
        """Returns the tile with this index, 0 <= index < tile_count."""
        assert 0 <= index < self.tile_count
        row, column = divmod(index, self.columns)
        square = Rect(column, row, column + 1, row + 1)
        return Tile(
            index=index,
            column=column,
            row=row,
            pixels=square.scaled(self.tile_side).intersection(self.pixels),
            latents=square.scaled(self.tile_side // LATENT_STRIDE).intersection(self.latents),
        )

    def with_halo(self, inner: Tile | Rect, halo_latents: int) -> Rect:
        """Returns the latents of `inner` and those around it, clipped to the picture.

        Args:
            inner: a tile, or a rectangle of latents inside the grid.
            halo_latents: how many latents to add on every side, at least 0.

        Returns:
            A rectangle of latents that contains `inner`.
        """
        assert halo_latents >= 0
        rect = inner.latents if isinstance(inner, Tile) else inner
        return rect.grown(halo_latents).intersection(self.latents)

    def tiles_around(self, tile: Tile, halo_latents: int) -> list[Tile]:
        """Returns the tile and those in which the latents of its halo lie, in raster order."""
        return self.tiles_in(self.with_halo(tile.latents, halo_latents).scaled(LATENT_STRIDE))

    def latents_of(self, pixels: Rect) -> Rect:
        """Returns the latents whose 16 x 16 pixels meet a region of the picture, clipped to the picture."""
        inside = pixels.intersection(self.pixels)
        if inside.empty:
            return Rect(0, 0, 0, 0)
        return Rect(
            inside.x0 // LATENT_STRIDE,
            inside.y0 // LATENT_STRIDE,
            _ceil_div(inside.x1, LATENT_STRIDE),
            _ceil_div(inside.y1, LATENT_STRIDE),
        )

    def tiles_in(self, region: Rect) -> list[Tile]:
        """Returns the tiles that a region of pixels meets, in raster order; none for an empty region or one outside.

        Args:
            region: in pixels; what lies outside the picture does not count.

        Returns:
            The tiles, as many as the region meets.
        """
        inside = region.intersection(self.pixels)
        if inside.empty:
            return []
        columns = range(inside.x0 // self.tile_side, _ceil_div(inside.x1, self.tile_side))
        rows = range(inside.y0 // self.tile_side, _ceil_div(inside.y1, self.tile_side))
        return [self.tile(row * self.columns + column) for row in rows for column in columns]


def _ceil_div(value: int, divisor: int) -> int:
    """Returns value / divisor, rounded up."""
    return -(-value // divisor)
