# SPDX-License-Identifier: MIT
"""The transforms as torch modules: pictures to latents and back, each with a linear shortcut beside its convolutions.

`export.py` writes them as ONNX graphs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.train.config import ModelConfig
from vqcodec.train.layers import STRIDE, Block, Blocks, Gain, full_precision, zero_conv


class Analysis(nn.Module):
    """Picture -> latents and the base layer's vector, with the linear shortcut beside the convolutions."""

    sigma: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        w8, w16 = c.analysis_width8, c.analysis_width16
        self.linear = nn.Conv2d(3, c.latents, STRIDE, stride=STRIDE)
        self.patch = nn.Conv2d(3, w8, 8, stride=8)
        self.blocks8 = Blocks(Block(w8) for _ in range(c.analysis_blocks8))
        self.gain8 = Gain(c.rows, w8)
        self.down = nn.Conv2d(w8, w16, 2, stride=2)
        self.blocks16 = Blocks(Block(w16) for _ in range(c.analysis_blocks16))
        self.gain16 = Gain(c.rows, w16)
        self.out = zero_conv(w16, c.latents)
        self.base_linear = nn.Conv2d(c.latents, c.codebook_dim, 1, bias=False)
        self.base_out = zero_conv(w16, c.codebook_dim)
        self.register_buffer("sigma", torch.ones(c.latents))

    def forward(self, x: Tensor, anchor_weights: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 3, H, W] float32 in [0, 1], H and W multiples of 16; anchor_weights [B, A].

        Returns:
            latents [B, M, H/16, W/16] float32 and base vectors [B, D, H/16, W/16] float32.
        """
        x = x - 0.5
        h = self.patch(x)
        h = self.blocks8(h)
        h = self.down(self.gain8(h, anchor_weights))
        h = self.blocks16(h)
        h = self.gain16(h, anchor_weights).float()
        sigma = self.sigma[:, None, None]
        y = full_precision(self.linear, x) + sigma * full_precision(self.out, h)
        z = full_precision(self.base_linear, y / sigma) + full_precision(self.base_out, h)
        return y, z


class Synthesis(nn.Module):
    """Quantised latents -> picture: mirrored, lighter, with the linear shortcut."""

    sigma: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        w8, w16 = c.synthesis_width8, c.synthesis_width16
        levels = c.rows + 1  # the last: base layer alone
        self.linear = nn.Conv2d(c.latents, 3 * STRIDE * STRIDE, 1)
        self.enter = nn.Conv2d(c.latents, w16, 1)
        self.gain_in = Gain(levels, w16)
        self.blocks16 = Blocks(Block(w16) for _ in range(c.synthesis_blocks16))
        self.gain16 = Gain(levels, w16)
        self.up = nn.Conv2d(w16, 4 * w8, 1)
        self.blocks8 = Blocks(Block(w8) for _ in range(c.synthesis_blocks8))
        self.gain8 = Gain(levels, w8)
        self.out = zero_conv(w8, 3 * 64)
        self.register_buffer("sigma", torch.ones(c.latents))

    def forward(self, y: Tensor, anchor_weights: Tensor) -> Tensor:
        """y [B, M, H/16, W/16], anchor_weights [B, A + 1] -> [B, 3, H, W] float32, nominally in [0, 1], not clipped."""
        h = self.gain_in(self.enter(y / self.sigma[:, None, None]), anchor_weights)
        h = self.blocks16(h)
        h = F.pixel_shuffle(self.up(self.gain16(h, anchor_weights)), 2)
        h = self.blocks8(h)
        h = full_precision(self.out, self.gain8(h, anchor_weights))
        return F.pixel_shuffle(full_precision(self.linear, y), STRIDE) + F.pixel_shuffle(h, 8) + 0.5
