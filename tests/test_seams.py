# SPDX-License-Identifier: MIT
"""Large photographs: no edge where two tiles meet, and no patch of another hue."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.quality import Setting
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid, Tile
from vqcodec.codec import encode
from vqcodec.codec.synthesis import strips
from vqcodec.model import walk, zoo
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


def test_an_edge_adds_no_step_to_a_gradient() -> None:
    """From one colour to another, slowly: a step of a level at an edge would be seen.

    The step across an edge is held against the one at the same column when no edge is there.
    """
    x, y = np.linspace(0, 1, 2100), np.linspace(0, 1, 96)[:, None]
    picture = np.stack([40 + 150 * x + 20 * y, 90 + 60 * x * y, 200 - 120 * x + 0 * y], 2).round().astype(np.uint8)

    def error(part: U8, quality: int) -> NDArray[np.float64]:
        return np.asarray(vqcodec.decode(vqcodec.encode(part, quality))).astype(float) - part

    for quality in (10, 30):
        tiled = error(picture, quality)
        for edge in (1024, 2048):
            assert step(tiled, edge) < step(error(picture[:, edge - 512 : edge + 512], quality), 512) + 0.3
        assert np.abs(tiled.mean((0, 1))).max() < 1


def reach(model: zoo.Model, rgb: U8, less: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How far tiles are from the whole picture when each is seen with its halo, which is smaller by `less` latents.

    -> the largest difference of base vectors, of samples (levels) and of the first means (2**-LATENT_BITS).
    """
    grid, whole = Grid(rgb.shape[1], rgb.shape[0], 256), Grid(rgb.shape[1], rgb.shape[0], 1024)
    setting, halos = Setting(40), (model.analysis_halo - less, model.synthesis_halo - less, model.prior.halo - less)
    weights = model.synthesis_weights(setting, base_only=False)
    latents, vectors = encode.analyse(model, rgb, whole, whole.tile(0), setting)
    indices = encode.nearest(model, vectors)

    def first_means(base: walk.Base) -> NDArray[np.float64]:
        means = np.zeros((base.tile.height, base.tile.width, model.prior.steps[0].channels.stop))

        def choose(predicted: walk.Predicted) -> NDArray[np.int64]:
            if predicted.step.number == 0:
                means[predicted.where] = predicted.means
            return np.zeros(predicted.classes.shape, np.int64)

        model.walk_refinement(base, setting, choose)
        return means

    pixels, means = model.synthesis.unrounded(latents, weights)[0], first_means(walk.Base.alone(indices))
    monkeypatch.setattr(zoo.Model, "analysis_halo", halos[0])
    apart = np.zeros(3)
    strip = next(iter(strips(grid, lambda tile: latents[tile.latents.slices], halos[1], grid.tile_count, grid.pixels)))
    for tile in strip.tiles:
        inner, (seen, window) = tile.latents.scaled(LATENT_STRIDE), strip.latents(tile.pixels)
        there = model.synthesis.unrounded(seen, weights)[0]
        rows, columns = inner.relative_to(window).slices
        rows_, columns_ = inner.slices
        pairs = (
            (encode.analyse(model, rgb, grid, tile, setting)[1], vectors[tile.latents.slices]),
            (255 * there[:, rows, columns], 255 * pixels[:, rows_, columns_]),
            (first_means(walk.Base.of(indices, grid, tile, halos[2])), means[tile.latents.slices]),
        )
        apart = np.maximum(apart, [np.abs(a - b).max() for a, b in pairs])
    return [float(x) for x in apart]


def test_each_network_sees_all_that_reaches_into_a_tile(photo: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tile by tile gives what the whole picture at once does; a halo smaller by one latent would not."""
    model, rgb = zoo.load(zoo.find()), photo[:272, :300]
    with monkeypatch.context() as patched:
        right = reach(model, rgb, 0, patched)
    with monkeypatch.context() as patched:
        wrong = reach(model, rgb, 1, patched)
    assert right[0] < 1e-4
    assert right[1] < 0.01
    assert right[2] == 0  # integers
    for a, b in zip(right, wrong, strict=True):
        assert b > 0
        assert a < b / 10


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
