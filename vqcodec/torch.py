# SPDX-License-Identifier: MIT
"""A shipped model as torch modules: analysis, synthesis and likelihoods, with gradients. Needs vqcodec[train].

    from vqcodec.torch import load
    codec = load("photo-1")
    out = codec(x, quality=75)       # x [B, 3, H, W] in [0, 1]

For losses, probes and models of your own. The networks are those of `vqcodec.train`. No file is written or read here:
the integer prior that decides the bytes is not here, only floats that stand for it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ModuleNotFoundError:
    raise ModuleNotFoundError("vqcodec.torch needs torch: pip install 'vqcodec[train]'", name="torch") from None

from vqcodec.errors import InputError
from vqcodec.model import zoo
from vqcodec.options import BASE_ONLY_QUALITY, MAX_QUALITY, ModelName
from vqcodec.train.codec import Codec
from vqcodec.train.layers import STRIDE
from vqcodec.train.losses import gaussian_bits
from vqcodec.train.prior import BasePrior, quarter
from vqcodec.train.quantise import Quantisation
from vqcodec.train.shipped import load_shipped

__all__ = ["Analysed", "Analysis", "Likelihoods", "Rated", "Restored", "ShippedCodec", "Synthesis", "load"]

Quality = float | Tensor  # 2 to 100, whole or not; a tensor [B] has one for each picture


class Analysed(NamedTuple):
    """What the analysis gives."""

    latents: Tensor  # [B, M, H/16, W/16], not quantised
    indices: Tensor  # [B, H/16, W/16] int64, of the base layer


class Rated(NamedTuple):
    """A batch as a file holds it, and what it costs."""

    latents: Tensor  # [B, M, h, w] quantised, with a straight-through gradient
    base_latents: Tensor  # [B, M, h, w], what the base layer alone stands for
    base_bits: Tensor  # [B, h, w], -log2 of the likelihood of each base index
    refinement_bits: Tensor  # [B, M, h, w], -log2 of the likelihood of each refinement index


class Restored(NamedTuple):
    """What a whole pass gives."""

    pictures: Tensor  # [B, 3, H, W], nominally in [0, 1]
    bpp: Tensor  # [B], bits per pixel of both layers; a file adds its header and, mostly, a colour layer


class _Part(nn.Module):
    """What the parts share: the codec, and the weights of a quality of a tune."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def weights(self, quality: Quality, tune: str | None, count: int) -> tuple[Tensor, Tensor]:
        """Levels [B] in [0, 1] and anchor weights [B, R]; `tune` None is that of `vqcodec.encode`."""
        like = self.codec.log_step
        each = torch.as_tensor(quality, dtype=like.dtype, device=like.device).expand(count)
        if not bool(((each > BASE_ONLY_QUALITY) & (each <= MAX_QUALITY)).all()):
            raise InputError(f"qualities here are above {BASE_ONLY_QUALITY} and at most {MAX_QUALITY}")
        level = ((each - BASE_ONLY_QUALITY - 1) / (MAX_QUALITY - BASE_ONLY_QUALITY - 1)).clamp(min=0)
        tunes = self.codec.config.tunes
        number = torch.full((count,), tunes.index(zoo.chosen_tune(tunes, tune)), device=like.device)
        return level, self.codec.anchor_weights(level, number)


class Analysis(_Part):
    """Pictures -> latents and base indices."""

    def forward(self, x: Tensor, quality: Quality = 75, tune: str | None = None) -> Analysed:
        """Analyse.

        Args:
            x: [B, 3, H, W] float32 in [0, 1], RGB, H and W multiples of 16.
            quality: above 1, at most 100.
            tune: "psnr" or "eye"; None for "eye", where the model has it.

        Raises:
            InputError: another shape or quality.
            UsageError: the model lacks this tune.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % STRIDE or x.shape[3] % STRIDE:
            raise InputError(f"pictures are [B, 3, H, W] with H and W multiples of {STRIDE}, not {list(x.shape)}")
        latents, vectors = self.codec.analysis(x, self.weights(quality, tune, len(x))[1])
        return Analysed(latents, self.codec.quantiser(vectors.float()).indices)


class Synthesis(_Part):
    """Latents -> pictures, by the faithful decoder."""

    def forward(
        self, latents: Tensor, quality: Quality = 75, tune: str | None = None, *, base_only: bool = False
    ) -> Tensor:
        """Synthesise [B, 3, 16 h, 16 w], nominally in [0, 1].

        Args:
            latents: [B, M, h, w].
            quality, tune: as `Analysis` takes them.
            base_only: the latents are those of the base layer alone (`Rated.base_latents`), as in files of quality 1.
        """
        if base_only:
            weights = self.codec.base_only_weights(len(latents))
        else:
            weights = F.pad(self.weights(quality, tune, len(latents))[1], (0, 1))
        pictures: Tensor = self.codec.synthesis(latents, weights)
        return pictures


class Likelihoods(_Part):
    """Latents and base indices -> quantised latents, and the bits of every index under the priors."""

    def __init__(self, codec: Codec, base_prior: BasePrior) -> None:
        super().__init__(codec)
        self.base_prior = base_prior

    def forward(
        self, latents: Tensor, indices: Tensor, quality: Quality = 75, tune: str | None = None, *, noise: bool = False
    ) -> Rated:
        """Quantise and rate.

        Args:
            latents: [B, M, h, w] float32, `Analysed.latents`.
            indices: [B, h, w] int64, `Analysed.indices`.
            quality, tune: as `Analysis` takes them.
            noise: rate values with uniform noise in place of rounded ones, which gives the bits a useful gradient
                (Balle et al., "Variational image compression with a scale hyperprior", 2018).
        """
        c = self.codec
        level, weights = self.weights(quality, tune, len(latents))
        code = c.quantiser.codebook[indices].permute(0, 3, 1, 2)
        features, base_latents = c.prior.base(code)
        size = c.step_size(weights)
        worth = (weights @ c.choice * c.lambda_of(level))[:, None, None, None] / 3 * size.square()
        size = size * torch.exp2(c.prior.log2_place(features, weights))
        how = Quantisation.NOISE if noise else Quantisation.CHOICE
        quantised, rated, log2_scale = c.prior(latents, features, base_latents, size, weights, how, worth)
        return Rated(quantised, base_latents, self._base_bits(code, indices), gaussian_bits(rated, log2_scale))

    def _base_bits(self, code: Tensor, indices: Tensor) -> Tensor:
        """Bits of the base indices [B, h, w], pass by pass."""
        h, w = indices.shape[1:]
        bits = code.new_zeros(indices.shape)
        known = torch.zeros(h, w, dtype=torch.bool, device=code.device)
        for number in range(4):
            where = quarter(h, w, number, code.device)
            nats = F.log_softmax(self.base_prior(code * known, number, where) * math.log(2), 2)
            bits[:, where] = nats.gather(2, indices[:, where][:, :, None])[:, :, 0] / -math.log(2)
            known = known | where
        return bits


class ShippedCodec(nn.Module):
    """A whole model: `analysis`, `likelihoods` and `synthesis`, and all of them in a row."""

    def __init__(self, codec: Codec, base_prior: BasePrior) -> None:
        super().__init__()
        self.analysis, self.synthesis = Analysis(codec), Synthesis(codec)
        self.likelihoods = Likelihoods(codec, base_prior)

    def forward(self, x: Tensor, quality: Quality = 75, tune: str | None = None, *, noise: bool = False) -> Restored:
        """Code and restore pictures [B, 3, H, W]; the arguments are those of the parts."""
        analysed = self.analysis(x, quality, tune)
        rated = self.likelihoods(*analysed, quality, tune, noise=noise)
        bits = rated.base_bits.sum((1, 2)) + rated.refinement_bits.sum((1, 2, 3))
        return Restored(self.synthesis(rated.latents, quality, tune), bits / (x.shape[2] * x.shape[3]))


def load(model: ModelName | None = None) -> ShippedCodec:
    """A model as torch modules, float32 on the CPU, in evaluation mode; its codebook never changes.

    Args:
        model: id or folder of a model; None for the default.

    Raises:
        ModelError: there is no such model.
        InputError: its parts do not fit the networks of this version.

    Examples:
        >>> import torch
        >>> from vqcodec.torch import load
        >>> out = load()(torch.zeros(1, 3, 32, 48), quality=50)
        >>> out.pictures.shape, bool(out.bpp < 1)
        (torch.Size([1, 3, 32, 48]), True)
    """
    codec, base_prior = load_shipped(zoo.DEFAULT_MODEL if model is None else str(model))
    codec.quantiser.learns = False
    return ShippedCodec(codec, base_prior).eval()
