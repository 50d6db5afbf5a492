# SPDX-License-Identifier: MIT
"""The encoder's highest efforts: indices changed one by one until bits + lambda * error falls no more.

A graph of the model (train/refinement.py) gives, for all indices at once, the slope of the cost along each of them:
what one step up or down would do to the picture, and to what the prior makes of it for the indices that follow. With
a parabola for the error and the tables' own costs that judges every single change; a random half of those that pay are
made together, and undone where the cost around them has risen after all. At first some are made that do not pay, the
more the higher a temperature that falls to zero (Kirkpatrick, Gelatt and Vecchi, "Optimization by Simulated Annealing",
Science 1983). Decoders know nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import LATENT_BITS, MAX_INDEX, Floats, Ints, Setting
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.model.gradient import Array, Gradient
from vqcodec.model.prior import PLACES_PER_OCTAVE
from vqcodec.model.walk import Base
from vqcodec.model.zoo import Model
from vqcodec.spans import span

SEED = 1
SHARE = 0.5  # of the changes that pay, made at once
LEAST = 0.1  # bits that a change must save in the end
SLACK = 4.0  # temperatures by which the cost of a latent and its neighbours may rise
COOLED = 0.8  # of the iterations, after which the temperature is zero
NUDGE = 0.3  # by which indices are moved, in steps, to see how fast the slopes change
LEAST_CURVATURE = 0.8  # of the error along an index, of what it would be for an orthonormal synthesis


@dataclass(frozen=True)
class Plan:
    """One effort's way: how often the graph is asked, and the temperature at the start in bits."""

    iterations: int
    temperature: float


PLANS = {6: Plan(4, 0.0), 7: Plan(12, 0.3), 8: Plan(32, 1.0), 9: Plan(96, 1.5)}


def _planes(x: NDArray[Any], scale: float) -> Array:
    """[h, w, C] -> [1, C, h, w] float32."""
    return np.ascontiguousarray((x * scale).transpose(2, 0, 1), np.float32)[None]


def _around(x: Floats) -> Floats:
    """Sums over 3 x 3 neighbours: [h, w] -> [h, w]."""
    h, w = x.shape
    wide = np.pad(x, 1)
    rows = wide[:h] + wide[1 : h + 1] + wide[2:]
    total: Floats = rows[:, :w] + rows[:, 1 : w + 1] + rows[:, 2:]
    return total


@dataclass(frozen=True)
class _Costs:
    """The entropy coder's tables as the search wants them."""

    bits: Array  # [64, 512], as ClassTables.costs
    shrink: Array  # [64, 3] in steps
    coded: NDArray[np.bool_]  # [64]

    @classmethod
    def of(cls, tables: ClassTables) -> _Costs:
        return cls(tables.costs.astype(np.float32), (tables.shrink / 256).astype(np.float32), tables.limits > 0)

    def own(self, levels: Ints, classes: Ints) -> Array:
        """Bits of indices."""
        return self.bits[classes, np.clip(levels, -256, 255) + 256]

    def value(self, levels: Ints, classes: Ints) -> Array:
        """Where indices put a latent, in steps from its mean."""
        shrink = self.shrink[classes, np.minimum(np.abs(levels), 2)]
        return (levels - np.sign(levels) * shrink).astype(np.float32)

    def best_changes(self, levels: Ints, classes: Ints, slope: Array, curvature: Array, threshold: Array) -> Ints:
        """-1, 0 or 1 for every index: the change that costs least, if that is less than `threshold`; all [n]."""
        now, place = self.own(levels, classes), self.value(levels, classes)
        best, change = threshold, np.zeros_like(levels)
        for step in (-1, 1):
            moved = self.value(levels + step, classes) - place
            cost = self.own(levels + step, classes) - now + moved * (slope + 0.5 * curvature * moved)
            cost[np.abs(levels + step) >= MAX_INDEX] = np.inf
            change[cost < best] = step
            best = np.minimum(best, cost)
        return change


class _Answer(NamedTuple):
    """What the graph says of indices; all [M h w] but the error."""

    classes: Ints
    error: Array  # [h, w]
    slopes: Array


@dataclass(frozen=True)
class _Picture:
    """What is to be coded, and what that costs."""

    gradient: Gradient
    costs: _Costs
    still: dict[str, Array]  # the graph's inputs that stay
    shape: tuple[int, int, int]  # M, h, w

    def ask(self, levels: Ints, nudge: Array) -> _Answer:
        """The graph's outputs for indices [M h w], moved a little."""
        grid = (1, *self.shape)
        classes, error, slopes = self.gradient(
            levels=levels.reshape(grid).astype(np.float32), nudge=nudge.reshape(grid), **self.still
        )
        return _Answer(classes.ravel().astype(np.int64), error[0, 0], slopes.ravel())

    def cost(self, levels: Ints, answer: _Answer) -> Floats:
        """Bits + lambda * error in every place: [h, w]."""
        bits = self.costs.own(levels, answer.classes)
        bits[~self.costs.coded[answer.classes]] = 0
        total: Floats = answer.error + bits.reshape(self.shape).sum(0, dtype=np.float64)
        return total

    def curvatures(self, levels: Ints, answer: _Answer, least: Floats, rng: np.random.Generator) -> Array:
        """How fast slopes change along their index, a channel's average (Hutchinson, 1989) or `least` [M]; [M h w]."""
        nudge = np.where(rng.random(levels.shape, np.float32) < 0.5, np.float32(-NUDGE), np.float32(NUDGE))
        change = (self.ask(levels, nudge).slopes - answer.slopes) / nudge
        coded = self.costs.coded[answer.classes]
        change[~coded] = 0
        channels, places = self.shape[0], levels.size // self.shape[0]
        mean = change.reshape(channels, -1).sum(1) / np.maximum(coded.reshape(channels, -1).sum(1), 1)
        return np.repeat(np.maximum(mean, least).astype(np.float32), places)


@span("choice of indices")
def search(
    model: Model, plan: Plan, indices: Ints, base: Base, rgb: NDArray[np.uint8], setting: Setting, lagrangian: float
) -> Ints:
    """Indices that cost less.

    Args:
        model: with its gradient.
        plan: of the effort.
        indices: [h, w, M] int64, where to start.
        base: the base layer of the tile and around it.
        rgb: [16 h, 16 w, 3] uint8, the pixels to restore.
        setting: quality 2 to 100, and tune.
        lagrangian: bits per pixel per unit of mean squared error.

    Returns:
        [h, w, M] int64. Where a class is one of which none are coded, it may say something other than zero.
    """
    h, w, channels = indices.shape
    costs, weight = _Costs.of(model.tables), lagrangian / 3
    step = model.prior.step_size[setting.row] * 2.0**-LATENT_BITS
    features, base_mean = model.base_features(base)
    places = model.prior.places(features, setting.row)
    by_place = np.ones((h, w)) if places is None else 2.0 ** (places / PLACES_PER_OCTAVE)
    rows, columns = np.indices((h, w))
    still = {
        "features": _planes(model.prior.feature_values(features), 1),
        "base_mean": _planes(base_mean, 2.0**-LATENT_BITS),
        "x": _planes(rgb, 1 / 255),
        "hat": model.anchor_weights(setting).astype(np.float32)[None],
        "step": (step[:, None, None] * by_place).astype(np.float32)[None],
        "first": ((rows + columns) % 2 == 0).astype(np.float32)[None, None],
        "coded": costs.coded.astype(np.float32),
        "shrink": costs.shrink.ravel(),
        "weight": np.repeat(np.repeat(weight / by_place**2, 16, 0), 16, 1).astype(np.float32)[None, None],
    }
    picture = _Picture(model.gradient, costs, still, (channels, h, w))
    rng = np.random.default_rng(SEED)
    levels = np.ascontiguousarray(indices.transpose(2, 0, 1)).ravel()
    untouched = np.zeros(levels.shape, np.float32)
    answer = picture.ask(levels, untouched)
    cost = picture.cost(levels, answer)
    curvature = picture.curvatures(levels, answer, 2 * LEAST_CURVATURE * weight * step**2, rng)
    best, best_cost = levels, cost.sum()
    before, before_cost, undone = levels, cost, np.zeros((h, w), bool)  # what to go back to, and where that was done
    for number in range(plan.iterations):
        heat = plan.temperature * max(0.0, 1 - number / (COOLED * plan.iterations))
        worse = (_around(cost - before_cost) > 9 * SLACK * heat) & ~undone
        after = levels + _changes(picture, levels, answer, curvature, heat, rng)
        back = np.tile(worse.ravel(), channels)
        levels, before = np.where(back, before, after), np.where(back, before, levels)
        before_cost, undone = np.where(worse, before_cost, cost), worse
        answer = picture.ask(levels, untouched)
        cost = picture.cost(levels, answer)
        if cost.sum() < best_cost:
            best, best_cost = levels, cost.sum()
    return best.reshape(channels, h, w).transpose(1, 2, 0)


def _changes(
    picture: _Picture, levels: Ints, answer: _Answer, curvature: Array, heat: float, rng: np.random.Generator
) -> Ints:
    """-1, 0 or 1 for every index: changes that seem to pay, all at once; [M h w]."""
    live = np.flatnonzero(picture.costs.coded[answer.classes])
    threshold = np.full(len(live), -LEAST, np.float32)
    if heat:
        threshold += np.float32(heat) * rng.logistic(size=len(live)).astype(np.float32)
    best = picture.costs.best_changes(
        levels[live], answer.classes[live], answer.slopes[live], curvature[live], threshold
    )
    best[rng.random(len(live), np.float32) >= SHARE] = 0
    changes = np.zeros_like(levels)
    changes[live] = best
    return changes
