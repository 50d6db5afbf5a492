# SPDX-License-Identifier: MIT
"""The second synthesis network: quantised latents and the faithful picture -> texture to add to that picture.

It learns as the generator of `realistic.py`. What it adds is made of noise whose spectrum and strength the decoded
latents decide, and of a correction without noise; how much is wanted, the realism, is one of its inputs (Agustsson et
al., "Multi-Realism Image Compression with a Conditional Generator", CVPR 2023). At realism 0 nothing is added.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.train.config import ModelConfig, TextureConfig
from vqcodec.train.layers import SLOPE, Block, Blocks, Gain, full_precision, zero_conv


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():  # starts small
            self.leave.weight.mul_(0.3)
            assert self.leave.bias is not None
            self.leave.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        h: Tensor = x + self.leave(F.leaky_relu(self.enter(x), SLOPE))
        return h


class Grain(nn.Module):
    """Noise through learned filters, each as strong as the features say at that place."""

    def __init__(self, width: int, stride: int, size: int) -> None:
        super().__init__()
        self.filters = nn.Conv2d(1, width, size, stride=stride, padding=(size - stride) // 2, bias=False)
        self.strength = zero_conv(width, width)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x [B, C, H/s, W/s], noise [B, 1, H, W] of variance 1 -> x with the noise added."""
        out: Tensor = x + self.filters(noise) * self.strength(x)
        return out


class Texture(nn.Module):
    """Latents, faithful picture, quality, realism and noise -> the realistic picture.

    Fixed filters, learned, run over the noise and over the faithful picture; what the network gives is how strong each
    is at a place, in maps at a quarter of the resolution that are interpolated. Nothing knows where in a block of
    pixels it is: with pixel shuffle in place of interpolation, the texture was a grid.
    """

    sigma: Tensor

    def __init__(self, c: ModelConfig, t: TextureConfig) -> None:
        super().__init__()
        self.config = t
        levels = 2 * (c.rows + 1)  # of the quality, and of the quality times the realism
        self.enter = nn.Conv2d(c.latents, t.width16, 1)
        self.gain16 = Gain(levels, t.width16)
        self.blocks16 = Blocks(Block(t.width16) for _ in range(t.blocks16))
        self.up8 = nn.Conv2d(t.width16, t.width8, 1)
        self.grain8 = Grain(t.width8, 8, 16)
        self.gain8 = Gain(levels, t.width8)
        self.blocks8 = Blocks(Block(t.width8) for _ in range(t.blocks8))
        self.up4 = nn.Conv2d(t.width8, t.width4, 1)
        self.see = nn.Conv2d(3, t.width4, 8, stride=4, padding=2)
        self.grain4 = Grain(t.width4, 4, 12)
        self.gain4 = Gain(levels, t.width4)
        self.blocks4 = nn.ModuleList(Residual(t.width4) for _ in range(t.blocks4))
        self.gain_out = Gain(levels, t.width4)
        self.strengths = zero_conv(t.width4, t.noise_filters + t.picture_filters)
        self.noise_filters = nn.Conv2d(1, t.noise_filters, t.noise_size, padding=t.noise_size // 2, bias=False)
        self.picture_filters = nn.Conv2d(3, t.picture_filters, 5, padding=2, bias=False)
        self.out = nn.Conv2d(t.noise_filters + t.picture_filters, 3, 1, bias=False)
        with torch.no_grad():  # each filter starts with noise of variance 1, and mostly gray
            kernels = self.noise_filters.weight
            kernels.copy_(kernels / kernels.square().sum((1, 2, 3), keepdim=True).sqrt())
            self.out.weight.copy_(
                0.1 * torch.randn(1, *self.out.weight.shape[1:]) + 0.02 * torch.randn(self.out.weight.shape)
            )
        self.register_buffer("sigma", torch.ones(c.latents))

    def forward(self, y: Tensor, x: Tensor, hat: Tensor, realism: Tensor, noise: Tensor) -> Tensor:
        """Restore.

        Args:
            y: [B, M, H/16, W/16] quantised latents.
            x: [B, 3, H, W] the faithful picture, not clipped.
            hat: [B, A + 1] as `Synthesis` takes it.
            realism: [B, 1] in [0, 1].
            noise: [B, 1, H, W], mean 0 and variance 1.

        Returns:
            [B, 3, H, W], not clipped.
        """
        both = torch.cat([hat, realism * hat], 1)
        seen = x - 0.5
        h = self.blocks16(self.gain16(self.enter(y / self.sigma[:, None, None]), both))
        h = interpolated(self.up8(h), 2)
        h = self.blocks8(self.gain8(self.grain8(h, noise), both))
        h = interpolated(self.up4(h), 2) + self.see(seen)
        h = self.gain4(self.grain4(F.leaky_relu(h, SLOPE), noise), both)
        for block in self.blocks4:
            h = block(h)
        strengths = interpolated(self.strengths(self.gain_out(h, both)), 4)
        filtered = torch.cat([self.noise_filters(noise), self.picture_filters(seen)], 1)
        added = full_precision(self.out, strengths * filtered)
        return x + realism[:, :, None, None] * added


def interpolated(x: Tensor, times: int) -> Tensor:
    """Bilinear interpolation to `times` the height and width."""
    return F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=False)


def halo(t: TextureConfig, synthesis_halo: int) -> int:
    """Reach beyond a latent's own block, in latents, the faithful picture's own reach included."""
    quarter = 1 + 2 * t.blocks4  # in samples of each resolution; interpolation reaches one further
    eighth = -(-quarter // 2) + 1 + t.blocks8
    sixteenth = -(-eighth // 2) + 1 + t.blocks16
    picture = 4 * quarter + 2  # in pixels; the layer that sees it reaches two further
    return max(sixteenth, -(-picture // 16) + synthesis_halo)
