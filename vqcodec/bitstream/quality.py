# SPDX-License-Identifier: MIT
"""The quality scale: from the quality and the tune of a header to the rows of a model's tables. Nothing else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.options import BASE_ONLY_QUALITY, MAX_QUALITY


class Setting(NamedTuple):
    """A quality of a tune: what chooses the rows of a model's tables."""

    quality: int  # 1 to 100
    tune: int = 0  # place in the model's list of tunes

    @property
    def row(self) -> int:
        """Row of the tables that have one per tune and quality."""
        return self.tune * MAX_QUALITY + self.quality - 1


def quality_level(quality: int) -> float:
    """Place of a quality 2..100 on the scale [0, 1] of the model's steps; 0 for the base layer alone (quality 1)."""
    return max(0, quality - BASE_ONLY_QUALITY - 1) / (MAX_QUALITY - BASE_ONLY_QUALITY - 1)


def anchor_weights(level: float, anchors: int) -> NDArray[np.float64]:
    """Linear interpolation weights of a level in [0, 1] on equally spaced anchors: [A] float64, sum 1."""
    weights: NDArray[np.float64] = np.maximum(0.0, 1.0 - np.abs(level * (anchors - 1) - np.arange(anchors)))
    return weights
