# SPDX-License-Identifier: MIT
"""Noise for the realistic decoder: a fixed random number for every pixel, whichever part of a picture is decoded.

Philox (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011) gives the numbers of any place without those
before it, so that a region shows what the whole picture shows, with any number of threads, again and again.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Rect

KEY = 0x7671636F646563  # "vqcodec"
_PER_BLOCK = 32  # numbers of one byte that Philox makes at a time
_DEVIATION = math.sqrt((256**2 - 1) / 12)


def noise(window: Rect) -> NDArray[np.float32]:
    """Uniform noise of mean 0 and variance 1 for a window in pixels: [H, W] float32."""
    first = window.x0 // _PER_BLOCK  # NumPy counts up before it makes a block, so the counter is one more than this
    blocks = -(-window.x1 // _PER_BLOCK) - first
    rows = np.empty((window.height, blocks * _PER_BLOCK), np.uint8)
    for row in range(window.height):
        words = np.random.Philox(key=KEY, counter=[first, window.y0 + row, 0, 0]).random_raw(4 * blocks)
        rows[row] = words.astype("<u8").view(np.uint8)
    left = window.x0 - first * _PER_BLOCK
    values = rows[:, left : left + window.width].astype(np.float32)
    values -= np.float32(127.5)
    values *= np.float32(1 / _DEVIATION)
    return values
