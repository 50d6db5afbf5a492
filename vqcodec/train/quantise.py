# SPDX-License-Identifier: MIT
"""The two quantisers of training: the base layer's vector quantiser and the refinement's scalar quantiser."""

from __future__ import annotations

import math
from collections.abc import Callable
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


class Coded(NamedTuple):
    """What a quantiser of the base layer gives."""

    code: Tensor  # [B, D, H, W] float32, with the gradient that the analysis learns from
    indices: Tensor  # [B, H, W] int64; several stages [B, S, H, W]; scalar latents [B, C, H/2, W/2]
    bits: Tensor  # [B] bits of the indices in training; for codebooks the bits of equally likely indices
    loss: Tensor  # scalar: commitment, and what the codebook itself learns from


def straight_through(z: Tensor, code: Tensor) -> Tensor:
    """The codeword, with the gradient passed on to `z` as it is (Bengio et al., 2013); [B, D, H, W]."""
    return z + (code - z).detach()


def rotated(z: Tensor, code: Tensor) -> Tensor:
    """The codeword, its gradient rotated and scaled as `z` would have to be to become the codeword; [B, D, H, W].

    Fifty et al., "Restructuring Vector Quantization with the Rotation Trick" (2024): code = |code| / |z| R z with the
    rotation R in the plane of the two, R and the ratio taken as constants. The gradient keeps its angle to the vector.
    """
    e, q = z.detach(), code.detach()
    tiny = 1e-6
    norm_e, norm_q = e.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
    unit_e, unit_q = e / norm_e.clamp(min=tiny), q / norm_q.clamp(min=tiny)
    between = unit_e + unit_q
    between = between / between.norm(dim=1, keepdim=True).clamp(min=tiny)
    along_between = (between * z).sum(1, keepdim=True)
    along_e = (unit_e * z).sum(1, keepdim=True)
    turned = z - 2 * between * along_between + 2 * unit_q * along_e
    turned = turned * (norm_q / norm_e.clamp(min=tiny))
    exact: Tensor = (
        turned + (code - turned).detach()
    )  # the codeword exactly, where rounding or a zero vector says otherwise
    return exact


GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"straight-through": straight_through, "rotation": rotated}


class VectorQuantiser(nn.Module):
    """One learned codebook with straight-through gradients and exponential-moving-average updates.

    van den Oord et al., "Neural Discrete Representation Learning" (2017); the averages follow appendix A.1, and
    codewords that nothing chooses are restarted on data (Dhariwal et al., "Jukebox", 2020).
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, size: int, dim: int, decay: float = 0.99, gradient: str = "straight-through") -> None:
        super().__init__()
        self.decay = decay
        self.gradient = GRADIENTS[gradient]
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

    def forward(self, z: Tensor, noise: bool = True) -> Coded:
        """Quantise [B, D, H, W] float32; `noise` makes no difference here."""
        flat = z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1]).float()
        index = nearest(flat, self.codebook)
        if self.training and self.learns:
            self._update(flat, index)
        code = self.codebook[index].view(z.shape[0], z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)
        index = index.view(z.shape[0], z.shape[2], z.shape[3])
        bits = z.new_full((len(z),), math.log2(len(self.codebook)) * index[0].numel())
        commitment = (z - code.detach()).square().sum(1).mean()
        return Coded(self.gradient(z, code), index, bits, commitment)

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


def scalar_quantise(
    y: Tensor,
    mean: Tensor,
    step: Tensor,
    noise: bool = True,
    weight: Tensor | None = None,
    log2_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Finite scalar quantisation around a predicted mean: index = round((y - mean) / step).

    The value that goes on is truly rounded, with the straight-through gradient (and the rounding error as the step's
    gradient, Esser et al. "Learned Step Size Quantization", 2020); the value whose likelihood is the rate carries
    uniform noise instead (Minnen and Singh, "Channel-wise autoregressive entropy models", 2020).

    Args:
        y: [B, C, H, W] float32 latents.
        mean, step: the same shape or broadcastable to it; step > 0.
        noise: False gives the true index for the rate, too (evaluation, tuning of the decoder).
        weight: bits that a squared error of one step is worth, broadcastable to `y`; with it the index is the encoder's
            choice, the next one towards zero wherever rate + distortion gets smaller.
        log2_scale: log2 of the Gaussian's standard deviation in steps, shaped as `y`; wanted with `weight`.

    Returns:
        the quantised latents, the noisy index for the rate, and the true index, each shaped as `y`.
    """
    t = (y - mean) / step
    index = t.round()
    if weight is not None:
        assert log2_scale is not None
        index = cheaper(index, t, weight, log2_scale)
    quantised = mean + step * (t + (index - t).detach())
    noisy = t + torch.rand_like(t) - 0.5 if noise else index
    return quantised, noisy, index


@torch.no_grad()
def cheaper(index: Tensor, t: Tensor, weight: Tensor, log2_scale: Tensor) -> Tensor:
    """The next index towards zero where rate + distortion gets smaller, as `vqcodec.codec.cheapen` chooses.

    Arguments are those of `scalar_quantise`; index, t and log2_scale have one shape.
    """
    new = index - index.sign()
    saved = gaussian_bits(index, log2_scale) - gaussian_bits(new, log2_scale)
    lost = weight * ((t - new).square() - (t - index).square())
    return torch.where(lost < saved, new, index)
