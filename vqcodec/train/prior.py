# SPDX-License-Identifier: MIT
"""The priors as torch modules: what is decoded -> means and scales of the next latents, odds of the next base indices.

What runs in the package are the same layers in integers (`vqcodec.model.prior`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.model.prior import PLACE_LIMIT, PLACES_PER_OCTAVE
from vqcodec.train.config import ModelConfig
from vqcodec.train.layers import SLOPE, Block, Blocks, full_precision, zero_conv
from vqcodec.train.quantise import Quantisation, scalar_quantise


class PriorStep(nn.Module):
    """One parallel step of the refinement's prior: what is decoded -> mean and log2 scale of what comes next.

    Args:
        channels: of the latents, the chunk that the step predicts.
        parity: 0 or 1, where (row + column) % 2 is that; None: everywhere.
    """

    def __init__(self, channels: slice, parity: int | None, width: int, anchors: int, carries: bool) -> None:
        super().__init__()
        self.channels, self.parity = channels, parity
        chunk = channels.stop - channels.start
        self.seen = seen = channels.stop if parity else channels.start  # channels of which something is decoded
        self.carry = zero_conv(width, width) if carries else None
        self.context = nn.Conv2d(seen, width, 1, bias=False) if seen else None
        self.base = nn.Conv2d(width, width, 1)
        self.quality = nn.Parameter(torch.zeros(anchors, width))
        self.block1 = Block(width)
        self.block2 = Block(width, ffn=False)
        self.out = zero_conv(width, 2 * chunk)

    def forward(
        self, decoded: Tensor, features: Tensor, anchor_weights: Tensor, before: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict one step.

        Args:
            decoded: [B, M, h, w], zero where nothing is known.
            features, before: [B, N, h, w]; anchor_weights: [B, R].

        Returns:
            mean correction and log2 scale, both [B, chunk, h, w], in units of the latents' overall deviation; and
            what is `before` to the next step, [B, N, h, w].
        """
        with torch.autocast(features.device.type, enabled=False):
            bias = anchor_weights @ self.quality
        h = self.base(features) + bias[:, :, None, None]
        if self.context is not None:
            h = h + full_precision(self.context, decoded[:, : self.seen])
        if self.carry is not None and before is not None:
            h = h + self.carry(before)
        middle = self.block1(h)
        mean, scale = full_precision(self.out, self.block2(middle)).chunk(2, 1)
        return mean, scale, middle


class PriorSteps(nn.ModuleList):
    """A list of steps, typed."""

    def __iter__(self) -> Iterator[PriorStep]:
        return cast(Iterator[PriorStep], super().__iter__())


def checkerboard(height: int, width: int, device: torch.device) -> Tensor:
    """[1, 1, h, w] bool, true where (row + column) is even: the positions of the first of two steps."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return ((rows[:, None] + columns[None]) % 2 == 0)[None, None]


class RefinementPrior(nn.Module):
    """Base codewords and latents already decoded -> mean and scale of each latent, in one or two steps per chunk.

    Checkerboard context (He et al., CVPR 2021) times channel chunks (Minnen and Singh, 2020; He et al., ELIC, 2022).
    """

    sigma: Tensor
    by_place: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        n = c.prior_width
        self.chunks, self.halves = c.chunks, c.halves()
        self.enter = nn.Conv2d(c.codebook_dim, n, 1)
        self.blocks = Blocks(Block(n) for _ in range(c.prior_base_blocks))
        self.base_mean = zero_conv(n, c.latents)
        self.activity = zero_conv(n, 1)
        self.place_strength = nn.Parameter(torch.zeros(c.rows))
        by_place = torch.tensor([tune == "eye" for tune in c.tunes]).repeat_interleave(c.anchors)
        self.register_buffer("by_place", by_place, persistent=False)  # the psnr tune has the same step everywhere
        self.steps = PriorSteps()
        start = 0
        for chunk, halves in zip(c.chunks, self.halves, strict=True):
            for parity in range(halves) if halves > 1 else (None,):
                carries = c.carry and len(self.steps) > 0
                self.steps.append(PriorStep(slice(start, start + chunk), parity, n, c.rows, carries))
            start += chunk
        self.register_buffer("sigma", torch.ones(c.latents))

    def base(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """code [B, D, h, w] -> features [B, N, h, w] and the base layer's own latents [B, M, h, w]."""
        f = self.blocks(self.enter(code))
        return f, self.sigma[:, None, None] * full_precision(self.base_mean, f)

    def log2_place(self, features: Tensor, anchor_weights: Tensor) -> Tensor:
        """Steps by place: the log2 factor of every place's quantiser step, from the base layer alone.

        Args:
            features: [B, N, h, w] from `base`.
            anchor_weights: [B, R].

        Returns:
            [B, 1, h, w], multiples of 1 / PLACES_PER_OCTAVE, with a straight-through gradient.
        """
        with torch.autocast(features.device.type, enabled=False):
            strength = anchor_weights @ (self.place_strength * self.by_place)
            log2 = full_precision(self.activity, features) * strength[:, None, None, None]
            limit = PLACE_LIMIT / PLACES_PER_OCTAVE
            log2 = log2.clamp(-limit, limit)
            rounded = (log2 * PLACES_PER_OCTAVE + 0.5).floor() / PLACES_PER_OCTAVE
            return log2 + (rounded - log2).detach()

    def forward(
        self,
        y: Tensor,
        features: Tensor,
        base_mean: Tensor,
        step_size: Tensor,
        anchor_weights: Tensor,
        quantisation: Quantisation = Quantisation.NOISE,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise `y` step by step as the codec does, each step seeing what the ones before left.

        Args:
            y, base_mean: [B, M, h, w]; features: [B, N, h, w]; anchor_weights: [B, R].
            step_size: [B, M, h, w], or 1 in place of h and w.
            quantisation, weight: as in `scalar_quantise`.

        Returns:
            quantised latents, (noisy) indices relative to the mean, log2 (scale / step), all [B, M, h, w].
        """
        first = checkerboard(y.shape[2], y.shape[3], y.device)
        sigma = self.sigma[:, None, None]
        log2_scale_in_steps = torch.log2(sigma) - torch.log2(step_size)
        coded: list[Tensor] = []
        known = torch.zeros_like(y[:, :0])
        steps, before = iter(self.steps), None
        start = 0
        for width, halves in zip(self.chunks, self.halves, strict=True):
            here = slice(start, start + width)
            base, deviation = base_mean[:, here], sigma[here]
            worth = None if weight is None else weight[:, here]
            seen, chunk, normalised = known, None, base
            for half in range(halves):
                if half:
                    seen = torch.cat([known, torch.where(first, normalised, torch.zeros_like(base))], 1)
                correction, log2_scale, before = next(steps)(seen, features, anchor_weights, before)
                mean, log2_scale = base + deviation * correction, log2_scale + log2_scale_in_steps[:, here]
                latents, noisy, _ = scalar_quantise(
                    y[:, here], mean, step_size[:, here], quantisation, worth, log2_scale
                )
                new = torch.stack([latents, noisy, log2_scale])
                chunk = new if chunk is None else torch.where(first, chunk, new)
                normalised = (chunk[0] - base) / deviation
            assert chunk is not None
            coded.append(chunk)
            known = torch.cat([known, normalised], 1)
            start += width
        latents, noisy, log2_scale = torch.cat(coded, 2)
        return latents, noisy, log2_scale


class BasePrior(nn.Module):
    """Base indices already known -> log2 probabilities of the next ones, in four parallel passes.

    The grid is decoded in quarters: (even row, even column), (odd, odd), (even, odd), (odd, even).
    """

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        n = c.base_prior_width
        self.enter = nn.Conv2d(c.codebook_dim, n, 1, bias=False)
        self.passes = nn.Parameter(torch.zeros(4, n))
        self.spread = nn.Conv2d(n, n, 3, padding=1, groups=n)
        self.blocks = Blocks([Block(n), Block(n)])
        self.out = nn.Conv2d(n, c.codebook_size, 1)

    def forward(self, code: Tensor, number: int, where: Tensor) -> Tensor:
        """Log2 probabilities, up to a constant, of the indices of one pass.

        Args:
            code: [B, D, h, w] codewords, zeros where unknown.
            number: the pass, 0 to 3.
            where: [h, w] bool, the n positions to predict.

        Returns:
            logits [B, n, K].
        """
        h = self.enter(code) + self.passes[number][None, :, None, None]
        h = self.spread(F.leaky_relu(h, SLOPE))
        h = self.blocks(h)[:, :, where].transpose(1, 2)
        return F.linear(h, self.out.weight[:, :, 0, 0], self.out.bias)


def quarter(height: int, width: int, number: int, device: torch.device) -> Tensor:
    """[h, w] bool: the positions of pass `number` of the base layer's prior."""
    row, column = ((0, 0), (1, 1), (0, 1), (1, 0))[number]
    mask = torch.zeros(height, width, dtype=torch.bool, device=device)
    mask[row::2, column::2] = True
    return mask
