# SPDX-License-Identifier: MIT
"""What the encoder weighs when it chooses indices, and what each effort does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqcodec.bitstream.codebook import LATENT_BITS, Classes, Floats, Ints
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.bitstream.quality import Setting
from vqcodec.model.zoo import Model
from vqcodec.options import BASE_ONLY_QUALITY
from vqcodec.spans import span

CHEAPEN_EFFORT = 2  # from here on the nearest index gives way to a cheaper one
COLOUR_EFFORT = 3  # from here on the encoder fits a colour layer,
PATCH_EFFORT = 3  # and keeps blocks without loss
ROUNDS = {4: 1, 5: 2, 6: 4, 7: 8, 8: 16, 9: 32}  # by effort, how often indices are chosen again with a better aim
# What a unit of distortion weighs in the choice, of the model's own Lagrangian, by tune: without rounds, and with some
WEIGHTS = {"psnr": (1.5, 1.0), "eye": (3.0, 3.0)}


@dataclass(frozen=True)
class Tradeoff:
    """What the choice of indices weighs: bits against distortion.

    Attributes:
        quality: 1 to 100.
        effort: 1 to 9: how much time the choice may take.
        lambda_scale: what a unit of distortion weighs (effort 2 and more), relative to the model's own Lagrangian:
            above 1 for more bits, below for fewer, by some percent.
        tune: "psnr" or "eye"; None for the model's default.
    """

    quality: int
    effort: int
    lambda_scale: float = 1.0
    tune: str | None = None

    def lagrangian(self, model: Model) -> float:
        """Bits per pixel per unit of mean squared error, for the choice of indices."""
        return self.lambda_scale * self.worth(model)

    def worth(self, model: Model) -> float:
        """The same without `lambda_scale`."""
        return WEIGHTS[model.tune(self.tune)][self.effort in ROUNDS] * model.lagrangian(self.quality)

    def setting(self, model: Model) -> Setting:
        """The rows of the model's tables."""
        return model.setting(self.quality, self.tune)

    @property
    def base_only(self) -> bool:
        """No refinement."""
        return self.quality == BASE_ONLY_QUALITY


@span("choice of indices")
def cheapen(indices: Ints, t: Floats, classes: Classes, size: Floats, tables: ClassTables, lagrangian: float) -> None:
    """Take the next index towards zero wherever rate + lambda distortion gets smaller (in place).

    A unit of squared error of a latent is 1/768 of the mean squared error of its 256 pixels (the linear transform is
    close to orthonormal), so lambda per pixel weighs it with lambda / 3 in bits.

    Args:
        indices: [n, C] int64, the nearest indices; changed.
        t: [n, C] float64, the values in steps before rounding.
        classes: [n, C] uint8 scale classes; size: [C] steps in units of 2**-LATENT_BITS.
        lagrangian: bits per pixel per unit of mean squared error.
    """
    weight = lagrangian / 3 * (size * 2.0**-LATENT_BITS) ** 2
    shrink, costs = tables.shrink * (1 / 256), tables.costs
    rows, columns = np.nonzero(indices)
    old, kind = indices[rows, columns], classes[rows, columns]
    place, sign = t[rows, columns], np.sign(old)

    def cost(index: Ints) -> Floats:
        value = index - sign * shrink[kind, np.minimum(np.abs(index), 2)]
        bits = costs[kind, np.clip(index, -256, 255) + 256]
        return np.asarray(bits + weight[columns] * (place - value) ** 2)

    new = old - sign
    indices[rows, columns] = np.where(cost(new) < cost(old), new, old)
