# SPDX-License-Identifier: MIT
"""Efforts of 4 and more: the graph gives the slope of the error, and indices chosen by it cost less."""

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
from vqcodec.bitstream.tiles import Rect
from vqcodec.codec import search
from vqcodec.codec.encode import ROUNDS
from vqcodec.errors import ModelError
from vqcodec.model import zoo
from vqcodec.model.aim import INPUTS, Aim
from vqcodec.model.walk import Base, Chooser

U8 = NDArray[np.uint8]


def test_higher_efforts_cost_less(photo: U8) -> None:
    """Bits + lambda * error falls from effort to effort, and the same input gives the same bytes."""
    crop = photo[100:228, 60:220]
    lagrangian = zoo.load(zoo.find()).lagrangian(60)

    def cost(effort: int) -> float:
        data = vqcodec.encode(crop, 60, effort=effort, tune="psnr")
        assert effort < 9 or data == vqcodec.encode(crop, 60, effort=effort, tune="psnr")
        mse = 10 ** (-psnr(crop, np.asarray(vqcodec.decode(data))) / 10)
        return 8 * len(data) / (crop.shape[0] * crop.shape[1]) + lagrangian * mse

    costs = [cost(effort) for effort in (3, 4, 5, 7, 9)]
    assert costs == sorted(costs, reverse=True)
    assert costs[2] < 0.98 * costs[0]


def test_no_two_efforts_are_the_same() -> None:
    assert len(set(ROUNDS.values())) == len(ROUNDS)
    assert sorted(ROUNDS.values()) == [ROUNDS[effort] for effort in sorted(ROUNDS)]


def test_a_model_without_the_graph_says_which_efforts_it_has(photo: U8, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(zoo.find().folder, folder)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del card["files"]["aim.onnx"]
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    crop = photo[:40, :40]
    assert vqcodec.encode(crop, effort=3, model=folder) == vqcodec.encode(crop, effort=3)
    assert vqcodec.encode(crop, 1, effort=9, model=folder) == vqcodec.encode(crop, 1, effort=9)
    with pytest.raises(ModelError, match=r"has no aim\.onnx: export it again, or take an effort of 1 to 3"):
        vqcodec.encode(crop, model=folder)


def test_another_graph_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="another version"):
        Aim(zoo.load(zoo.find()).files.verified("synthesis.onnx"), 1)


def test_a_graph_of_another_model_is_a_model_error() -> None:
    """The shipped graph with fewer channels than it has."""
    channels = dict.fromkeys(INPUTS, 8) | {"x": 3}
    values = {name: np.zeros((1, channels[name], 2, 2), np.float32) for name in INPUTS}
    with pytest.raises(ModelError, match="graph"):
        zoo.load(zoo.find(), 1).aim(**values)


def _aims(model: zoo.Model, base: Base, truth: NDArray[np.float32], rounds: int) -> list[NDArray[np.float32]]:
    """What the choice is asked for, one time after the other, where it gives 0 or 1 everywhere."""
    asked = []

    def choose(wanted: NDArray[np.float32], _: float) -> Chooser:
        asked.append(wanted.copy())
        return lambda p: np.resize([0, 1, 0], p.means.shape)

    h, w = truth.shape[:2]
    black = np.zeros((16 * h, 16 * w, 3), np.uint8)
    last = search.improved(model, rounds, black, 0 * truth, base, model.setting(50), choose)
    return [*asked, last]


def test_it_aims_at_where_the_slopes_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A synthesis for which other latents are best than the analysis says: they are found at once, and kept."""
    model, shape = zoo.load(zoo.find(), 1), (12, 14, 320)
    truth = np.random.default_rng(0).normal(0, 20, shape).astype(np.float32)

    def slopes(y: NDArray[np.float32], **values: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = values["weight"][0, 0, ::16, ::16, None]
        return np.asarray(2 * search.CURVATURE * weight * (y[0].transpose(1, 2, 0) - truth))

    monkeypatch.setattr(zoo.Model, "aim", staticmethod(slopes))
    base = Base.alone(np.zeros(shape[:2], np.int64))
    first, second, third = _aims(model, base, truth, 2)
    assert not first.any()
    np.testing.assert_allclose(second, truth, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(third, truth, rtol=1e-4, atol=1e-3)
    # A tile with others above and on its right: near them the graph does not know what the picture is restored from
    beside = Base(np.zeros((20, 20), np.int64), Rect(0, 8, 14, 20))
    _, second, _ = _aims(model, beside, truth, 2)
    halo = model.synthesis_halo
    assert not second[:halo].any()
    assert not second[:, -halo:].any()
    np.testing.assert_allclose(second[halo:, :-halo], truth[halo:, :-halo], rtol=1e-4, atol=1e-3)


def test_most_rounds_take_the_predictions_of_the_last_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    model, walks = zoo.load(zoo.find(), 1), []
    walk = zoo.Model.walk_refinement

    def counted(self: zoo.Model, *arguments: Any) -> Any:
        walks.append(arguments)
        return walk(self, *arguments)

    monkeypatch.setattr(zoo.Model, "walk_refinement", counted)
    flat = staticmethod(lambda y, **_: np.zeros_like(y[0].transpose(1, 2, 0)))
    monkeypatch.setattr(zoo.Model, "aim", flat)
    for rounds, expected in ((1, 1), (search.WALK_EVERY, 1), (search.WALK_EVERY + 1, 2)):
        walks.clear()
        _aims(model, Base.alone(np.zeros((2, 3), np.int64)), np.zeros((2, 3, 320), np.float32), rounds)
        assert len(walks) == expected


def test_the_graph_gives_the_slope_of_the_error(photo: U8, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from torch.nn.functional import pad

    from tests.train.conftest import TINY
    from vqcodec.train.aim_graph import aim_graph
    from vqcodec.train.codec import Codec, start_linear
    from vqcodec.train.config import ModelConfig, override
    from vqcodec.train.data import linear_basis

    torch.manual_seed(3)
    config = override(ModelConfig(), dict(setting.split("=") for setting in TINY))
    model = Codec(config).eval()
    start_linear(model, *linear_basis("dct", config.latents, torch.eye(768).double() * 0.01, torch.zeros(768).double()))
    x = torch.from_numpy(photo[:96, :128].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        for parameter in model.synthesis.parameters():  # nothing is left at its silent start; float16 holds the values
            parameter.copy_((parameter + 0.03 * torch.randn_like(parameter)).half().float())
        hat = model.anchor_weights(torch.tensor([0.6]), torch.tensor([1]))
        y = model.analysis(x, hat)[0]
    y = (y + 0.5 * torch.randn_like(y)).requires_grad_(True)  # clipped pixels, too
    weight = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 2, (1, 1, 96, 128))).float()
    (weight * (model.synthesis(y, pad(hat, (0, 1))).clamp(0, 1) - x).square()).sum().backward()
    graph = Aim(aim_graph(model), 1)
    found = graph(y=y.detach().numpy(), x=x.numpy(), hat=hat.numpy(), weight=weight.numpy())
    expected = y.grad[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).sum() <= 0.02 * np.abs(expected).sum()
