# SPDX-License-Identifier: MIT
"""The colour layer: indices that belong to the whole picture, for a polynomial that corrects its colours.

At low rates every block's colour is off by less than the step that would put it right, and mostly in the same
direction all over the picture. A few dozen small integers for the whole picture say it once: the coefficients of a
polynomial in the restored colours that is added to the restored picture, fitted by least squares in the encoder.
Related: HEVC's colour remapping information, and prediction across colour components.

With r, g, b in [0, 1] of a restored pixel, luma y = 0.299 r + 0.587 g + 0.114 b, t = 2 y - 1, u = 4 (b - g) and
v = 4 (r - g), the terms of degree n are P_i(t) u^j v^k with i + j + k = n, in the order of `terms`; P_i are Legendre's
polynomials. Each of r, g and b has a coefficient for every term, an index times the layer's step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import MAX_INDEX, Floats, Ints
from vqcodec.bitstream.entropy import ClassTables, Decoder, Encoder
from vqcodec.errors import DamagedError, InputError
from vqcodec.spans import span

MAX_DEGREE = 4
NO_DEGREE = 5  # says that there is no polynomial
DEGREES, STEPS, CLASSES = 8, 16, 64  # what the coder has a place for
LARGEST_STEP = 4 / 255  # of coefficients; each further exponent halves it
BLOCK = 1 << 14  # pixels worked on at a time: they stay in the cache
MAX_CHOSEN = 2048.0  # of an index that the encoder chooses
SWEEPS = 12
SECTION_BITS = 8 * 6 + 7 + 16  # flag, length and CRC-32 of its section; degree and exponent; what words leave unused
BITS_PER_COEFFICIENT = 3.0  # what the choice of a degree reckons with

Planes = NDArray[np.float32]


def terms(degree: int) -> list[tuple[int, int, int]]:
    """Exponents (i, j, k) of every term up to a degree, the lowest degree first."""
    return [(i, j, n - i - j) for n in range(degree + 1) for i in range(n, -1, -1) for j in range(n - i, -1, -1)]


def _legendre(t: NDArray[np.float32], count: int) -> list[NDArray[np.float32]]:
    """P_0 to P_(count - 1) at t."""
    polynomials = [np.ones_like(t), t]
    for n in range(2, count):
        polynomials.append(((2 * n - 1) / n) * t * polynomials[-1] - ((n - 1) / n) * polynomials[-2])
    return polynomials[:count]


def _features(r: Planes, g: Planes, b: Planes, degree: int) -> Planes:
    """[n] each -> the value of every term, [K, n]."""
    t = 0.598 * r + 1.174 * g + 0.228 * b - 1
    u, v = 4 * (b - g), 4 * (r - g)
    p = _legendre(t, degree + 1)
    out = np.empty((len(terms(degree)), len(t)), np.float32)
    for row, (i, j, k) in enumerate(terms(degree)):
        # u and v times the term that has one of them less, which stands before it
        if k:
            np.multiply(out[ROW_OF[i, j, k - 1]], v, out=out[row])
        elif j:
            np.multiply(out[ROW_OF[i, j - 1, k]], u, out=out[row])
        else:
            out[row] = p[i]
    return out


ROW_OF = {term: row for row, term in enumerate(terms(MAX_DEGREE))}


@dataclass(frozen=True)
class Colour:
    """The colour layer of a picture.

    Attributes:
        exponent: the step is LARGEST_STEP / 2**exponent; 0 to 15.
        indices: [K, 3] int64, one row for each of `terms(degree)`, one column for each of r, g and b.
    """

    exponent: int
    indices: Ints

    @property
    def degree(self) -> int:
        """Of the polynomial."""
        return next(n for n in range(MAX_DEGREE + 1) if len(terms(n)) == len(self.indices))

    @property
    def values(self) -> Floats:
        """The coefficients, [K, 3]."""
        return np.asarray(self.indices * (LARGEST_STEP / 2**self.exponent))

    @span("colour layer")
    def apply(self, picture: Planes) -> None:
        """Correct a picture [1, 3, H, W] float32, nominally in [0, 1], in place."""
        weights = np.ascontiguousarray(self.values.T, np.float32)
        planes, degree = picture.reshape(3, -1), self.degree
        for start in range(0, planes.shape[1], BLOCK):
            part = planes[:, start : start + BLOCK]
            np.clip(part, 0, 1, out=part)
            part += weights @ _features(part[0], part[1], part[2], degree)

    def array(self) -> NDArray[np.int32]:
        """[1 + K, 3] int32: the exponent, three times, and below it the indices."""
        return np.concatenate([np.full((1, 3), self.exponent), self.indices]).astype(np.int32)

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> Colour:
        """What `array` gave.

        Raises:
            InputError: no layer has this array.
        """
        array = np.asarray(array)
        known = [len(terms(n)) for n in range(MAX_DEGREE + 1)]
        if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] != 3 or len(array) - 1 not in known:
            given = f"{array.dtype} of shape {list(array.shape)}"
            raise InputError(f"a colour layer is integers of shape [1 + K, 3], K one of {known}, not {given}")
        if int(array.min()) < -MAX_INDEX or int(array.max()) > MAX_INDEX:  # as they are: casts and `abs` overflow
            raise InputError(f"the indices of a colour layer lie in {-MAX_INDEX} to {MAX_INDEX}")
        array = array.astype(np.int64)
        if not (array[0] == array[0, 0]).all() or not 0 <= array[0, 0] < STEPS:
            raise InputError(f"the first row of a colour layer is one number three times, 0 to {STEPS - 1}")
        return cls(int(array[0, 0]), array[1:])

    def write(self, coder: Encoder, tables: ClassTables) -> None:
        """Code it: degree, exponent, and for each degree's terms their scale class and their indices."""
        coder.put_uniform(self.degree, DEGREES)
        coder.put_uniform(self.exponent, STEPS)
        for group in _groups(self.indices, self.degree):
            number = _best_class(group, tables)
            coder.put_uniform(number, CLASSES)
            coder.put_refinement(group, np.full(group.shape, number), tables)


def read(coder: Decoder, tables: ClassTables) -> Colour | None:
    """What `Colour.write` wrote, or `write_none`.

    Raises:
        DamagedError: it cannot have been written by it.
    """
    degree = coder.get_uniform(DEGREES)
    if degree == NO_DEGREE:
        return None
    exponent = coder.get_uniform(STEPS)
    if degree > MAX_DEGREE:
        raise DamagedError("the colour layer is of a degree that there is not")
    groups = []
    for n in range(degree + 1):
        shape = ((n + 1) * (n + 2) // 2, 3)
        groups.append(coder.get_refinement(np.full(shape, coder.get_uniform(CLASSES)), tables))
    return Colour(exponent, np.concatenate(groups))


def write_none(coder: Encoder) -> None:
    """Code that there is no polynomial."""
    coder.put_uniform(NO_DEGREE, DEGREES)


def _groups(indices: Ints, degree: int) -> list[Ints]:
    """The rows of each degree."""
    return np.split(indices, [len(terms(n)) for n in range(degree)])


def _costs(group: Ints, tables: ClassTables) -> Floats:
    """Bits of indices [n, 3] in each class, [64]."""
    return np.asarray(tables.costs[:, np.clip(group, -256, 255).ravel() + 256].sum(1))


def _best_class(group: Ints, tables: ClassTables) -> int:
    return int(_costs(group, tables).argmin())


# ---- in the encoder --------------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """What least squares needs of some pixels."""

    gram: Floats  # [K, K]
    moments: Floats  # [K, 3]
    pixels: int


@span("colour layer")
def sums(restored: Planes, original: NDArray[np.uint8], stride: int) -> tuple[Sums, Planes]:
    """Of every `stride`-th pixel of every `stride`-th row of [3, H, W], in [0, 1], and [H, W, 3].

    Returns:
        the sums, and every term's value at these pixels, [ceil(H / stride), ceil(W / stride), K].
    """
    part = restored[:, ::stride, ::stride]
    r, g, b = (plane.ravel() for plane in part)
    wanted = original[::stride, ::stride].reshape(-1, 3).astype(np.float32) / np.float32(255)
    features = _features(r, g, b, MAX_DEGREE)
    missing = wanted - np.stack([r, g, b], 1)
    seen = Sums((features @ features.T).astype(np.float64), (features @ missing).astype(np.float64), len(r))
    return seen, features.reshape(-1, *part.shape[1:]).transpose(1, 2, 0)


class Fit:
    """Least squares over the pixels that it is shown.

    Args:
        pixels: of the whole picture, of which it may see a part.
        lagrangian: bits per pixel per unit of mean squared error.
    """

    def __init__(self, pixels: int, lagrangian: float) -> None:
        self.worth = pixels * lagrangian / 3  # bits per unit of squared error, mean over pixels, sum over r, g, b
        count = len(terms(MAX_DEGREE))
        self.seen = Sums(np.zeros((count, count)), np.zeros((count, 3)), 0)

    def add(self, more: Sums) -> None:
        """See further pixels."""
        old = self.seen
        self.seen = Sums(old.gram + more.gram, old.moments + more.moments, old.pixels + more.pixels)

    @span("colour layer")
    def solve(self, tables: ClassTables) -> Colour | None:
        """The colour layer that saves most in rate + lambda distortion; None if it would save nothing."""
        gram, moments = self.seen.gram / max(1, self.seen.pixels), self.seen.moments / max(1, self.seen.pixels)
        best, degree = 0.0, -1
        for n in range(MAX_DEGREE + 1):
            count = len(terms(n))
            exact = _ridge(gram[:count, :count], moments[:count])
            saved = self.worth * float((exact * moments[:count]).sum()) - 3 * BITS_PER_COEFFICIENT * count
            if saved > best:
                best, degree = saved, n
        if degree < 0:
            return None
        count = len(terms(degree))
        gram, moments = gram[:count, :count], moments[:count]
        # Error and bits are in balance where halving the step, a bit more, saves as much: worth g step^2 / 6 = 1 / ln 2
        ideal = math.sqrt(6 / math.log(2) / (self.worth * float(np.median(np.diag(gram))) + 1e-9))
        exponent = min(max(round(math.log2(LARGEST_STEP / ideal)), 0), STEPS - 1)
        step = LARGEST_STEP / 2**exponent
        indices = _rounded(gram * step * step, moments * step, self.worth, degree, tables)
        layer = _without_empty(Colour(exponent, indices))
        if layer is None:
            return None
        values = layer.indices * step
        count = len(values)
        saved = float((2 * values * moments[:count]).sum() - (values * (gram[:count, :count] @ values)).sum())
        groups = _groups(layer.indices, layer.degree)
        bits = SECTION_BITS + sum(6 + float(_costs(group, tables).min()) for group in groups)
        return layer if self.worth * saved > bits else None


def _ridge(gram: Floats, moments: Floats) -> Floats:
    """Coefficients of least squares, held back where the pixels say little about them."""
    return np.asarray(np.linalg.solve(gram + 1e-6 * np.eye(len(gram)), moments))


def _rounded(gram: Floats, moments: Floats, worth: float, degree: int, tables: ClassTables) -> Ints:
    """Whole indices of least rate + lambda distortion, by going through the coefficients one by one.

    Args:
        gram, moments: in units of the step.
    """
    values = np.clip(np.rint(_ridge(gram, moments)), -MAX_CHOSEN, MAX_CHOSEN)
    ends = [len(terms(n)) for n in range(degree + 1)]
    group_of = np.searchsorted(ends, np.arange(len(values)), side="right")
    diagonal = np.diag(gram) + 1e-12
    for _ in range(SWEEPS):
        classes = [_best_class(group, tables) for group in _groups(values.astype(np.int64), degree)]
        before = values.copy()
        for k in range(len(values)):
            ideal = (moments[k] - gram[k] @ values) / diagonal[k] + values[k]
            ideal = np.clip(ideal, -MAX_CHOSEN, MAX_CHOSEN)
            tried = np.stack([np.zeros(3), np.floor(ideal), np.ceil(ideal), np.trunc(ideal / 2)])
            costs = tables.costs[_coded(classes[group_of[k]], tables)]
            cost = worth * diagonal[k] * (tried - ideal) ** 2 + costs[np.clip(tried, -256, 255).astype(int) + 256]
            values[k] = np.take_along_axis(tried, cost.argmin(0)[None], 0)[0]
        if (values == before).all():
            break
    return values.astype(np.int64)


def _coded(number: int, tables: ClassTables) -> int:
    """The class, or the lowest that codes anything: indices may still leave zero."""
    return number if tables.limits[number] else int(np.flatnonzero(tables.limits)[0])


def _without_empty(layer: Colour) -> Colour | None:
    """The layer of the lowest degree that holds all its indices but zeros; None if all are."""
    rows = np.flatnonzero(layer.indices.any(1))
    if not len(rows):
        return None
    count = next(len(terms(n)) for n in range(MAX_DEGREE + 1) if len(terms(n)) > rows[-1])
    return Colour(layer.exponent, layer.indices[:count])
