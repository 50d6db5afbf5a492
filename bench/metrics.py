# SPDX-License-Identifier: MIT
"""Distortion of a picture: PSNR and its kin, MS-SSIM, and the table of all metrics. No files, no codecs, no curves.

The packages of the perceptual metrics are called in perceptual.py.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import perceptual
from bench.errors import MissingError

Rgb = NDArray[np.uint8]
Plane = NDArray[np.floating[Any]]  # [H, W, 3]

IDENTICAL_DB = 99.0  # what PSNR says of identical pictures, so that means stay finite
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, table 1
MIN_SIDE = 11 * 2 ** (len(MS_SSIM_WEIGHTS) - 1) - 15  # 161: the window must fit five scales down
WINDOW_DB = (28.0, 36.0)


def _decibels(mse: float) -> float:
    return min(IDENTICAL_DB, 10 * math.log10(255**2 / mse)) if mse > 0 else IDENTICAL_DB


def psnr(a: Rgb, b: Rgb) -> float:
    """10 log10(255^2 / MSE) over all samples of two [H, W, 3] uint8 pictures, in dB."""
    difference = a.astype(np.int32) - b.astype(np.int32)
    return _decibels(float(np.mean(np.square(difference, dtype=np.int64))))


def psnr_centred(a: Rgb, b: Rgb) -> float:
    """PSNR without each channel's mean error: what a codec would reach without a constant colour offset, in dB."""
    difference = a.astype(np.float64) - b
    return _decibels(float(difference.var(axis=(0, 1)).mean()))


# ITU-R BT.601 with full range (as in JFIF): rows are Y, Cb, Cr
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _ycbcr_mse(a: Rgb, b: Rgb) -> NDArray[np.float64]:
    """Mean squared errors of Y, Cb and Cr: [3]."""
    difference = (a.astype(np.float32) - b) @ YCBCR.T.astype(np.float32)
    return np.asarray(np.square(difference).mean((0, 1), np.float64))


def psnr_luma(a: Rgb, b: Rgb) -> float:
    """PSNR of luma (BT.601, full range), in dB."""
    return _decibels(float(_ycbcr_mse(a, b)[0]))


def psnr_chroma(a: Rgb, b: Rgb) -> float:
    """PSNR over both chroma planes (BT.601, full range, at full resolution), in dB."""
    return _decibels(float(_ycbcr_mse(a, b)[1:].mean()))


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


def in_db(value: float) -> float:
    """MS-SSIM on a scale where BD-rate makes sense: -10 log10(1 - value)."""
    return -10 * math.log10(max(1 - value, 1e-10))


@dataclass(frozen=True)
class Metric:
    """One measure of distortion: how it is named, measured and shown.

    Attributes:
        short: what table heads call it.
        package: the package that measures it; None for code in this file.
        shown: from the measured value to the scale of plots and BD-rates, where more is better.
        min_shared: the least shared range for a BD-rate, in that scale.
        min_side: pictures with a shorter side have no value.
    """

    name: str
    label: str
    short: str
    measure: Callable[[Rgb, Rgb], float | None]
    package: str | None = None
    shown: Callable[[float], float] = float
    min_shared: float = 0.5
    min_side: int = 1
    detail: str = ""

    def version(self) -> str:
        """The library that measures.

        Raises:
            MissingError: it is not installed, or cannot be imported.
        """
        if self.package is None:
            return "bench.metrics"
        needs = [self.package, *(("torch",) if self.package in TORCH_PACKAGES else ())]
        try:
            found = [f"{name} {importlib.metadata.version(name)}" for name in needs]
        except importlib.metadata.PackageNotFoundError:
            extra = "bench-torch" if self.package in TORCH_PACKAGES else "bench"
            raise MissingError(f"{self.package} is not installed: pip install '.[{extra}]'") from None
        if self.package in TORCH_PACKAGES:
            perceptual.check(self.package)
        return found[0] + self.detail

    def of(self, a: Rgb, b: Rgb) -> float | None:
        """The value for an original and a restored picture; None where the picture is too small."""
        return None if min(a.shape[:2]) < self.min_side else self.measure(a, b)


def inverse_db(value: float) -> float:
    """A measure of badness on a logarithmic scale where more is better: -10 log10(value)."""
    return -10 * math.log10(max(value, 1e-10))


TORCH_PACKAGES = ("cvvdp", "piq")
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "RGB PSNR, dB", "PSNR", psnr),
        Metric("psnr_centred", "RGB PSNR without colour offset, dB", "PSNR without offset", psnr_centred),
        Metric("psnr_luma", "luma PSNR, dB", "luma PSNR", psnr_luma),
        Metric("psnr_chroma", "chroma PSNR, dB", "chroma PSNR", psnr_chroma),
        Metric("ms_ssim", "MS-SSIM, −10 log₁₀(1 − x) in dB", "MS-SSIM", ms_ssim, "scipy", in_db, min_side=MIN_SIDE),
        Metric("ssimulacra2", "SSIMULACRA2", "SSIMULACRA2", perceptual.ssimulacra2, "ssimulacra2", min_shared=2.0,
               min_side=8),
        Metric("cvvdp", "CVVDP, JOD", "CVVDP", perceptual.cvvdp, "cvvdp", min_shared=0.1, min_side=32,
               detail=f" ({perceptual.DISPLAY})"),
        Metric("gmsd", "GMSD, −10 log₁₀(x) in dB", "GMSD", perceptual.gmsd, "piq", inverse_db, min_side=32),
        Metric("haarpsi", "HaarPSI, −10 log₁₀(1 − x) in dB", "HaarPSI", perceptual.haarpsi, "piq", in_db, min_side=32),
    )
}  # fmt: skip
# Without torch, and quick enough for a first look
DEFAULT_METRICS = ("psnr", "psnr_centred", "psnr_luma", "psnr_chroma", "ms_ssim", "ssimulacra2")


def complete(row: Mapping[str, object], names: Iterable[str], side: int) -> bool:
    """Whether a row has every metric that a picture with this shorter side can have."""
    return all(name in row or side < METRICS[name].min_side for name in names)
