# SPDX-License-Identifier: MIT
"""The drift layer: that it is coded exactly, lies where the format says, and is kept where it pays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from vqcodec.bitstream import drift
from vqcodec.bitstream.drift import CELL, OPPONENTS, Drift
from vqcodec.bitstream.entropy import Decoder, Encoder
from vqcodec.bitstream.tiles import Rect
from vqcodec.codec.fit import Fit
from vqcodec.model import zoo

SIZES = [(1, 1), (64, 64), (95, 96), (1044, 300), (2100, 1023)]  # width, height


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load(zoo.find())


def some(width: int, height: int, seed: int = 1) -> Drift:
    """A layer of small random indices."""
    rng = np.random.default_rng(seed)
    return Drift(5, rng.integers(-3, 4, (drift.cells(height), drift.cells(width), 3)))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_coded_and_back(model: zoo.Model, width: int, height: int) -> None:
    layer = some(width, height)
    layer.indices[0, 0, 1] = 70_000  # an escape
    coder = Encoder()
    layer.write(coder, model.tables)
    coder.put_uniform(3, 5)
    reader = Decoder(coder.finish())
    found = drift.read(reader, model.tables, width, height)
    assert found.exponent == layer.exponent
    np.testing.assert_array_equal(found.indices, layer.indices)
    assert reader.get_uniform(5) == 3  # nothing more was read, and nothing less
    again = Drift.of_array(layer.array())
    assert again.exponent == layer.exponent
    np.testing.assert_array_equal(again.indices, layer.indices)
    assert layer.fits(width, height)
    assert not layer.fits(width + 96, height)


def test_offsets_are_those_of_the_format() -> None:
    """Each by its formulas in docs/FORMAT.md, one by one."""
    layer = some(700, 600)
    rows, columns = layer.indices.shape[:2]
    assert (rows, columns) == (9, 11)  # so that there are blocks of 8 x 8, 8 x 3, 1 x 8 and 1 x 3 cells
    step = 16 / 255 / 2 ** (layer.exponent / 2)
    for row, column in ((0, 0), (7, 2), (3, 10), (8, 5), (8, 9)):
        y, x, m, n = row % 8, column % 8, min(8, rows - row // 8 * 8), min(8, columns - column // 8 * 8)
        p, q, s = (
            sum(
                layer.indices[row // 8 * 8 + u, column // 8 * 8 + v, part] * step
                * math.sqrt((1 if u == 0 else 2) / m) * math.cos(math.pi * u * (y + 0.5) / m)
                * math.sqrt((1 if v == 0 else 2) / n) * math.cos(math.pi * v * (x + 0.5) / n)
                for u in range(m) for v in range(n)
            )
            for part in range(3)
        )  # fmt: skip
        third, half, sixth = math.sqrt(1 / 3), math.sqrt(1 / 2), math.sqrt(1 / 6)
        wanted = p * third + q * half - s * sixth, p * third + 2 * s * sixth, p * third - q * half - s * sixth
        np.testing.assert_allclose(layer.offsets[row, column], wanted, atol=1e-9)


@pytest.mark.parametrize(("width", "height"), SIZES[1:])
def test_apply_interpolates_and_pieces_agree(width: int, height: int) -> None:
    layer = some(width, height)
    padded = Rect(0, 0, -(-width // 16) * 16, -(-height // 16) * 16)
    whole = np.zeros((1, 3, padded.height, padded.width), np.float32)
    layer.apply(whole, padded)
    for row in range(layer.indices.shape[0]):  # half a pixel around a middle: the mean of four
        y, x = CELL * row + 32, 32
        found = whole[0, :, y - 1 : y + 1, x - 1 : x + 1].mean((1, 2))
        np.testing.assert_allclose(found, layer.offsets[row, 0], atol=2e-3)
    np.testing.assert_allclose(whole[0, :, 0, 0], layer.offsets[0, 0], atol=1e-6)  # beyond the outermost middle
    piece = Rect(16, 16, min(480, padded.x1), min(176, padded.y1))
    part = np.zeros((1, 3, piece.height, piece.width), np.float32)
    layer.apply(part, piece)
    np.testing.assert_allclose(part[0], whole[0][(slice(None), *piece.slices)], atol=1e-6)
    if width > 2 * CELL:
        between = whole[0, :, 0, 63:65].mean(1)
        np.testing.assert_allclose(between, (layer.offsets[0, 0] + layer.offsets[0, 1]) / 2, atol=1e-5)


@pytest.mark.parametrize("width", [1000, 1044, 1056, 2100])
def test_sums_by_cells(width: int) -> None:
    """Of two tiles, the second as narrow as can be: the same as of the whole picture, pixel by pixel."""
    height, rng = 200, np.random.default_rng(2)
    values = rng.random((height, width, 2))
    total = np.zeros((drift.cells(height), drift.cells(width), 2))
    for left in range(0, width, 1024):
        piece = Rect(left, 0, min(left + 1024, width), height)
        total[drift.cells_of(piece, width, height)] += drift.gather(values[piece.slices], piece, width, height)
    wanted = np.zeros_like(total)
    down = np.minimum(np.arange(height) // CELL, len(total) - 1)
    across = np.minimum(np.arange(width) // CELL, total.shape[1] - 1)
    np.add.at(wanted, (down[:, None], across[None]), values)
    np.testing.assert_allclose(total, wanted)


def fitted(model: zoo.Model, original: NDArray[np.uint8], restored: NDArray[np.float32]) -> Drift | None:
    """What the encoder fits where a picture [H, W, 3] is restored as [3, H, W]."""
    height, width = original.shape[:2]
    fit = Fit(width, height, model.lagrangian(30))
    piece = Rect(0, 0, width, height)
    fit.add(fit.see(restored.copy(), original, piece))
    return fit.solve(model.tables).drift


def test_a_slow_shift_is_put_right(model: zoo.Model) -> None:
    """A shift by 8 levels that no polynomial of the colours knows, in a picture of which all colours are the same."""
    height, width = 320, 512
    rng = np.random.default_rng(3)
    original = np.clip(rng.normal(128, 20, (height, width, 3)), 0, 255).astype(np.uint8)
    wave = np.sin(np.arange(width) / 512 * 2 * np.pi)[None, :, None] * np.array([8, -8, 3]) / 255
    restored = (original / 255 - wave).transpose(2, 0, 1).astype(np.float32)
    layer = fitted(model, original, restored)
    assert layer is not None
    window, corrected = Rect(0, 0, width, height), restored[None].copy()
    layer.apply(corrected, window)
    before, after = (np.square(x - original.transpose(2, 0, 1) / 255).mean() for x in (restored, corrected[0]))
    assert after < before / 8
    assert fitted(model, original, (original / 255).transpose(2, 0, 1).astype(np.float32)) is None  # nothing to do


def test_offsets_come_back(model: zoo.Model) -> None:
    """What is fitted to a layer's own doing is near that layer: signs, axes and components are right."""
    layer = some(300, 500, 4)
    window = Rect(0, 0, 300, 500)
    missing = np.zeros((1, 3, 500, 300), np.float32)
    layer.apply(missing, window)
    sums = drift.gather(missing[0].transpose(1, 2, 0), window, 300, 500)
    count = drift.gather(np.ones((500, 300, 1)), window, 300, 500)
    found = drift.fit(sums / count, 300, 500, 1e4, model.tables)
    assert found is not None
    assert np.corrcoef(found.offsets.ravel(), layer.offsets.ravel())[0, 1] > 0.9
    assert pytest.approx(np.eye(3)) == OPPONENTS @ OPPONENTS.T


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 2, 3)), "integers of shape"),
        (np.zeros((3, 2), int), "integers of shape"),
        (np.zeros((1, 2, 3), int), "integers of shape"),
        (np.arange(18).reshape(3, 2, 3), "one number everywhere"),
        (np.full((3, 2, 3), 16), "0 to 15"),
        (np.full((3, 2, 3), np.iinfo(np.int64).min), "indices of a drift"),
        (np.concatenate([np.zeros((1, 2, 3), int), np.full((1, 2, 3), np.iinfo(np.int64).min)]), "indices of a drift"),
    ],
)
def test_arrays_that_are_no_layer(array: NDArray[np.int64], words: str) -> None:
    with pytest.raises(vqcodec.InputError, match=words):
        Drift.of_array(array)


def test_a_layer_of_another_picture_is_refused() -> None:
    layer = some(200, 100).array()
    with pytest.raises(vqcodec.InputError, match="2 x 3 cells does not fit a picture of 48 x 32"):
        vqcodec.from_indices(np.zeros((2, 3), int), drift=layer)


def test_the_largest_indices_do_no_harm() -> None:
    picture = np.full((1, 3, 64, 64), 0.5, np.float32)
    Drift(0, np.full((1, 1, 3), 2**20)).apply(picture, Rect(0, 0, 64, 64))
    assert np.isfinite(picture).all()
