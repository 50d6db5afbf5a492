# SPDX-License-Identifier: MIT
"""The graph behind the encoder's highest efforts: what a picture's indices cost, and the slopes of that.

The refinement's prior goes from step to step with given indices, as the codec does, and the synthesis restores the
picture; backwards, the slope of bits + lambda * error goes along every index, through all that the prior makes of it
later: the means that follow, the classes that change. Everything here is a float's estimate for the encoder; the files'
means and classes are the integer prior's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vqcodec.model.engines import CLASSES
from vqcodec.model.gradient import INPUTS
from vqcodec.model.prior import CLASS_ORIGIN, CLASSES_PER_OCTAVE
from vqcodec.train.codec import Codec
from vqcodec.train.graph import Graph, array
from vqcodec.train.layers import STRIDE
from vqcodec.train.prior import PriorStep

_INT64 = 7  # of ONNX
TAIL = 3.0  # where the Gaussian's mass is continued by its quadratic, in units of sqrt(2) deviations


def _bits(g: Graph, level: str, log2_scale: str) -> str:
    """Bits of levels under a Gaussian, as `losses.gaussian_bits`."""
    inverse = g.mul(g.node("Exp", [g.mul(log2_scale, g.scalar(-math.log(2)))]), g.scalar(math.sqrt(0.5)))
    size = g.node("Abs", [level])
    lower = g.mul(g.sub(size, g.scalar(0.5)), inverse)
    upper = g.mul(g.add(size, g.scalar(0.5)), inverse)
    mass = g.mul(g.sub(g.node("Erf", [upper]), g.node("Erf", [lower])), g.scalar(0.5))
    mass = g.node("Max", [mass, g.scalar(0.5 * math.erfc(TAIL))])
    tail = g.node("Max", [lower, g.scalar(TAIL)])
    excess = g.sub(g.mul(tail, tail), g.scalar(TAIL**2))
    return g.mul(g.sub(excess, g.node("Log", [mass])), g.scalar(1 / math.log(2)))


class _Prior:
    """The refinement's prior, one step after the other, on one picture."""

    def __init__(self, g: Graph, model: Codec) -> None:
        self.g, self.model = g, model
        self.known: list[str] = []  # what the steps have left, normalised, chunk by chunk
        self.bits: list[str] = []
        self.coded: list[str] = []  # 1 where an index is coded, 0 where the class says it is zero
        self.classes: list[str] = []
        self.latents: list[str] = []
        self.leaves: list[str] = []  # the chunks of `nudge`
        self.before = ""  # features of the step before
        self.first = g.node("Greater", ["first", g.scalar(0.5)])

    def context(self, step: PriorStep, known: list[str]) -> str | None:
        """The sum over chunks of the context layer."""
        if step.context is None:
            return None
        weight, start, total = array(step.context.weight), 0, None
        for name, width in zip(known, self.model.prior.chunks, strict=False):
            part = self.g.convolve(name, weight[:, start : start + width], None)
            total = part if total is None else self.g.add(total, part)
            start += width
        return total

    def predict(self, number: int, known: list[str]) -> tuple[str, str]:
        """Mean correction and log2 scale of a step's chunk, in units of the latents' deviations."""
        g, step = self.g, self.model.prior.steps[number]
        assert isinstance(step, PriorStep)
        bias = g.as_channels(g.node("MatMul", ["hat", g.constant(array(step.quality))]))
        h = g.add(g.conv("features", step.base), bias)
        context = self.context(step, known)
        h = h if context is None else g.add(h, context)
        if step.carry is not None and self.before:
            h = g.add(h, g.conv(self.before, step.carry))
        self.before = g.block(h, step.block1)
        h = g.block(self.before, step.block2)
        weight, bias_out = array(step.out.weight), array(step.out.bias)  # type: ignore[arg-type]
        half = len(weight) // 2
        return g.convolve(h, weight[:half], bias_out[:half]), g.convolve(h, weight[half:], bias_out[half:])

    def choose(self, where_first: list[str], elsewhere: list[str]) -> list[str]:
        """Values of both halves of the checkerboard."""
        return [self.g.node("Where", [self.first, a, b]) for a, b in zip(where_first, elsewhere, strict=True)]

    def place(self, log2_scale: str, level: str) -> tuple[str, str, str]:
        """Scale class, whether it is coded, and how far the reconstruction point lies from the middle of the bin."""
        g = self.g
        octaves = g.mul(g.sub(log2_scale, g.scalar(CLASS_ORIGIN)), g.scalar(CLASSES_PER_OCTAVE))
        number = g.node("Floor", [g.add(octaves, g.scalar(0.5))])
        number = g.node("Clip", [number, g.scalar(0), g.scalar(CLASSES - 1)])
        magnitude = g.node("Min", [g.node("Abs", [level]), g.scalar(2)])
        row, entry = (g.node("Cast", [x], to=_INT64) for x in (number, g.add(g.mul(number, g.scalar(3)), magnitude)))
        shrink = g.mul(g.node("Gather", ["shrink", entry], axis=0), g.node("Sign", [level]))
        return number, g.node("Gather", ["coded", row], axis=0), shrink

    def chunk(self, number: int, start: int, width: int, halves: int) -> None:
        """The steps of a chunk, `number` the first: all places at once, or both halves of the checkerboard."""
        g = self.g
        here = (start, start + width)
        sigma = array(self.model.prior.sigma)[start : start + width, None, None]
        level, nudge, base, step = (g.channels(name, *here) for name in ("levels", "nudge", "base_mean", "step"))
        log2_step = g.mul(g.node("Log", [step]), g.scalar(1 / math.log(2)))
        octave = g.sub(g.constant(np.log2(sigma).astype(np.float32), half=False), log2_step)
        deviation = g.constant(sigma.astype(np.float32), half=False)
        inverse = g.constant((1 / sigma).astype(np.float32), half=False)
        self.leaves.append(nudge)

        def half(offset: int, known: list[str]) -> list[str]:
            mean, scale = self.predict(number + offset, known)
            mean, scale = g.add(base, g.mul(mean, deviation)), g.add(scale, octave)
            kind, coded, shrink = self.place(scale, level)
            value = g.mul(g.add(g.sub(level, shrink), nudge), g.mul(coded, step))
            return [g.add(mean, value), scale, kind, coded]

        made = half(0, self.known)
        if halves == 2:
            seen = g.node("Where", [self.first, g.mul(g.sub(made[0], base), inverse), g.scalar(0.0)])
            made = self.choose(made, half(1, [*self.known, seen]))
        latent, scale, kind, coded = made
        self.known.append(g.mul(g.sub(latent, base), inverse))
        self.latents.append(latent)
        self.classes.append(kind)
        self.coded.append(coded)
        self.bits.append(_bits(g, level, scale))


def _synthesis(g: Graph, model: Codec, latents: list[str]) -> str:
    """The picture of latents that come chunk by chunk."""
    s, c = model.synthesis, model.config

    def over_chunks(weight: np.ndarray, bias: np.ndarray) -> str:
        start, total = 0, ""
        for name, width in zip(latents, c.chunks, strict=True):
            part = g.convolve(name, weight[:, start : start + width], None if total else bias)
            total = g.add(total, part) if total else part
            start += width
        return total

    wide = g.node("Concat", ["hat", g.constant(np.zeros((1, 1), np.float32), half=False)], axis=1)
    enter = array(s.enter.weight) / array(s.sigma)[None, :, None, None]
    h = g.gain(over_chunks(enter, array(s.enter.bias)), s.gain_in, wide)  # type: ignore[arg-type]
    for block in s.blocks16:
        h = g.block(h, block)
    h = g.depth_to_space(g.conv(g.gain(h, s.gain16, wide), s.up), 2, c.synthesis_width8)
    for block in s.blocks8:
        h = g.block(h, block)
    fine = g.depth_to_space(g.conv(g.gain(h, s.gain8, wide), s.out), 8, 3)
    coarse = g.depth_to_space(over_chunks(array(s.linear.weight), array(s.linear.bias)), 16, 3)  # type: ignore[arg-type]
    return g.add(g.add(coarse, fine), g.scalar(0.5))


def refinement_graph(model: Codec) -> bytes:
    """Indices and what they are to restore -> scale classes, error, and the cost's slopes.

    Inputs (float32): levels, the indices, and nudge, zeros, by which they may be moved a little, both [1, M, h, w];
    features [1, N, h, w] and base_mean [1, M, h, w] of the base layer; x [1, 3, 16 h, 16 w] in [0, 1]; hat [1, R];
    step [1, M, h, w]; first [1, 1, h, w], 1 on the first half of the checkerboard; of the model's tables coded [64],
    1 for classes of which indices are coded, and shrink [192], three reconstruction offsets per class in steps;
    weight [1, 1, 16 h, 16 w], in bits per unit of squared error of one sample.

    Outputs: classes [1, M, h, w]; error [1, 1, h, w], weight * squared error of each latent's pixels; gradient
    [1, M, h, w] of weight * squared error + bits with respect to nudge, the bits by a Gaussian of the scale, of which
    the indices' own part is none.
    """
    c, g = model.config, Graph()
    g.eight_bits = True  # it stands for an integer prior of as many
    prior = _Prior(g, model)
    number, start = 0, 0
    for width, halves in zip(c.chunks, c.halves(), strict=True):
        prior.chunk(number, start, width, halves)
        number, start = number + halves, start + width
    g.eight_bits = False
    restored = _synthesis(g, model, prior.latents)
    error = g.sub(g.node("Clip", [restored, g.scalar(0), g.scalar(1)]), "x")
    weighted = g.mul(error, "weight")
    squares = g.node("AveragePool", [g.mul(error, weighted)], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2)
    pooled = g.node("ReduceSum", [squares, g.constant(np.array([1], np.int64), half=False)], keepdims=1)
    pooled = g.mul(pooled, g.scalar(STRIDE**2))
    seeds = {error: g.mul(weighted, g.scalar(2)), **dict(zip(prior.bits, prior.coded, strict=True))}
    gradient = g.node("Concat", g.gradient(seeds, prior.leaves), axis=1)
    classes = g.node("Concat", prior.classes, axis=1)
    for name, outside in ((pooled, "error"), (gradient, "gradient"), (classes, "classes")):
        g.rename(name, outside)
    grid = [1, c.latents, "h", "w"]
    shapes: dict[str, list[Any]] = {
        "levels": grid,
        "nudge": grid,
        "features": [1, c.prior_width, "h", "w"],
        "base_mean": grid,
        "x": [1, 3, "H", "W"],
        "hat": [1, c.rows],
        "step": [1, c.latents, "step h", "step w"],
        "first": [1, 1, "h", "w"],
        "coded": [CLASSES],
        "shrink": [3 * CLASSES],
        "weight": [1, 1, "weight H", "weight W"],
    }
    return g.serialise(
        {name: shapes[name] for name in INPUTS}, {"classes": grid, "error": [1, 1, "h", "w"], "gradient": grid}
    )
