# SPDX-License-Identifier: MIT
"""The adversary of the realistic decoder: does each patch look like a photograph, given what was decoded?

A patch discriminator (Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017) that sees
the quantised latents as its condition, as in HiFiC (Mentzer et al., 2020), with spectral normalisation (Miyato et al.,
2018) of all layers but the last. Beside the picture it gets its fine detail, amplified: what texture differs by is a
few levels of 255, too faint for layers that may not amplify.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vqcodec.train.config import ModelConfig
from vqcodec.train.layers import full_precision

CONDITION = 16
_SLOPE = 0.2
_AMPLIFIED = 6.0


class Discriminator(nn.Module):
    """Pictures and latents -> a judgement per 8 x 8 pixels, above zero for an original."""

    sigma: Tensor

    def __init__(self, c: ModelConfig, width: int = 32) -> None:
        super().__init__()
        self.condition = spectral_norm(nn.Conv2d(c.latents, CONDITION, 1))
        self.layers = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(6, width, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv2d(4 * width + CONDITION, 4 * width, 3, padding=1)),
            ]
        )
        self.out = nn.Conv2d(4 * width, 1, 1)
        self.register_buffer("sigma", torch.ones(c.latents))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x [B, 3, H, W] in [0, 1], y [B, M, H/16, W/16] -> judgements [B, 1, H/8, W/8] and the layers' features."""
        condition = F.leaky_relu(self.condition(y / self.sigma[:, None, None]), _SLOPE)
        detail = x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), "reflect"), 5, 1)
        h, features = torch.cat([2 * x - 1, _AMPLIFIED * detail], 1), []
        for layer in self.layers:
            if layer is self.layers[-1]:
                h = torch.cat([h, F.interpolate(condition, scale_factor=2)], 1)
            h = F.leaky_relu(layer(h), _SLOPE)
            features.append(h)
        return full_precision(self.out, h), features


def judge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises: the hinge loss (Lim and Ye, 2017)."""
    loss: Tensor = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return loss


def feature_distance(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean absolute difference of the discriminator's features (Wang et al., pix2pixHD, 2018), per sample: [B]."""
    parts = [(a.float() - b.detach().float()).abs().mean((1, 2, 3)) for a, b in zip(fake, real, strict=True)]
    return torch.stack(parts).mean(0)
