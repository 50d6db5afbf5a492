# SPDX-License-Identifier: MIT
"""Float layers -> the integer layers of model/layers.py, one layer at a time, on samples of what goes in and comes out.

A unit is what one step of a code is worth, per channel. Units fold into the weights. Rounding then follows "GPTQ"
(Frantar et al., 2022): columns are rounded one after the other, and what is lost goes into those that follow, as the
inputs' covariance tells. First the weights are fitted to the integer network's own inputs: a layer then also makes up
for the rounding before it. At last the bias takes what is left of the mean error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.model.layers import FINER, FRACTION, HIGH_WEIGHT, LOW_WEIGHT, MAX_DEPTHWISE_SHIFT, SIGNED, Range

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Tables = dict[str, NDArray[Any]]

CANDIDATES = 8  # of a unit, a third of an octave apart, downwards from the one that covers the extremes
PEAK = HIGH_WEIGHT + 0.49
RIDGE = 0.02  # how firmly fitted weights stay with the float ones, relative to the inputs' variances
DAMPING = 0.003
FEEDBACK = 0.4  # of the variance that rounding of weights would add, what error feedback leaves (measured)
ROWS, UNIT_ROWS = 8192, 5000  # at a time, for covariances; that a unit is chosen on
BLOCK = 64  # columns, whose errors reach the columns behind them in one product


def best_unit(values: list[Array], weights: list[Array], kind: Range) -> Floats:
    """The unit of each channel with the least weighted squared error of codes, over samples [n, C] with weights [n].

    The extremes need not be covered: covering them cost three times as many bits (docs/experiments.md).
    """
    low = np.min([x.min(0) for x in values], 0)
    high = np.max([x.max(0) for x in values], 0)
    top = np.maximum(np.maximum(high / (255 + kind.low), low / kind.low), 1e-6)
    best = np.full(len(top), np.inf)
    unit: Floats = top.copy()
    for number in range(CANDIDATES):
        tried = top * 2.0 ** (-number / 3)
        error = np.zeros(len(top))
        for x, weight in zip(values, weights, strict=True):
            stride = max(1, len(x) // UNIT_ROWS)
            y = x[::stride] / tried.astype(np.float32)
            miss = np.clip(np.rint(y), kind.low, kind.low + 255) - y
            error += (weight[::stride] @ (miss * miss)) * tried**2
        better = error < best
        best[better], unit[better] = error[better], tried[better]
    return unit


def filling_unit(unit: Floats, weight: Floats, power: float) -> Floats:
    """A coarser unit of outputs where that is worth it, because weights then use all of their 7 bits.

    Args:
        unit: [O] of the outputs.
        weight: [O, I] with the inputs' units folded in.
        power: sum of the inputs' mean squares.
    """
    exact = np.log2(PEAK * unit / np.maximum(np.abs(weight).max(1), 1e-12))
    shift = np.floor(exact)
    coarser = unit * 2.0 ** (1 + shift - exact)  # the largest weight of a row is then 2**-(shift + 1) * PEAK

    def variance(out: Floats, shift: Floats) -> Floats:
        return np.asarray(out**2 * (1 + FEEDBACK * power * 4.0**-shift))

    found: Floats = np.where(variance(coarser, shift + 1) < variance(unit, shift), coarser, unit)
    return found


def as_pairs(weight: Floats, inputs: int) -> Floats:
    """Weights [O, I] for an input of I or 2 I columns, of which the second half are the finer codes of pairs."""
    return weight if inputs == weight.shape[1] else np.concatenate([weight, weight / FINER], 1)


def _moments(x: Array, y: Array, weight: Array) -> tuple[Floats, Floats, Floats, Floats]:
    """Of [..., n, I] and [..., n, O]: weighted covariances [..., I, I] and [..., I, O], means [..., I] and [..., O]."""
    share = weight / weight.sum()
    mean_x, mean_y = share @ x, share @ y
    root = np.sqrt(share)[:, None]
    xx, xy = (np.zeros((*x.shape[:-2], x.shape[-1], z.shape[-1])) for z in (x, y))
    for start in range(0, len(weight), ROWS):
        here = slice(start, start + ROWS)
        a, b = ((z[..., here, :] - mean[..., None, :]) * root[here] for z, mean in ((x, mean_x), (y, mean_y)))
        xx += a.swapaxes(-1, -2) @ a
        xy += a.swapaxes(-1, -2) @ b
    return xx, xy, mean_x.astype(np.float64), mean_y.astype(np.float64)


def _fitted(weight: Floats, xx: Floats, xy: Floats) -> Floats:
    """Weights [..., O, I] moved to where they give the wanted outputs best."""
    firm = xx * (1 + RIDGE * np.eye(xx.shape[-1])) + 1e-6 * np.eye(xx.shape[-1])
    return np.asarray(weight + np.linalg.solve(firm, xy - xx @ weight.swapaxes(-1, -2)).swapaxes(-1, -2))


def _feed_back(weight: Floats, xx: Floats, shift: Floats) -> Floats:
    """Integer weights [..., O, I] for real ones, with error feedback from column to column, in blocks of columns."""
    variance, columns = np.diagonal(xx, axis1=-2, axis2=-1), xx.shape[-1]
    order = np.argsort(-variance)[..., None, :]
    left, scale = np.take_along_axis(weight, order, -1), 2.0**shift
    spread = np.take_along_axis(np.take_along_axis(xx, order.swapaxes(-1, -2), -2), order, -1)
    spread += (DAMPING * np.mean(variance, -1)[..., None, None] + 1e-9) * np.eye(columns)
    upper = np.linalg.cholesky(np.linalg.inv(spread)).swapaxes(-1, -2)
    found, lost = np.empty_like(left), np.empty_like(left)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        for column in range(start, stop):
            found[..., column] = np.clip(np.rint(left[..., column] * scale), LOW_WEIGHT, HIGH_WEIGHT)
            lost[..., column] = (left[..., column] - found[..., column] / scale) / upper[..., column, column, None]
            here = slice(column + 1, stop)
            left[..., here] -= lost[..., column, None] * upper[..., column, None, here]
        left[..., stop:] -= lost[..., start:stop] @ upper[..., start:stop, stop:]
    return np.take_along_axis(found, np.argsort(order), -1)


def _shifts(weight: Floats, most: int) -> Floats:
    shifts: Floats = np.floor(np.log2(PEAK / np.maximum(np.abs(weight).max(-1), 1e-12)))
    return np.clip(shifts, 0, most)


def round_linear(
    out: Tables, name: str, weight: Floats, x: Array, y: Array, sample_weights: Array, most: float = np.inf
) -> None:
    """Write a linear layer.

    Args:
        weight: [O, I] with the units of inputs and outputs folded in: where the fit starts.
        x: [n, I] codes of the integer network.
        y: [n, O] what the layer should give, in units of the outputs.
        sample_weights: [n].
        most: how large the sum of a row's magnitudes may be; rows beyond are made smaller.
    """
    xx, xy, mean_x, mean_y = _moments(x, y, sample_weights)
    fitted = _fitted(weight, xx, xy)
    fitted *= np.minimum(1, most / np.maximum(np.abs(fitted).sum(1), 1e-12))[:, None]
    shift = _shifts(fitted, FRACTION)
    found = _feed_back(fitted, xx, shift)
    bias = mean_y - (found * 2.0 ** -shift[:, None]) @ mean_x
    out[f"{name}.weight"] = np.ascontiguousarray(found, np.int8)
    out[f"{name}.bias"] = np.rint(bias * 2.0**FRACTION).astype(np.int32)
    out[f"{name}.shift"] = shift.astype(np.int8)


def round_depthwise(out: Tables, name: str, weight: Floats, x: Array, y: Array, sample_weights: Array) -> None:
    """Write a depthwise layer.

    Args:
        weight: [C, 9] with the units folded in.
        x: [C, n, 9] codes around each place.
        y: [C, n] what the layer should give, in units of the outputs.
        sample_weights: [n].
    """
    xx, xy, mean_x, mean_y = _moments(x, y[..., None], sample_weights)
    fitted = _fitted(weight[:, None], xx, xy)
    shift = _shifts(fitted, MAX_DEPTHWISE_SHIFT)
    found = _feed_back(fitted, xx, shift)
    shift = shift[:, 0]
    bias = mean_y[:, 0] - (found[:, 0] * mean_x).sum(1) * 2.0**-shift
    out[f"{name}.weight"] = found.reshape(-1, 3, 3).astype(np.int8)
    out[f"{name}.bias"] = np.rint(bias * 2.0**shift).astype(np.int32)
    out[f"{name}.shift"] = shift.astype(np.int8)


def pair_table(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Numbers [K, D] as pairs of codes [K, 2 D] that cover the extremes, and their units [D]."""
    unit = np.maximum(np.abs(values).max(0), 1e-9) / (255 + SIGNED.low)
    coarse = np.rint(values / unit)
    fine = np.rint((values / unit - coarse) * FINER)
    return np.concatenate([coarse, fine], 1).astype(np.int8), unit
