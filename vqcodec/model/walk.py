# SPDX-License-Identifier: MIT
"""The one walk over the priors. Encoder, decoder, the count of the tables and a model's try-out all take it.

What differs is what is done in a step: indices are chosen and written, or read, or counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import Floats, Ints, Setting, dequantise
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.model.prior import PASSES, BasePrior, RefinementPrior, Step, checkerboard, quarter
from vqcodec.spans import span

# Chooses or reads the base indices of one pass: (positions [h, w], frequencies [n, K]) -> indices [n]
BaseChooser = Callable[[NDArray[np.bool_], Ints], Ints]


class Predicted(NamedTuple):
    """What the prior says of the latents of one step, at its n positions."""

    step: Step
    where: NDArray[np.bool_]  # [h, w], the positions
    means: Floats  # [n, C], 2**-LATENT_BITS
    classes: Ints  # [n, C]
    sizes: Floats  # [n, C] or [C] quantiser steps, 2**-LATENT_BITS


# Chooses or reads the indices of one step: [n, C]
Chooser = Callable[[Predicted], Ints]


@span("prior")
def walk_base(prior: BasePrior, shape: tuple[int, int], choose: BaseChooser) -> Ints:
    """Go through the base layer's four passes: indices [h, w] int64."""
    indices, known = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for number in range(PASSES):
        where = quarter(*shape, number)
        if where.any():
            indices[where] = choose(where, prior.frequencies(indices, known, number))
            known |= where
    return indices


@span("prior")
def walk_refinement(
    prior: RefinementPrior, tables: ClassTables | None, code: Floats, setting: Setting, choose: Chooser
) -> tuple[Floats, Ints]:
    """Go through the refinement's steps.

    Args:
        tables: say where in its bin an index stands; None: in the middle (before there are tables).
        code: [h, w, D] codewords of the base layer.
        setting: quality 2 to 100, and tune.

    Returns:
        latents [h, w, M] (2**-LATENT_BITS) and indices [h, w, M] int64.
    """
    features, base_mean = prior.base(code)
    latents, indices = base_mean.copy(), np.zeros(base_mean.shape, np.int64)
    known, before = np.zeros_like(base_mean), None
    places = prior.places(features, setting.row)
    for step in prior.steps:
        where = checkerboard(code.shape[0], code.shape[1], step.half)
        mean, classes, before = prior.predict(step, known, features, base_mean, setting.row, places, before)
        sizes = prior.sizes(step, setting.row, places)
        chosen = choose(Predicted(step, where, mean, classes, sizes))
        shrink = np.zeros(chosen.shape) if tables is None else tables.reconstruction(chosen, classes)
        values = dequantise(chosen, mean, sizes, shrink)
        # Boolean index on the positions, slice on the channels
        latents[:, :, step.channels][where] = values
        indices[:, :, step.channels][where] = chosen
        around = base_mean[:, :, step.channels][where]
        known[:, :, step.channels][where] = prior.normalise(values, around, step.channels)
    return latents, indices


def given(indices: Ints) -> Chooser:
    """Gives indices [h, w, M] that are chosen already."""
    return lambda predicted: indices[:, :, predicted.step.channels][predicted.where]
