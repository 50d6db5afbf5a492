# SPDX-License-Identifier: MIT
"""The priors: indices already known -> integer frequency tables for the next ones, in exact integer arithmetic.

Every number that reaches the entropy coder is an integer computed from integers, so that all machines agree bit for bit
(rule 1 of the format). The networks are 8-bit layers (layers.py), computed by either of two engines (engines.py). What
surrounds them stands here: contexts, means and frequencies, in float64 arrays of numbers that are exact multiples of a
power of two. `_table` sees to it when a model is loaded that none of them can need more than 53 bits
(docs/exactness.md). No exp, no log. NumPy only.

Shapes: arrays are [h, w, C], positions of a tile row by row.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import LATENT_CLIP, BaseCodebook, Classes, Floats, Ints
from vqcodec.bitstream.range_coder import TOTAL
from vqcodec.errors import ModelError
from vqcodec.model.engines import Bytes, Engine, Plain, codes_of, stored
from vqcodec.model.layers import FRACTION, ROOM, SIGNED, Arrays, Linear, Streams, integers, pair

STEP_HALO = 2  # latents around a tile that its steps see, from the base layer alone; even, for the checkerboard
CLASSES_PER_OCTAVE = 6
PLACES_PER_OCTAVE = 8  # place classes per doubling of the quantiser step
PLACE_LIMIT = 16
FACTOR_BITS, STRENGTH_BITS = 14, 14
CLASS_ORIGIN = -3.5  # log2 (scale / step) of class 0
MEAN_BITS, CONTEXT_BITS, UNIT_BITS = 8, 24, 20  # below the point of the scales of means, contexts and features
MAX_MEAN_SCALE, MAX_CONTEXT_SCALE = 2.0**28, 2.0**22
MAX_RATIO = 2.0**22
MAX_STEP = 2.0**30
MAX_STRENGTH = 2.0**28
MAX_FACTOR = 2.0**20
MAX_CODEBOOK = 2**16
LOG_ONE = 2**23  # weight of the most probable base index, before normalisation
OCTAVE = 256  # entries of the table of powers of two
MIN_TEMPERATURE = 2.0**-16  # below it, the most probable index


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


def _streams(arrays: Arrays, name: str, limit: float) -> Streams:
    """A table of multiples of 2**-FRACTION."""
    return (integers(arrays, name, 2, -limit, limit) * 2.0**-FRACTION).astype(np.float32)


def features_of(arrays: Arrays) -> tuple[int, int]:
    """Channels of the refinement's networks, and of the features: as many codes, or pairs."""
    width, features = arrays["prior.steps.0.join.weight"].shape
    return width, features


class CodePairs:
    """The codewords as the networks see them: a pair of codes for each of their numbers."""

    def __init__(self, arrays: Arrays) -> None:
        self._pairs = stored(integers(arrays, "codes", 2, SIGNED.low, SIGNED.low + 255))
        self._unknown = stored(np.zeros(self._pairs.shape[1]))

    def of(self, indices: Ints) -> Bytes:
        """Of base indices [h, w]: [h, w, 2 D] uint8."""
        return self._pairs[indices]

    def known(self, indices: Ints, known: NDArray[np.bool_]) -> Bytes:
        """The same where `known` [h, w] is true, zeros elsewhere."""
        return np.where(known[:, :, None], self._pairs[np.where(known, indices, 0)], self._unknown)


class BasePrior:
    """Base indices already decoded -> frequencies of the next ones, in four parallel passes over the grid."""

    def __init__(self, arrays: Arrays, codebook: BaseCodebook, engine: Engine | None = None) -> None:
        self._engine: Engine = Plain(arrays) if engine is None else engine
        self._codes = CodePairs(arrays)
        self._size = codebook.size
        self._per_octave = np.float32(OCTAVE)
        self._passes = _streams(arrays, "base_prior.passes", ROOM / 2)
        exp2 = integers(arrays, "base_prior.exp2", 1, 1, 2 * LOG_ONE).astype(np.int64)
        outputs = arrays["base_prior.out.bias"].shape
        if not 2 <= codebook.size <= MAX_CODEBOOK:
            raise ModelError("the model's codebook has a size that is no use")
        if exp2.shape != (OCTAVE,) or outputs != (codebook.size,) or len(arrays["codes"]) != codebook.size:
            raise ModelError("the model's base prior does not fit its codebook")
        octaves = int(exp2.max()).bit_length()  # behind these all weights are zero
        self._weights: Floats = np.concatenate([*(exp2 >> n for n in range(octaves)), [0]]).astype(np.float64)

    def at(self, temperature: float) -> BasePrior:
        """The same prior with probabilities to the power of 1 / temperature, up to a factor: for drawing alone.

        One multiplication in float32 and a floor, so every machine gets the same frequencies here, too.
        """
        other = copy.copy(self)
        other._per_octave = np.float32(OCTAVE / max(temperature, MIN_TEMPERATURE))
        return other

    def frequencies(self, indices: Ints, known: NDArray[np.bool_], number: int) -> Floats:
        """Frequencies of the indices of one pass.

        Args:
            indices: [h, w] int64 base indices, read only where `known` [h, w] bool is true.
            number: the pass, 0 to 3.

        Returns:
            [n, K] integers >= 0, each row summing to TOTAL - K, for the n positions of the pass in raster order.
        """
        where = quarter(indices.shape[0], indices.shape[1], number)
        logits = self._engine.indices(self._codes.known(indices, known), self._passes[number], where)
        # octaves below the maximum, in 1/256 -> weights by table -> frequencies
        steps = (logits.max(1, keepdims=True) - logits) * self._per_octave
        below = np.minimum(steps, np.float32(len(self._weights) - 1)).astype(np.int32)
        frequencies: Floats = self._weights[below]
        room = TOTAL - self._size
        frequencies *= room * TOTAL // frequencies.sum(1, keepdims=True).astype(np.int64) * 2.0**-24
        np.floor(frequencies, out=frequencies)
        frequencies[np.arange(len(below)), below.argmin(1)] += room - frequencies.sum(1)
        return frequencies


@dataclass(frozen=True)
class Step:
    """One parallel step of the refinement: a channel chunk, everywhere or at one half of the checkerboard."""

    number: int
    channels: slice
    half: int | None
    mean_scale: Floats  # [C], from outputs to units of 2**-LATENT_BITS
    quality: Streams  # [rows, N]


class RefinementPrior:
    """Base layer and latents already decoded -> mean (fixed point) and scale class of the next latents."""

    def __init__(self, arrays: Arrays, engine: Engine | None = None) -> None:
        self._engine: Engine = Plain(arrays) if engine is None else engine
        self._codes = CodePairs(arrays)
        blocks = {name.split(".")[2] for name in arrays if name.startswith("prior.blocks.")}
        # Latents around a tile whose base layer decides what is predicted in it: `base` looks one away for each block
        self.halo = len(blocks) + STEP_HALO
        self._ratio = _streams(arrays, "prior.ratio", MAX_RATIO)  # [rows, M]
        self.step_size = integers(arrays, "prior.step_size", 2, 1, MAX_STEP)  # [rows, M], units 2**-LATENT_BITS
        self._base_scale = integers(arrays, "prior.base_scale", 1, 0, MAX_MEAN_SCALE) * 2.0**-MEAN_BITS
        self._context_scale = integers(arrays, "prior.context_scale", 1, 0, MAX_CONTEXT_SCALE) * 2.0**-CONTEXT_BITS
        chunks = integers(arrays, "prior.chunks", 1, 1, 2**16).astype(int)
        halves = integers(arrays, "prior.halves", 1, 1, 2).astype(int)
        self.latents = int(chunks.sum())
        self.rows = len(self.step_size)  # of the tables with a row per tune and quality
        shapes = {self._ratio.shape, self.step_size.shape}
        if shapes != {(self.rows, self.latents)} or self.rows % 100 or halves.shape != chunks.shape:
            raise ModelError("the tables of the model's refinement prior do not fit together")
        if {self._base_scale.shape, self._context_scale.shape} != {(self.latents,)}:
            raise ModelError("the tables of the model's refinement prior do not fit together")
        self.steps = list(self._steps(arrays, [int(c) for c in chunks], [int(n) for n in halves], self.rows))
        self._activity = Linear.load(arrays, "prior.activity", added=0) if "prior.activity.weight" in arrays else None
        if self._activity is not None:
            self._strength = integers(arrays, "prior.strength", 1, -MAX_STRENGTH, MAX_STRENGTH)  # [rows]
            self._factors = integers(arrays, "prior.factors", 1, 1, MAX_FACTOR)  # of the step, 2**-FACTOR_BITS
            if self._strength.shape != (self.rows,) or self._factors.shape != (2 * PLACE_LIMIT + 1,):
                raise ModelError("the tables of the model's steps by place do not fit together")
            largest = self.step_size.max() * self._factors.max() * 2.0**-FACTOR_BITS
            if largest > MAX_STEP or self._activity.integer_weight.shape != (1, features_of(arrays)[1]):
                raise ModelError("the tables of the model's steps by place do not fit together")

    @staticmethod
    def _steps(arrays: Arrays, chunks: list[int], halves: list[int], rows: int) -> Iterator[Step]:
        width, features = features_of(arrays)
        start, number = 0, 0
        for chunk, count in zip(chunks, halves, strict=True):
            for half in range(count):
                name, channels = f"prior.steps.{number}", slice(start, start + chunk)
                scale = integers(arrays, f"{name}.mean_scale", 1, 0, MAX_MEAN_SCALE) * 2.0**-MEAN_BITS
                quality = _streams(arrays, f"{name}.quality", ROOM / 2)
                inputs = features + 2 * (start + half * chunk) + (width if number else 0)
                shapes = scale.shape, quality.shape, arrays[f"{name}.join.weight"].shape
                if shapes != ((chunk,), (rows, width), (width, inputs)):
                    raise ModelError("the tables of the model's refinement prior do not fit together")
                yield Step(number, channels, half if count == 2 else None, scale, quality)
                number += 1
            start += chunk

    def base(self, indices: Ints) -> tuple[Bytes, Floats]:
        """What base indices [h, w] say of the latents.

        Returns:
            features [h, w, F] for `predict`, and means [h, w, M] (2**-LATENT_BITS).
        """
        features, means = self._engine.base(self._codes.of(indices))
        return features, np.clip(np.rint(means * self._base_scale), -LATENT_CLIP, LATENT_CLIP)

    def nothing_known(self, shape: tuple[int, int]) -> Bytes:
        """The contexts of a tile of which no latent is decoded: [h, w, 2 M] uint8."""
        return np.full((*shape, 2 * self.latents), -SIGNED.low, np.uint8)

    def contexts(self, above: Floats, channels: slice) -> Bytes:
        """What decoded latents add to the base layer's means, [n, C] (2**-LATENT_BITS): pairs [n, 2 C] of codes.

        The two codes of a latent stand side by side.
        """
        both = stored(pair(above * self._context_scale[channels]))
        count, width = above.shape
        return both.reshape(count, 2, width).transpose(0, 2, 1).reshape(count, 2 * width)

    def places(self, features: Bytes, row: int) -> Floats | None:
        """Place classes [h, w], integers up to PLACE_LIMIT: how coarse the steps are, from the base layer alone.

        None where the step is the same everywhere: there is no such table, or the tune does not use it.
        """
        if self._activity is None or not self._strength[row]:
            return None
        activity = self._activity(codes_of(features))[:, :, 0].astype(np.float64)
        place = np.rint(activity * self._strength[row] * (PLACES_PER_OCTAVE * 2.0**-STRENGTH_BITS))
        return np.asarray(np.clip(place, -PLACE_LIMIT, PLACE_LIMIT))

    def sizes(self, step: Step, row: int, places: Floats | None) -> Floats:
        """Quantiser steps of one parallel step: [C], or [n, C] at its n positions (2**-LATENT_BITS)."""
        size = self.step_size[row, step.channels]
        if places is None:
            return size
        where = checkerboard(places.shape[0], places.shape[1], step.half)
        factor = self._factors[places[where].astype(np.int64) + PLACE_LIMIT]
        return np.maximum(1, np.rint(size * factor[:, None] * 2.0**-FACTOR_BITS))

    def predict(
        self,
        step: Step,
        known: Bytes,
        features: Bytes,
        base_mean: Floats,
        row: int,
        places: Floats | None,
        before: Bytes | None,
    ) -> tuple[Floats, Classes, Bytes]:
        """Mean and scale class of the latents of one step.

        Args:
            step: one of `self.steps`.
            known: [h, w, 2 M] contexts, as `nothing_known` gives them where nothing is decoded yet.
            features, base_mean: from `base`.
            row: of the tables (`Setting.row`).
            places: from `places`.
            before: [h, w, N] what the step before gave as its third; None for the first.

        Returns:
            means [n, C] (2**-LATENT_BITS) and classes [n, C] uint8 in [0, 64), for the n positions of the step in
            raster order and the C channels of its chunk; and what is `before` to the next step.
        """
        where = None if step.half is None else checkerboard(base_mean.shape[0], base_mean.shape[1], step.half)
        offset, ratio = step.quality[row], self._ratio[row, step.channels][None]
        if places is not None:
            here = places.ravel() if where is None else places[where]
            ratio = ratio - (here[:, None] * (CLASSES_PER_OCTAVE / PLACES_PER_OCTAVE)).astype(np.float32)
        outputs, classes, before = self._engine.step(step.number, features, known, before, offset, ratio, where)
        around = base_mean[:, :, step.channels]
        means = around.reshape(len(outputs), -1) if where is None else around[where]
        return means + np.rint(outputs * step.mean_scale), classes, before
