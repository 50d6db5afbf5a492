# SPDX-License-Identifier: MIT
"""Parameters, and multiply-accumulates per pixel, of every part of a model; and what a machine can do.

python -m vqcodec.train.budget            the table of docs/model.md, for the default configuration
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqcodec.train.config import ModelConfig, TextureConfig
from vqcodec.train.networks import STRIDE, BasePrior, Codec, quarter
from vqcodec.train.texture import Texture

SIDE = 256  # of the picture on which operations are counted


class Part(NamedTuple):
    """One row of the budget."""

    name: str
    parameters: int
    kmac: float  # thousand multiply-accumulates per pixel of the picture
    decoder: bool  # whether a decoder runs it


@contextmanager
def _counting(module: nn.Module) -> Iterator[list[int]]:
    """Counts the multiply-accumulates of the convolutions that run inside."""
    total = [0]

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        total[0] += output.numel() * layer.weight[0].numel()

    handles = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, nn.Conv2d)]
    try:
        yield total
    finally:
        for handle in handles:
            handle.remove()


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def parts(config: ModelConfig) -> list[Part]:
    """The budget of a configuration.

    The base prior's last layer works on the positions of one pass only, the refinement prior's layers before its
    last on all positions of each step: counted as the shipped decoder computes them.
    """
    model, base_prior = Codec(config).eval(), BasePrior(config).eval()
    hat = model.hat(torch.tensor([0.5]))
    grid = SIDE // STRIDE
    pixels = SIDE * SIDE
    x = torch.zeros(1, 3, SIDE, SIDE)
    y, code = torch.zeros(1, config.latents, grid, grid), torch.zeros(1, config.codebook_dim, grid, grid)
    rows = []
    with _counting(model.analysis) as count:
        model.analysis(x, hat)
    rows.append(Part("analysis transform", _parameters(model.analysis), count[0] / pixels / 1000, False))
    if config.base == "vq":
        words = config.base_stages * config.codebook_size * config.codebook_dim
        rows.append(Part("base codebook (the encoder's search)", words, words * grid * grid / pixels / 1000, False))
    else:
        with _counting(model.quantiser) as count:
            model.quantiser(code, False)
        rows.append(Part("base layer's scalar latents", _parameters(model.quantiser), count[0] / pixels / 1000, True))
    with _counting(base_prior) as count:
        for number in range(4):
            where = quarter(grid, grid, number, x.device)
            base_prior(code, number, where)
            count[0] += int(where.sum()) * base_prior.out.weight[:, :, 0, 0].numel()
    rows.append(Part("base layer's prior, 4 passes", _parameters(base_prior), count[0] / pixels / 1000, True))
    with _counting(model.prior) as count:
        features, base_mean = model.prior.base(code)
        model.prior(y, features, base_mean, model.step_size(hat), hat, False)
    name = f"refinement's prior, {len(model.prior.steps)} steps"
    rows.append(Part(name, _parameters(model.prior) + model.log_step.numel(), count[0] / pixels / 1000, True))
    with _counting(model.synthesis) as count:
        model.synthesis(y, torch.cat([hat, torch.zeros(1, 1)], 1))
    rows.append(Part("synthesis transform", _parameters(model.synthesis), count[0] / pixels / 1000, True))
    return rows


@torch.no_grad()
def texture_part(config: ModelConfig, shape: TextureConfig) -> Part:
    """What the realistic decoder runs beside the decoder."""
    texture, grid = Texture(config, shape), SIDE // STRIDE
    y, x = torch.zeros(1, config.latents, grid, grid), torch.zeros(1, 3, SIDE, SIDE)
    with _counting(texture) as count:
        texture(y, x, torch.zeros(1, config.anchors + 1), torch.ones(1, 1), x[:, :1])
    return Part("texture network", _parameters(texture), count[0] / SIDE / SIDE / 1000, False)


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
