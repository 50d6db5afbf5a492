# SPDX-License-Identifier: MIT
"""Layers that all networks share: residual blocks, gains per quality, convolutions in full precision.

Everything works at 1/8 and 1/16 of the picture's resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
STRIDE = 16
SLOPE = 0.125  # of the leaky rectifiers: a power of two, so that the integer prior has it exactly


class Block(nn.Module):
    """Residual block: [1x1, activation, depthwise 3x3, 1x1], then [1x1, activation, 1x1] (widths C and 2C)."""

    def __init__(self, width: int, ffn: bool = True) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.leave = nn.Conv2d(width, width, 1)
        self.ffn = ffn
        if ffn:
            self.expand = nn.Conv2d(width, 2 * width, 1)
            self.reduce = nn.Conv2d(2 * width, width, 1)
        with torch.no_grad():  # residual branches start small
            for layer in (self.leave, *((self.reduce,) if ffn else ())):
                layer.weight.mul_(0.3)
                layer.bias.zero_()

    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order in which they work."""
        return ("enter", "depthwise", "leave", *(("expand", "reduce") if self.ffn else ()))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        x = x + self.leave(self.depthwise(F.leaky_relu(self.enter(x), SLOPE)))
        if self.ffn:
            x = x + self.reduce(F.leaky_relu(self.expand(x), SLOPE))
        return x


class Gain(nn.Module):
    """Gain of every channel: 1 + a vector interpolated between the anchors of the quality scale."""

    def __init__(self, anchors: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(anchors, width))

    def forward(self, x: Tensor, anchor_weights: Tensor) -> Tensor:
        """x [B, C, H, W], anchor_weights [B, A] -> [B, C, H, W]."""
        with torch.autocast(x.device.type, enabled=False):
            gain = 1 + anchor_weights @ self.table
        return x * gain[:, :, None, None].to(x.dtype)


def channels_last(module: M, device: torch.device) -> M:
    """Move a module to a device, its weights in the order that convolutions are fastest with."""
    moved: Any = module.to(device)
    return cast(M, moved.to(memory_format=torch.channels_last))


def zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that starts at zero: the branch it ends starts silent."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def full_precision(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Run one convolution outside autocast, where bfloat16 would cost picture quality.

    A 1x1 convolution is computed as a matrix product: torch's float32 convolution on a CPU is several times slower.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        if layer.kernel_size != (1, 1):
            return cast(Tensor, layer(x))
        return F.linear(x.permute(0, 2, 3, 1), layer.weight[:, :, 0, 0], layer.bias).permute(0, 3, 1, 2)


class Blocks(nn.ModuleList):
    """A list of residual blocks, typed."""

    def __iter__(self) -> Iterator[Block]:
        return cast(Iterator[Block], super().__iter__())

    def forward(self, x: Tensor) -> Tensor:
        """One after the other: [B, C, H, W] -> the same shape."""
        for block in self:
            x = block(x)
        return x
