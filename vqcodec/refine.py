# SPDX-License-Identifier: MIT
"""The encoder's highest efforts: latents moved along the gradient of rate and distortion. Decoders know nothing of it.

Stochastic Gumbel annealing (Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression", NeurIPS 2020):
while a temperature falls, each latent is softened at random between its two nearest levels, and Adam follows the
gradient that a graph of the model gives (train/refinement.py). What is written is decided afterwards, as ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.codebook import ACT_BITS, LATENT_BITS, Floats
from vqcodec.transform import session

Array = NDArray[np.float32]
SEED = 1


@dataclass(frozen=True)
class Plan:
    """How long, how fast and how random: one effort's way of refining."""

    iterations: int
    rate: float  # of Adam, in quantiser steps
    temperature: float = 0.5  # at the start; it falls to e**-3 of it, but not below 0.1


PLANS = {7: Plan(40, 0.01), 8: Plan(100, 0.01), 9: Plan(250, 0.01)}


class Gradient:
    """Latents, and what they are to restore -> cost in bits, and its gradient."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self._run = session(path, threads).run

    def __call__(self, **values: Array) -> tuple[float, Array]:
        """Inputs and outputs as `vqcodec.train.refinement.refinement_graph` has them."""
        cost, gradient = self._run(None, values)
        return float(cost), gradient


def _planes(x: NDArray[Any], scale: float = 1.0) -> Array:
    """[h, w, C] -> [1, C, h, w] float32."""
    return np.ascontiguousarray((x * scale).transpose(2, 0, 1), np.float32)[None]


def _logistic(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The difference of two Gumbel variables."""
    u = rng.random(shape, np.float32)
    np.clip(u, 1e-6, 1 - 1e-6, out=u)
    noise: Array = np.log(u / (1 - u))
    return noise


def refine(
    gradient: Gradient,
    plan: Plan,
    latents: Array,
    rgb: NDArray[np.uint8],
    features: Floats,
    base_mean: Floats,
    hat: Floats,
    step_size: Floats,
    lagrangian: float,
) -> Array:
    """Latents that cost less.

    Args:
        gradient, plan: of the model, and of the effort.
        latents: [h, w, M] float32, where to start: what the analysis gave.
        rgb: [16 h, 16 w, 3] uint8, the pixels to restore.
        features, base_mean: what the prior makes of the base layer, in fixed point: [h, w, N], [h, w, M].
        hat: [A] anchor weights of the quality.
        step_size: [M] quantiser steps in units of 2**-LATENT_BITS.
        lagrangian: bits per pixel per unit of mean squared error.

    Returns:
        [h, w, M] float32.
    """
    h, w = latents.shape[:2]
    step = np.asarray(step_size, np.float32)[None, :, None, None] * np.float32(2.0**-LATENT_BITS)
    rows, columns = np.indices((h, w))
    still = {
        "x": _planes(rgb, 1 / 255),
        "features": _planes(features, 2.0**-ACT_BITS),
        "base_mean": _planes(base_mean, 2.0**-LATENT_BITS),
        "hat": np.asarray(hat, np.float32)[None],
        "step": step,
        "first": ((rows + columns) % 2 == 0).astype(np.float32)[None, None],
        "weight": np.array(lagrangian / 3, np.float32),
    }
    rng = np.random.default_rng(SEED)
    start = _planes(latents)
    moved, mean, square = (np.zeros_like(start) for _ in range(3))
    for number in range(plan.iterations):
        temperature = max(0.1, plan.temperature * math.exp(-3 * number / plan.iterations))
        _, slope = gradient(
            y=start + moved * step,
            noise=_logistic(rng, start.shape),
            temperature=np.array(temperature, np.float32),
            **still,
        )
        slope *= step
        # Adam (Kingma and Ba, 2015), with betas of 0.9 and 0.99
        mean += np.float32(0.1) * (slope - mean)
        square += np.float32(0.01) * (slope * slope - square)
        fast = plan.rate / (1 - 0.9 ** (number + 1))
        moved -= np.float32(fast) * mean / (np.sqrt(square / np.float32(1 - 0.99 ** (number + 1))) + np.float32(1e-8))
    refined: Array = (start + moved * step)[0].transpose(1, 2, 0)
    return refined
