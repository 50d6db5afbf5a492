# SPDX-License-Identifier: MIT
"""The priors: indices already known -> integer frequency tables for the next ones, in exact integer arithmetic.

Every number that reaches the entropy coder is an integer computed from integers, so that all machines agree bit for
bit (rule 1 of the format). Integers are carried in float64 arrays so that products can use BLAS: weights have 16 bits,
activations are clipped to +-CLIP, and `_check_bound` and `_within` see to it when a model is loaded that no partial
sum can leave +-2**53, below which float64 addition of integers is exact in any order (docs/exactness.md). Re-scalings
are powers of two with floor(x + 1/2); the leaky rectifier's slope is 1/8. No exp, no log, no division by data. NumPy
only.

Shapes: activations are [h, w, C], positions of a tile row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import ACT_BITS, LATENT_BITS, LATENT_CLIP, BaseCodebook, Floats, Ints
from vqcodec.bitstream.entropy import TOTAL
from vqcodec.errors import ModelError

CLIP = 2.0**23  # of activations: +-512 in real numbers
EXACT = 2.0**53
MAX_SHIFT, MAX_TABLE, MAX_SIGMA = 48, 2.0**30, 2.0**27
MAX_CODEBOOK = 2**16
STEP_HALO = 2  # latents around a tile that its steps see, from the base layer alone; even, for the checkerboard
CLASSES = 64
CLASSES_PER_OCTAVE = 6
PLACES_PER_OCTAVE = 8  # place classes per doubling of the quantiser step
PLACE_LIMIT = 16
FACTOR_BITS = 14
CLASS_ORIGIN = -3.5  # log2 (scale / step) of class 0
LOG_ONE = 2**23  # weight of the most probable base index, before normalisation

Arrays = Mapping[str, NDArray[np.generic]]


def _integers(arrays: Arrays, name: str, ndim: int) -> Floats:
    try:
        array = arrays[name]
    except KeyError:
        raise ModelError(f"the model's tables lack {name!r}") from None
    if array.ndim != ndim or array.dtype.kind not in "iu":
        raise ModelError(f"the model's table {name!r} is not an integer array of {ndim} dimensions")
    return array.astype(np.float64)


def _within(name: str, values: Floats, low: float, high: float) -> Floats:
    """The values, if they lie in [low, high]: the ranges from which docs/exactness.md concludes."""
    if values.size and not (values.min() >= low and values.max() <= high):
        raise ModelError(f"the model's table {name!r} is out of range: this model is not safe to use")
    return values


def _shift(arrays: Arrays, name: str) -> float:
    return float(_within(name, _integers(arrays, name, 0), 0, MAX_SHIFT))


def _check_bound(name: str, magnitude: Floats, bias: Floats) -> None:
    if float((magnitude * CLIP + np.abs(bias)).max(initial=0)) >= EXACT / 4:
        raise ModelError(f"the layer {name!r} could leave the range of exact sums: this model is not safe to use")


def _scaled(weight: Floats, bias: Floats, shift: float) -> tuple[Floats, Floats]:
    """Weights and biases of which sums are x / 2**shift + 1/2: a power of two leaves them as exact as they were."""
    return weight * 2.0**-shift, bias * 2.0**-shift + 0.5


def _floor(x: Floats) -> Floats:
    """The floor, clipped, in place."""
    np.floor(x, out=x)
    return np.clip(x, -CLIP, CLIP, out=x)


def _leaky(x: Floats) -> Floats:
    """Leaky rectifier with slope 1/8: max(x, floor(x / 8))."""
    small = x * 0.125
    np.floor(small, out=small)
    return np.maximum(x, small, out=small)


@dataclass(frozen=True)
class Linear:
    """1x1 convolution: [..., I] -> [..., O]; weight [I, O] and bias [O] as `_scaled` gives them."""

    weight: Floats
    bias: Floats

    @classmethod
    def load(cls, arrays: Arrays, name: str) -> Linear:
        """From `name.weight` [O, I] int16, `name.bias` [O] int64, `name.shift` [] int."""
        weight, bias = _integers(arrays, f"{name}.weight", 2), _integers(arrays, f"{name}.bias", 1)
        _check_bound(name, np.abs(weight).sum(1), bias)
        return cls(*_scaled(np.ascontiguousarray(weight.T), bias, _shift(arrays, f"{name}.shift")))

    def __call__(self, x: Floats) -> Floats:
        """Apply: activations in, activations out, both in units of 2**-ACT_BITS."""
        y = x.reshape(-1, x.shape[-1]) @ self.weight
        y += self.bias
        return _floor(y).reshape(*x.shape[:-1], self.weight.shape[1])


@dataclass(frozen=True)
class Depthwise:
    """Depthwise 3x3 convolution with zero padding; weight [3, 3, C] and bias [C] as `_scaled` gives them."""

    weight: Floats
    bias: Floats

    @classmethod
    def load(cls, arrays: Arrays, name: str) -> Depthwise:
        """From `name.weight` [C, 3, 3] int16, `name.bias` [C] int64, `name.shift` [] int."""
        weight, bias = _integers(arrays, f"{name}.weight", 3), _integers(arrays, f"{name}.bias", 1)
        _check_bound(name, np.abs(weight).sum((1, 2)), bias)
        return cls(*_scaled(np.ascontiguousarray(weight.transpose(1, 2, 0)), bias, _shift(arrays, f"{name}.shift")))

    def __call__(self, x: Floats) -> Floats:
        """[h, w, C] -> [h, w, C]."""
        h, w, c = x.shape
        padded = np.zeros((h + 2, w + 2, c))
        padded[1:-1, 1:-1] = x
        out = np.empty_like(x)
        part = np.empty((w, c))
        for row in range(h):  # row by row: the sums stay in the cache
            total = out[row]
            total[:] = self.bias
            for dy in range(3):
                line = padded[row + dy]
                for dx in range(3):
                    np.multiply(line[dx : dx + w], self.weight[dy, dx], out=part)
                    total += part
        return _floor(out)


@dataclass(frozen=True)
class Block:
    """Residual block as in training: [1x1, leaky, depthwise 3x3, 1x1], then (if there) [1x1, leaky, 1x1]."""

    enter: Linear
    depthwise: Depthwise
    leave: Linear
    expand: Linear | None
    reduce: Linear | None

    @classmethod
    def load(cls, arrays: Arrays, name: str) -> Block:
        """From the layers `name.enter`, `.depthwise`, `.leave` and, where present, `.expand`, `.reduce`."""
        wide = f"{name}.expand.weight" in arrays
        return cls(
            Linear.load(arrays, f"{name}.enter"),
            Depthwise.load(arrays, f"{name}.depthwise"),
            Linear.load(arrays, f"{name}.leave"),
            Linear.load(arrays, f"{name}.expand") if wide else None,
            Linear.load(arrays, f"{name}.reduce") if wide else None,
        )

    def __call__(self, x: Floats, where: NDArray[np.bool_] | None = None) -> Floats:
        """[h, w, C] -> [h, w, C], or [n, C] at the positions `where` [h, w] alone."""
        inner = self.depthwise(_leaky(self.enter(x)))
        if where is not None:
            x, inner = x[where], inner[where]
        x = np.clip(x + self.leave(inner), -CLIP, CLIP)
        if self.expand is not None and self.reduce is not None:
            x = np.clip(x + self.reduce(_leaky(self.expand(x))), -CLIP, CLIP)
        return x


PASSES = 4  # of the base layer


def quarter(height: int, width: int, number: int) -> NDArray[np.bool_]:
    """[h, w] bool: the positions of pass 0..3 of the base layer: (even, even), (odd, odd), (even, odd), (odd, even)."""
    row, column = ((0, 0), (1, 1), (0, 1), (1, 0))[number]
    mask = np.zeros((height, width), bool)
    mask[row::2, column::2] = True
    return mask


def checkerboard(height: int, width: int, number: int | None) -> NDArray[np.bool_]:
    """[h, w] bool: the positions of checkerboard half 0 ((row + column) even) or 1, or all of them for None."""
    if number is None:
        return np.ones((height, width), bool)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    mask: NDArray[np.bool_] = (rows + columns) % 2 == number
    return mask


class BasePrior:
    """Base indices already decoded -> frequencies of the next ones, in four parallel passes over the grid."""

    def __init__(self, arrays: Arrays, codebook: BaseCodebook) -> None:
        self.codebook = codebook
        self.enter = Linear.load(arrays, "base_prior.enter")
        self.passes = _within("base_prior.passes", _integers(arrays, "base_prior.passes", 2), -MAX_TABLE, MAX_TABLE)
        self.spread = Depthwise.load(arrays, "base_prior.spread")
        self.blocks = [Block.load(arrays, f"base_prior.blocks.{i}") for i in range(2)]
        self.out = Linear.load(arrays, "base_prior.out")
        _within("codebook", codebook.vectors, -CLIP, CLIP)
        exp2 = _within("base_prior.exp2", _integers(arrays, "base_prior.exp2", 1), 1, 2 * LOG_ONE)
        self.exp2 = exp2.astype(np.int64)
        if not 2 <= codebook.size <= MAX_CODEBOOK:
            raise ModelError("the model's codebook has a size that is no use")
        if self.exp2.shape != (256,) or self.out.bias.shape != (codebook.size,):
            raise ModelError("the model's base prior does not fit its codebook")

    def frequencies(self, indices: Ints, known: NDArray[np.bool_], number: int) -> Ints:
        """Frequencies of the indices of one pass.

        Args:
            indices: [h, w] int64 base indices, read only where `known` [h, w] bool is true.
            number: the pass, 0 to 3.

        Returns:
            [n, K] int64 >= 0, each row summing to TOTAL - K, for the n positions of the pass in raster order.
        """
        h, w = indices.shape
        code = self.codebook.values(np.where(known, indices, 0)) * known[:, :, None]
        x = np.clip(self.enter(code) + self.passes[number], -CLIP, CLIP)
        x = self.blocks[0](self.spread(_leaky(x)))
        logits = self.out(self.blocks[1](x, quarter(h, w, number)))
        # log2 units of 2**-ACT_BITS -> below the maximum, in 1/256 octaves -> integer frequencies by table and shift
        below = ((logits.max(1, keepdims=True) - logits) * (256 / 2**ACT_BITS)).astype(np.int64)
        weights = self.exp2[below & 255] >> np.minimum(below >> 8, 62)
        room = TOTAL - self.codebook.size
        frequencies: Ints = weights * room // weights.sum(1, keepdims=True)
        frequencies[np.arange(len(weights)), below.argmin(1)] += room - frequencies.sum(1)
        return frequencies


@dataclass(frozen=True)
class Step:
    """One parallel step of the refinement: a channel chunk, everywhere or at one half of the checkerboard."""

    channels: slice
    half: int | None
    seen: int
    context: Linear | None
    carry: Linear | None
    base: Linear
    quality: Floats  # [100, N]
    block1: Block
    block2: Block
    out: Linear


class RefinementPrior:
    """Base layer and latents already decoded -> mean (fixed point) and scale class of the next latents."""

    def __init__(self, arrays: Arrays) -> None:
        self.enter = Linear.load(arrays, "prior.enter")
        names = {name.split(".")[2] for name in arrays if name.startswith("prior.blocks.")}
        self.blocks = [Block.load(arrays, f"prior.blocks.{i}") for i in range(len(names))]
        # Latents around a tile whose base layer decides what is predicted in it: `base` looks one away for each block
        self.halo = len(self.blocks) + STEP_HALO
        self.base_mean = Linear.load(arrays, "prior.base_mean")

        def table(name: str, ndim: int, low: float, high: float) -> Floats:
            return _within(f"prior.{name}", _integers(arrays, f"prior.{name}", ndim), low, high)

        self.sigma = table("sigma", 1, 0, MAX_SIGMA)  # units 2**-LATENT_BITS
        self.inverse_sigma = table("inverse_sigma", 1, 0, MAX_TABLE)  # units 2**-ACT_BITS
        self.log2_ratio = table("log2_ratio", 2, -MAX_TABLE, MAX_TABLE)  # [100, M] log2(sigma / step), 2**-ACT_BITS
        self.step_size = table("step_size", 2, 1, MAX_TABLE)  # [100, M], units 2**-LATENT_BITS
        chunks = table("chunks", 1, 1, 2**16).astype(int)
        self.latents = int(chunks.sum())
        self.rows = len(self.step_size)  # of the tables with a row per tune and quality
        shapes = {self.sigma.shape, self.inverse_sigma.shape, self.log2_ratio.shape[1:], self.step_size.shape[1:]}
        if shapes != {(self.latents,)} or self.rows % 100 or len(self.log2_ratio) != self.rows:
            raise ModelError("the tables of the model's refinement prior do not fit together")
        farthest = LATENT_CLIP + self.sigma * (CLIP * 2.0**-ACT_BITS) + 1  # of a latent from the base layer's mean
        _within("prior.inverse_sigma", farthest * self.inverse_sigma, 0, EXACT / 4)
        halves = table("halves", 1, 1, 2).astype(int) if "prior.halves" in arrays else np.full(len(chunks), 2)
        if halves.shape != chunks.shape:
            raise ModelError("the tables of the model's refinement prior do not fit together")
        self.steps = list(self._steps(arrays, [int(c) for c in chunks], [int(n) for n in halves]))

        self.activity = Linear.load(arrays, "prior.activity") if "prior.activity.weight" in arrays else None
        if self.activity is not None:
            self.strength = table("strength", 1, -MAX_TABLE, MAX_TABLE)  # [rows] of steps by place, 2**-ACT_BITS
            self.factors = table("factors", 1, 1, MAX_TABLE)  # [2 PLACE_LIMIT + 1] of the step, 2**-FACTOR_BITS
            if self.strength.shape != (self.rows,) or self.factors.shape != (2 * PLACE_LIMIT + 1,):
                raise ModelError("the tables of the model's steps by place do not fit together")
            _within("prior.factors", self.step_size.max() * self.factors, 1, EXACT / 4)

    @staticmethod
    def _steps(arrays: Arrays, chunks: list[int], halves: list[int]) -> Iterator[Step]:
        start, number = 0, 0
        for chunk, count in zip(chunks, halves, strict=True):
            for half in range(count):
                name, seen = f"prior.steps.{number}", start + half * chunk
                yield Step(
                    slice(start, start + chunk),
                    half if count == 2 else None,
                    seen,
                    Linear.load(arrays, f"{name}.context") if seen else None,
                    Linear.load(arrays, f"{name}.carry") if f"{name}.carry.weight" in arrays else None,
                    Linear.load(arrays, f"{name}.base"),
                    _within(name, _integers(arrays, f"{name}.quality", 2), -MAX_TABLE, MAX_TABLE),
                    Block.load(arrays, f"{name}.block1"),
                    Block.load(arrays, f"{name}.block2"),
                    Linear.load(arrays, f"{name}.out"),
                )
                number += 1
            start += chunk

    def base(self, code: Floats) -> tuple[Floats, Floats]:
        """Features and the base layer's own latents.

        Args:
            code: [h, w, D] codewords, units 2**-ACT_BITS.

        Returns:
            features [h, w, N] (2**-ACT_BITS) and means [h, w, M] (2**-LATENT_BITS).
        """
        f = self.enter(code)
        for block in self.blocks:
            f = block(f)
        return f, self._unnormalise(self.base_mean(f), slice(None))

    def _unnormalise(self, x: Floats, channels: slice) -> Floats:
        """Units of a channel's deviation (2**-ACT_BITS) -> latent units (2**-LATENT_BITS)."""
        return np.floor(x * self.sigma[channels] * 2.0**-ACT_BITS + 0.5)

    def normalise(self, latents: Floats, base_mean: Floats, channels: slice) -> Floats:
        """What a decoded latent adds to the base layer's mean, in units of the channel's deviation, as context."""
        x = (latents - base_mean) * self.inverse_sigma[channels] * 2.0**-LATENT_BITS
        return np.clip(np.floor(x + 0.5), -CLIP, CLIP)

    def places(self, features: Floats, row: int) -> Floats | None:
        """Place classes [h, w], integers up to PLACE_LIMIT: how coarse the steps are, from the base layer alone.

        None where the step is the same everywhere: there is no such table, or the tune does not use it.
        """
        if self.activity is None or not self.strength[row]:
            return None
        activity = self.activity(features)[:, :, 0]
        place = np.floor(activity * self.strength[row] * (PLACES_PER_OCTAVE * 2.0 ** (-2 * ACT_BITS)) + 0.5)
        return np.asarray(np.clip(place, -PLACE_LIMIT, PLACE_LIMIT))

    def sizes(self, step: Step, row: int, places: Floats | None) -> Floats:
        """Quantiser steps of one parallel step: [C], or [n, C] at its n positions (2**-LATENT_BITS)."""
        size = self.step_size[row, step.channels]
        if places is None:
            return size
        where = checkerboard(places.shape[0], places.shape[1], step.half)
        factor = self.factors[places[where].astype(np.int64) + PLACE_LIMIT]
        return np.maximum(1, np.floor(size * factor[:, None] * 2.0**-FACTOR_BITS + 0.5))

    def predict(
        self,
        step: Step,
        known: Floats,
        features: Floats,
        base_mean: Floats,
        row: int,
        places: Floats | None,
        before: Floats | None,
    ) -> tuple[Floats, Ints, Floats]:
        """Mean and scale class of the latents of one step.

        Args:
            step: one of `self.steps`.
            known: [h, w, M] context from `normalise`, zero where nothing is decoded yet.
            features, base_mean: from `base`.
            row: of the tables (`Setting.row`).
            places: from `places`.
            before: [h, w, N] what the step before gave as its third; None for the first.

        Returns:
            means [n, C] (2**-LATENT_BITS) and classes [n, C] int64 in [0, 64), for the n positions of the step in
            raster order and the C channels of its chunk; and what is `before` to the next step.
        """
        x = step.base(features) + step.quality[row]
        if step.context is not None:
            x += step.context(known[:, :, : step.seen])
        if step.carry is not None and before is not None:
            x += step.carry(before)
        where = checkerboard(features.shape[0], features.shape[1], step.half)
        before = step.block1(np.clip(x, -CLIP, CLIP, out=x))
        out = step.out(step.block2(before, where))
        count = out.shape[1] // 2
        mean = base_mean[where][:, step.channels] + self._unnormalise(out[:, :count], step.channels)
        log2_scale = out[:, count:] + self.log2_ratio[row, step.channels]
        if places is not None:
            log2_scale -= places[where][:, None] * (2.0**ACT_BITS / PLACES_PER_OCTAVE)
        place = (log2_scale - CLASS_ORIGIN * 2**ACT_BITS) * CLASSES_PER_OCTAVE
        classes = np.floor(place * 2.0**-ACT_BITS + 0.5)
        return mean, np.clip(classes, 0, CLASSES - 1).astype(np.int64), before
