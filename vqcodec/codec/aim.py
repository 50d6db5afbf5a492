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

from vqcodec.bitstream.codebook import Floats, Ints, Setting, real
from vqcodec.model.prior import PLACES_PER_OCTAVE
from vqcodec.model.walk import Base
from vqcodec.model.zoo import Model
from vqcodec.spans import span

CURVATURE = 0.8  # of the error along a latent, of what it would be for an orthonormal synthesis
NEW = 0.5  # how much of a later round's correction replaces the one before: latents that change together overshoot

Coded = tuple[bytes, Ints, Floats]  # payload, indices [h, w, M], latents [h, w, M] (2**-LATENT_BITS)
# Latents [h, w, M] to aim at, the factor on the weight of their error, whether it is the last choice -> the choice
Choose = Callable[[NDArray[np.float32], float, bool], Coded]


def improve(
    model: Model, rounds: int, rgb: NDArray[np.uint8], latents: NDArray[np.float32], base: Base, setting: Setting,
    choose: Choose,
) -> Coded:  # fmt: skip
    """Choose again and again, aiming better each time.

    Args:
        model: with its graph `aim`.
        rounds: choices after the first.
        rgb: [16 h, 16 w, 3] uint8, the pixels to restore.
        latents: [h, w, M], the analysis transform's.
        base: the base layer of the tile and around it.
        setting: quality 2 to 100, and tune.
        choose: one choice.

    Returns:
        the last choice.
    """
    x = np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32)[None]
    x *= np.float32(1 / 255)
    size = _squared_size(model, base, setting)
    weight = np.repeat(np.repeat(np.float32(1) / size, 16, 0), 16, 1)[None, None]
    hat = model.anchor_weights(setting).astype(np.float32)[None]
    reach = (0.5 / CURVATURE * size * _known(base, model.synthesis_halo))[:, :, None]
    coded, correction = choose(latents, 1.0, False), np.zeros((), np.float32)
    for number in range(rounds):
        decoded = real(coded[2])
        slopes = model.aim(y=np.ascontiguousarray(decoded.transpose(2, 0, 1))[None], x=x, hat=hat, weight=weight)
        with span("choice of indices"):
            found = (latents - decoded) * (reach > 0) + reach * slopes
            correction = correction + (NEW if number else 1) * (found - correction)
        coded = choose(latents - correction, CURVATURE, number + 1 == rounds)
    return coded


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
