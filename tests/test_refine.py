# SPDX-License-Identifier: MIT
"""The highest efforts: the gradient graph is right, and following it makes files smaller for the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from tests.conftest import psnr
from vqcodec import refine, zoo

U8 = NDArray[np.uint8]


def test_the_highest_effort_costs_less(photo: U8) -> None:
    """Bits + lambda * error falls from effort 5 to 9, and the same input gives the same bytes."""
    crop = photo[100:228, 60:220]
    lagrangian = zoo.load(zoo.find()).lagrangian(60)

    def cost(data: bytes) -> float:
        mse = 10 ** (-psnr(crop, np.asarray(vqcodec.decode(data))) / 10)
        return 8 * len(data) / (crop.shape[0] * crop.shape[1]) + lagrangian * mse

    fast = vqcodec.encode(crop, 60, effort=5)
    slow = vqcodec.encode(crop, 60, effort=9)
    assert slow == vqcodec.encode(crop, 60, effort=9)
    assert cost(slow) < 0.99 * cost(fast)


def test_a_model_without_the_graph_encodes_all_the_same(photo: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.Model, "gradient", None)
    crop = photo[:40, :40]
    assert vqcodec.encode(crop, effort=9) == vqcodec.encode(crop, effort=6)


def test_the_graph_is_the_networks_and_its_gradient_is_the_slope(photo: U8, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from tests.test_train import TINY
    from vqcodec.train.config import ModelConfig, override
    from vqcodec.train.data import linear_basis
    from vqcodec.train.networks import Codec, checkerboard, start_linear
    from vqcodec.train.refinement import refinement_graph

    torch.manual_seed(3)
    config = override(ModelConfig(), dict(setting.split("=") for setting in TINY))
    model = Codec(config).eval()
    start_linear(model, *linear_basis("dct", config.latents, torch.eye(768).double() * 0.01, torch.zeros(768).double()))
    with torch.no_grad():
        for part in (model.synthesis, model.prior):
            for parameter in part.parameters():  # nothing is left at its silent start; float16 holds the values
                parameter.copy_((parameter + 0.03 * torch.randn_like(parameter)).half().float())
        x = torch.from_numpy(photo[:96, :128].copy()).permute(2, 0, 1)[None].float() / 255
        level = torch.tensor([0.6])
        out = model(x, level, 0, False)
        hat = model.hat(level)
        y, z = model.analysis(x, hat)
        features, base_mean = model.prior.base(model.quantiser(z).code)
    path = tmp_path / "gradient.onnx"
    path.write_bytes(refinement_graph(model))
    gradient = refine.Gradient(path.read_bytes(), 1)
    weight = float(model.lambda_of(level)) / 3
    values = {
        "x": x, "features": features, "base_mean": base_mean, "hat": hat, "step": model.step_size(hat),
        "first": checkerboard(6, 8, torch.device("cpu")).float(),
    }  # fmt: skip
    still = {name: value.detach().numpy() for name, value in values.items()}
    still["weight"] = np.array(weight, np.float32)
    start = y.numpy()

    # Cold and without noise the soft levels are the nearest ones, and the cost is that of the networks.
    cost, _ = gradient(y=start, noise=np.zeros_like(start), temperature=np.array(0.01, np.float32), **still)
    error = float((out.restored - x).square().sum())
    assert cost == pytest.approx(float(out.bits) + weight * error, rel=2e-3)

    # Warm, its gradient is the one that torch finds.
    rng = np.random.default_rng(0)
    noise = rng.logistic(size=start.shape).astype(np.float32)
    _, slope = gradient(y=start, noise=noise, temperature=np.array(0.5, np.float32), **still)
    wanted = _slope(model, values, y, torch.from_numpy(noise), 0.5, weight)
    assert np.abs(slope - wanted).sum() < 0.01 * np.abs(wanted).sum()
    assert np.abs(slope[:, :8] - wanted[:, :8]).sum() < 0.01 * np.abs(wanted[:, :8]).sum()


def _slope(model: Any, values: dict[str, Any], y: Any, noise: Any, temperature: float, weight: float) -> Any:
    """Bits + weight * squared error of softly quantised latents in torch, step by step; its gradient."""
    import torch
    from torch.nn.functional import pad

    from vqcodec.train.losses import gaussian_bits

    prior, base_mean, hat, first = model.prior, values["base_mean"], values["hat"], values["first"] > 0.5
    y = y.clone().requires_grad_(True)
    known, latents, bits, start = y[:, :0].detach(), [], torch.zeros(()), 0
    number, carried = 0, [None]
    for width, halves in zip(prior.chunks, prior.halves, strict=True):
        here = slice(start, start + width)
        sigma, step, base = prior.sigma[here, None, None], values["step"][:, here], base_mean[:, here]

        def half(offset: int, context: Any, number: int = number, here: slice = here, step: Any = step) -> Any:
            sigma = prior.sigma[here, None, None]
            mean, scale, carried[0] = prior.steps[number + offset](context, values["features"], hat, carried[0])
            mean, scale = base_mean[:, here] + sigma * mean, scale + torch.log2(sigma) - torch.log2(step)
            t = (y[:, here] - mean) / step
            rest = (t - t.floor().detach()) * 0.9998 + 0.0001
            chance = ((torch.atanh(rest) - torch.atanh(1 - rest)) / temperature + noise[:, here]) / temperature
            level = torch.where(scale < -3, 0.0, t.floor().detach() + torch.sigmoid(chance))
            return mean + level * step, level, scale

        latent, level, scale = half(0, known)
        if halves == 2:
            seen = torch.where(first, (latent - base) / sigma, 0.0)
            latent2, level2, scale2 = half(1, torch.cat([known, seen], 1))
            latent, level, scale = (
                torch.where(first, a, b) for a, b in ((latent, latent2), (level, level2), (scale, scale2))
            )
        bits = bits + gaussian_bits(level, scale).sum()
        number += halves
        known = torch.cat([known, (latent - base) / sigma], 1)
        latents.append(latent)
        start += width
    restored = model.synthesis(torch.cat(latents, 1), pad(hat, (0, 1)))
    (bits + weight * (restored - values["x"]).square().sum()).backward()
    return y.grad.numpy()
