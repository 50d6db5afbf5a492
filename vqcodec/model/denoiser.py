# SPDX-License-Identifier: MIT
"""The denoiser at run time: noise levels, noise that belongs to places, one estimate, and the sampler of a few steps.

A picture x in [0, 1] at time t is x + sigma(t) n, with n Gaussian noise of variance 1 (variance exploding: Karras,
Aittala, Aila and Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022). The network
D(x_t, sigma, condition) estimates x. Sigma may differ from place to place: where it is 0, the picture is known, and D
gives it back as it is. A mask is a map of sigmas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Rect
from vqcodec.model.transforms import run, session
from vqcodec.options import MAX_STEPS

SIGMA_MAX = 1.0  # at t = 1, of samples in [0, 1]: nothing of the picture is left but a faint mean
REPAIR_START = 0.15  # the noise that a repair begins with, over what `filled` gives
AROUND = 64  # pixels around holes that they are filled from
RELAXATIONS = 8  # on every scale
RHO = 3.0  # noise levels lie evenly in sigma ** (1 / RHO)
SIDE = 8  # pixels: the network takes whole multiples of it
CONDITION = 4  # planes: a picture minus 0.5, and whether there is one

Pixels = NDArray[np.float32]
Estimate = Callable[[Pixels, Pixels], Pixels]  # (x_t [H, W, 3], sigma [H, W]) -> x [H, W, 3]


def sigma_of(t: float) -> float:
    """Standard deviation of the noise at time t in [0, 1]: 0 at 0, SIGMA_MAX at 1 (Karras et al., eq. 5)."""
    assert 0 <= t <= 1
    return float(SIGMA_MAX * t**RHO)


def time_of(sigma: float) -> float:
    """The time at which noise has this standard deviation, 0 to SIGMA_MAX."""
    assert 0 <= sigma <= SIGMA_MAX
    return float((sigma / SIGMA_MAX) ** (1 / RHO))


def levels(steps: int, start: float = SIGMA_MAX) -> list[float]:
    """The noise levels of a sampler: `steps` + 1 numbers from `start` down to 0, evenly spaced in time."""
    assert 1 <= steps <= MAX_STEPS
    first = time_of(start)
    return [sigma_of(first * (1 - number / steps)) for number in range(steps + 1)]


def gaussian(window: Rect, seed: int) -> Pixels:
    """Gaussian noise of variance 1 for a window in pixels, [H, W, 3]: the numbers of a place are always the same.

    Box and Muller's transform of Philox's words (noise.py), one word for each sample, four words at a time.
    """
    first = window.x0 // 4
    count = -(-window.x1 // 4) - first
    words = np.empty((3, window.height, 4 * count), np.uint64)
    for channel in range(3):
        for row in range(window.height):
            philox = np.random.Philox(key=seed, counter=[first, window.y0 + row, channel, 1])
            words[channel, row] = philox.random_raw(4 * count)
    words = words[:, :, window.x0 - 4 * first : window.x1 - 4 * first]
    radius = np.sqrt(-2 * np.log(((words >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32))
    angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi * 2.0**-32)
    return np.ascontiguousarray((radius * np.cos(angle)).transpose(1, 2, 0).astype(np.float32))


def noised(x: Pixels, sigma: Pixels | float, noise: Pixels) -> Pixels:
    """x [H, W, 3] with noise [H, W, 3] of standard deviation sigma, [H, W] or the same everywhere."""
    strength = np.asarray(sigma, np.float32)
    return x + (strength[:, :, None] if strength.ndim else strength) * noise


def filled(x: Pixels, holes: NDArray[np.bool_]) -> Pixels:
    """Holes filled smoothly from what is around them: Laplace's equation, relaxed from coarse to fine.

    Args:
        x: [H, W, 3] float32; what it has in the holes does not matter.
        holes: [H, W].
    """
    rows, columns = (np.flatnonzero(holes.any(axis)) for axis in (1, 0))
    if not len(rows):
        return x
    box = tuple(slice(max(0, int(at[0]) - AROUND), int(at[-1]) + 1 + AROUND) for at in (rows, columns))
    known = (~holes[box]).astype(np.float32)[:, :, None]
    out = x.copy()
    out[box] = _relaxed(x[box] * known, known) if known.any() else 0.5
    return out


def _relaxed(sums: Pixels, weights: Pixels) -> Pixels:
    """Sums of known pixels [H, W, 3] and how many they are [H, W, 1] -> their means, and values between them."""
    means: Pixels = (sums / np.maximum(weights, 1)).astype(np.float32)
    if weights.all() or max(weights.shape[:2]) == 1:
        return means
    height, width = weights.shape[:2]
    even = (0, height % 2), (0, width % 2), (0, 0)
    pooled = (np.pad(a, even).reshape(-(-height // 2), 2, -(-width // 2), 2, -1).sum((1, 3)) for a in (sums, weights))
    coarse = _relaxed(*pooled).repeat(2, 0).repeat(2, 1)[:height, :width]
    found: Pixels = np.where(weights > 0, means, coarse)
    for _ in range(RELAXATIONS):
        p = np.pad(found, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = (p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]) * np.float32(0.25)
        found = np.where(weights > 0, means, around)
    return found


def sample(estimate: Estimate, x: Pixels, sigmas: Sequence[float], where: Pixels) -> Pixels:
    """Remove noise in a few steps, as the probability flow goes (Song, Meng and Ermon, "DDIM", 2021; Euler's method).

    Args:
        estimate: gives the network's estimate of the clean picture.
        x: [H, W, 3], with noise of sigmas[0] where `where` is 1.
        sigmas: from `levels`, descending to 0.
        where: [H, W], 1 where there is noise, 0 where the picture is known.

    Returns:
        [H, W, 3] float32, as it was where the picture is known.
    """
    for now, then in pairwise(sigmas):
        clean = estimate(x, now * where)
        moved = clean + np.float32(then / now) * (x - clean)
        x = np.where(where[:, :, None] > 0, moved, x)
    return x


def repaired(estimate: Estimate, x: Pixels, holes: NDArray[np.bool_], steps: int, noise: Pixels) -> Pixels:
    """A picture whose holes are filled from around them and then worked over in `steps` steps: [H, W, 3].

    Args:
        x, holes: as `filled` takes them.
        noise: of `gaussian`.
    """
    where = holes.astype(np.float32)
    start = noised(filled(x, holes), REPAIR_START * where, noise)
    return sample(estimate, start, levels(steps, REPAIR_START), where)


class Denoiser:
    """The network: a picture with noise -> an estimate of the picture."""

    def __init__(self, graph: bytes, threads: int = 0) -> None:
        self._session = session(graph, threads)

    def __call__(self, x: Pixels, sigma: Pixels, condition: Pixels | None = None) -> Pixels:
        """Estimate.

        Args:
            x: [H, W, 3] float32, a picture nominally in [0, 1] with noise.
            sigma: [H, W] float32 in [0, SIGMA_MAX], the standard deviation of the noise.
            condition: [H, W, 3], a decoded picture that the clean one is near to; None for none.

        Returns:
            [H, W, 3] float32; `x` where sigma is 0.
        """
        height, width = x.shape[:2]
        planes = np.zeros((height, width, CONDITION), np.float32)
        if condition is not None:
            planes[:, :, :3], planes[:, :, 3] = condition - 0.5, 1
        inputs: dict[str, Any] = {
            name: _planes(value) for name, value in (("x", x), ("sigma", sigma[:, :, None]), ("condition", planes))
        }
        (out,) = run(self._session, height + -height % SIDE, width + -width % SIDE, **inputs)
        return np.ascontiguousarray(out[0, :, :height, :width].transpose(1, 2, 0))


def _planes(value: Pixels) -> Pixels:
    """[H, W, C] -> [1, C, H', W'], the last row and column repeated up to a multiple of SIDE."""
    down, right = (-side % SIDE for side in value.shape[:2])
    padded = np.pad(value, ((0, down), (0, right), (0, 0)), "edge") if down or right else value
    return np.ascontiguousarray(padded.transpose(2, 0, 1))[None]
