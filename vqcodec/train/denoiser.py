# SPDX-License-Identifier: MIT
"""The denoiser's network, what it learns, and its ONNX graph. The phase that trains it is denoising.py.

D(x, sigma, condition) = c_skip x + c_out F(c_in x, c_noise, condition), with the factors of Karras et al. ("Elucidating
the Design Space of Diffusion-Based Generative Models", NeurIPS 2022): F's input and target have variance 1 at every
noise level, and D(x, 0) = x. F is a U of residual blocks at 1/2, 1/4 and 1/8 of the resolution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.model.denoiser import CONDITION, SIDE
from vqcodec.train.config import DenoiserConfig
from vqcodec.train.graph import Graph, array
from vqcodec.train.layers import Block, Blocks

SIGMA_DATA = 0.25  # standard deviation of pictures around 0.5
SIGMA_FLOOR = 1e-3  # of the noise level that the network is told
KNOWN = 1e-5  # a sigma below it is none


class Factors(NamedTuple):
    """The factors of the preconditioning, each of sigma's shape."""

    skip: Tensor
    out: Tensor
    enter: Tensor
    noise: Tensor


def factors(sigma: Tensor) -> Factors:
    """Of noise levels sigma >= 0, of any shape."""
    total = sigma.square() + SIGMA_DATA**2
    root = total.sqrt()
    return Factors(SIGMA_DATA**2 / total, SIGMA_DATA * sigma / root, 1 / root, 0.25 * torch.log(sigma + SIGMA_FLOOR))


class Denoiser(nn.Module):
    """Picture with noise, noise level, condition -> picture. No layer at full resolution but the first."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = c = config
        self.enter = nn.Conv2d(3 + 1 + CONDITION, c.width2, 6, stride=2, padding=2)
        self.blocks2 = Blocks(Block(c.width2) for _ in range(c.blocks2))
        self.down4 = nn.Conv2d(c.width2, c.width4, 2, stride=2)
        self.blocks4 = Blocks(Block(c.width4) for _ in range(c.blocks4))
        self.down8 = nn.Conv2d(c.width4, c.width8, 2, stride=2)
        self.blocks8 = Blocks(Block(c.width8) for _ in range(c.blocks8))
        self.up4 = nn.Conv2d(c.width8, 4 * c.width4, 1)
        self.back4 = Blocks(Block(c.width4) for _ in range(c.blocks4))
        self.up2 = nn.Conv2d(c.width4, 4 * c.width2, 1)
        self.back2 = Blocks(Block(c.width2) for _ in range(c.blocks2))
        self.leave = nn.Conv2d(c.width2, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def raw(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """F: x [B, 3, H, W] (minus 0.5), sigma [B, 1, H, W], condition [B, 4, H, W] -> [B, 3, H, W] of variance 1."""
        f = factors(sigma)
        h2 = self.blocks2(self.enter(torch.cat([f.enter * x, f.noise, condition], 1)))
        h4 = self.blocks4(self.down4(h2))
        h8 = self.blocks8(self.down8(h4))
        h4 = self.back4(h4 + F.pixel_shuffle(self.up4(h8), 2))
        h2 = self.back2(h2 + F.pixel_shuffle(self.up2(h4), 2))
        out: Tensor = F.pixel_shuffle(self.leave(h2), 2).float()
        return out

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """D: x [B, 3, H, W] in [0, 1] plus noise, sigma [B, 1, H, W], condition [B, 4, H, W] -> [B, 3, H, W].

        H and W are multiples of 8.
        """
        f = factors(sigma)
        x = x - 0.5
        return f.skip * x + f.out * self.raw(x, sigma, condition) + 0.5


def objective(network: Denoiser, clean: Tensor, noisy: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
    """Squared error of F against its target where there is noise, mean over each picture, [B].

    It is the squared error of D divided by c_out squared: every noise level counts alike, and 1 is the error of a
    network that knows nothing.
    """
    f = factors(sigma)
    unknown = (sigma > KNOWN).float()
    target = (clean - 0.5 - f.skip * (noisy - 0.5)) / f.out.clamp(min=KNOWN)
    error = (network.raw(noisy - 0.5, sigma, condition) - target).square().mean(1, keepdim=True) * unknown
    total: Tensor = error.sum((1, 2, 3)) / unknown.sum((1, 2, 3)).clamp(min=1)
    return total


def operations(config: DenoiserConfig) -> float:
    """Multiplications per pixel of one estimate."""
    c = config
    block = [6 * width**2 + 9 * width for width in (c.width2, c.width4, c.width8)]
    at2 = 36 * (3 + 1 + CONDITION) * c.width2 + 2 * c.blocks2 * block[0] + 12 * 9 * c.width2
    at4 = 4 * c.width2 * c.width4 + 2 * c.blocks4 * block[1] + 4 * c.width4 * c.width2
    at8 = 4 * c.width4 * c.width8 + c.blocks8 * block[2] + 4 * c.width8 * c.width4
    return at2 / 4 + at4 / 16 + at8 / 64


def halo(config: DenoiserConfig) -> int:
    """How far in pixels an estimate looks beyond its own pixel; a multiple of SIDE."""
    c = config
    reach = 2 + 2 * (2 * c.blocks2 + 1) + 4 * 2 * c.blocks4 + 8 * c.blocks8 + SIDE
    return -(-reach // SIDE) * SIDE


def denoiser_graph(network: Denoiser) -> bytes:
    """D as `model.denoiser.Denoiser` runs it.

    Inputs: x [1, 3, H, W], sigma [1, 1, H, W], condition [1, 4, H, W]. Output: y [1, 3, H, W].
    """
    n, c, g = network, network.config, Graph()
    half = g.scalar(0.5)
    x = g.sub("x", half)
    total = g.add(g.mul("sigma", "sigma"), g.scalar(SIGMA_DATA**2))
    root = g.node("Sqrt", [total])
    level = g.mul(g.node("Log", [g.add("sigma", g.scalar(SIGMA_FLOOR))]), g.scalar(0.25))
    seen = g.node("Concat", [g.node("Div", [x, root]), level, "condition"], axis=1)
    assert n.enter.bias is not None
    h2 = g.convolve(seen, array(n.enter.weight), array(n.enter.bias), 2, 2)
    for block in n.blocks2:
        h2 = g.block(h2, block)
    h4 = g.conv(h2, n.down4)
    for block in n.blocks4:
        h4 = g.block(h4, block)
    h8 = g.conv(h4, n.down8)
    for block in n.blocks8:
        h8 = g.block(h8, block)
    h4 = g.add(h4, g.depth_to_space(g.conv(h8, n.up4), 2, c.width4))
    for block in n.back4:
        h4 = g.block(h4, block)
    h2 = g.add(h2, g.depth_to_space(g.conv(h4, n.up2), 2, c.width2))
    for block in n.back2:
        h2 = g.block(h2, block)
    raw = g.depth_to_space(g.conv(h2, n.leave), 2, 3)
    kept = g.mul(x, g.node("Div", [g.scalar(SIGMA_DATA**2), total]))
    added = g.mul(raw, g.node("Div", [g.mul("sigma", g.scalar(SIGMA_DATA)), root]))
    y = g.add(g.add(kept, added), half)
    g.rename(y, "y")
    shapes = {"x": [1, 3, "H", "W"], "sigma": [1, 1, "H", "W"], "condition": [1, CONDITION, "H", "W"]}
    return g.serialise(shapes, {"y": [1, 3, "H", "W"]})


def conditions(picture: Tensor | None, like: Tensor) -> Tensor:
    """The condition planes [B, 4, H, W] of decoded pictures [B, 3, H, W]; of none, zeros."""
    if picture is None:
        return torch.zeros_like(like[:, :1]).expand(-1, CONDITION, -1, -1)
    return torch.cat([picture - 0.5, torch.ones_like(picture[:, :1])], 1)


def parameters(network: nn.Module) -> int:
    """Number of weights."""
    return int(np.sum([p.numel() for p in network.parameters()]))
