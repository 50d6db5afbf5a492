# SPDX-License-Identifier: MIT
"""A picture as the codec sees it, whole or in strips. Nothing is read or written here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STRIP_ROWS = 256


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the codec sees it: 8-bit samples, upright, with what else came along.

    Attributes:
        rgb: `[H, W, 3] uint8`, C-contiguous, H and W at least 1; three equal planes when `gray`.
        alpha: `[H, W] uint8`, 255 is opaque, not premultiplied; None when the source had no transparency.
        gray: it came as gray and goes back as gray.
        icc: the ICC profile of `rgb` (an RGB profile, or a gray one when `gray`); None means sRGB.
        exif: the EXIF block as a bare TIFF structure (`II*` or `MM`, without the "Exif\\0\\0" in front of it), its
            Orientation, where there is one, set to 1, its thumbnail left out.
        notes: one short sentence for each conversion that lost something or that nobody asked for.
        xmp: the XMP packet, its orientation, where it gives one, set to 1.
        denoised: noise that was removed from it, in levels of 255; 0 for none.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    gray: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()
    xmp: bytes | None = None
    denoised: float = 0.0


@dataclass(frozen=True, eq=False)
class Strips:
    """A picture that is made while it is asked for: from the top, so many whole rows at a time.

    Attributes:
        rows: gives `[h, width, 3] uint8` each, `height` rows altogether; to be walked once.
        damage: a sentence for each part that could not be restored; complete when `rows` is used up.
        alpha, gray, icc, exif, xmp: as in `Picture`.
    """

    width: int
    height: int
    rows: Iterator[NDArray[np.uint8]]
    alpha: NDArray[np.uint8] | None = None
    gray: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    damage: list[str] = field(default_factory=list)
    xmp: bytes | None = None

    def reduced(self, factor: int) -> Strips:
        """The picture at 1 / factor of its width and height, rounded up: the means of factor x factor pixels."""
        if factor == 1:
            return self
        width, height = -(-self.width // factor), -(-self.height // factor)
        alpha = None if self.alpha is None else box_reduced(self.alpha, factor)
        return replace(self, width=width, height=height, rows=self._reduced_rows(factor), alpha=alpha)

    def _reduced_rows(self, factor: int) -> Iterator[NDArray[np.uint8]]:
        top, rest = 0, np.empty((0, self.width, 3), np.uint8)  # what of the strips so far makes no whole box
        for strip in self.rows:
            strip = np.concatenate([rest, strip]) if len(rest) else strip
            whole = len(strip) if top + len(strip) == self.height else len(strip) // factor * factor
            if whole:
                alpha = None if self.alpha is None else self.alpha[top : top + whole]
                yield box_reduced(strip[:whole], factor, alpha)
            top, rest = top + whole, strip[whole:].copy()

    def gathered(self) -> Picture:
        """The whole picture, `damage` in its notes."""
        rgb = np.empty((self.height, self.width, 3), np.uint8)
        top = 0
        for strip in self.rows:
            rgb[top : top + len(strip)] = strip
            top += len(strip)
        assert top == self.height
        return Picture(rgb, self.alpha, self.gray, self.icc, self.exif, tuple(self.damage), self.xmp)


def box_reduced(samples: NDArray[np.uint8], factor: int, alpha: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """The means of boxes of factor x factor samples; those at the right and lower edge may be smaller.

    Args:
        samples: [H, W] or [H, W, 3].
        factor: 1 or more.
        alpha: [H, W], what the samples [H, W, 3] weigh in their mean; None for alike.

    Returns:
        [ceil(H / factor), ceil(W / factor), ...] uint8.
    """
    if factor == 1:
        return samples
    if alpha is not None:
        samples = np.dstack([samples, alpha])
    reduced = np.asarray(Image.fromarray(np.ascontiguousarray(samples)).reduce(factor))
    return reduced if alpha is None else np.ascontiguousarray(reduced[..., :3])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all samples of two arrays of one shape [H, ...] uint8, in dB."""
    total = 0.0
    for top in range(0, len(a), STRIP_ROWS):  # so that a large picture is not there as floats
        rows = slice(top, top + STRIP_ROWS)
        total += float(((a[rows].astype(np.float64) - b[rows]) ** 2).sum())
    return 10 * math.log10(255.0**2 * a.size / total) if total else math.inf


def gray_means(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] with each pixel's mean, rounded half to even, in all three planes (in place)."""
    rgb[:] = np.rint(rgb.mean(2, keepdims=True)).astype(np.uint8)
    return rgb
