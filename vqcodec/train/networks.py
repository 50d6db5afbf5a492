# SPDX-License-Identifier: MIT
"""The networks as torch modules: analysis and synthesis transforms, the refinement's prior, the base layer's prior.

What is here trains; what runs in the shipped package is their export (`export.py`): the transforms as ONNX graphs, the
priors as integer layers (`vqcodec/prior.py`), layer by layer the same. Everything works at 1/8 and 1/16 of the
picture's resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.train.base import base_quantiser
from vqcodec.train.config import ModelConfig
from vqcodec.train.lattice import lattice_bits, lattice_quantise
from vqcodec.train.losses import gaussian_bits
from vqcodec.train.quantise import scalar_quantise
from vqcodec.train.vectors import VectorRefinement

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

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        x = x + self.leave(self.depthwise(F.leaky_relu(self.enter(x), SLOPE)))
        if self.ffn:
            x = x + self.reduce(F.leaky_relu(self.expand(x), SLOPE))
        return x


class Gain(nn.Module):
    """Per-quality gain of every channel: 1 + a vector interpolated between the anchors of the quality scale."""

    def __init__(self, anchors: int, width: int, learns: bool = True) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(anchors, width if learns else 0))

    def forward(self, x: Tensor, hat: Tensor) -> Tensor:
        """x [B, C, H, W], hat [B, A] interpolation weights -> [B, C, H, W]."""
        if not self.table.numel():
            return x
        with torch.autocast(x.device.type, enabled=False):
            gain = 1 + hat @ self.table
        return x * gain[:, :, None, None].to(x.dtype)


def zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that starts at zero: the branch it ends starts silent."""
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def branch_end(inputs: int, outputs: int, shortcut: bool) -> nn.Conv2d:
    """The convolution that ends the branch beside a linear shortcut: `zero_conv`, but where there is no shortcut."""
    conv = zero_conv(inputs, outputs)
    if not shortcut:
        with torch.random.fork_rng(devices=[]):  # other layers start as they do with it
            conv.reset_parameters()
    return conv


def full_precision(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run one layer outside autocast: where bf16 would cost picture quality."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())


class Blocks(nn.ModuleList):
    """A list of residual blocks, typed."""

    def __iter__(self) -> Iterator[Block]:
        return cast(Iterator[Block], super().__iter__())

    def forward(self, x: Tensor) -> Tensor:
        """One after the other: [B, C, H, W] -> the same shape."""
        for block in self:
            x = block(x)
        return x


class Analysis(nn.Module):
    """Picture -> latents and the base layer's vector, with the linear shortcut beside the convolutions."""

    sigma: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        w8, w16 = c.analysis_width8, c.analysis_width16
        linear = nn.Conv2d(3, c.latents, STRIDE, stride=STRIDE)  # in any case, so that other layers start alike
        self.shortcut = c.shortcut
        if c.shortcut:
            self.linear = linear
        self.patch = nn.Conv2d(3, w8, 8, stride=8)
        self.blocks8 = Blocks(Block(w8) for _ in range(c.analysis_blocks8))
        self.gain8 = Gain(c.anchors, w8, c.gains)
        self.down = nn.Conv2d(w8, w16, 2, stride=2)
        self.blocks16 = Blocks(Block(w16) for _ in range(c.analysis_blocks16))
        self.gain16 = Gain(c.anchors, w16, c.gains)
        self.out = branch_end(w16, c.latents, c.shortcut)
        self.base_linear = nn.Conv2d(c.latents, c.codebook_dim, 1, bias=False)
        self.base_out = zero_conv(w16, c.codebook_dim)
        self.register_buffer("sigma", torch.ones(c.latents))

    def forward(self, x: Tensor, hat: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 3, H, W] float32 in [0, 1], H and W multiples of 16; hat [B, A].

        Returns:
            latents [B, M, H/16, W/16] float32 and base vectors [B, D, H/16, W/16] float32.
        """
        x = x - 0.5
        h = self.patch(x)
        h = self.blocks8(h)
        h = self.down(self.gain8(h, hat))
        h = self.blocks16(h)
        h = self.gain16(h, hat).float()
        sigma = self.sigma[:, None, None]
        y = sigma * full_precision(self.out, h)
        if self.shortcut:
            y = full_precision(self.linear, x) + y
        z = full_precision(self.base_linear, y / sigma) + full_precision(self.base_out, h)
        return y, z


class Synthesis(nn.Module):
    """Quantised latents -> picture: mirrored, lighter, with the linear shortcut."""

    sigma: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        w8, w16 = c.synthesis_width8, c.synthesis_width16
        levels = c.anchors + 1  # the last: base layer alone
        linear = nn.Conv2d(c.latents, 3 * STRIDE * STRIDE, 1)
        self.shortcut = c.shortcut
        if c.shortcut:
            self.linear = linear
        self.enter = nn.Conv2d(c.latents, w16, 1)
        self.gain_in = Gain(levels, w16, c.gains)
        self.blocks16 = Blocks(Block(w16) for _ in range(c.synthesis_blocks16))
        self.gain16 = Gain(levels, w16, c.gains)
        self.up = nn.Conv2d(w16, 4 * w8, 1)
        self.blocks8 = Blocks(Block(w8) for _ in range(c.synthesis_blocks8))
        self.gain8 = Gain(levels, w8, c.gains)
        self.out = branch_end(w8, 3 * 64, c.shortcut)
        self.register_buffer("sigma", torch.ones(c.latents))

    def forward(self, y: Tensor, hat: Tensor) -> Tensor:
        """y [B, M, H/16, W/16], hat [B, A + 1] -> [B, 3, H, W] float32, nominally in [0, 1], not clipped."""
        h = self.gain_in(self.enter(y / self.sigma[:, None, None]), hat)
        h = self.blocks16(h)
        h = F.pixel_shuffle(self.up(self.gain16(h, hat)), 2)
        h = self.blocks8(h)
        h = full_precision(self.out, self.gain8(h, hat))
        x = F.pixel_shuffle(h, 8)
        if self.shortcut:
            x = F.pixel_shuffle(full_precision(self.linear, y), STRIDE) + x
        return x + 0.5


class PriorStep(nn.Module):
    """One parallel step of the refinement's prior: what is decoded -> mean and log2 scale of what comes next."""

    def __init__(self, seen: int, chunk: int, width: int, anchors: int, carries: bool = False) -> None:
        super().__init__()
        self.seen = seen
        self.carry = zero_conv(width, width) if carries else None
        self.context = nn.Conv2d(seen, width, 1, bias=False) if seen else None
        self.base = nn.Conv2d(width, width, 1)
        self.quality = nn.Parameter(torch.zeros(anchors, width))
        self.block1 = Block(width)
        self.block2 = Block(width, ffn=False)
        self.out = zero_conv(width, 2 * chunk)

    def forward(
        self, decoded: Tensor, features: Tensor, hat: Tensor, before: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """decoded [B, M, h, w] (zero where nothing is known), features [B, N, h, w], hat [B, A], before [B, N, h, w].

        Returns:
            mean correction and log2 scale, both [B, chunk, h, w], in units of the latents' overall deviation; and
            what is `before` to the next step, [B, N, h, w].
        """
        with torch.autocast(features.device.type, enabled=False):
            bias = hat @ self.quality
        h = self.base(features) + bias[:, :, None, None]
        if self.context is not None:
            h = h + full_precision(self.context, decoded[:, : self.seen])
        if self.carry is not None and before is not None:
            h = h + self.carry(before)
        middle = self.block1(h)
        mean, scale = full_precision(self.out, self.block2(middle)).chunk(2, 1)
        return mean, scale, middle


def checkerboard(height: int, width: int, device: torch.device) -> Tensor:
    """[1, 1, h, w] bool, true where (row + column) is even: the positions of the first of two steps."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return ((rows[:, None] + columns[None]) % 2 == 0)[None, None]


class RefinementPrior(nn.Module):
    """Base codewords and latents already decoded -> mean and scale of each latent, in one or two steps per chunk.

    Checkerboard context (He et al., CVPR 2021) times channel chunks (Minnen and Singh, 2020; He et al., ELIC, 2022).
    """

    sigma: Tensor

    def __init__(self, c: ModelConfig) -> None:
        super().__init__()
        n = c.prior_width
        self.chunks = c.chunks
        self.lattice = c.lattice
        self.vectors = VectorRefinement(c) if c.vector_dim else None
        self.enter = nn.Conv2d(c.codebook_dim, n, 1)
        self.blocks = Blocks(Block(n) for _ in range(c.prior_base_blocks))
        self.base_mean = zero_conv(n, c.latents)
        steps: list[PriorStep] = []
        start = 0
        self.halves, self.mean, self.base_context = c.halves(), c.prior_mean, c.base_context
        for chunk, halves in zip(c.chunks, self.halves, strict=True):
            for half in range(halves):
                carries = c.carry and len(steps) > 0
                steps.append(PriorStep(start + half * chunk, chunk, n, c.anchors, carries))
            start += chunk
        self.steps = nn.ModuleList(steps)
        self.register_buffer("sigma", torch.ones(c.latents))

    def base(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """code [B, D, h, w] -> features [B, N, h, w] and the base layer's own latents [B, M, h, w]."""
        f = self.enter(code)
        f = self.blocks(f)
        return f, self.sigma[:, None, None] * full_precision(self.base_mean, f)

    def quantise(
        self, y: Tensor, mean: Tensor, step: Tensor, noise: bool, weight: Tensor | None, log2_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`scalar_quantise`, `lattice_quantise`, which always takes the closest point, or what the vectors do."""
        if self.vectors is not None:
            with torch.autocast(y.device.type, enabled=False):
                return self.vectors.quantise(y, mean, step, noise, weight, log2_scale)
        if self.lattice:
            return lattice_quantise(y, mean, step, self.lattice, noise)
        return scalar_quantise(y, mean, step, noise, weight, log2_scale)

    def bits(self, noisy: Tensor, scale: Tensor, noise: bool = True) -> Tensor:
        """Bits of each sample, [B], from the second and third of what `forward` gives, with the same `noise`."""
        if self.vectors is not None:
            with torch.autocast(scale.device.type, enabled=False):
                return self.vectors.bits(noisy, scale, noise)
        if self.lattice:
            return lattice_bits(noisy, scale, self.lattice).sum((1, 2, 3))
        return gaussian_bits(noisy, scale).sum((1, 2, 3))

    def forward(
        self,
        y: Tensor,
        features: Tensor,
        base_mean: Tensor,
        step_size: Tensor,
        hat: Tensor,
        noise: bool = True,
        weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise `y` step by step as the codec does, each step seeing what the ones before left.

        Args:
            y, base_mean: [B, M, h, w]; features: [B, N, h, w]; step_size: [B, M, 1, 1]; hat: [B, A].
            noise, weight: as in `scalar_quantise`.

        Returns:
            quantised latents, noisy indices relative to the mean (for vectors two of them), log2 (scale / step), all
            [B, M, h, w].
        """
        if self.vectors is not None and self.training and noise:
            self.vectors.begin()
        first = checkerboard(y.shape[2], y.shape[3], y.device)
        sigma = self.sigma[:, None, None]
        log2_sigma, log2_step = torch.log2(sigma), torch.log2(step_size)
        if not self.base_context:
            features, base_mean = torch.zeros_like(features), torch.zeros_like(base_mean)
        parts: list[tuple[Tensor, ...]] = []
        known = torch.zeros_like(y[:, :0])
        steps, middle = iter(self.steps), None
        start = 0
        for chunk, halves in zip(self.chunks, self.halves, strict=True):
            here = slice(start, start + chunk)
            y_k, base_k, sigma_k = y[:, here], base_mean[:, here], sigma[here]
            in_steps = log2_sigma[here] - log2_step[:, here]
            worth = None if weight is None else weight[:, here]
            seen, normalised = known, base_k
            part: tuple[Tensor, ...] = ()
            for half in range(halves):
                if half:
                    seen = torch.cat([known, torch.where(first, normalised, torch.zeros_like(base_k))], 1)
                mean, scale, middle = next(steps)(seen, features, hat, middle)
                mean, scale = self._mean(base_k, sigma_k * mean), scale + in_steps
                quantised, noisy, _ = self.quantise(y_k, mean, step_size[:, here], noise, worth, scale)
                new = (quantised, noisy, scale)
                part = tuple(torch.where(first, a, b) for a, b in zip(part, new, strict=True)) if part else new
                normalised = (part[0] - base_k) / sigma_k
            parts.append(part)
            known = torch.cat([known, normalised], 1)
            start += chunk
        q, n, s = zip(*parts, strict=True)
        return torch.cat(q, 1), torch.cat(n, -3), torch.cat(s, 1)

    def _mean(self, base: Tensor, correction: Tensor) -> Tensor:
        """Means of a chunk, [B, chunk, h, w], from the base layer's own latents and what the context adds."""
        if self.mean == "context":
            return base + correction
        return base if self.mean == "base" else torch.zeros_like(base)


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


class Output(NamedTuple):
    """What one training pass gives: pictures, bits of each sample's refinement, and the base layer's parts."""

    restored: Tensor  # [B, 3, H, W]
    bits: Tensor  # [B] refinement bits
    base_bits: Tensor  # [B] base layer's bits: of equally likely indices, or by the scalar base layer's own density
    base_restored: Tensor | None  # [b, 3, H, W] from the base layer alone
    commitment: Tensor  # scalar: `Coded.loss`
    indices: Tensor  # base indices, [B, h, w] (see `Coded`)


class Codec(nn.Module):
    """The whole model. Weights of the parts are exported one by one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = Analysis(config)
        self.synthesis = Synthesis(config)
        with torch.random.fork_rng(devices=[]):  # the networks start alike whatever the quantiser
            self.quantiser = base_quantiser(config)
        self.prior = RefinementPrior(config)
        # High-resolution theory: with step d the error is d^2/12 and lambda = 26 / d^2 (per pixel, three samples).
        anchors = torch.linspace(0, 1, config.anchors)
        log_lambda = math.log(config.lambda_min) + anchors * math.log(config.lambda_max / config.lambda_min)
        start = 0.5 * (math.log(26.0) - log_lambda)
        self.log_step = nn.Parameter(start[:, None].repeat(1, config.latents))

    def hat(self, level: Tensor) -> Tensor:
        """Interpolation weights of a level in [0, 1] on the anchors: [B] -> [B, A]."""
        anchors = torch.arange(self.config.anchors, device=level.device)
        return (1 - (level[:, None] * (self.config.anchors - 1) - anchors).abs()).clamp(min=0)

    def lambda_of(self, level: Tensor) -> Tensor:
        """Lagrangian weight of the squared error at a level in [0, 1]."""
        ratio = math.log(self.config.lambda_max / self.config.lambda_min)
        return self.config.lambda_min * torch.exp(level * ratio)

    def step_size(self, hat: Tensor) -> Tensor:
        """Quantiser step of every latent channel: [B, A] -> [B, M, 1, 1]."""
        with torch.autocast(hat.device.type, enabled=False):
            return torch.exp(hat @ self.log_step)[:, :, None, None]

    def forward(self, x: Tensor, level: Tensor, base_only: int = 0, noise: bool = True, choose: bool = False) -> Output:
        """Code and restore a batch.

        Args:
            x: [B, 3, H, W] float32 in [0, 1].
            level: [B] float32 in [0, 1], the place on the quality scale of each sample.
            base_only: restore the first so many samples from the base layer alone as well.
            noise: as in `scalar_quantise`.
            choose: take the indices that the encoder would choose, not the nearest.
        """
        hat = self.hat(level)
        y, z = self.analysis(x, hat)
        with torch.autocast(x.device.type, enabled=False):
            coded = self.quantiser(z, noise)
        features, base_mean = self.prior.base(coded.code)
        step_size = self.step_size(hat)
        # A squared error of a latent is 1/768 of the mean squared error of its 256 pixels
        weight = (
            self.lambda_of(level)[:, None, None, None] / 3 * step_size.square()
            if choose or self.config.choice == "rate"
            else None
        )
        quantised, noisy, scale = self.prior(y, features, base_mean, step_size, hat, noise, weight)
        bits = self.prior.bits(noisy, scale, noise)
        restored = self.synthesis(quantised, F.pad(hat, (0, 1)))
        base_restored = None
        if base_only:
            alone = torch.zeros(base_only, self.config.anchors + 1, device=x.device)
            alone[:, -1] = 1
            base_restored = self.synthesis(base_mean[:base_only], alone)
        return Output(restored, bits, coded.bits, base_restored, coded.loss, coded.indices)


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
    if model.config.shortcut:
        assert model.analysis.linear.bias is not None
        assert model.synthesis.linear.bias is not None
        model.analysis.linear.weight.copy_(basis.view(m, 3, STRIDE, STRIDE))
        model.analysis.linear.bias.copy_(-mean)
        model.synthesis.linear.weight.copy_(basis.T[:, :, None, None])  # in pixel-shuffle order: (channel, row, col)
        model.synthesis.linear.bias.copy_(basis.T @ mean)
    for part in (model.analysis, model.synthesis, model.prior):
        part.sigma.copy_(sigma)
    d = model.config.codebook_dim
    weight = torch.zeros(d, m)
    weight[torch.arange(d), torch.arange(d)] = (sigma[:d] / sigma[0]) ** 0.7
    model.analysis.base_linear.weight.copy_(weight[:, :, None, None])
