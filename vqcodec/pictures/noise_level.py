# SPDX-License-Identifier: MIT
"""How much noise is in a picture: one standard deviation, from its calmest places. Pictures in, a number out."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

F32 = NDArray[np.float32]

SIDE = 7  # pixels of the patches, of 49 dimensions each
MOST = 60_000  # patches or so of a large picture are enough
FEWEST = 1000  # patches, below which nothing can be said
ROUNDS = 5
TEXTURE = 110.0  # in variances of the noise: patches with more gradient are texture. Noise alone has 35 (99 %: 58)
QUIET = 5  # eigenvalues that are taken for those of noise alone
CLIPPED = 4.0  # levels: patches whose mean is nearer to black or white, or than twice the noise, have lost part of it


def noise_level(rgb: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise in a picture [H, W, 3], in levels of 255; 0 where nothing can be said.

    The weak-texture patches of Liu, Tanaka and Okutomi ("Single-image noise level estimation for blind denoising",
    2013): texture lies in few directions of the space of patches, white noise in all alike. So the smallest eigenvalues
    of the patches' covariance are the noise's variance, and from that follows how much gradient a patch without texture
    has; the rest is left out, and so on. Here the mean of five eigenvalues stands for the smallest, and a wider bound
    lets noise pass whole. Noise that neighbouring pixels share, as after JPEG or a camera's own processing, is
    underestimated.
    """
    gray = bool((rgb == rgb[:, :, :1]).all())
    levels = [_of_plane(rgb[:, :, channel]) for channel in range(1 if gray else 3)]
    known = [level for level in levels if level is not None]
    return float(np.mean(known)) if known else 0.0


def _of_plane(plane: NDArray[np.uint8]) -> float | None:
    """The same of one plane [H, W]; None where nothing can be said."""
    if min(plane.shape) < SIDE:
        return None
    step = max(1, math.isqrt(plane.size // MOST))
    patches = sliding_window_view(plane, (SIDE, SIDE))[::step, ::step].reshape(-1, SIDE, SIDE).astype(np.float32)
    means = patches.mean((1, 2))
    gradients = _gradients(patches)
    flat = patches.reshape(-1, SIDE * SIDE)
    usable = (means > CLIPPED) & (means < 255 - CLIPPED)
    if np.count_nonzero(usable) < FEWEST:
        return None
    found = _weak_texture(flat[usable], gradients[usable])
    usable &= (means > 2 * found) & (means < 255 - 2 * found)  # the more noise, the further it is clipped
    if 2 * found <= CLIPPED or np.count_nonzero(usable) < FEWEST:
        return found
    return _weak_texture(flat[usable], gradients[usable])


def _gradients(patches: F32) -> F32:
    """Sums of the squared central differences, both ways, of patches [N, SIDE, SIDE]: [N]."""
    across, down = patches[:, :, 2:] - patches[:, :, :-2], patches[:, 2:] - patches[:, :-2]
    return np.asarray(((across**2).sum((1, 2)) + (down**2).sum((1, 2))) / 4, np.float32)


def _weak_texture(patches: F32, gradients: F32) -> float:
    """Noise in patches [N, SIDE**2] that have these gradients [N]."""
    variance = _quiet(patches)
    for _ in range(ROUNDS):
        weak = gradients < TEXTURE * variance
        if np.count_nonzero(weak) < 4 * SIDE**2:  # too few make it small, which is the safer side
            break
        variance = _quiet(patches[weak])
    return math.sqrt(variance)


def _quiet(patches: F32) -> float:
    """The mean of the smallest eigenvalues of the covariance of patches [N, SIDE**2]."""
    patches = patches - patches.mean(0)
    covariance = (patches.T @ patches).astype(np.float64) / len(patches)
    return max(0.0, float(np.linalg.eigvalsh(covariance)[:QUIET].mean()))
