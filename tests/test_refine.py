# SPDX-License-Identifier: MIT
"""The highest efforts: the gradient graph is right, and indices chosen by it cost less."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vqcodec
from tests.conftest import psnr
from vqcodec.codec import search
from vqcodec.errors import ModelError
from vqcodec.model import zoo
from vqcodec.model.gradient import INPUTS, Gradient
from vqcodec.model.walk import Base

U8 = NDArray[np.uint8]


def test_higher_efforts_cost_less(photo: U8) -> None:
    """Bits + lambda * error falls from effort 5 to 6 and on to 9, and the same input gives the same bytes."""
    crop = photo[100:228, 60:220]
    lagrangian = zoo.load(zoo.find()).lagrangian(60)

    def cost(data: bytes) -> float:
        mse = 10 ** (-psnr(crop, np.asarray(vqcodec.decode(data))) / 10)
        return 8 * len(data) / (crop.shape[0] * crop.shape[1]) + lagrangian * mse

    slow = vqcodec.encode(crop, 60, effort=9)
    assert slow == vqcodec.encode(crop, 60, effort=9)
    costs = [cost(vqcodec.encode(crop, 60, effort=effort)) for effort in (5, 6, 7)] + [cost(slow)]
    assert costs[1] < 0.99 * costs[0]
    assert costs[3] < costs[2] < costs[1]
    assert costs[3] < 0.97 * costs[0]


def test_a_model_without_the_graph_says_which_efforts_it_has(photo: U8, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(zoo.find().folder, folder)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del card["files"]["gradient.onnx"]
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    crop = photo[:40, :40]
    assert vqcodec.encode(crop, effort=5, model=folder) == vqcodec.encode(crop, effort=5)
    assert vqcodec.encode(crop, 1, effort=9, model=folder) == vqcodec.encode(crop, 1, effort=9)
    with pytest.raises(ModelError, match="no graph for high efforts: take an effort of 1 to 5"):
        vqcodec.encode(crop, effort=6, model=folder)


def test_another_versions_graph_is_a_model_error() -> None:
    synthesis = zoo.load(zoo.find()).files.verified("synthesis.onnx")
    with pytest.raises(ModelError, match="export it again"):
        Gradient(synthesis, 1)


def test_a_graph_of_another_model_is_a_model_error() -> None:
    """The shipped graph with fewer channels than it has."""
    gradient = zoo.load(zoo.find(), 1).gradient
    assert gradient is not None
    channels = dict.fromkeys(INPUTS, 8) | {"x": 3}
    values = {name: np.zeros((1, channels[name], 2, 2), np.float32) for name in INPUTS}
    with pytest.raises(ModelError, match="graph"):
        gradient(**values)


@pytest.mark.parametrize("iterations", [1, 6])
def test_it_ends_no_worse_than_it_began(photo: U8, iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that lies about its slopes leads nowhere: what comes back is what went in."""
    model, (h, w) = zoo.load(zoo.find(), 1), (4, 6)
    rgb = photo[: 16 * h, : 16 * w]
    start = np.zeros((h, w, model.prior.latents), np.int64)
    calls = []

    def lying(**values: search.Array) -> tuple[search.Array, search.Array, search.Array]:
        shape = values["levels"].shape
        calls.append(int(np.abs(values["levels"]).sum()))
        error = np.abs(values["levels"]).sum(1, keepdims=True)  # every change costs more than it saves
        return np.full(shape, 30, np.float32), error, np.full(shape, -1e6, np.float32)

    monkeypatch.setitem(vars(model), "gradient", lying)
    base = np.zeros((h, w), np.int64)
    plan = search.Plan(iterations, 0.5)
    assert (search.search(model, plan, start, Base.alone(base), rgb, model.setting(50), 100.0) == start).all()
    assert max(calls) > 0  # it was led astray


def test_the_graph_is_the_networks_and_its_gradient_is_the_slope(photo: U8, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from tests.train.conftest import TINY
    from vqcodec.train.codec import Codec, start_linear
    from vqcodec.train.config import ModelConfig, override
    from vqcodec.train.data import linear_basis
    from vqcodec.train.prior import checkerboard
    from vqcodec.train.refinement import refinement_graph

    torch.manual_seed(3)
    config = override(ModelConfig(), dict(setting.split("=") for setting in TINY))
    model = Codec(config).eval()
    start_linear(model, *linear_basis("dct", config.latents, torch.eye(768).double() * 0.01, torch.zeros(768).double()))
    with torch.no_grad():
        for part in (model.synthesis, model.prior):
            for parameter in part.parameters():  # nothing is left at its silent start; float16 holds the values
                parameter.copy_((parameter + 0.03 * torch.randn_like(parameter)).half().float())
        for name, parameter in model.prior.steps.named_parameters():  # matrices are kept in 8 bits, chunk by chunk
            if parameter.ndim == 4 and parameter.shape[1] > 1:
                wide = "context" in name and parameter.shape[1] > 8
                for part in (parameter[:, :8], parameter[:, 8:]) if wide else (parameter,):
                    scale = part.abs().amax((1, 2, 3), keepdim=True) / 127
                    part.copy_((part / scale.clamp(min=1e-12)).round() * scale)
        x = torch.from_numpy(photo[:96, :128].copy()).permute(2, 0, 1)[None].float() / 255
        level = torch.tensor([0.6])
        hat = model.anchor_weights(level, torch.tensor([1]))
        _, z = model.analysis(x, hat)
        features, base_mean = model.prior.base(model.quantiser(z).code)
    path = tmp_path / "gradient.onnx"
    path.write_bytes(refinement_graph(model))
    gradient = Gradient(path.read_bytes(), 1)
    rng = np.random.default_rng(0)
    coded, shrink = np.ones(64, np.float32), rng.uniform(0, 0.3, (64, 3)).astype(np.float32)
    bright = base_mean + torch.from_numpy(rng.normal(0, 0.5, base_mean.shape).astype(np.float32))  # clipped pixels, too
    coded[1::2], shrink[:, 0] = 0, 0
    values = {
        "levels": torch.from_numpy(rng.integers(-2, 3, base_mean.shape).astype(np.float32)),
        "nudge": torch.from_numpy(rng.uniform(-0.2, 0.2, base_mean.shape).astype(np.float32)),
        "x": x, "features": features, "base_mean": bright, "hat": hat,
        "step": model.step_size(hat) * torch.from_numpy(2.0 ** rng.uniform(-1, 1, (1, 1, 6, 8))).float(),
        "first": checkerboard(6, 8, torch.device("cpu")).float(), "coded": torch.from_numpy(coded),
        "shrink": torch.from_numpy(shrink.ravel()),
        "weight": model.lambda_of(level)[0] / 3 * torch.from_numpy(rng.uniform(0.5, 2, (1, 1, 96, 128))).float(),
    }  # fmt: skip
    for weight in (values["weight"], torch.zeros(1, 1, 1, 1)):  # error and bits, and bits alone
        values["weight"] = weight
        found = gradient(**{name: value.detach().numpy() for name, value in values.items()})
        classes, error, slope = _slope(model, values)
        assert 0.1 < (classes % 2).mean() < 0.9  # of which every second class is not coded
        assert (found[0] == classes).mean() > 0.999
        np.testing.assert_allclose(found[1], error, rtol=5e-3)
        for channels in (slice(0, 8), slice(8, 48)):  # bits alone do not hang on the last chunk
            assert np.abs((found[2] - slope)[:, channels]).sum() <= 0.02 * np.abs(slope[:, channels]).sum()


def _slope(model: Any, values: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Classes, error and slopes in torch, step by step; bits by the same Gaussian."""
    import torch
    from torch.nn.functional import avg_pool2d, pad

    from vqcodec.train.losses import gaussian_bits

    v, prior = {name: value.detach() for name, value in values.items()}, model.prior
    nudge = v["nudge"].clone().requires_grad_(True)
    known, latents, bits, classes, start = nudge[:, :0].detach(), [], torch.zeros(()), [], 0
    steps, carried = iter(prior.steps), None
    shrink, first = v["shrink"].view(64, 3), v["first"] > 0.5
    for width, halves in zip(prior.chunks, prior.halves, strict=True):
        here = slice(start, start + width)
        step, base, level = (v[name][:, here] for name in ("step", "base_mean", "levels"))
        sigma = prior.sigma[here, None, None]
        latent = kind = None
        for half in range(halves):
            seen = known
            if half:
                seen = torch.cat([known, torch.where(first, (latent - base) / sigma, 0.0)], 1)
            mean, scale, carried = next(steps)(seen, v["features"], v["hat"], carried)
            scale = scale + torch.log2(sigma) - torch.log2(step)
            new_kind = ((scale.detach() + 3.5) * 6 + 0.5).floor().clamp(0, 63).long()
            index = level - level.sign() * shrink[new_kind, level.abs().clamp(max=2).long()] + nudge[:, here]
            alive = v["coded"][new_kind]
            new = base + sigma * mean + alive * step * index
            mine = first if halves == 2 and not half else ~first if half else torch.ones_like(first)
            bits = bits + (mine * alive * gaussian_bits(level, scale)).sum()
            latent = new if latent is None else torch.where(first, latent, new)
            kind = new_kind if kind is None else torch.where(first, kind, new_kind)
        known = torch.cat([known, (latent - base) / sigma], 1)
        latents.append(latent)
        classes.append(kind)
        start += width
    restored = model.synthesis(torch.cat(latents, 1), pad(v["hat"], (0, 1))).clamp(0, 1)
    squared = v["weight"] * (restored - v["x"]).square()
    (bits + squared.sum()).backward()
    error = 256 * avg_pool2d(squared.sum(1, keepdim=True), 16)
    return torch.cat(classes, 1).numpy(), error.detach().numpy(), nudge.grad.numpy()
