# SPDX-License-Identifier: MIT
"""Synthetic crops: what they are, and that a photograph around them stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.train import patterns

SIZE = 96


@pytest.fixture
def crop(photo: NDArray[np.uint8]) -> patterns.Crop:
    return photo[:SIZE, 200 : 200 + SIZE].astype(np.float32) / 255


@pytest.mark.parametrize("kind", patterns.KINDS)
def test_every_kind_is_a_crop_and_never_the_photograph(kind: object, crop: patterns.Crop) -> None:
    assert callable(kind)
    rng = np.random.default_rng(1)
    drawn = [kind(rng, SIZE, crop) for _ in range(6)]
    for picture in drawn:
        assert picture.shape == (SIZE, SIZE, 3)
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert np.abs(picture - crop).max() > 0.05
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)


def test_a_checkerboard_has_two_colours_half_of_the_pixels_each(crop: patterns.Crop) -> None:
    for seed in range(8):
        board = patterns.checkerboard(np.random.default_rng(seed), SIZE, crop)
        colours, counts = np.unique(board.reshape(-1, 3), axis=0, return_counts=True)
        assert len(colours) == 2
        assert abs(counts[0] / SIZE**2 - 0.5) < 0.03


def test_a_dither_keeps_the_brightness_of_the_photograph(crop: patterns.Crop) -> None:
    for seed in range(8):
        dithered = patterns.dither(np.random.default_rng(seed), SIZE, crop)
        assert dithered.mean() == pytest.approx(crop.mean(), abs=0.03)


def test_a_patch_leaves_the_photograph_around_it_alone(crop: patterns.Crop) -> None:
    rng, inside = np.random.default_rng(3), 0
    for _ in range(60):
        changed = (patterns.pattern(rng, crop) != crop).any(2)
        inside += not changed.any(0).all() or not changed.any(1).all()
    assert inside > 5, "no patch inside the photograph in 60 draws"
