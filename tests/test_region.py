# SPDX-License-Identifier: MIT
"""Regions and smaller sizes: the pixels of the full picture, from the tiles that they need and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import wide_gamut_profile
from vqcodec.bitstream.tiles import Tile
from vqcodec.codec import decode, encode
from vqcodec.options import EncodeOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]
REGIONS = [
    (0, 0, 600, 400),
    (0, 0, 1, 1),
    (599, 399, 1, 1),
    (256, 0, 256, 256),
    (250, 250, 13, 11),
    (17, 3, 301, 370),
    (590, 0, 10, 400),
    (0, 255, 600, 2),
    (511, 260, 70, 90),
]


@pytest.fixture(scope="module")
def tiled(photo: U8) -> bytes:
    """The photograph, 600 x 400, in tiles of 256 x 256."""
    return encode.encode(read.load(photo), 60, EncodeOptions(tile_log2=8))


@pytest.fixture(scope="module")
def full(tiled: bytes) -> U8:
    """All of it, restored."""
    return np.asarray(vqcodec.decode(tiled))


def distance(a: Any, b: Any) -> int:
    """The largest difference of two pictures of one shape."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_cut_out_of_the_picture(tiled: bytes, full: U8, region: tuple[int, int, int, int]) -> None:
    x, y, width, height = region
    part = vqcodec.decode(tiled, region=region)
    assert part.size == (width, height)
    assert distance(part, full[y : y + height, x : x + width]) <= 1


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("region", [None, (17, 3, 301, 370), (599, 399, 1, 1), (256, 128, 100, 250)])
def test_a_smaller_picture_is_the_mean_of_its_pixels(
    tiled: bytes, full: U8, region: tuple[int, int, int, int] | None, scale: int
) -> None:
    x, y, width, height = region or (0, 0, 600, 400)
    expected = Image.fromarray(full[y : y + height, x : x + width]).reduce(scale)
    assert distance(vqcodec.decode(tiled, region=region, scale=scale), expected) <= 1


@pytest.mark.parametrize(
    ("region", "tiles"),
    [
        ((100, 100, 20, 20), {0}),
        ((384, 120, 30, 8), {1}),
        ((230, 100, 20, 20), {0, 1}),  # the halo of the synthesis reaches into the next tile
        ((100, 240, 20, 40), {0, 3}),
        ((250, 250, 20, 20), {0, 1, 3, 4}),
        ((520, 390, 20, 10), {4, 5}),
        ((0, 0, 600, 400), {0, 1, 2, 3, 4, 5}),
    ],
)
def test_only_the_tiles_that_are_needed_are_decoded(
    tiled: bytes, region: tuple[int, int, int, int], tiles: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = decode.TileReader.latents

    def spy(self: decode.TileReader, tile: Tile) -> NDArray[np.float32]:
        seen.append(tile.index)
        return original(self, tile)

    monkeypatch.setattr(decode.TileReader, "latents", spy)
    vqcodec.decode(tiled, region=region, scale=2)
    assert sorted(seen) == sorted(tiles)


def test_the_synthesis_sees_only_the_region_and_its_halo(tiled: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from vqcodec.model.transforms import Synthesis

    seen: list[tuple[int, ...]] = []
    original = Synthesis.__call__
    monkeypatch.setattr(Synthesis, "__call__", lambda self, y, *more: seen.append(y.shape) or original(self, y, *more))
    vqcodec.decode(tiled, region=(128, 128, 16, 16))
    ((rows, columns, _),) = seen
    assert rows * columns < 13**2


@pytest.mark.parametrize("quality", [1, 70])
def test_gray_and_alpha(photo: U8, quality: int) -> None:
    alpha = np.tile(np.linspace(0, 255, 301).astype(np.uint8), (270, 1))
    rgba = np.dstack([photo[:270, :301], alpha])
    for picture, mode in ((rgba, "RGBA"), (rgba[..., 2:], "LA"), (rgba[..., 0], "L")):
        data = encode.encode(read.load(picture), quality, EncodeOptions(tile_log2=8))
        whole = vqcodec.decode(data)
        assert whole.mode == mode
        box = (200, 100, 200 + 99, 100 + 101)
        region = (200, 100, 99, 101)
        part = vqcodec.decode(data, region=region)
        assert distance(part, whole.crop(box)) <= 1
        small = vqcodec.decode(data, region=region, scale=4)
        expected = np.asarray(whole.crop(box).reduce(4)).astype(int)
        found = np.asarray(small).astype(int)
        assert found.shape == expected.shape
        if mode.endswith("A"):
            assert np.array_equal(found[..., -1], expected[..., -1])
            visible = expected[..., -1] > 128  # where alpha is small, rounding moves the colours that it hides
            found, expected = found[visible], expected[visible]
        assert np.abs(found - expected).max() <= 2


def test_transparent_pixels_do_not_bleed_into_a_smaller_picture() -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :3] = (0, 0, 0, 0)
    pixels[:, 3:] = (200, 200, 200, 255)
    data = vqcodec.encode(pixels, 100)
    whole, small = np.asarray(vqcodec.decode(data)).astype(float), np.asarray(vqcodec.decode(data, scale=4))
    edge = small[:, 0, :3].mean()
    assert edge == pytest.approx(whole[:, 3, :3].mean(), abs=3)
    assert abs(edge - whole[:, :4, :3].mean()) > 10


def test_metadata_stays(photo: U8) -> None:
    source = Image.fromarray(photo[:40, :50])
    source.info["icc_profile"] = wide_gamut_profile()
    part = vqcodec.decode(vqcodec.encode(source, 40), region=(3, 4, 5, 6), scale=2)
    assert part.size == (3, 3)
    assert part.info["icc_profile"] == source.info["icc_profile"]


@pytest.mark.parametrize(
    "region", [(0, 0, 601, 1), (0, 0, 1, 401), (600, 0, 1, 1), (-1, 0, 5, 5), (3, 3, 0, 5), (3, 3, 5, -1)]
)
def test_regions_outside_the_picture(tiled: bytes, region: tuple[int, int, int, int]) -> None:
    with pytest.raises(vqcodec.UsageError, match="600 x 400"):
        vqcodec.decode(tiled, region=region)


@pytest.mark.parametrize("scale", [0, 3, 16, -2, 2.5, "2"])
def test_other_scales(tiled: bytes, scale: Any) -> None:
    with pytest.raises(vqcodec.UsageError, match="scale must be 1, 2, 4 or 8"):
        vqcodec.decode(tiled, scale=scale)


def test_threads_change_nothing(tiled: bytes) -> None:
    first, second = (vqcodec.decode(tiled, region=(100, 90, 400, 300), scale=2, threads=n) for n in (1, 4))
    assert distance(first, second) <= 1
