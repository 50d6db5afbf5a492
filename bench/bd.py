# SPDX-License-Identifier: MIT
"""The distance between two rate-distortion curves: Bjøntegaard's delta rate. Numbers only: no files, no codecs.

Curves are lists of (rate, quality); the rate is in bits per pixel, the quality in any unit that grows with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import NoOverlapError

Curve = Sequence[tuple[float, float]]
MIN_POINTS = 3


@dataclass(frozen=True)
class BdRate:
    """Percent of bits more (+) or fewer (-) than the anchor at equal quality, and the range it was taken over."""

    percent: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A curve as a smooth function: the logarithm of the rate over the quality, from `low` to `high`."""

    low: float
    high: float
    integral: Any  # scipy's piecewise polynomial: an antiderivative of log10(rate)

    def area(self, low: float, high: float) -> float:
        """The integral of log10(rate) from `low` to `high`."""
        return float(self.integral(high) - self.integral(low))


def rising(rates: NDArray[np.float64], qualities: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Rates and qualities, ascending in quality; of points that are no better than the one before, the first stays."""
    order = np.argsort(qualities, kind="stable")
    rates, qualities = rates[order], qualities[order]
    kept = [0] if len(rates) else []
    for place in range(1, len(rates)):
        if qualities[place] > qualities[kept[-1]] + 1e-6:
            kept.append(place)
    return rates[kept], qualities[kept]


def fit(rates: Sequence[float] | NDArray[np.float64], qualities: Sequence[float] | NDArray[np.float64]) -> Fit:
    """Piecewise cubic Hermite interpolation (pchip) of log-rate over quality, as in JVET's common test conditions.

    Raises:
        NoOverlapError: fewer than three points of rising quality.
    """
    from scipy.interpolate import PchipInterpolator

    rate, quality = rising(np.asarray(rates, np.float64), np.asarray(qualities, np.float64))
    if len(rate) < MIN_POINTS:
        raise NoOverlapError("a BD-rate needs at least three points of rising quality on each curve")
    return Fit(float(quality[0]), float(quality[-1]), PchipInterpolator(quality, np.log10(rate)).antiderivative())


def between(anchor: Fit, test: Fit, window: tuple[float, float] | None = None, min_shared: float = 0.5) -> BdRate:
    """BD-rate of one fitted curve against another, over the quality that both cover, or its part inside `window`.

    Raises:
        NoOverlapError: the shared range is narrower than `min_shared`.
    """
    low, high = max(anchor.low, test.low), min(anchor.high, test.high)
    if window is not None:
        low, high = max(low, window[0]), min(high, window[1])
    if high - low < min_shared:
        within = "" if window is None else f" within {window[0]:g} to {window[1]:g}"
        raise NoOverlapError(
            f"the curves share too little quality{within}: the anchor covers {anchor.low:.2f} to "
            f"{anchor.high:.2f}, the test {test.low:.2f} to {test.high:.2f}; measure more settings"
        )
    mean = (test.area(low, high) - anchor.area(low, high)) / (high - low)
    return BdRate(percent_of(mean), low, high)


def percent_of(log_rate: float) -> float:
    """A difference of log10(rate) in percent."""
    return (math.pow(10, log_rate) - 1) * 100


def bd_rate(anchor: Curve, test: Curve, window: tuple[float, float] | None = None, min_shared: float = 0.5) -> BdRate:
    """Bjøntegaard's delta rate: mean difference of log-rate at equal quality.

    Raises:
        NoOverlapError: fewer than three points, or a shared range narrower than `min_shared`.
    """
    first, second = (fit([rate for rate, _ in curve], [quality for _, quality in curve]) for curve in (anchor, test))
    return between(first, second, window, min_shared)
