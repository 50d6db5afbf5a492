# SPDX-License-Identifier: MIT
"""Distortion of a picture (PSNR, MS-SSIM, SSIMULACRA2) and distance between curves (BD-rate). No files, no codecs.

Curves are lists of (rate, quality); the rate is in bits per pixel, the quality in whatever unit grows with it.
"""

from __future__ import annotations

import importlib.metadata
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.errors import MissingError, NoOverlapError

Rgb = NDArray[np.uint8]
Plane = NDArray[np.floating[Any]]  # [H, W, 3]
Curve = Sequence[tuple[float, float]]

IDENTICAL_DB = 99.0  # what PSNR says of identical pictures, so that means stay finite
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, table 1
MIN_SIDE = 11 * 2 ** (len(MS_SSIM_WEIGHTS) - 1) - 15  # 161: the window must fit five scales down
WINDOW_DB = (28.0, 36.0)


def psnr(a: Rgb, b: Rgb) -> float:
    """10 log10(255^2 / MSE) over all samples of two [H, W, 3] uint8 pictures, in dB."""
    difference = a.astype(np.int32) - b.astype(np.int32)
    mse = float(np.mean(np.square(difference, dtype=np.int64)))
    return IDENTICAL_DB if mse == 0 else 10 * math.log10(255**2 / mse)


def _blurred(plane: Plane) -> Plane:
    """Gaussian window of 11 x 11, sigma 1.5, where it fits wholly inside: [H, W, 3] -> [H - 10, W - 10, 3]."""
    from scipy.ndimage import correlate1d

    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    down = correlate1d(plane, window, axis=0)[5:-5]
    return np.asarray(correlate1d(down, window, axis=1)[:, 5:-5])


def _halved(plane: Plane) -> Plane:
    """Means of 2 x 2; an odd edge is paired with zeros on both sides, as pytorch-msssim does."""
    odd = [(size % 2, size % 2) for size in plane.shape[:2]]
    padded = np.pad(plane, (*odd, (0, 0)))
    height, width = padded.shape[0] // 2 * 2, padded.shape[1] // 2 * 2
    padded = padded[:height, :width]
    rows = padded[::2] + padded[1::2]
    return np.asarray((rows[:, ::2] + rows[:, 1::2]) / 4)


def _ssim_terms(x: Plane, y: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean SSIM and mean contrast-structure term of each channel, [3] each; samples in [0, 1]."""
    c1, c2 = 0.01**2, 0.03**2
    mx, my = _blurred(x), _blurred(y)
    mxx, myy, mxy = mx * mx, my * my, mx * my
    structure = (2 * (_blurred(x * y) - mxy) + c2) / (_blurred(x * x) - mxx + _blurred(y * y) - myy + c2)
    luminance = (2 * mxy + c1) / (mxx + myy + c1)
    return (luminance * structure).mean((0, 1), np.float64), structure.mean((0, 1), np.float64)


def ms_ssim(a: Rgb, b: Rgb) -> float | None:
    """Multi-scale SSIM (Wang, Simoncelli, Bovik 2003) of RGB pictures: five scales for each channel, then the mean.

    The conventions (valid windows, 2 x 2 means, negative terms cut to zero) are those of pytorch-msssim, which
    CompressAI and most papers use. None for pictures with a side under 161 pixels.
    """
    if min(a.shape[:2]) < MIN_SIDE:
        return None
    x: Plane = a.astype(np.float32) / 255
    y: Plane = b.astype(np.float32) / 255
    product = np.ones(3)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        ssim, structure = _ssim_terms(x, y)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        product *= np.maximum(ssim if last else structure, 0) ** weight
        if not last:
            x, y = _halved(x), _halved(y)
    return float(product.mean())


def ssimulacra2(a: Rgb, b: Rgb) -> float:
    """SSIMULACRA2 (Sneyers 2022) by the package of that name: 90 is visually lossless, 50 medium, below 0 very bad."""
    from ssimulacra2 import compute_ssimulacra2

    files = []
    for pixels in (a, b):
        files.append(io.BytesIO())
        Image.fromarray(pixels).save(files[-1], "BMP")
        files[-1].seek(0)
    return float(compute_ssimulacra2(*files))


def in_db(value: float) -> float:
    """MS-SSIM on a scale where BD-rate makes sense: -10 log10(1 - value)."""
    return -10 * math.log10(max(1 - value, 1e-10))


@dataclass(frozen=True)
class Metric:
    """One measure of distortion: how it is named, measured and shown."""

    name: str
    label: str
    measure: Callable[[Rgb, Rgb], float | None]
    package: str | None = None
    shown: Callable[[float], float] = float  # the scale of plots and BD-rates
    min_shared: float = 0.5  # the least shared range for a BD-rate, in that scale

    def version(self) -> str:
        """The library that measures.

        Raises:
            MissingError: it is not installed.
        """
        if self.package is None:
            return "bench.metrics"
        try:
            return f"{self.package} {importlib.metadata.version(self.package)}"
        except importlib.metadata.PackageNotFoundError:
            raise MissingError(f"{self.package} is not installed: pip install '.[bench]'") from None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "RGB PSNR, dB", psnr),
        Metric("ms_ssim", "MS-SSIM, −10 log₁₀(1 − x) in dB", ms_ssim, "scipy", in_db),
        Metric("ssimulacra2", "SSIMULACRA2", ssimulacra2, "ssimulacra2", min_shared=2.0),
    )
}


@dataclass(frozen=True)
class BdRate:
    """Percent of bits more (+) or fewer (-) than the anchor at equal quality, and the range it was taken over."""

    percent: float
    low: float
    high: float


def _rising(points: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rates and qualities, ascending in quality; of points that are no better than the one before, the first stays."""
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted(points, key=lambda point: point[1]):
        if not kept or quality > kept[-1][1] + 1e-6:
            kept.append((rate, quality))
    return np.array([rate for rate, _ in kept]), np.array([quality for _, quality in kept])


def bd_rate(anchor: Curve, test: Curve, window: tuple[float, float] | None = None, min_shared: float = 0.5) -> BdRate:
    """Bjøntegaard's delta rate: mean difference of log-rate at equal quality, by `bjontegaard` with method "pchip".

    Piecewise cubic Hermite interpolation of log-rate over quality (as in JVET's common test conditions), integrated
    over the range of quality that both curves cover, or over the part of it inside `window`.

    Raises:
        NoOverlapError: fewer than three points, or a shared range narrower than `min_shared`.
    """
    import bjontegaard

    (rate_a, quality_a), (rate_t, quality_t) = _rising(anchor), _rising(test)
    if min(len(rate_a), len(rate_t)) < 3:
        raise NoOverlapError("a BD-rate needs at least three points of rising quality on each curve")
    low, high = max(quality_a[0], quality_t[0]), min(quality_a[-1], quality_t[-1])
    if window is not None:
        low, high = max(low, window[0]), min(high, window[1])
    if high - low < min_shared:
        within = "" if window is None else f" within {window[0]:g} to {window[1]:g}"
        raise NoOverlapError(
            f"the curves share too little quality{within}: the anchor covers {quality_a[0]:.2f} to "
            f"{quality_a[-1]:.2f}, the test {quality_t[0]:.2f} to {quality_t[-1]:.2f}; measure more settings"
        )
    percent, log_a, log_t = bjontegaard.bd_rate(
        rate_a, quality_a, rate_t, quality_t,
        method="pchip", require_matching_points=False, interpolators=True, min_overlap=0,
    )  # fmt: skip
    if window is not None:
        mean = (log_t.integrate(low, high) - log_a.integrate(low, high)) / (high - low)
        percent = (10**mean - 1) * 100
    return BdRate(float(percent), float(low), float(high))
