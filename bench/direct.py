# SPDX-License-Identifier: MIT
"""Direct comparisons: every codec against every other, with the shared range, wins by picture, and an interval.

The interval is a bootstrap over pictures (Efron 1979): the pictures are drawn with replacement, the same draw for both
codecs, the mean curves and their BD-rate are taken again; it holds 95 % of the draws. An interval that holds zero means
that these pictures do not tell which codec needs fewer bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench import bd
from bench.curves import Samples, curves, samples
from bench.errors import NoOverlapError
from bench.metrics import Metric
from bench.store import Store

Values = NDArray[np.float64]
DRAWS = 500
MIN_PICTURES = 4  # fewer tell nothing about other pictures
COVERED = 95.0  # percent


@dataclass(frozen=True)
class Direct:
    """One codec against another under one metric.

    Attributes:
        bd: percent of bits that the first needs more (+) or fewer (-) than the second, and the shared range.
        interval: percent, low and high; None for published curves and for few pictures.
        wins, judged: on how many pictures the first needs fewer bits, of how many with a BD-rate.
    """

    bd: bd.BdRate
    interval: tuple[float, float] | None
    wins: int
    judged: int

    @property
    def level(self) -> bool:
        """Whether the pictures leave it open which of the two is better."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]

    def reversed(self) -> Direct:
        """The second against the first."""
        turned = None if self.interval is None else (inverse(self.interval[1]), inverse(self.interval[0]))
        rate = bd.BdRate(inverse(self.bd.percent), self.bd.low, self.bd.high)
        return Direct(rate, turned, self.judged - self.wins, self.judged)


def inverse(percent: float) -> float:
    """The same difference seen from the other side: +100 % becomes -50 %."""
    return (1 / (1 + percent / 100) - 1) * 100


Matrix = dict[tuple[str, str], Direct]


def _fit(rate: Values, quality: Values) -> bd.Fit | None:
    try:
        return bd.fit(rate, quality)
    except NoOverlapError:
        return None


def _fits(mine: Samples, weights: Values) -> list[bd.Fit | None]:
    """A fitted mean curve for each line of weights over the pictures: [draws, pictures]."""
    return [_fit(rate, quality) for rate, quality in zip(weights @ mine.bpp, weights @ mine.quality, strict=True)]


def _rates(tests: list[bd.Fit | None], anchors: list[bd.Fit | None], least: float) -> list[float]:
    found = []
    for test, anchor in zip(tests, anchors, strict=True):
        if test is not None and anchor is not None:
            try:
                found.append(bd.between(anchor, test, min_shared=least).percent)
            except NoOverlapError:
                continue
    return found


def _interval(draws: list[float], wanted: int) -> tuple[float, float] | None:
    """What holds 95 % of the draws; None where too many of them share no range."""
    if len(draws) < 0.95 * wanted:
        return None
    tail = (100 - COVERED) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class _Fitted:
    """A codec's mean curve, and its curves of the draws and of single pictures; empty for published curves."""

    mean: bd.Fit
    drawn: list[bd.Fit | None]
    single: list[bd.Fit | None]


def _all_fitted(store: Store, metric: Metric, draws: int) -> dict[str, _Fitted]:
    measured = samples(store, metric)
    count = max((len(mine.pictures) for mine in measured.values()), default=0)
    weights = np.zeros((0, count))
    if count >= MIN_PICTURES:
        weights = np.random.default_rng(2026).multinomial(count, np.full(count, 1 / count), draws) / count
    found = {}
    for name, points in curves(store, metric).items():
        mean = _fit(np.array([p.bpp for p in points]), np.array([p.quality for p in points]))
        mine = measured.get(name)
        if mean is not None:
            drawn = [] if mine is None else _fits(mine, weights)
            found[name] = _Fitted(mean, drawn, [] if mine is None else _fits(mine, np.eye(count)))
    return found


def _compared(test: _Fitted, anchor: _Fitted, least: float) -> Direct:
    rate = bd.between(anchor.mean, test.mean, min_shared=least)
    both = bool(test.drawn and anchor.drawn)
    interval = _interval(_rates(test.drawn, anchor.drawn, least), len(test.drawn)) if both else None
    alone = _rates(test.single, anchor.single, least) if test.single and anchor.single else []
    return Direct(rate, interval, sum(percent < 0 for percent in alone), len(alone))


def matrix(store: Store, metric: Metric, draws: int = DRAWS) -> Matrix:
    """(codec, other codec) -> their comparison, for every pair with a shared range; both orders are there."""
    fitted = _all_fitted(store, metric, draws)
    found: Matrix = {}
    names = list(fitted)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            try:
                one = _compared(fitted[name], fitted[other], metric.min_shared)
            except NoOverlapError:
                continue
            found[name, other], found[other, name] = one, one.reversed()
    return found
