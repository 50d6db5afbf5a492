# SPDX-License-Identifier: MIT
"""The start of the eye tune: other quantiser steps than squared error wants, by channel and by place.

People see low frequencies best, and an error less where there is texture to hide it. So the eye tune begins with finer
steps for the leading latents, coarser ones for the last, and a step factor for every place that follows the contrast of
the base layer's own picture, which the decoder knows. Training moves both.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqcodec.train.codec import Codec
from vqcodec.train.data import Pictures
from vqcodec.train.layers import STRIDE
from vqcodec.train.perception import opponent

FINEST, COARSEST = 0.82, 1.22  # factor of the steps of the first latent and of the last, on a logarithmic scale between
STRENGTH = 0.35  # exponent of the steps by place: of the contrast that hides errors
VISIBLE = 0.0009  # variance of luma on [0, 1] samples below which a place counts as smooth (SSIM's second constant)
CROPS = 240


def log2_contrast(picture: Tensor) -> Tensor:
    """How much texture there is to hide an error: log2 of the variance of luma at a quarter of the resolution.

    Args:
        picture: [B, 3, H, W] in [0, 1], H and W multiples of 16.

    Returns:
        [B, 1, H/16, W/16].
    """
    small = F.avg_pool2d(opponent(picture)[:, :1], 4)
    around = F.pad(small, (2, 2, 2, 2), "replicate")
    mean, square = F.avg_pool2d(around, 5, 1), F.avg_pool2d(around.square(), 5, 1)
    variance = (square - mean.square()).clamp(min=0)
    return torch.log2(1 / F.avg_pool2d(1 / (2 * variance + VISIBLE), STRIDE // 4)) * 0.5


@torch.no_grad()
def start_eye(model: Codec, pictures: Pictures, seed: int = 1) -> None:
    """Give the eye tune its first steps; nothing else changes. The activity head is fitted by least squares."""
    tune, count = model.config.tunes.index("eye"), model.config.anchors
    here = slice(tune * count, (tune + 1) * count)
    latents = model.config.latents
    rank = torch.log1p(torch.arange(latents, dtype=torch.float32)) / math.log1p(latents - 1)
    model.log_step[here] += math.log(FINEST) + rank * math.log(COARSEST / FINEST)
    training = model.training
    model.eval()  # the codebook stays as it is
    rng = np.random.default_rng([seed, 2])
    features, wanted = [], []
    for _ in range(CROPS // 8):
        x = pictures.crops(rng, 8, pictures.crop_size(192)).cpu()
        level = torch.from_numpy(rng.random(8, np.float32))
        _, z = model.analysis(x, model.anchor_weights(level))
        f, base_mean = model.prior.base(model.quantiser(z).code)
        seen = model.synthesis(base_mean, model.base_only_weights(8)).clamp(0, 1)
        features.append(f.permute(0, 2, 3, 1).flatten(0, 2))
        wanted.append(STRENGTH * log2_contrast(seen).flatten())
    f, target = torch.cat(features).double(), torch.cat(wanted).double()
    f = torch.cat([f, torch.ones(len(f), 1, dtype=f.dtype)], 1)
    gram = f.T @ f / len(f)
    gram.diagonal()[:-1].add_(1e-3 * gram.diagonal()[:-1].mean())
    solution = torch.linalg.solve(gram, f.T @ (target - target.mean()) / len(f))
    assert model.prior.activity.bias is not None
    model.prior.activity.weight.copy_(solution[None, :-1, None, None])
    model.prior.activity.bias.copy_(solution[-1:])
    model.prior.place_strength[here] = 1.0
    model.train(training)
