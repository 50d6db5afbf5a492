# SPDX-License-Identifier: MIT
"""What the encoder's choice of indices aims at: latents corrected by what the decoder makes of those chosen before.

The analysis transform says which latents a picture has. They are not those of which the synthesis transform makes the
nearest picture once they are rounded: it is no inverse, and it is not linear. A graph of the model (train/aim_graph.py)
restores the picture and gives the slope of its error along every latent. A step down that slope is what the next choice
aims at, and that choice weighs bits as ever, with the true means and classes of the prior. This is proximal gradient
descent (Beck and Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm", SIAM J. Imaging Sciences 2009): the
choice is the proximal step. Decoders know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import Ints, real
from vqcodec.bitstream.quality import Setting
from vqcodec.model.prior import PLACES_PER_OCTAVE
from vqcodec.model.walk import Base, Chooser, Predicted
from vqcodec.model.zoo import Model
from vqcodec.spans import span

CURVATURE = 0.8  # of the error along a latent, of what it would be for an orthonormal synthesis
NEW = 0.5  # how much of a later round's correction replaces the one before: latents that change together overshoot
WALK_EVERY = 4  # rounds; between them a choice takes the predictions of the one before, which hardly change

# Latents [h, w, M] to aim at, and the factor on the weight of their error -> who chooses indices so
Choose = Callable[[NDArray[np.float32], float], Chooser]


def improved(
    model: Model, rounds: int, rgb: NDArray[np.uint8], latents: NDArray[np.float32], base: Base, setting: Setting,
    choose: Choose,
) -> NDArray[np.float32]:  # fmt: skip
    """Choose again and again, aiming better each time.

    Args:
        model: with its graph `aim`.
        rounds: corrections of the aim.
        rgb: [16 h, 16 w, 3] uint8, the pixels to restore.
        latents: [h, w, M], the analysis transform's.
        base: the base layer of the tile and around it.
        setting: quality 2 to 100, and tune.
        choose: one choice.

    Returns:
        what the last choice is to aim at, [h, w, M], with CURVATURE as the factor.
    """
    x = np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32)[None]
    x *= np.float32(1 / 255)
    size = _squared_size(model, base, setting)
    weight = np.repeat(np.repeat(np.float32(1) / size, 16, 0), 16, 1)[None, None]
    hat = model.anchor_weights(setting).astype(np.float32)[None]
    reach = (0.5 / CURVATURE * size * _known(base, model.synthesis_halo))[:, :, None]
    steps: list[Predicted] = []
    aim, factor, correction = latents, 1.0, np.zeros((), np.float32)
    for number in range(rounds):
        if number % WALK_EVERY == 0:
            decoded = _walk(model, base, setting, choose(aim, factor), steps)
        else:
            decoded = _again(model, choose(aim, factor), steps)
        slopes = model.aim(y=np.ascontiguousarray(decoded.transpose(2, 0, 1))[None], x=x, hat=hat, weight=weight)
        with span("choice of indices"):
            found = (latents - decoded) * (reach > 0) + reach * slopes
            correction = correction + (NEW if number else 1) * (found - correction)
            aim, factor = latents - correction, CURVATURE
    return aim


def _walk(model: Model, base: Base, setting: Setting, choose: Chooser, steps: list[Predicted]) -> NDArray[np.float32]:
    """The latents [h, w, M] of a choice; what the prior predicts on the way replaces `steps`."""
    steps.clear()

    def noted(predicted: Predicted) -> Ints:
        steps.append(predicted)
        return choose(predicted)

    return real(model.walk_refinement(base, setting, noted)[0])


@span("choice of indices")
def _again(model: Model, choose: Chooser, steps: list[Predicted]) -> NDArray[np.float32]:
    """The same of another choice by these predictions: an estimate, and no network runs for it."""
    latents = np.empty((*steps[0].where.shape, model.prior.latents), np.float32)
    for p in steps:
        latents[:, :, p.step.channels][p.where] = real(p.values(choose(p), model.tables))
    return latents


def _squared_size(model: Model, base: Base, setting: Setting) -> NDArray[np.float32]:
    """Squares of the steps at every place, [h, w], relative to the model's: an error weighs less where it is larger."""
    places = model.prior.places(model.base_features(base)[0], setting.row)
    if places is None:
        return np.ones(base.inner.shape, np.float32)
    size: NDArray[np.float32] = (2.0 ** (2 * places / PLACES_PER_OCTAVE)).astype(np.float32)
    return size


def _known(base: Base, halo: int) -> NDArray[np.float32]:
    """[h, w], 1 where the graph, which sees this tile alone, knows all that the picture is restored from; else 0."""
    whole, tile = base.indices.shape, base.tile
    known = np.ones((tile.height, tile.width), np.float32)
    known[: halo if tile.y0 else 0] = 0
    known[:, : halo if tile.x0 else 0] = 0
    known[tile.height - (halo if tile.y1 < whole[0] else 0) :] = 0
    known[:, tile.width - (halo if tile.x1 < whole[1] else 0) :] = 0
    return known
