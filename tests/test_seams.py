# SPDX-License-Identifier: MIT
"""Large photographs: no edge where two tiles meet, and no patch of another hue."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.tiles import Grid, Tile
from vqcodec.codec import encode
from vqcodec.model import walk
from vqcodec.options import EncodeOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]
BESIDE = (-27, -21, -11, -5, 5, 11, 21, 27)  # [pixels] from a tile's edge, where a step is no seam


def large(photo: U8) -> U8:
    """The bundled photograph and its mirror image, enlarged to 2,100 x 700 pixels: three tiles beside each other."""
    both = np.concatenate([photo, photo[:, ::-1]], axis=1)
    return np.asarray(Image.fromarray(both).resize((2100, 700), Image.Resampling.LANCZOS))


def step(error: NDArray[np.float64], x: int) -> float:
    """Mean step of the error across column x: two pixels on either side, 32 along the column."""
    across = error[:, x : x + 2].mean(1) - error[:, x - 2 : x].mean(1)
    count = len(across) // 32 * 32
    return float(np.abs(across[:count].reshape(-1, 32, 3).mean(1)).mean())


def seams(picture: U8, data: bytes) -> list[float]:
    """At every edge of 1,024-pixel tiles beside each other: the step there over the steps near it."""
    error = np.asarray(vqcodec.decode(data)).astype(float) - picture
    edges = range(1024, picture.shape[1] - 32, 1024)
    return [step(error, x) / float(np.mean([step(error, x + d) for d in BESIDE])) for x in edges]


def hue(picture: U8, data: bytes) -> float:
    """95th percentile of the largest shift of the mean of red, green or blue over 64 x 64 pixels, in levels."""
    error = np.asarray(vqcodec.decode(data)).astype(float) - picture
    h, w = picture.shape[0] // 64, picture.shape[1] // 64
    blocks = error[: 64 * h, : 64 * w].reshape(h, 64, w, 64, 3).mean((1, 3))
    return float(np.percentile(np.abs(blocks).max(2), 95))


@pytest.mark.parametrize(("quality", "shift"), [(10, 4.0), (45, 1.5)])
def test_a_large_photograph_has_no_seam_and_keeps_its_hues(photo: U8, quality: int, shift: float) -> None:
    picture = large(photo)
    data = vqcodec.encode(picture, quality)
    assert vqcodec.info(data)["tiles"] == 3
    found = seams(picture, data)
    assert np.mean(found) < 1.2
    assert max(found) < 1.5
    assert hue(picture, data) < shift


def test_a_synthetic_gradient_has_no_seam() -> None:
    """From one colour to another, slowly: a step of a level at an edge would be seen."""
    x, y = np.linspace(0, 1, 2100), np.linspace(0, 1, 96)[:, None]
    picture = np.stack([40 + 150 * x + 20 * y, 90 + 60 * x * y, 200 - 120 * x + 0 * y], 2).round().astype(np.uint8)
    for quality in (10, 30):
        decoded = np.asarray(vqcodec.decode(vqcodec.encode(picture, quality))).astype(float)
        error = decoded - picture
        at_edges = max(step(error, edge) for edge in (1024, 2048))
        elsewhere = [step(error, column) for column in range(64, 2000, 16) if column % 1024]
        assert at_edges < 1.05 * np.quantile(elsewhere, 0.99)
        assert np.abs(error.mean((0, 1))).max() < 1


@pytest.mark.parametrize("quality", [1, 40])
def test_the_base_layer_around_a_tile_is_seen(photo: U8, quality: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file decoded without what lies around each tile: another picture, or none."""
    data = encode.encode(read.load(photo[:300, :300]), quality, EncodeOptions(tile_log2=8))
    right = np.asarray(vqcodec.decode(data))

    def alone(indices: NDArray[np.int32], grid: Grid, tile: Tile, halo: int) -> walk.Base:
        return walk.Base.alone(indices[tile.latents.slices].astype(np.int64))

    monkeypatch.setattr(walk.Base, "of", alone)
    try:
        assert not np.array_equal(np.asarray(vqcodec.decode(data)), right)
    except vqcodec.DamagedError:
        assert quality > 1


def test_many_tiles_on_many_threads_give_one_file(photo: U8) -> None:
    """Tiles wait for the base layers around them, whoever comes first."""
    picture = read.load(np.tile(photo, (2, 2, 1))[:700, :700])
    options = [EncodeOptions(effort=effort, threads=threads, tile_log2=8) for effort in (1, 5) for threads in (1, 8)]
    files = [encode.encode(picture, 20, option) for option in options]
    assert files[0] == files[1]
    assert files[2] == files[3]
    pictures = {vqcodec.decode(files[2], threads=threads).tobytes() for threads in (1, 3, 8)}
    assert len(pictures) == 1
