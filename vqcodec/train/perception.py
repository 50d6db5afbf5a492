# SPDX-License-Identifier: MIT
"""How alike two pictures look, without any network trained elsewhere: local statistics of a pyramid, and MS-SSIM.

`wasserstein_distortion` follows Qiu, Wagner, Ballé and Theis, "Wasserstein Distortion: Unifying Fidelity and Realism"
(2023): features are compared by the means and deviations that they have around each place, so that texture may differ
in its details and not in its look. Features here are Laplacian bands and differences in four directions of a Gaussian
pyramid, in luma and two chroma channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 4
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_FLOOR = 0.005  # deviation below which differences in deviation count no more than they do there
_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def opponent(x: Tensor) -> Tensor:
    """RGB -> luma and two chroma differences, [B, 3, H, W]."""
    r, g, b = x.unbind(1)
    y = _LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b
    return torch.stack([y, 0.564 * (b - y), 0.713 * (r - y)], 1)


def _smooth(x: Tensor) -> Tensor:
    """Binomial filter of five taps in both directions, edges repeated."""
    kernel = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    c = x.shape[1]
    x = F.pad(x, (2, 2, 2, 2), "replicate")
    x = F.conv2d(x, kernel.view(1, 1, 1, 5).expand(c, 1, 1, 5), groups=c)
    return F.conv2d(x, kernel.view(1, 1, 5, 1).expand(c, 1, 5, 1), groups=c)


def bands(x: Tensor) -> list[Tensor]:
    """Features per level: [B, 7, H / 2**l, W / 2**l]: three Laplacian bands, four directions of luma."""
    found = []
    for _ in range(LEVELS):
        low = _smooth(x)
        luma = x[:, :1]
        right, down = luma.roll(-1, 3), luma.roll(-1, 2)
        directions = [right - luma, down - luma, down.roll(-1, 3) - luma, down - right]
        features = torch.cat([x - low, *(0.5 * d for d in directions)], 1)
        found.append(features[:, :, :-1, :-1])  # without what `roll` brought around
        x = low[:, :, ::2, ::2]
    return found


def _moments(features: Tensor, window: int) -> tuple[Tensor, Tensor]:
    window = min(window, *features.shape[2:])
    stride = max(1, window // 4)
    mean = F.avg_pool2d(features, window, stride)
    square = F.avg_pool2d(features.square(), window, stride)
    return mean, (square - mean.square()).clamp(min=0).add(1e-6).sqrt()


def wasserstein_distortion(restored: Tensor, original: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of Gaussians fitted around each place, relative to the original's deviation.

    Args:
        restored, original: [B, 3, H, W] in [0, 1], sides of 32 or more.

    Returns:
        [B], >= 0.
    """
    total = restored.new_zeros(len(restored))
    for level, (a, b) in enumerate(zip(bands(opponent(restored)), bands(opponent(original)), strict=True)):
        window = 16 if level == 0 else 8
        (mean_a, deviation_a), (mean_b, deviation_b) = _moments(a, window), _moments(b, window)
        distance = (mean_a - mean_b).square() + (deviation_a - deviation_b).square()
        total = total + (distance / (deviation_b + _FLOOR)).mean((1, 2, 3))
    return total / LEVELS


def _gaussian(x: Tensor) -> Tensor:
    """Gaussian window of 11 taps and a deviation of 1.5 pixels, without padding: [B, C, H, W] -> [B, C, H-10, W-10]."""
    taps = torch.exp(-(torch.arange(-5, 6, device=x.device, dtype=x.dtype) ** 2) / (2 * 1.5**2))
    taps = taps / taps.sum()
    c = x.shape[1]
    x = F.conv2d(x, taps.view(1, 1, 11, 1).expand(c, 1, 11, 1), groups=c)
    return F.conv2d(x, taps.view(1, 1, 1, 11).expand(c, 1, 1, 11), groups=c)


def ms_ssim(restored: Tensor, original: Tensor) -> Tensor:
    """Multi-scale structural similarity of the three channels (Wang, Simoncelli and Bovik, 2003).

    Sides of 176 pixels or more have all five scales; smaller ones as many as the window fits, their weights made to
    sum to one.

    Args:
        restored, original: [B, 3, H, W] float32 in [0, 1], sides of 11 or more.

    Returns:
        [B], at most 1.
    """
    with torch.autocast(restored.device.type, enabled=False):  # in bfloat16 nothing is left of small variances
        return _ms_ssim(restored.float(), original.float())


def _ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    side = min(a.shape[2:])
    scales = max(n for n in range(1, 6) if side >> (n - 1) >= 11)
    weights = _SSIM_WEIGHTS[:scales]
    product = a.new_ones(a.shape[:2])
    for scale, weight in enumerate(weights):
        mean_a, mean_b, aa, bb, ab = _gaussian(torch.cat([a, b, a * a, b * b, a * b], 1)).chunk(5, 1)
        variances = (aa - mean_a.square()) + (bb - mean_b.square())
        similar = (2 * (ab - mean_a * mean_b) + 9e-4) / (variances + 9e-4)
        if scale == scales - 1:
            similar = similar * (2 * mean_a * mean_b + 1e-4) / (mean_a.square() + mean_b.square() + 1e-4)
        product = product * similar.mean((2, 3)).clamp(min=1e-3) ** (weight / sum(weights))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return product.mean(1)
