# SPDX-License-Identifier: MIT
"""Repair: masked places of a picture, made up from what is around them by the model's denoiser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Rect
from vqcodec.codec.denoise import estimated, loaded_denoiser, restored
from vqcodec.errors import UsageError
from vqcodec.model import denoiser
from vqcodec.options import DEFAULT_STEPS, MAX_SEED, MAX_STEPS, ModelName, whole_number
from vqcodec.pictures.picture import Picture
from vqcodec.threads import single_blas


def repair(
    picture: Picture,
    mask: NDArray[np.bool_],
    *,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    model: ModelName | None = None,
    threads: int = 0,
) -> Picture:
    """Make up masked places from what is around them.

    The noise that it starts from belongs to places and to the seed: the same again gives the same.

    Args:
        mask: [H, W] bool, true where the picture is to be made up. All other pixels stay as they are.
        steps: 1 to 8; more steps make more texture up, fewer stay smoother.
        seed: 0 to 2**63 - 1.

    Raises:
        ModelError: no such model, or it has no denoiser.
        UsageError: a mask of another size or an option out of range.
    """
    height, width = picture.rgb.shape[:2]
    if mask.shape != (height, width):
        raise UsageError(
            f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels and the picture {width} x {height}: "
            "they must be of one size"
        )
    steps = whole_number("steps", steps, 1, MAX_STEPS)
    noise = denoiser.gaussian(Rect(0, 0, width, height), whole_number("seed", seed, 0, MAX_SEED))
    loaded, at_once = loaded_denoiser(model, threads, (height, width))
    if not mask.any():
        return picture
    x = picture.rgb * np.float32(1 / 255)
    with single_blas():
        x = denoiser.repaired(lambda x, sigma: estimated(loaded, x, sigma, at_once), x, mask, steps, noise)
    made_up = restored(picture, x)
    return replace(made_up, rgb=np.where(mask[:, :, None], made_up.rgb, picture.rgb))
