# SPDX-License-Identifier: MIT
"""The one walk over the priors: both directions take it; what differs is whether indices are chosen, or read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import Floats, Ints, dequantise
from vqcodec.model.prior import Step, checkerboard, quarter
from vqcodec.model.zoo import Model

# Chooses or reads the indices of one step: (step, positions, means, classes) -> indices
Chooser = Callable[[Step, NDArray[np.bool_], Floats, Ints], Ints]


def walk_base(model: Model, shape: tuple[int, int], visit: Callable[[NDArray[np.bool_], Ints], Ints]) -> Ints:
    """Go through the base layer's four passes; `visit(positions, frequencies)` gives the indices of each: [h, w]."""
    indices, known = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for number in range(4):
        where = quarter(*shape, number)
        if where.any():
            indices[where] = visit(where, model.base_prior.frequencies(indices, known, number))
            known |= where
    return indices


def walk_refinement(model: Model, base: Ints, quality: int, choose: Chooser) -> tuple[Floats, Ints]:
    """Go through the refinement's steps.

    Returns:
        latents [h, w, M] (2**-LATENT_BITS) and indices [h, w, M] int64.
    """
    prior = model.prior
    features, base_mean = prior.base(model.codebook.values(base))
    latents, indices = base_mean.copy(), np.zeros(base_mean.shape, np.int64)
    known, before = np.zeros_like(base_mean), None
    for step in prior.steps:
        where = checkerboard(base.shape[0], base.shape[1], step.half)
        mean, classes, before = prior.predict(step, known, features, base_mean, quality, before)
        chosen = choose(step, where, mean, classes)
        shrink = model.tables.reconstruction(chosen, classes)
        values = dequantise(chosen, mean, prior.step_size[quality - 1, step.channels], shrink)
        # Boolean index on the positions, slice on the channels
        latents[:, :, step.channels][where] = values
        indices[:, :, step.channels][where] = chosen
        around = base_mean[:, :, step.channels][where]
        known[:, :, step.channels][where] = prior.normalise(values, around, step.channels)
    return latents, indices
