# SPDX-License-Identifier: MIT
"""The one walk over the priors. Encoder, decoder, the count of the tables and a model's try-out all take it.

What differs is what is done in a step: indices are chosen and written, or read, or counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import LATENT_CLIP, Classes, Floats, Ints, Setting, dequantise
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.model.prior import PASSES, BasePrior, RefinementPrior, Step, checkerboard, quarter
from vqcodec.spans import span

# Chooses or reads the base indices of one pass: (positions [h, w], frequencies [n, K]) -> indices [n]
BaseChooser = Callable[[NDArray[np.bool_], Floats], Ints]


class Predicted(NamedTuple):
    """What the prior says of the latents of one step, at its n positions."""

    step: Step
    where: NDArray[np.bool_]  # [h, w], the positions
    means: Floats  # [n, C], 2**-LATENT_BITS
    classes: Classes  # [n, C]
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
    prior: RefinementPrior, tables: ClassTables | None, base: Ints, setting: Setting, choose: Chooser
) -> tuple[Floats, Ints]:
    """Go through the refinement's steps.

    Args:
        tables: say where in its bin an index stands; None: in the middle (before there are tables).
        base: [h, w] base indices.
        setting: quality 2 to 100, and tune.

    Returns:
        latents [h, w, M] (2**-LATENT_BITS) and indices [h, w, M] int64.
    """
    features, base_mean = prior.base(base)
    latents, indices = base_mean.copy(), np.zeros(base_mean.shape, np.int64)
    known, before = prior.nothing_known((base.shape[0], base.shape[1])), None
    places = prior.places(features, setting.row)
    for step in prior.steps:
        channels = step.channels
        where = checkerboard(base.shape[0], base.shape[1], step.half)
        mean, classes, before = prior.predict(step, known, features, base_mean, setting.row, places, before)
        sizes = prior.sizes(step, setting.row, places)
        chosen = choose(Predicted(step, where, mean, classes, sizes))
        values = _values(chosen, mean, sizes, tables, classes)
        # Boolean index on the positions, slice on the channels
        latents[:, :, channels][where] = values
        indices[:, :, channels][where] = chosen
        if step.number + 1 < len(prior.steps):
            above = values - base_mean[:, :, channels][where]
            known[:, :, 2 * channels.start : 2 * channels.stop][where] = prior.contexts(above, channels)
    return latents, indices


def _values(indices: Ints, mean: Floats, sizes: Floats, tables: ClassTables | None, classes: Classes) -> Floats:
    """Latents of the indices [n, C]; few indices are not zero, and only these take work."""
    values: Floats = np.clip(mean, -LATENT_CLIP, LATENT_CLIP)
    at = np.nonzero(indices)
    few = indices[at]
    shrink = np.zeros(few.shape) if tables is None else tables.reconstruction(few, classes[at])
    values[at] = dequantise(few, mean[at], np.broadcast_to(sizes, indices.shape)[at], shrink)
    return values


def given(indices: Ints) -> Chooser:
    """Gives indices [h, w, M] that are chosen already."""
    return lambda predicted: indices[:, :, predicted.step.channels][predicted.where]
