# SPDX-License-Identifier: MIT
"""Sliced Wasserstein distance (SWD) of the patches of two sets of pictures, at every level of a Laplacian pyramid.

After Karras, Aila, Laine and Lehtinen, "Progressive Growing of GANs" (ICLR 2018), section 5, with the pyramid of Burt
and Adelson (1983). It asks whether restored pictures have the patches of real ones, at each scale, and not whether
they have them in the right place: no picture is compared with its own original. What differs from the paper is said
at `Reference`. NumPy and SciPy only.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]  # [H, W, 3]
Floats = NDArray[np.float32]

PATCH = 7  # pixels a side
PATCHES = 2**15  # of each set and level, over all pictures; fewer where the pictures are too small for so many
DIRECTIONS = 512
SMALLEST = 16  # the pyramid ends where the smallest picture would have fewer pixels on its short side
KERNEL = np.array([1, 4, 6, 4, 1], np.float32) / 16  # Burt and Adelson 1983, a = 3/8
BATCH = 128  # directions projected at once


def _blurred(plane: Floats, gain: float = 1.0) -> Floats:
    from scipy.ndimage import correlate1d

    rows = correlate1d(plane, KERNEL * gain, axis=0, mode="mirror")
    return np.asarray(correlate1d(rows, KERNEL * gain, axis=1, mode="mirror"))


def pyramid(rgb: Rgb, count: int) -> list[Floats]:
    """The Laplacian pyramid: [ceil(H / 2**i), ceil(W / 2**i), 3] float32 for level i; the last one is low-pass.

    Adding each level to the next one, doubled in size, gives the picture back.
    """
    levels, plane = [], rgb.astype(np.float32)
    for _ in range(count - 1):
        smaller = np.ascontiguousarray(_blurred(plane)[::2, ::2])
        levels.append(plane - enlarged(smaller, plane.shape[:2]))
        plane = smaller
    return [*levels, plane]


def enlarged(plane: Floats, shape: tuple[int, ...]) -> Floats:
    """A level in twice the size, [*shape, 3], by zeros in between and the same kernel."""
    spread = np.zeros((*shape, plane.shape[2]), np.float32)
    spread[::2, ::2] = plane
    return _blurred(spread, 2.0)


def level_count(pictures: Iterable[Rgb]) -> int:
    """How many levels a pyramid of all these pictures has, so that none has a side under `SMALLEST` pixels."""
    side = min(min(rgb.shape[:2]) for rgb in pictures)
    return max(1, int(np.log2(max(side, SMALLEST) / SMALLEST)) + 1)


class Reference:
    """The originals, prepared once; `distances` says how far other sets of pictures are from them.

    At each level about `PATCHES` patches of 7 x 7 x 3 are taken, as many from every picture; the restored ones at
    other places than the originals', so that a picture that is like its original pixel for pixel has no advantage
    over one that only looks as real. All are projected on the same 512 random directions of unit length; the distance
    is the mean over the directions of the one-dimensional Wasserstein distance (mean difference of the sorted
    projections).

    Two things are not as in the paper. Both sets are normalised by the mean and the deviation of the originals'
    channels: the paper takes each set's own, which hides that a blurred picture has less detail. And there are a few
    dozen pictures here instead of 16,384, so more patches are taken from each.

    Args:
        originals: [H, W, 3] uint8 each, of any sizes; a picture needs 8 pixels on its short side.
        seed: of places and directions. The same seed gives the same distances.
    """

    def __init__(self, originals: Sequence[Rgb], seed: int = 0) -> None:
        if not originals or min(min(rgb.shape[:2]) for rgb in originals) <= PATCH:
            raise ValueError(f"SWD needs pictures of more than {PATCH} pixels a side")
        self.seed, self.shapes = seed, [rgb.shape for rgb in originals]
        self.count = level_count(originals)
        self.means: list[Floats] = []
        self.deviations: list[Floats] = []
        self.directions = self._directions()
        found = self._patches(originals, 0)
        for patches in found:
            self.means.append(patches.mean((0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32))
            deviation = patches.std((0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
            self.deviations.append(np.maximum(deviation, 1e-3))  # a flat picture has none
        self.sorted = [self._projected(level, patches) for level, patches in enumerate(found)]
        self.floor = self.distances(originals)  # what perfectly real pictures would have

    def _directions(self) -> Floats:
        made = np.random.default_rng((self.seed, 1)).standard_normal((3 * PATCH**2, DIRECTIONS))
        return np.asarray(made / np.linalg.norm(made, axis=0), np.float32)

    def _patches(self, pictures: Sequence[Rgb], half: int) -> list[Floats]:
        """Patches of every level, [n, 3, 7, 7] each; half 0 and half 1 have no place in common."""
        found: list[list[Floats]] = [[] for _ in range(self.count)]
        wanted = -(-PATCHES // len(pictures))
        for number, rgb in enumerate(pictures):
            for level, plane in enumerate(pyramid(rgb, self.count)):
                windows = np.lib.stride_tricks.sliding_window_view(plane, (PATCH, PATCH), (0, 1))
                rows, columns = windows.shape[:2]
                most = min(wanted, rows * columns // 2)
                random = np.random.default_rng((self.seed, 2, number, level))
                places = random.permutation(rows * columns)[half * most : (half + 1) * most]
                found[level].append(windows[places // columns, places % columns])
        return [np.concatenate(patches) for patches in found]

    def _projected(self, level: int, patches: Floats) -> Floats:
        """Sorted projections of the normalised patches, [DIRECTIONS, n]."""
        normal = ((patches - self.means[level]) / self.deviations[level]).reshape(len(patches), -1)
        parts = [normal @ self.directions[:, start : start + BATCH] for start in range(0, DIRECTIONS, BATCH)]
        return np.sort(np.concatenate(parts, axis=1).T, axis=1)

    def distances(self, restored: Sequence[Rgb]) -> dict[int, float]:
        """Reduction of the level (1 for the finest, 2, 4, ...) -> distance, in deviations of the originals' samples.

        Raises:
            ValueError: these are not as many pictures, of the same sizes.
        """
        if [rgb.shape for rgb in restored] != self.shapes:
            raise ValueError("SWD needs as many restored pictures as originals, of the same sizes")
        found = {}
        for level, patches in enumerate(self._patches(restored, 1)):
            difference: NDArray[Any] = np.abs(self._projected(level, patches) - self.sorted[level])
            found[2**level] = float(difference.mean(dtype=np.float64))
        return found


def mean(distances: dict[int, float]) -> float:
    """The mean over the levels."""
    return statistics.fmean(distances.values())
