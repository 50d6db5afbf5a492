# SPDX-License-Identifier: MIT
"""The diffusion decoder and lost tiles: a restored picture, from the top, through the denoiser. No bytes and no priors.

Each square of the picture is worked on with as much around it as the steps look at, so that squares have no seams and
a region shows what the whole picture shows. No more than one row of squares, and what lies around it, is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Rect
from vqcodec.codec.denoise import estimated, samples
from vqcodec.model import denoiser
from vqcodec.model.denoiser import SIDE
from vqcodec.model.zoo import Model
from vqcodec.options import DEFAULT_STEPS, DecodeOptions
from vqcodec.threads import in_order

SQUARE = 1024  # pixels a side
START_LOW, START_HIGH, START_SPAN = 0.10, 0.02, 70  # noise levels of the lowest quality and from START_SPAN on
Rows = NDArray[np.uint8]  # [h, W, 3]
Mask = NDArray[np.bool_]
Where = Callable[[Rect], Mask]  # a window in pixels -> [h, w]
Work = Callable[[Rect, Rows], Rows]  # a window and its pixels -> its pixels, right but for a margin


def _nothing(window: Rect) -> Mask:
    return np.zeros((window.height, window.width), bool)


class Sampling(NamedTuple):
    """How the sampler goes."""

    steps: int  # 1 to 8
    seed: int
    start: float  # standard deviation of the noise that it begins with, of samples in [0, 1]


def start_of(quality: int) -> float:
    """The noise that the diffusion decoder begins with: less where the faithful picture is nearer to the original."""
    part = min((quality - 1) / START_SPAN, 1.0)
    return float(START_LOW * (START_HIGH / START_LOW) ** part)


def sampling_of(options: DecodeOptions, quality: int) -> Sampling:
    """How the diffusion decoder goes through a file of this quality."""
    return Sampling(options.steps or DEFAULT_STEPS, options.seed or 0, start_of(quality))


def seen(area: Rect, reach: int, whole: Rect) -> Rect:
    """An area and what lies around it, as far as the picture goes; left and upper edges are multiples of SIDE."""
    grown = area.grown(reach)
    left, top = max(grown.x0, 0) // SIDE * SIDE, max(grown.y0, 0) // SIDE * SIDE
    return Rect(left, top, grown.x1, grown.y1).intersection(whole)


def diffused(model: Model, sampling: Sampling, known: Where = _nothing) -> Work:
    """The diffusion decoder: the picture with noise of the start's level, taken away again in steps.

    The noise belongs to places and to the seed. The denoiser sees the faithful picture all the while. Pixels that are
    `known` stay.
    """
    sigmas = denoiser.levels(sampling.steps, sampling.start)

    def work(window: Rect, rgb: Rows) -> Rows:
        faithful = rgb * np.float32(1 / 255)
        where = (~known(window)).astype(np.float32)
        noisy = denoiser.noised(faithful, sampling.start * where, denoiser.gaussian(window, sampling.seed))
        return samples(denoiser.sample(lambda x, sigma: estimated(model, x, sigma, 1, faithful), noisy, sigmas, where))

    return work


def made_up(model: Model, lost: Where, steps: int = DEFAULT_STEPS) -> Work:
    """Repair of what is lost, from nothing but what lies around it; all other pixels stay."""

    def work(window: Rect, rgb: Rows) -> Rows:
        holes = lost(window)
        if not holes.any():
            return rgb
        x, noise = rgb * np.float32(1 / 255), denoiser.gaussian(window, 0)
        x = denoiser.repaired(lambda x, sigma: estimated(model, x, sigma, 1), x, holes, steps, noise)
        return np.where(holes[:, :, None], samples(x), rgb)

    return work


class Layers:
    """Works that a picture goes through one after the other, and what of it each needs."""

    def __init__(self, model: Model, whole: Rect, at_once: int) -> None:
        self.model, self.whole, self.at_once = model, whole, at_once
        self._works: list[tuple[Work, int]] = []  # and how far each looks, in pixels

    def add(self, work: Work, steps: int) -> None:
        """Put a work of so many steps behind the others."""
        self._works.append((work, steps * self.model.denoiser_halo))

    def needs(self, area: Rect, first: int = 0) -> Rect:
        """What must be there for an area of the picture, before the works from `first` on."""
        for _, reach in reversed(self._works[first:]):
            area = seen(area, reach, self.whole)
        return area

    def through(self, rows: Iterator[Rows], area: Rect) -> Iterator[Rows]:
        """Strips of `needs(area)` -> strips of the area."""
        for number, (work, reach) in enumerate(self._works):
            given, wanted = self.needs(area, number), self.needs(area, number + 1)
            rows = by_squares(rows, given, wanted, reach, self.at_once, work)
        return rows


def by_squares(rows: Iterator[Rows], given: Rect, area: Rect, reach: int, at_once: int, work: Work) -> Iterator[Rows]:
    """Puts an area of a picture that comes from the top through some work, square by square.

    Args:
        rows: strips [h, given.width, 3] of `given`.
        given: `seen(area, reach, ...)` or more of the picture, in pixels.
        reach: how far the work looks, in pixels.
        at_once: how many squares to work on at a time.

    Yields:
        strips [h, area.width, 3] of `area`.
    """
    lines, held = np.empty((0, given.width, 3), np.uint8), given.y0  # those at hand, and the number of the first
    for top in range(area.y0, area.y1, SQUARE):
        strip = Rect(area.x0, top, area.x1, min(top + SQUARE, area.y1))
        need = seen(strip, reach, given)
        while held + len(lines) < need.y1:
            lines = np.concatenate([lines, next(rows)])
        lines, held = lines[need.y0 - held :].copy(), need.y0
        out = np.empty((strip.height, strip.width, 3), np.uint8)

        def one(inner: Rect, strip: Rect = strip, at: Rect = need, lines: Rows = lines, out: Rows = out) -> None:
            window = seen(inner, reach, given)
            part = lines[window.y0 - at.y0 : window.y1 - at.y0, window.x0 - given.x0 : window.x1 - given.x0]
            out[inner.relative_to(strip).slices] = work(window, part)[inner.relative_to(window).slices]

        squares = [
            Rect(left, strip.y0, min(left + SQUARE, strip.x1), strip.y1) for left in range(strip.x0, strip.x1, SQUARE)
        ]
        for _ in in_order(one, squares, at_once):
            pass
        yield out
    for _ in rows:  # to the end, where what was lost is known
        pass
