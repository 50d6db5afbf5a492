# SPDX-License-Identifier: MIT
"""Tests of the geometry, against brute force over every pixel and latent of small pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqcodec.bitstream.container import Header
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid, Rect

grids = st.builds(Grid, st.integers(1, 300), st.integers(1, 300), st.sampled_from([16, 32, 64, 256]))


@st.composite
def rects(draw: st.DrawFn, low: int = -50, high: int = 350) -> Rect:
    x0, x1 = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    y0, y1 = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    return Rect(x0, y0, x1, y1)


def test_a_picture_of_two_by_two_tiles() -> None:
    grid = Grid(1500, 1030, 1024)
    assert (grid.latent_width, grid.latent_height) == (94, 65)
    assert (grid.columns, grid.rows, grid.tile_count) == (2, 2, 4)
    last = grid.tile(3)
    assert (last.index, last.column, last.row) == (3, 1, 1)
    assert last.pixels == Rect(1024, 1024, 1500, 1030)
    assert last.latents == Rect(64, 64, 94, 65)
    assert grid.with_halo(last, 4) == Rect(60, 60, 94, 65)
    assert last.place == "tile 3 (x 1024..1499, y 1024..1029)"
    assert grid.with_halo(grid.tile(0), 4) == Rect(0, 0, 68, 65)
    assert [tile.index for tile in grid.tiles_in(Rect(1023, 0, 1024, 1024))] == [0]
    assert [tile.index for tile in grid.tiles_in(Rect(1023, 1023, 1025, 1025))] == [0, 1, 2, 3]


@given(grids)
@settings(max_examples=60, deadline=None)
def test_tiles_cover_every_pixel_and_latent_once(grid: Grid) -> None:
    pixels = np.zeros((grid.height, grid.width), int)
    latents = np.zeros((grid.latent_height, grid.latent_width), int)
    for number, tile in enumerate(grid.tiles):
        assert tile.index == number == tile.row * grid.columns + tile.column
        assert tile == grid.tile(number)
        assert not tile.pixels.empty
        assert tile.latents == grid.latents_of(tile.pixels)
        pixels[tile.pixels.slices] += 1
        latents[tile.latents.slices] += 1
        assert tile.latents.scaled(LATENT_STRIDE).intersection(grid.pixels) == tile.pixels
    assert pixels.min() == pixels.max() == 1
    assert latents.min() == latents.max() == 1
    assert number == grid.tile_count - 1


@given(grids, rects())
@settings(max_examples=100, deadline=None)
def test_regions_find_just_the_tiles_and_latents_that_they_meet(grid: Grid, region: Rect) -> None:
    met = np.zeros((grid.height, grid.width), bool)
    x0, y0 = max(region.x0, 0), max(region.y0, 0)
    met[y0 : max(region.y1, 0), x0 : max(region.x1, 0)] = True
    expected = [tile for tile in grid.tiles if met[tile.pixels.slices].any()]
    assert grid.tiles_in(region) == expected
    rows, columns = np.nonzero(met)
    latents = grid.latents_of(region)
    if len(rows):
        want = (columns.min() // 16, rows.min() // 16, columns.max() // 16 + 1, rows.max() // 16 + 1)
        assert (latents.x0, latents.y0, latents.x1, latents.y1) == want
    else:
        assert latents.empty


@given(grids, st.integers(0, 30), st.data())
@settings(max_examples=100, deadline=None)
def test_the_crop_takes_the_halo_away(grid: Grid, halo: int, data: st.DataObject) -> None:
    whole = np.arange(grid.latent_width * grid.latent_height).reshape(grid.latent_height, grid.latent_width)
    tile = grid.tile(data.draw(st.integers(0, grid.tile_count - 1)))
    outer = grid.with_halo(tile, halo)
    assert (whole[outer.slices][tile.latents.relative_to(outer).slices] == whole[tile.latents.slices]).all()
    assert outer == grid.with_halo(tile.latents, halo)
    assert outer.x0 == max(tile.latents.x0 - halo, 0)
    assert outer.y1 == min(tile.latents.y1 + halo, grid.latent_height)
    fine = np.kron(whole, np.ones((LATENT_STRIDE, LATENT_STRIDE), int))
    crop = tile.latents.relative_to(outer).scaled(LATENT_STRIDE)
    tile_pixels = tile.latents.scaled(LATENT_STRIDE)
    assert (fine[outer.scaled(LATENT_STRIDE).slices][crop.slices] == fine[tile_pixels.slices]).all()


@given(rects(-9, 9), rects(-9, 9))
def test_intersection_holds_what_is_in_both(one: Rect, other: Rect) -> None:
    def inside(rect: Rect, x: int, y: int) -> bool:
        return rect.x0 <= x < rect.x1 and rect.y0 <= y < rect.y1

    both = one.intersection(other)
    for x, y in itertools.product(range(-9, 9), repeat=2):
        assert inside(both, x, y) == (inside(one, x, y) and inside(other, x, y))
    assert both.empty == (both.width * both.height == 0)


@given(st.integers(1, 2**24), st.integers(1, 2**24), st.integers(8, 12))
def test_container_counts_the_same_tiles(width: int, height: int, tile_log2: int) -> None:
    header = Header(width, height, 1, bytes(4), tile_log2=tile_log2)
    grid = Grid(width, height, header.tile_side)
    assert (grid.columns, grid.rows, grid.tile_count) == (header.columns, header.rows, header.tile_count)


def test_a_huge_picture_costs_nothing_until_asked() -> None:
    grid = Grid(2**24, 2**24, 16)
    assert grid.tile_count == 2**40
    assert next(grid.tiles).index == 0
    assert [tile.index for tile in grid.tiles_in(Rect(2**24 - 1, 2**24 - 1, 2**25, 2**25))] == [2**40 - 1]


@pytest.mark.parametrize("side", [0, 8, 24, 1000])
def test_tile_sides_are_powers_of_two_of_whole_latents(side: int) -> None:
    with pytest.raises(AssertionError):
        Grid(100, 100, side)
