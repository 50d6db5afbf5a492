# SPDX-License-Identifier: MIT
"""Parameters, and multiply-accumulates per pixel, of every part of a model; and what a machine can do.

python -m vqcodec.train.budget            the table of docs/model.md, for the default configuration
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig, TextureConfig
from vqcodec.train.layers import STRIDE
from vqcodec.train.prior import BasePrior, quarter
from vqcodec.train.quantise import Quantisation
from vqcodec.train.texture import Texture

SIDE = 256  # of the picture on which operations are counted


class Part(NamedTuple):
    """One row of the budget."""

    name: str
    parameters: int
    kmac: float  # thousand multiply-accumulates per pixel of the picture
    decoder: bool  # whether a decoder runs it


def _kmac(run: Callable[[], object]) -> float:
    """Thousand multiply-accumulates per pixel of what runs on a picture of SIDE x SIDE."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 2 / SIDE**2 / 1000


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def parts(config: ModelConfig) -> list[Part]:
    """The budget of a configuration.

    The base prior's last layer works on the positions of one pass only, the refinement prior's layers before its
    last on all positions of each step: counted as the shipped decoder computes them.
    """
    model, base_prior = Codec(config).eval(), BasePrior(config).eval()
    weights = model.anchor_weights(torch.tensor([0.5]))
    grid = SIDE // STRIDE
    x = torch.zeros(1, 3, SIDE, SIDE)
    y, code = torch.zeros(1, config.latents, grid, grid), torch.zeros(1, config.codebook_dim, grid, grid)

    def all_passes() -> None:
        for number in range(4):
            base_prior(code, number, quarter(grid, grid, number, x.device))

    def all_steps() -> None:
        features, base_mean = model.prior.base(code)
        model.prior(y, features, base_mean, model.step_size(weights), weights, Quantisation.NEAREST)

    words = config.codebook_size * config.codebook_dim
    of_prior = _parameters(model.prior) + model.log_step.numel()
    alone = torch.cat([weights, torch.zeros(1, 1)], 1)
    return [
        Part("analysis transform", _parameters(model.analysis), _kmac(lambda: model.analysis(x, weights)), False),
        Part("base codebook (the encoder's search)", words, words / STRIDE**2 / 1000, False),
        Part("base layer's prior, 4 passes", _parameters(base_prior), _kmac(all_passes), True),
        Part(f"refinement's prior, {len(model.prior.steps)} steps", of_prior, _kmac(all_steps), True),
        Part("synthesis transform", _parameters(model.synthesis), _kmac(lambda: model.synthesis(y, alone)), True),
    ]


@torch.no_grad()
def texture_part(config: ModelConfig, shape: TextureConfig) -> Part:
    """What the realistic decoder runs beside the decoder."""
    texture, grid = Texture(config, shape), SIDE // STRIDE
    y, x = torch.zeros(1, config.latents, grid, grid), torch.zeros(1, 3, SIDE, SIDE)
    weights = torch.zeros(1, config.rows + 1)
    kmac = _kmac(lambda: texture(y, x, weights, torch.ones(1, 1), x[:, :1]))
    return Part("texture network", _parameters(texture), kmac, False)


def table(config: ModelConfig, shape: TextureConfig) -> str:
    """The budget in Markdown, sums included."""
    rows, texture = parts(config), texture_part(config, shape)
    lines = ["| part | parameters | kMAC per pixel |", "|---|---:|---:|"]
    lines += [f"| {row.name} | {row.parameters:,} | {row.kmac:.2f} |" for row in [*rows, texture]]
    encoder = [row for row in rows if row.name != "synthesis transform"]  # which the highest efforts run, too
    decoder = [row for row in rows if row.decoder]
    sums = ("**encoder**", encoder), ("**decoder**", decoder), ("**realistic decoder**", [*decoder, texture])
    for name, chosen in sums:
        lines.append(f"| {name} | {sum(r.parameters for r in chosen):,} | {sum(r.kmac for r in chosen):.2f} |")
    return "\n".join(lines)


def step_operations(config: ModelConfig, crop: int) -> float:
    """Floating-point operations of one training step per crop: forward, and twice that backward."""
    trained = sum(row.kmac for row in parts(config) if "base layer" not in row.name)
    return trained * 1000 * crop * crop * 2 * 3


def machine_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, here and now."""
    side = 8192 if device.type == "cuda" else 512
    a = torch.randn(side, side, device=device).to(dtype)
    best = 0.0
    for _ in range(4):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(8):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 8 * 2 * side**3 / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    print(table(ModelConfig(), TextureConfig()))
