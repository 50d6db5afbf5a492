# SPDX-License-Identifier: MIT
"""Rate and distortion as training sees them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Of sigma / step. The lower bound lies far below the lowest coded class: uniform noise costs about 1.5 sigma bits even
# where nothing is to be said, and at sigma = 0.1 times 320 channels that floor alone would be 0.19 bpp.
SCALE_MIN_LOG2 = -7.0
SCALE_MAX_LOG2 = 7.5


def gaussian_bits(t: Tensor, log2_scale: Tensor) -> Tensor:
    """Bits of integer-width bins of a zero-mean Gaussian (Balle et al., "Variational image compression", 2018).

    Args:
        t: the (noisy) index relative to its predicted mean, any shape.
        log2_scale: log2 of the standard deviation in units of the step, same shape.

    Returns:
        bits per element, same shape, >= 0.
    """
    log2_scale = log2_scale.clamp(SCALE_MIN_LOG2, SCALE_MAX_LOG2)
    inverse = torch.exp2(-log2_scale) * (0.5**0.5)
    a = t.abs()
    # 0.5 (erf(b) - erf(a)) with both arguments mirrored to the side where erfc keeps its digits
    upper, lower = (a + 0.5) * inverse, (a - 0.5) * inverse
    p = 0.5 * (torch.special.erfc(lower) - torch.special.erfc(upper))
    # Far out, where float32 has nothing left, a quadratic continues the tail and keeps a gradient.
    tail = lower.clamp(min=4.5)
    bits = -torch.log2(p.clamp(min=1e-10))
    total: Tensor = bits + (tail.square() - 4.5**2) * 1.4427 * (p < 1e-9)
    return total


def mse_per_sample(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error over each picture, [B]."""
    mse: Tensor = (x - y).float().square().mean((1, 2, 3))
    return mse


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on [0, 1] samples."""
    return 99.0 if mse <= 0 else -10 * math.log10(mse)
