# SPDX-License-Identifier: MIT
"""The graph behind the encoder's highest efforts: cost of a picture's latents, and its gradient.

Stochastic Gumbel annealing (Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression", NeurIPS 2020):
each latent lies softly between its two nearest levels, and bits + lambda * error falls along the gradient through the
synthesis and through the prior, whose later steps see the softened latents of the earlier ones. Everything here is a
float's estimate for the encoder; what is written is decided by the integer prior afterwards.
"""

from __future__ import annotations

import math

import numpy as np

from vqcodec.train.graph import Graph, array
from vqcodec.train.networks import Codec, PriorStep

SILENT_LOG2 = -3.0  # latents whose predicted deviation is below 2**this of a step stay at their mean
TAIL = 3.0  # where the Gaussian's mass is continued by its quadratic, in units of sqrt(2) deviations
INPUTS = ("y", "noise", "x", "features", "base_mean", "hat", "step", "first", "temperature", "weight")


def _soft(g: Graph, t: str, log2_scale: str, noise: str) -> str:
    """Values in steps -> softly chosen levels; `noise` is logistic, the difference of two Gumbel variables."""
    floor = g.node("Floor", [t])
    rest = g.add(g.mul(g.sub(t, floor), g.scalar(0.9998)), g.scalar(0.0001))  # atanh is infinite at 1
    up = g.sub(g.node("Atanh", [rest]), g.node("Atanh", [g.sub(g.scalar(1.0), rest)]))
    chance = g.node("Div", [g.add(g.node("Div", [up, "temperature"]), noise), "temperature"])
    level = g.add(floor, g.node("Sigmoid", [chance]))
    silent = g.node("Less", [log2_scale, g.scalar(SILENT_LOG2)])
    return g.node("Where", [silent, g.scalar(0.0), level])


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
        self.latents: list[str] = []  # softly quantised, chunk by chunk
        self.leaves: list[str] = []  # the chunks of y
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

    def chunk(self, number: int, start: int, width: int, halves: int) -> None:
        """The steps of a chunk, `number` the first: all places at once, or both halves of the checkerboard."""
        g = self.g
        here = (start, start + width)
        sigma = array(self.model.prior.sigma)[start : start + width, None, None]
        y, noise, base, step = (g.channels(name, *here) for name in ("y", "noise", "base_mean", "step"))
        log2_step = g.mul(g.node("Log", [step]), g.scalar(1 / math.log(2)))
        octave = g.sub(g.constant(np.log2(sigma).astype(np.float32), half=False), log2_step)
        deviation = g.constant(sigma.astype(np.float32), half=False)
        inverse = g.constant((1 / sigma).astype(np.float32), half=False)
        self.leaves.append(y)

        def half(offset: int, known: list[str]) -> tuple[str, str, str]:
            mean, scale = self.predict(number + offset, known)
            mean, scale = g.add(base, g.mul(mean, deviation)), g.add(scale, octave)
            level = _soft(g, g.node("Div", [g.sub(y, mean), step]), scale, noise)
            return g.add(mean, g.mul(level, step)), level, scale

        latent, level, scale = half(0, self.known)
        if halves == 2:
            seen = g.node("Where", [self.first, g.mul(g.sub(latent, base), inverse), g.scalar(0.0)])
            others = half(1, [*self.known, seen])
            latent, level, scale = (
                g.node("Where", [self.first, a, b]) for a, b in zip((latent, level, scale), others, strict=True)
            )
        self.known.append(g.mul(g.sub(latent, base), inverse))
        self.latents.append(latent)
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
    """Latents and what they are to restore -> cost, its gradient.

    Inputs (float32): y, noise, base_mean [1, M, h, w]; features [1, N, h, w]; x [1, 3, 16 h, 16 w] in [0, 1];
    hat [1, A]; step [1, M, 1, 1]; first [1, 1, h, w], 1 on the first checkerboard half; temperature and weight [],
    the latter in bits per unit of squared error of one sample.

    Outputs: cost [], bits + weight * squared error; gradient [1, M, h, w] of it with respect to y.
    """
    c, g = model.config, Graph()
    prior = _Prior(g, model)
    number, start = 0, 0
    for width, halves in zip(c.chunks, c.halves(), strict=True):
        prior.chunk(number, start, width, halves)
        number, start = number + halves, start + width
    restored = _synthesis(g, model, prior.latents)
    error = g.sub(restored, "x")
    squared = g.mul(g.node("ReduceSum", [g.mul(error, error)], keepdims=0), "weight")
    cost = squared
    for bits in prior.bits:
        cost = g.add(cost, g.node("ReduceSum", [bits], keepdims=0))
    twice = g.mul(g.mul(error, "weight"), g.scalar(2.0))
    seeds = {restored: twice, **dict.fromkeys(prior.bits, g.scalar(1.0))}
    gradient = g.node("Concat", g.gradient(seeds, prior.leaves), axis=1)
    g.rename(cost, "cost")
    g.rename(gradient, "gradient")
    grid = [1, c.latents, "h", "w"]
    return g.serialise(
        {
            "y": grid,
            "noise": grid,
            "x": [1, 3, "H", "W"],
            "features": [1, c.prior_width, "h", "w"],
            "base_mean": grid,
            "hat": [1, c.anchors],
            "step": [1, c.latents, 1, 1],
            "first": [1, 1, "h", "w"],
            "temperature": [],
            "weight": [],
        },
        {"cost": [], "gradient": grid},
    )
