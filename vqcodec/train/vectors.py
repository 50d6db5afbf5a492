# SPDX-License-Identifier: MIT
"""Refinement latents as vectors of a learned codebook, for comparisons, with probabilities from the prior's Gaussian.

A vector t of n neighbouring channels, relative to its predicted mean and in steps, is coded as one of the codewords
c_k, or, far out, as a point of the integer lattice (the escape). With s the predicted deviations, widened as in
`lattice.py`,

    P(k) ~ exp(w_k - |c_k / s|^2 / 2),    P(v) ~ exp(-|v / s|^2 / 2) for the lattice's points v outside the words' box,

normalised by the sum over all of these: a softmax of minus half the squared Mahalanobis distance, w_k being the learned
logarithm of what a word's cell holds more than one of unit volume. The words start on the lattice's points inside the
box, so that at the start this is `refine-z`. One codebook serves all channels.

Two stages (`vector_stages`) give words that are sums, one of each stage's (Juang and Gray, 1982; NVTC: Feng et al.,
CVPR 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vqcodec.train.config import ModelConfig
from vqcodec.train.lattice import dither, flat, grouped, lattice_bits, widened
from vqcodec.train.losses import SCALE_MAX_LOG2
from vqcodec.train.quantise import nearest

TERMS = 8  # of the escape's tail that are summed one by one; the rest is integrated
ROWS = 2**24  # of distances that are held at once where no gradient is wanted
WARMUP = 300  # forward passes before choices count the rate, too
LLOYD_EVERY = 50  # forward passes between two rounds of the alternating optimisation
LLOYD_ROUNDS = 2
LLOYD_SAMPLES = 60_000
FEW = 20  # vectors that a word needs to be moved by Lloyd's rule
DEAD = 0.02  # uses per forward pass, averaged over about 100, below which a word is taken for dead
LN2 = math.log(2)
EXACT = "donot_use_mm_for_euclid_dist"


def box(reach: int, n: int, spacing: float = 1.0) -> Tensor:
    """[(2 reach + 1)^n, n] the points of a grid around zero."""
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32) * spacing
    return torch.stack(torch.meshgrid(*[axis] * n, indexing="ij"), -1).reshape(-1, n)


def log_outside(inverse: Tensor, reach: int) -> Tensor:
    """log of the sum over integer vectors outside the box of exp(-sum v_i^2 a_i), of a = `inverse` [N, n]; [N]."""
    inner = 1 + 2 * sum((torch.exp(-inverse * v * v) for v in range(1, reach + 1)), torch.zeros_like(inverse))
    outer = sum((torch.exp(-inverse * v * v) for v in range(reach + 1, reach + TERMS + 1)), torch.zeros_like(inverse))
    root = torch.sqrt(inverse)
    rest = math.sqrt(math.pi) / 2 / root * torch.special.erfc((reach + TERMS + 0.5) * root)
    outer = 2 * (outer + rest)
    inside, outside = torch.ones_like(inner[:, 0]), torch.zeros_like(inner[:, 0])
    for i in range(inverse.shape[1]):  # sums of positive terms only: nothing is lost to cancellation
        outside = outside * (inner[:, i] + outer[:, i]) + inside * outer[:, i]
        inside = inside * inner[:, i]
    return torch.log(outside.clamp(min=1e-30))


class VectorRefinement(nn.Module):
    """Quantiser and rate of the refinement's vectors; settings are the `vector_*` of `ModelConfig`."""

    used: Tensor
    passes: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        n = self.dim = c.vector_dim
        self.reach = c.vector_reach
        self.by_rate, self.lloyd = c.choice == "rate", c.vector_learning == "lloyd"
        self.dithered = c.vector_rate == "dither"
        one, two = [box(self.reach, n)], [box((self.reach - 1) // 3, n, 3.0), box(1, n)]
        grids = one if c.vector_stages == 1 else two
        self.words = nn.ParameterList(grids)
        self.weights = nn.ParameterList(torch.zeros(len(grid)) for grid in grids)
        self.register_buffer("used", torch.ones(sum(len(grid) for grid in grids)))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.recent: list[tuple[Tensor, Tensor, Tensor]] = []

    def codebook(self) -> tuple[Tensor, Tensor]:
        """[K, n] words and [K] their weights w_k; of two stages every sum."""
        words, weights = self.words[0], self.weights[0]
        for more, gains in zip(list(self.words)[1:], list(self.weights)[1:], strict=True):
            words = (words[:, None] + more).flatten(0, 1)
            weights = (weights[:, None] + gains).flatten()
        return (words.detach(), weights.detach()) if self.lloyd else (words, weights)

    @torch.no_grad()
    def choose(self, t: Tensor, worth: Tensor | None, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """The word for each vector, or where that lies outside of the box and is better, the nearest lattice point.

        Args:
            t: [N, n] vectors in steps.
            worth: [N, n] bits that a squared error of one step is worth; None takes the nearest whatever it costs.
            inverse: [N, n] 1 / 2 s^2.

        Returns:
            index [N] int64, K where the lattice's point is better; the point [N, n].
        """
        words, weights = self.codebook()
        price = torch.ones_like(t) if worth is None else worth
        rate = torch.zeros_like(inverse) if worth is None else inverse / LN2
        column = torch.zeros_like(weights) if worth is None else -weights / LN2
        known = torch.cat([words, words.square(), column[:, None]], 1).T
        indices, costs = [], []
        for p, r, x in zip(*(torch.split(v, ROWS // len(words)) for v in (price, rate, t)), strict=True):
            cost, index = (torch.cat([-2 * p * x, p + r, torch.ones_like(x[:, :1])], 1) @ known).min(1)
            indices.append(index)
            costs.append(cost + (p * x * x).sum(1))
        index = torch.cat(indices)
        point = t.round()
        outside = point.abs().amax(1) > self.reach
        escape = (price * (t - point).square() + rate * point.square()).sum(1)
        index[outside & (escape < torch.cat(costs))] = len(words)
        return index, point

    def quantise(
        self, y: Tensor, mean: Tensor, step: Tensor, noise: bool, weight: Tensor | None, log2_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `scalar_quantise`, but what the rate sees is two values, [2, B, C, H, W]: of the word, and with dither."""
        t = grouped((y - mean) / step, self.dim)
        rows = t.detach().reshape(-1, self.dim)
        inverse = self._inverse(grouped(log2_scale.detach(), self.dim))
        worth = None
        if self.by_rate and weight is not None and not (self.training and int(self.passes) < WARMUP):
            worth = grouped(weight.detach().expand_as(y), self.dim).reshape(-1, self.dim)
        index, point = self.choose(rows, worth, inverse)
        if self.training and noise:
            self._note(rows, index, inverse, worth)
        words = self.codebook()[0]
        word = torch.where((index == len(words))[:, None], point, words[index.clamp(max=len(words) - 1)]).view_as(t)
        moved = flat(t + (word - t).detach())
        quantised = mean + step * moved + step.detach() * flat(word - word.detach())
        # The rate's gradient for the vectors themselves comes from the word as if it moved along, or from dither
        value = word if self.dithered and noise else word + (t - t.detach())
        other = t + dither(t.detach(), "Z") if self.dithered and noise else value.detach()
        return quantised, torch.stack([flat(value), flat(other)]), flat(word.detach())

    def _inverse(self, log2_scale: Tensor) -> Tensor:
        """1 / 2 s^2, [N, n], of grouped scales."""
        return 0.5 / widened(log2_scale).reshape(-1, self.dim).square()

    def bits(self, rated: Tensor, log2_scale: Tensor, noise: bool) -> Tensor:
        """Bits of each sample [B]: of the words chosen; with dither the gradient is the lattice's, but for the words.

        Args:
            rated: [2, B, C, h, w] from `quantise`.
            log2_scale: [B, C, h, w].
        """
        value, dithered = rated
        scale = log2_scale.detach() if self.dithered and noise else log2_scale
        bits = self._code_length(value, scale)
        if self.dithered and noise:
            proxy = lattice_bits(dithered, log2_scale, "Z").sum((1, 2, 3))
            bits = bits + proxy - proxy.detach()
        return bits

    def _code_length(self, value: Tensor, log2_scale: Tensor) -> Tensor:
        words, weights = self.codebook()
        x = grouped(value, self.dim)
        inverse = self._inverse(grouped(log2_scale, self.dim))
        rows = x.reshape(-1, self.dim)
        with torch.no_grad():  # which word it is: its value says so
            index = torch.cat(
                [
                    torch.cdist(part, words, compute_mode=EXACT).argmin(1)
                    for part in torch.split(rows, ROWS // len(words))
                ]
            )
            is_word = (rows - words[index]).abs().amax(1) < 1e-3
        weight = torch.where(is_word, weights[index], torch.zeros_like(weights[index]))
        size = ROWS if torch.is_grad_enabled() else ROWS // len(words)
        sums = [torch.logsumexp(weights - part @ words.square().T, 1) for part in torch.split(inverse, size)]
        total = torch.logaddexp(torch.cat(sums), log_outside(inverse, self.reach))
        bits = ((rows.square() * inverse).sum(1) - weight + total) / LN2
        return bits.view(len(x), -1).sum(1)

    # ---- learning beside the gradient --------------------------------------------------------------------------------

    @torch.no_grad()
    def _note(self, rows: Tensor, index: Tensor, inverse: Tensor, worth: Tensor | None) -> None:
        """Count the words used, and keep some vectors for Lloyd's rule."""
        words = index[index < len(self.codebook()[0])]
        if len(self.words) == 2:
            second = len(self.words[1])
            stages = [words // second, words % second + len(self.words[0])]
            words = torch.cat(stages)
        self.used += 0.01 * torch.bincount(words, minlength=len(self.used))
        keep = torch.randint(len(rows), (LLOYD_SAMPLES // 12,), device=rows.device)
        self.recent.append((rows[keep], torch.ones_like(rows[keep]) if worth is None else worth[keep], inverse[keep]))

    @torch.no_grad()
    def begin(self) -> None:
        """Before a forward pass in training: restart dead words; every so often a round of Lloyd's rule."""
        self.passes += 1
        self.used *= 0.99
        if not self.recent:
            return
        self.recent = self.recent[-12:]
        rows, worth, inverse = (torch.cat(parts) for parts in zip(*self.recent, strict=True))
        if self.lloyd and int(self.passes) % LLOYD_EVERY == 0:
            for _ in range(LLOYD_ROUNDS):
                self._lloyd(rows, worth if int(self.passes) >= WARMUP else None, inverse)
        busy = rows[(rows.abs().amax(1) > 0.5) & (rows.abs().amax(1) < self.reach + 0.5)]
        start = 0
        for words, weights in zip(self.words, self.weights, strict=True):
            used = self.used[start : start + len(words)]
            dead = (used < DEAD).nonzero()[:, 0]
            if len(dead) and len(busy):
                words[dead] = busy[torch.randint(len(busy), (len(dead),), device=busy.device)]
                weights[dead] = 0.0
                used[dead] = 1.0
            busy = busy - words[nearest(busy, words)]  # what the next stage is for
            start += len(words)

    def _lloyd(self, rows: Tensor, worth: Tensor | None, inverse: Tensor) -> None:
        """Words to the centres of what chooses them, weights so that each is as likely as it is frequent."""
        words, weights = self.words[0], self.weights[0]
        index, _ = self.choose(rows, worth, inverse)
        price = torch.ones_like(rows) if worth is None else worth
        inside = index < len(words)
        count = torch.bincount(index[inside], minlength=len(words)).float()
        sums, total = torch.zeros_like(words), torch.zeros_like(words)
        sums.index_add_(0, index[inside], (price * rows)[inside])
        total.index_add_(0, index[inside], price[inside])
        many = count >= FEW
        words[many] = (sums / total.clamp(min=1e-9))[many]
        logits = weights - inverse @ words.square().T
        everything = torch.logaddexp(torch.logsumexp(logits, 1), log_outside(inverse, self.reach))
        expected = torch.exp(logits - everything[:, None]).sum(0)
        ratio = torch.log(count.clamp(min=1)) - torch.log(expected.clamp(min=1))
        weights[many] = (weights + ratio.clamp(-0.5, 0.5))[many]
        weights.sub_(weights[len(words) // 2].clone()).clamp_(-SCALE_MAX_LOG2, SCALE_MAX_LOG2)
