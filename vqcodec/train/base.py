# SPDX-License-Identifier: MIT
"""Quantisers of the base layer for comparisons beside `VectorQuantiser`; each gives a `Coded`, none is exported."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.train.config import ModelConfig
from vqcodec.train.quantise import GRADIENTS, Coded, VectorQuantiser, nearest


class SimVQ(nn.Module):
    """A frozen random codebook times one learned linear map.

    Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear Layer" (2024). Unlike
    there, the map does not start at random: `start` gives the codewords the mean and the covariance of the data, as the
    k-means start does for the other codebook.
    """

    frozen: Tensor
    BETA = 0.25  # weight of the commitment beside the codebook's own loss, as in the paper

    def __init__(self, size: int, dim: int, gradient: str = "straight-through") -> None:
        super().__init__()
        self.learns = True
        self.gradient = GRADIENTS[gradient]
        self.register_buffer("frozen", torch.randn(size, dim))
        self.map = nn.Linear(dim, dim)

    @property
    def codebook(self) -> Tensor:
        """[K, D] codewords."""
        words: Tensor = self.map(self.frozen)
        return words

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Give the codewords the mean and covariance of `z` [N, D]."""
        mean = z.mean(0)
        covariance = (z - mean).T @ (z - mean) / len(z)
        values, vectors = torch.linalg.eigh(covariance.double())
        root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
        self.map.weight.copy_(root)
        self.map.bias.copy_(mean)

    def forward(self, z: Tensor, noise: bool = True) -> Coded:
        """Quantise [B, D, H, W] float32; `noise` makes no difference here."""
        b, d, h, w = z.shape
        words = self.codebook if self.learns else self.codebook.detach()
        index = nearest(z.detach().permute(0, 2, 3, 1).reshape(-1, d).float(), words.detach())
        code = words[index].view(b, h, w, d).permute(0, 3, 1, 2)
        commitment = (z - code.detach()).square().sum(1).mean()
        loss = commitment + (z.detach() - code).square().sum(1).mean() / self.BETA
        bits = z.new_full((b,), math.log2(len(words)) * h * w)
        return Coded(self.gradient(z, code.detach()), index.view(b, h, w), bits, loss)


class Residual(nn.Module):
    """Stages one after the other, each coding what the ones before left (Juang and Gray, 1982); codewords add up."""

    def __init__(self, stages: list[VectorQuantiser | SimVQ], gradient: str) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.gradient = GRADIENTS[gradient]
        self._learns = True

    @property
    def learns(self) -> bool:
        """Whether the codebooks move in training."""
        return self._learns

    @learns.setter
    def learns(self, value: bool) -> None:
        self._learns = value
        for stage in self._each():
            stage.learns = value

    def _each(self) -> list[VectorQuantiser | SimVQ]:
        return list(self.stages)  # type: ignore[arg-type]

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Start each stage on the residual of `z` [N, D] that the ones before it leave."""
        for stage in self._each():
            stage.start(z)
            z = z - stage.codebook[nearest(z, stage.codebook)]

    def forward(self, z: Tensor, noise: bool = True) -> Coded:
        """Quantise [B, D, H, W] float32; `noise` makes no difference here."""
        left, total = z, torch.zeros_like(z)
        parts: list[Coded] = []
        for stage in self._each():
            part = stage(left, noise)
            parts.append(part)
            total = total + part.code.detach()
            left = left - part.code.detach()
        indices = torch.stack([part.indices for part in parts], 1)
        bits = torch.stack([part.bits for part in parts]).sum(0)
        return Coded(self.gradient(z, total), indices, bits, torch.stack([part.loss for part in parts]).sum())


class FactorisedDensity(nn.Module):
    """One learned density per channel, of any shape; Balle et al., "Variational image compression" (2018), app. 6.1."""

    WIDTHS = (1, 3, 3, 3, 1)

    def __init__(self, channels: int, spread: float = 10.0) -> None:
        super().__init__()
        layers = list(zip(self.WIDTHS[:-1], self.WIDTHS[1:], strict=True))
        scale = spread ** (1 / len(layers))
        start = [math.log(math.expm1(1 / scale / fan_out)) for _, fan_out in layers]
        self.matrices = nn.ParameterList(
            torch.full((channels, fan_out, fan_in), value)
            for value, (fan_in, fan_out) in zip(start, layers, strict=True)
        )
        self.biases = nn.ParameterList(torch.rand(channels, fan_out, 1) - 0.5 for _, fan_out in layers)
        self.factors = nn.ParameterList(torch.zeros(channels, fan_out, 1) for _, fan_out in layers[:-1])

    def _logits(self, x: Tensor) -> Tensor:
        """Of the cumulative distribution: [C, 1, N] -> [C, 1, N], rising."""
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = F.softplus(matrix) @ x + bias
            if layer < len(self.factors):
                x = x + torch.tanh(self.factors[layer]) * torch.tanh(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Bits of the unit intervals around x [B, C, H, W], same shape."""
        b, c, h, w = x.shape
        flat = x.transpose(0, 1).reshape(c, 1, -1)
        lower, upper = self._logits(flat - 0.5), self._logits(flat + 0.5)
        sign = -torch.sign(lower + upper).detach()  # to the side where the sigmoid keeps its digits
        p = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return -torch.log2(p.clamp(min=1e-9)).view(c, b, h, w).transpose(0, 1)


class ScalarHyper(nn.Module):
    """Scalar hyper-latents: a side channel at half the grid's resolution, each value rounded on its own.

    Balle et al. (2018) and Minnen et al. (2018): noise for the rate, a learned factorised density, and here, as in the
    refinement, rounding with straight-through gradient for the value that goes on.
    """

    def __init__(self, dim: int, channels: int, width: int = 64) -> None:
        super().__init__()
        self.learns = True
        self.down = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1), nn.LeakyReLU(0.125), nn.Conv2d(width, channels, 5, stride=2, padding=2)
        )
        self.up = nn.Sequential(
            nn.Conv2d(channels, 4 * width, 3, padding=1), nn.LeakyReLU(0.125), nn.PixelShuffle(2),
            nn.Conv2d(width, dim, 3, padding=1),
        )  # fmt: skip
        self.density = FactorisedDensity(channels)

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Scale the side channel to a deviation of 2 steps on `z` [N, D], so that not all of it rounds to zero."""
        last = self.down[-1]
        assert isinstance(last, nn.Conv2d)
        spread = self.down(z[: len(z) // 64 * 64].view(-1, 8, 8, z.shape[1]).permute(0, 3, 1, 2)).std()
        last.weight.mul_(2 / spread.clamp(min=1e-6))

    def forward(self, z: Tensor, noise: bool = True) -> Coded:
        """Quantise [B, D, H, W] float32; odd sides are extended for the side channel."""
        h, w = z.shape[2:]
        y = self.down(F.pad(z, (0, w % 2, 0, h % 2), mode="replicate"))
        index = y.detach().round()
        bits = self.density(y + torch.rand_like(y) - 0.5 if noise else index)
        code = self.up(y + (index - y).detach())[:, :, :h, :w]
        return Coded(code, index.long(), bits.sum((1, 2, 3)), z.new_zeros(()))


def base_quantiser(c: ModelConfig) -> VectorQuantiser | SimVQ | Residual | ScalarHyper:
    """The base layer's quantiser of a configuration."""
    if c.base == "scalar":
        return ScalarHyper(c.codebook_dim, c.base_scalars)

    def stage() -> VectorQuantiser | SimVQ:
        if c.base_learning == "simvq":
            return SimVQ(c.codebook_size, c.codebook_dim, c.base_gradient)
        return VectorQuantiser(c.codebook_size, c.codebook_dim, gradient=c.base_gradient)

    if c.base_stages == 1:
        return stage()
    return Residual([stage() for _ in range(c.base_stages)], c.base_gradient)
