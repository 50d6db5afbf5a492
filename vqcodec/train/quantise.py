# SPDX-License-Identifier: MIT
"""The two quantisers of training: the base layer's vector quantiser and the refinement's scalar quantiser."""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vqcodec.train.losses import gaussian_bits


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum over processes when there are several; the tensor itself otherwise."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codeword in squared Euclidean distance.

    Args:
        z: [N, D] float32.
        codebook: [K, D] float32.

    Returns:
        [N] int64 in [0, K).
    """
    norms = codebook.square().sum(1)
    rows = max(1, 2**26 // len(codebook))  # bounds the memory of a large codebook
    return torch.cat([(norms - 2 * part @ codebook.T).argmin(1) for part in torch.split(z, rows)])


class BaseCoded(NamedTuple):
    """What a quantiser of the base layer gives."""

    code: Tensor  # [B, D, H, W] float32, with the gradient that the analysis learns from
    indices: Tensor  # [B, H, W] int64
    bits: Tensor  # [B] bits of equally likely indices
    loss: Tensor  # scalar: commitment


class VectorQuantiser(nn.Module):
    """One learned codebook with straight-through gradients and exponential-moving-average updates.

    van den Oord et al., "Neural Discrete Representation Learning" (2017); the averages follow appendix A.1, and
    codewords that nothing chooses are restarted on data (Dhariwal et al., "Jukebox", 2020).
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.learns = True  # False: the codebook stays as it is
        self.register_buffer("codebook", torch.randn(size, dim) * 0.1)
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", torch.zeros(size, dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def start(self, z: Tensor, rounds: int = 12) -> None:
        """Set the codebook by k-means (Lloyd) on `z` [N, D], N at least a few times the codebook's size."""
        size = self.codebook.shape[0]
        centres = z[torch.randperm(len(z), device=z.device)[:size]].clone()
        if len(centres) < size:
            centres = centres[torch.randint(len(centres), (size,), device=z.device)]
            centres = centres + 0.01 * torch.randn_like(centres)
        for _ in range(rounds):
            index = nearest(z, centres)
            counts = torch.bincount(index, minlength=size).to(z.dtype)
            sums = torch.zeros_like(centres).index_add_(0, index, z)
            centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        self.codebook.copy_(centres)
        self.counts.copy_(counts.clamp(min=1) / counts.sum() * size)
        self.sums.copy_(centres * self.counts[:, None])
        self.started.fill_(True)

    def forward(self, z: Tensor) -> BaseCoded:
        """Quantise [B, D, H, W] float32."""
        flat = z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
        index = nearest(flat, self.codebook)
        if self.training and self.learns:
            self._update(flat, index)
        code = self.codebook[index].view(z.shape[0], z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)
        index = index.view(z.shape[0], z.shape[2], z.shape[3])
        bits = z.new_full((len(z),), math.log2(len(self.codebook)) * index[0].numel())
        commitment = (z - code.detach()).square().sum(1).mean()
        # The codeword, with the gradient passed on to `z` as it is (Bengio et al., 2013)
        return BaseCoded(z + (code - z).detach(), index, bits, commitment)

    @torch.no_grad()
    def _update(self, flat: Tensor, index: Tensor) -> None:
        size = self.codebook.shape[0]
        counts = all_reduce(torch.bincount(index, minlength=size).float())
        sums = all_reduce(torch.zeros_like(self.sums).index_add_(0, index, flat))
        # The averages are per step; a codeword's expected count per step may be far below one.
        scale = size / counts.sum()
        self.counts.lerp_(counts * scale, 1 - self.decay)
        self.sums.lerp_(sums * scale, 1 - self.decay)
        # Dead codewords restart on data. Written without a branch, so that a GPU need not be waited for.
        dead = self.counts < 0.02
        fresh = flat[torch.randint(len(flat), (size,), device=flat.device)]
        if dist.is_initialized():
            dist.broadcast(fresh, 0)
        self.sums.copy_(torch.where(dead[:, None], fresh, self.sums))
        self.counts.masked_fill_(dead, 1.0)
        self.codebook.copy_(self.sums / self.counts[:, None])


class Quantisation(Enum):
    """What becomes of a latent on its way through the refinement layer."""

    NOISE = "noise"  # the nearest index goes on, and the rate is that of a value with uniform noise: training
    NEAREST = "nearest"  # the nearest index
    CHOICE = "choice"  # the index that the encoder would choose: as in a file


def scalar_quantise(
    y: Tensor,
    mean: Tensor,
    step: Tensor,
    quantisation: Quantisation = Quantisation.NOISE,
    weight: Tensor | None = None,
    log2_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Finite scalar quantisation around a predicted mean: index = round((y - mean) / step).

    The value that goes on is truly rounded, with the straight-through gradient (and the rounding error as the step's
    gradient, Esser et al. "Learned Step Size Quantization", 2020). With `Quantisation.NOISE` the value whose likelihood
    is the rate carries uniform noise instead (Minnen and Singh, "Channel-wise autoregressive entropy models", 2020).

    Args:
        y: [B, C, H, W] float32 latents.
        mean, step: the same shape or broadcastable to it; step > 0.
        quantisation: which index, and which value for the rate.
        weight: bits that a squared error of one step is worth, broadcastable to `y`; wanted with `CHOICE`, which takes
            the next index towards zero wherever rate + distortion gets smaller.
        log2_scale: log2 of the Gaussian's standard deviation in steps, shaped as `y`; wanted with `CHOICE`.

    Returns:
        the quantised latents, the (noisy) index for the rate, and the true index, each shaped as `y`.
    """
    t = (y - mean) / step
    index = t.round()
    if quantisation is Quantisation.CHOICE:
        assert weight is not None
        assert log2_scale is not None
        index = cheaper(index, t, weight, log2_scale)
    quantised = mean + step * (t + (index - t).detach())
    noisy = t + torch.rand_like(t) - 0.5 if quantisation is Quantisation.NOISE else index
    return quantised, noisy, index


@torch.no_grad()
def cheaper(index: Tensor, t: Tensor, weight: Tensor, log2_scale: Tensor) -> Tensor:
    """The next index towards zero where rate + distortion gets smaller, as `vqcodec.codec.tradeoff.cheapen` chooses.

    Arguments are those of `scalar_quantise`; index, t and log2_scale have one shape.
    """
    new = index - index.sign()
    saved = gaussian_bits(index, log2_scale) - gaussian_bits(new, log2_scale)
    lost = weight * ((t - new).square() - (t - index).square())
    return torch.where(lost < saved, new, index)
