# SPDX-License-Identifier: MIT
"""The whole model as one torch module: a batch of pictures through transforms, quantisers and prior, and back."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.codec.tradeoff import WEIGHTS
from vqcodec.train.config import ModelConfig
from vqcodec.train.layers import STRIDE
from vqcodec.train.losses import gaussian_bits
from vqcodec.train.prior import RefinementPrior
from vqcodec.train.quantise import BaseCoded, Quantisation, VectorQuantiser
from vqcodec.train.transforms import Analysis, Synthesis


class Coded(NamedTuple):
    """A batch as a file holds it."""

    latents: Tensor  # [B, M, h, w] quantised
    base_mean: Tensor  # [B, M, h, w] latents of the base layer alone
    noisy: Tensor  # [B, M, h, w] (noisy) indices relative to their means
    log2_scale: Tensor  # [B, M, h, w] of their Gaussians' deviations
    base: BaseCoded
    weights: Tensor  # [B, R] anchor weights


class Analysed(NamedTuple):
    """A batch before the refinement's prior: all that its steps start from."""

    y: Tensor  # [B, M, h, w] latents
    features: Tensor  # [B, N, h, w] of the base layer
    base_mean: Tensor  # [B, M, h, w] latents of the base layer alone
    step_size: Tensor  # [B, M, h, w]
    weights: Tensor  # [B, R] anchor weights
    worth: Tensor  # [B, M, 1, 1] bits that a squared error of one step is worth
    base: BaseCoded


class Output(NamedTuple):
    """What one pass gives: pictures, bits of each sample's refinement, and the base layer's parts."""

    restored: Tensor  # [B, 3, H, W]
    bits: Tensor  # [B] refinement bits
    base_bits: Tensor  # [B] the base layer's bits, of equally likely indices
    base_restored: Tensor | None  # [b, 3, H, W] from the base layer alone
    commitment: Tensor  # scalar: `BaseCoded.loss`
    indices: Tensor  # [B, h, w] int64 base indices


class Codec(nn.Module):
    """The whole model. Weights of the parts are exported one by one."""

    choice: Tensor  # [R] what the encoder's choice of indices multiplies lambda by

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = Analysis(config)
        self.synthesis = Synthesis(config)
        self.quantiser = VectorQuantiser(config.codebook_size, config.codebook_dim)
        self.prior = RefinementPrior(config)
        # High-resolution theory: with step d the error is d^2/12 and lambda = 26 / d^2 (per pixel, three samples).
        anchors = torch.linspace(0, 1, config.anchors)
        log_lambda = math.log(config.lambda_min) + anchors * math.log(config.lambda_max / config.lambda_min)
        start = 0.5 * (math.log(26.0) - log_lambda)
        choice = torch.tensor([WEIGHTS[tune][0] for tune in config.tunes]).repeat_interleave(config.anchors)
        self.register_buffer("choice", choice, persistent=False)
        self.log_step = nn.Parameter(start[:, None].repeat(len(config.tunes), config.latents))

    def anchor_weights(self, level: Tensor, tune: Tensor | None = None) -> Tensor:
        """Interpolation weights of a level on the anchors of a tune; zero on the anchors of the other tunes.

        Args:
            level: [B] float32 in [0, 1].
            tune: [B] int64, places in `ModelConfig.tunes`; None: the first for all.

        Returns:
            [B, R] float32 with R = tunes * anchors, rows summing to 1.
        """
        count = self.config.anchors
        anchors = torch.arange(count, device=level.device)
        weights = (1 - (level[:, None] * (count - 1) - anchors).abs()).clamp(min=0)
        if tune is None:
            return F.pad(weights, (0, self.config.rows - count))
        chosen = F.one_hot(tune, len(self.config.tunes)).to(weights.dtype)
        return (chosen[:, :, None] * weights[:, None]).flatten(1)

    def lambda_of(self, level: Tensor) -> Tensor:
        """Lagrangian weight of the squared error at a level in [0, 1]."""
        ratio = math.log(self.config.lambda_max / self.config.lambda_min)
        return self.config.lambda_min * torch.exp(level * ratio)

    def step_size(self, anchor_weights: Tensor) -> Tensor:
        """Quantiser step of every latent channel: [B, R] -> [B, M, 1, 1]."""
        with torch.autocast(anchor_weights.device.type, enabled=False):
            return torch.exp(anchor_weights @ self.log_step)[:, :, None, None]

    def analyse(self, x: Tensor, level: Tensor, tune: Tensor | None = None) -> Analysed:
        """Analyse a batch and quantise its base layer; the arguments are those of `forward`."""
        weights = self.anchor_weights(level, tune)
        y, z = self.analysis(x, weights)
        with torch.autocast(x.device.type, enabled=False):
            base = self.quantiser(z.float())
        features, base_mean = self.prior.base(base.code)
        step_size = self.step_size(weights)
        # A squared error of a latent is 1/768 of the mean squared error of its 256 pixels
        worth = (weights @ self.choice * self.lambda_of(level))[:, None, None, None] / 3 * step_size.square()
        by_place = step_size * torch.exp2(self.prior.log2_place(features, weights))
        return Analysed(y, features, base_mean, by_place, weights, worth, base)

    def code(
        self,
        x: Tensor,
        level: Tensor,
        tune: Tensor | None = None,
        quantisation: Quantisation = Quantisation.NOISE,
    ) -> Coded:
        """Analyse and quantise a batch; the arguments are those of `forward`."""
        a = self.analyse(x, level, tune)
        latents, noisy, log2_scale = self.prior(
            a.y, a.features, a.base_mean, a.step_size, a.weights, quantisation, a.worth
        )
        return Coded(latents, a.base_mean, noisy, log2_scale, a.base, a.weights)

    def refinement_bits(self, a: Analysed) -> Tensor:
        """Bits [B] of the refinement of an analysed batch, with noise for the rounding."""
        _, noisy, log2_scale = self.prior(a.y, a.features, a.base_mean, a.step_size, a.weights)
        return gaussian_bits(noisy, log2_scale).sum((1, 2, 3))

    def base_only_weights(self, count: int) -> Tensor:
        """The synthesis's weights for pictures restored from the base layer alone, [count, R + 1]."""
        last = torch.full((count,), self.config.rows, device=self.log_step.device)
        return F.one_hot(last, self.config.rows + 1).to(self.log_step.dtype)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        tune: Tensor | None = None,
        base_only: int = 0,
        quantisation: Quantisation = Quantisation.NOISE,
    ) -> Output:
        """Code and restore a batch.

        Args:
            x: [B, 3, H, W] float32 in [0, 1].
            level: [B] float32 in [0, 1], the place on the quality scale of each sample.
            tune: [B] int64, places in `ModelConfig.tunes`; None: the first for all.
            base_only: restore the first so many samples from the base layer alone as well.
            quantisation: of the refinement layer.
        """
        coded = self.code(x, level, tune, quantisation)
        bits = gaussian_bits(coded.noisy, coded.log2_scale).sum((1, 2, 3))
        restored = self.synthesis(coded.latents, F.pad(coded.weights, (0, 1)))
        base_restored = None
        if base_only:
            base_restored = self.synthesis(coded.base_mean[:base_only], self.base_only_weights(base_only))
        return Output(restored, bits, coded.base.bits, base_restored, coded.base.loss, coded.base.indices)


@torch.no_grad()
def start_linear(model: Codec, basis: Tensor, sigma: Tensor, mean: Tensor) -> None:
    """Set the linear shortcuts and everything that is scaled by the latents' deviations.

    Args:
        basis: [M, 768] orthonormal rows over (channel, row, column) of a 16x16 block of x - 0.5.
        sigma: [M] standard deviation of each coefficient on the training pictures.
        mean: [M] mean of each coefficient, taken away by the analysis's bias.
    """
    m = len(basis)
    sigma = sigma.clamp(min=0.01)
    assert model.analysis.linear.bias is not None
    assert model.synthesis.linear.bias is not None
    model.analysis.linear.weight.copy_(basis.view(m, 3, STRIDE, STRIDE))
    model.analysis.linear.bias.copy_(-mean)
    model.synthesis.linear.weight.copy_(basis.T[:, :, None, None])  # in pixel-shuffle order: (channel, row, column)
    model.synthesis.linear.bias.copy_(basis.T @ mean)
    for part in (model.analysis, model.synthesis, model.prior):
        part.sigma.copy_(sigma)
    d = model.config.codebook_dim
    weight = torch.zeros(d, m)
    weight[torch.arange(d), torch.arange(d)] = (sigma[:d] / sigma[0]) ** 0.7
    model.analysis.base_linear.weight.copy_(weight[:, :, None, None])
