# SPDX-License-Identifier: MIT
"""Fits the colour layer, which belongs to the whole picture, to what its tiles are restored to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import colour, drift
from vqcodec.bitstream.codebook import Floats
from vqcodec.bitstream.corrections import Corrections
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.bitstream.tiles import Rect

SMALL = 1 << 20  # pixels, of which every fourth is seen by the colour layer's fit; else every sixteenth


class Seen(NamedTuple):
    """What one piece of the picture says."""

    piece: Rect  # [pixels]
    sums: colour.Sums
    missing: Floats  # [rows, columns, 3] by cells of the drift layer: sums of original minus restored
    terms: Floats  # [rows, columns, K] means of the colour layer's terms


class Fit:
    """Gathers pieces of a picture of width x height pixels and what they are restored to; then solves.

    Args:
        lagrangian: bits per pixel per unit of mean squared error.
    """

    def __init__(self, width: int, height: int, lagrangian: float) -> None:
        self.width, self.height, self.lagrangian = width, height, lagrangian
        self.colour = colour.Fit(width * height, lagrangian)
        self.stride = 2 if width * height <= SMALL else 4  # of the pixels that the colour layer is fitted to
        cells = drift.cells(height), drift.cells(width)
        self.missing, self.pixels = np.zeros((*cells, 3)), np.zeros((*cells, 1))
        self.terms = np.zeros((*cells, len(colour.terms(colour.MAX_DEGREE))))

    def see(self, restored: NDArray[np.float32], original: NDArray[np.uint8], piece: Rect) -> Seen:
        """Look at a piece, on any thread.

        Args:
            restored: [3, h, w], nominally in [0, 1]; clipped to that range.
            original: [h, w, 3].
            piece: where it lies, [pixels]; it begins at a multiple of 64.
        """
        np.clip(restored, 0, 1, out=restored)
        sums, terms = colour.sums(restored, original, self.stride)
        missing = original.astype(np.float32) / np.float32(255) - restored.transpose(1, 2, 0)
        count = drift.gather(np.ones((*terms.shape[:2], 1), np.float32), piece, self.width, self.height, self.stride)
        means = drift.gather(terms, piece, self.width, self.height, self.stride) / count
        return Seen(piece, sums, drift.gather(missing, piece, self.width, self.height), means)

    def add(self, seen: Seen) -> None:
        """Take in what a piece says."""
        self.colour.add(seen.sums)
        where = drift.cells_of(seen.piece, self.width, self.height)
        count = drift.gather(np.ones((seen.piece.height, seen.piece.width, 1)), seen.piece, self.width, self.height)
        self.missing[where] += seen.missing
        self.terms[where] += seen.terms * count
        self.pixels[where] += count

    def solve(self, tables: ClassTables) -> Corrections:
        """The parts that save more in rate + lambda distortion than they cost."""
        layer = self.colour.solve(tables)
        pixels = np.maximum(self.pixels, 1)  # nothing was seen of a cell that is kept without loss
        means = self.missing / pixels
        if layer is not None:
            means -= self.terms[:, :, : len(layer.indices)] @ layer.values / pixels
        fixed = colour.SECTION_BITS if layer is None else 0  # who comes first pays for the section
        return Corrections(layer, drift.fit(means, self.width, self.height, self.lagrangian, tables, fixed))
