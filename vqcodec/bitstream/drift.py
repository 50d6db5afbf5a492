# SPDX-License-Identifier: MIT
"""Slow shifts of a picture's colours: the second part of its colour layer.

Where a shift of brightness or hue costs a single block more than it is worth to it, no block says it, and what the
prior predicts carries the error on: patches of a hundred pixels and more come out too light or too red. This part of
the colour layer says it for 4 x 4 blocks at once. It is a grid of cells of 64 x 64 pixels, with an offset of the colour
in the middle of each, interpolated between them and added to the restored picture behind the polynomial. The offsets
are coded as DCTs of 8 x 8 cells.

The offset of a cell has three parts, the rows of `OPPONENTS` (orthonormal: gray, red against blue, green against both).
Cells at the right and lower edge are up to 95 pixels wide, so that none is narrower than 32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import MAX_INDEX, Floats, Ints
from vqcodec.bitstream.entropy import ClassTables, Decoder, Encoder
from vqcodec.bitstream.tiles import Rect
from vqcodec.errors import InputError
from vqcodec.spans import span

CELL = 64  # [pixels]
BLOCK = 8  # cells of a DCT, both ways; those at the right and lower edge are smaller
BAND_OF = np.array([0, 1, 2, 2, 3, 3, 3, 3])  # of the larger of an index's two frequencies
BANDS = 4
STEPS, CLASSES = 16, 64  # what the coder has a place for
LARGEST_STEP = 16 / 255  # of the DCT's coefficients; each further exponent divides it by the root of two
OPPONENTS = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
WORTH = 1.5  # an error that a whole cell has in common is seen more than its square says
SWEEPS = 3

Planes = NDArray[np.float32]


def cells(length: int) -> int:
    """Number of cells along a side of `length` pixels."""
    return max(1, (length + CELL // 2) // CELL)


@dataclass(frozen=True)
class Drift:
    """The drift layer of a picture.

    Attributes:
        exponent: the step is LARGEST_STEP / 2**(exponent / 2); 0 to 15.
        indices: [rows, columns, 3] int64, of the coefficients, one for each cell and each of `OPPONENTS`.
    """

    exponent: int
    indices: Ints

    @cached_property
    def offsets(self) -> Floats:
        """Of red, green and blue in the middle of every cell: [rows, columns, 3]."""
        return np.asarray(_dct(np.asarray(self.indices * _step(self.exponent)), back=True) @ OPPONENTS)

    @span("colour layer")
    def apply(self, picture: Planes, window: Rect) -> None:
        """Correct a picture in place.

        Args:
            picture: [1, 3, H, W] float32, nominally in [0, 1].
            window: where it lies in the whole picture, [pixels]; what lies beyond counts as its edge.
        """
        down, rows = _interpolation(window.y0, window.y1, self.indices.shape[0])
        across, columns = _interpolation(window.x0, window.x1, self.indices.shape[1])
        offsets = self.offsets[rows, columns].astype(np.float32)
        for plane, offset in zip(picture[0], offsets.transpose(2, 0, 1), strict=True):
            plane += down @ (offset @ across.T)

    def array(self) -> NDArray[np.int32]:
        """[1 + rows, columns, 3] int32: the exponent everywhere, and below it the indices."""
        first = np.full((1, *self.indices.shape[1:]), self.exponent)
        return np.concatenate([first, self.indices]).astype(np.int32)

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> Drift:
        """What `array` gave.

        Raises:
            InputError: no layer has this array.
        """
        array = np.asarray(array)
        if array.dtype.kind not in "iu" or array.ndim != 3 or array.shape[2] != 3 or len(array) < 2 or not array.size:
            found = f"{array.dtype} of shape {list(array.shape)}"
            raise InputError(f"a drift layer is integers of shape [1 + rows, columns, 3], not {found}")
        if int(array.min()) < -MAX_INDEX or int(array.max()) > MAX_INDEX:  # as they are: casts and `abs` overflow
            raise InputError(f"the indices of a drift layer lie in {-MAX_INDEX} to {MAX_INDEX}")
        if not (array[0] == array[0, 0, 0]).all() or not 0 <= array[0, 0, 0] < STEPS:
            raise InputError(f"the first row of a drift layer is one number everywhere, 0 to {STEPS - 1}")
        return cls(int(array[0, 0, 0]), array[1:].astype(np.int64))

    def fits(self, width: int, height: int) -> bool:
        """Whether it has the cells of a picture of this size."""
        return self.indices.shape[:2] == (cells(height), cells(width))

    def write(self, coder: Encoder, tables: ClassTables) -> None:
        """Code it: exponent, and for each band its scale class and its indices."""
        coder.put_uniform(self.exponent, STEPS)
        bands = _bands(*self.indices.shape[:2])
        for band in range(BANDS):
            group = self.indices[bands == band]
            if group.size:
                number = int(_costs(group, tables).argmin())
                coder.put_uniform(number, CLASSES)
                coder.put_refinement(group, np.full(group.shape, number), tables)


def read(coder: Decoder, tables: ClassTables, width: int, height: int) -> Drift:
    """What `Drift.write` wrote, for a picture of this size in pixels.

    Raises:
        DamagedError: it cannot have been written by it.
    """
    exponent = coder.get_uniform(STEPS)
    indices = np.zeros((cells(height), cells(width), 3), np.int64)
    bands = _bands(*indices.shape[:2])
    for band in range(BANDS):
        where = bands == band
        if where.any():
            number = coder.get_uniform(CLASSES)
            indices[where] = coder.get_refinement(np.full((int(where.sum()), 3), number), tables)
    return Drift(exponent, indices)


def _step(exponent: int) -> float:
    return float(LARGEST_STEP / 2 ** (exponent / 2))


def _bands(rows: int, columns: int) -> Ints:
    """The band of every index: [rows, columns] in [0, BANDS)."""
    frequency = np.maximum(np.arange(rows)[:, None] % BLOCK, np.arange(columns)[None] % BLOCK)
    return BAND_OF[frequency]


def _interpolation(start: int, stop: int, count: int) -> tuple[Planes, slice]:
    """For the pixels from `start` to `stop` along a side of `count` cells: weights [stop - start, n] of n cells."""
    place = np.clip((np.arange(start, stop) + 0.5) / CELL - 0.5, 0, count - 1)
    cell = np.arange(int(place[0]), min(int(place[-1]) + 2, count))
    weights = np.maximum(0.0, 1.0 - np.abs(place[:, None] - cell))
    return weights.astype(np.float32), slice(int(cell[0]), int(cell[-1]) + 1)


@cache
def _basis(size: int) -> Floats:
    """The orthonormal DCT (type II) of vectors of a size: [frequency, place]."""
    angle = np.pi / size * np.arange(size)[:, None] * (np.arange(size) + 0.5)
    basis: Floats = np.cos(angle) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def _dct(grid: Floats, *, back: bool = False) -> Floats:
    """DCTs of blocks of a grid [rows, columns, 3], or back."""
    out = np.empty(grid.shape)
    for y in range(0, grid.shape[0], BLOCK):
        for x in range(0, grid.shape[1], BLOCK):
            block = grid[y : y + BLOCK, x : x + BLOCK]
            down, across = _basis(block.shape[0]), _basis(block.shape[1])
            if back:
                down, across = down.T, across.T
            out[y : y + BLOCK, x : x + BLOCK] = np.einsum("ij,jkc,lk->ilc", down, block, across)
    return out


def _costs(group: Ints, tables: ClassTables) -> Floats:
    """Bits of indices in each class, [64]."""
    return np.asarray(tables.costs[:, np.clip(group, -256, 255).ravel() + 256].sum(1))


# ---- in the encoder --------------------------------------------------------------------------------------------------


def gather(values: NDArray[np.floating[Any]], piece: Rect, width: int, height: int, stride: int = 1) -> Floats:
    """Sums by cells of values of every `stride`-th pixel of a piece of the picture: [rows, columns, C].

    Args:
        values: [h, w, C].
        piece: where they lie, in a picture of width x height [pixels]; it begins at a multiple of 64.
    """
    rows, columns = cells_of(piece, width, height)
    down = np.maximum(np.arange(rows.start, rows.stop) * CELL - piece.y0, 0)
    across = np.maximum(np.arange(columns.start, columns.stop) * CELL - piece.x0, 0)
    sums = np.add.reduceat(values, down // stride, axis=0)
    return np.asarray(np.add.reduceat(sums, across // stride, axis=1), np.float64)


def cells_of(piece: Rect, width: int, height: int) -> tuple[slice, slice]:
    """The rows and columns of the cells in which the pixels of a piece lie, which begins at a multiple of 64."""
    down, across = cells(height), cells(width)
    rows = slice(min(piece.y0 // CELL, down - 1), min(-(-piece.y1 // CELL), down))
    return rows, slice(min(piece.x0 // CELL, across - 1), min(-(-piece.x1 // CELL), across))


@span("colour layer")
def fit(
    means: Floats, width: int, height: int, lagrangian: float, tables: ClassTables, fixed_bits: float = 0.0
) -> Drift | None:
    """The drift layer that saves most in rate + lambda distortion; None if it would save nothing.

    Args:
        means: [rows, columns, 3] of what every cell's red, green and blue lack, in [-1, 1].
        width, height: of the picture in pixels.
        lagrangian: bits per pixel per unit of mean squared error.
        fixed_bits: what it costs to have such a layer at all.
    """
    pixels = width * height / (means.shape[0] * means.shape[1])  # of a cell
    worth = WORTH * lagrangian / 3 * pixels  # bits per unit of squared error of an offset
    ideal = math.sqrt(6 / math.log(2) / worth)  # as in the colour layer's fit
    exponent = min(max(round(2 * math.log2(LARGEST_STEP / ideal)), 0), STEPS - 1)
    step = _step(exponent)
    wanted = means @ OPPONENTS.T
    # The mean of an interpolated cell lies between its offset and its neighbours': make half of that good
    wanted = 2 * wanted - _blurred(_blurred(wanted, height).transpose(1, 0, 2), width).transpose(1, 0, 2)
    places = _dct(wanted) / step
    indices, bits = _rounded(places, worth * step**2, tables)
    saved = worth * step**2 * float((places**2 - (places - indices) ** 2).sum())
    return Drift(exponent, indices) if indices.any() and saved > fixed_bits + bits else None


def _blurred(offsets: Floats, length: int) -> Floats:
    """Means over the cells along the first axis, a side of `length` pixels, of what is interpolated from offsets."""
    change = np.diff(offsets, axis=0)
    widths = np.full(len(offsets), float(CELL))
    widths[-1] = length - CELL * (len(offsets) - 1)
    share = (CELL / 8 / widths)[:, None, None]  # half a cell's pixels on either side lean by a quarter on average
    out = offsets.copy()
    out[:-1] += share[:-1] * change
    out[1:] -= share[1:] * change
    return out


def _rounded(places: Floats, worth: float, tables: ClassTables) -> tuple[Ints, float]:
    """Whole indices of least rate + lambda distortion, and their bits.

    Args:
        places: [rows, columns, 3] in steps.
        worth: bits per unit of squared error.
    """
    bands, bits = _bands(*places.shape[:2]), 0.0
    indices = np.rint(places).astype(np.int64)
    coded = np.flatnonzero(tables.limits)
    for band in range(BANDS):
        where = bands == band
        if not where.any():
            continue
        place, chosen = places[where], indices[where]
        tried = np.stack([np.zeros_like(place), np.trunc(place), np.rint(place)])
        for _ in range(SWEEPS):
            number = coded[_costs(chosen, tables)[coded].argmin()]
            cost = worth * (tried - place) ** 2 + tables.costs[number][np.clip(tried, -256, 255).astype(int) + 256]
            chosen = np.take_along_axis(tried, cost.argmin(0)[None], 0)[0].astype(np.int64)
        indices[where] = chosen
        bits += math.log2(CLASSES) + float(_costs(chosen, tables).min())
    return indices, bits
