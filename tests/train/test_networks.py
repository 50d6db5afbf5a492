# SPDX-License-Identifier: MIT
"""The networks: which parts learn, what they cost, and that their export computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vqcodec
from tests.train.conftest import TINY
from vqcodec.bitstream.tiles import Rect
from vqcodec.model import zoo
from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig, TextureConfig, TrainConfig, override
from vqcodec.train.losses import gaussian_bits
from vqcodec.train.shipped import load_shipped


def test_the_budget_in_the_documentation_is_that_of_the_model() -> None:
    from vqcodec.train.budget import parts, table

    page = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    assert table(ModelConfig(), TextureConfig()) in page, "python -m vqcodec.train.budget"
    shipped = load_shipped("photo-1")[0].config
    assert parts(shipped) == parts(ModelConfig()), "the page says that the table is photo-1's"
    decoder = [part for part in parts(ModelConfig()) if part.decoder]
    assert sum(part.kmac for part in decoder) < 30
    assert sum(part.parameters for part in parts(ModelConfig())) < 12e6


def test_tuning_the_synthesis_leaves_the_bitstream_alone() -> None:
    """Only the parts that a phase names learn: names of parameters, checked against the model's own."""
    from vqcodec.train.loop import LEARNS

    config = override(ModelConfig(), dict(setting.split("=") for setting in TINY))
    names = [name for name, _ in Codec(config).named_parameters()]
    for phase, parts in LEARNS.items():
        assert all(any(name.startswith(part) for name in names) for part in parts), phase
    assert not any(name.startswith(LEARNS["synthesis"]) for name in names if not name.startswith("synthesis"))


def test_exported_transforms_equal_the_trained_ones(tmp_path: Path) -> None:
    from vqcodec.model.transforms import Analysis, Synthesis
    from vqcodec.train.export import analysis_graph, synthesis_graph

    torch.manual_seed(0)
    config = override(ModelConfig(), dict(setting.split("=") for setting in TINY))
    model = Codec(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        model.analysis.sigma.uniform_(0.5, 2)
        model.synthesis.sigma.copy_(model.analysis.sigma)
        model.synthesis.linear.weight.mul_(0.2)
    (tmp_path / "a.onnx").write_bytes(analysis_graph(model))
    (tmp_path / "s.onnx").write_bytes(synthesis_graph(model))
    assert analysis_graph(model) == analysis_graph(model)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    weights = np.array([0, 0.25, 0.75, 0, 0, 0, 0, 0])
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        y, z = model.analysis(x, torch.from_numpy(weights)[None].float())
        restored = model.synthesis(y, torch.from_numpy(np.append(weights, 0))[None].float())
    got_y, got_z = Analysis((tmp_path / "a.onnx").read_bytes())(picture, weights)
    np.testing.assert_allclose(got_y, y[0].permute(1, 2, 0), atol=0.02)
    np.testing.assert_allclose(got_z, z[0].permute(1, 2, 0), atol=0.05)
    got = Synthesis((tmp_path / "s.onnx").read_bytes())(
        y[0].permute(1, 2, 0).numpy(), np.append(weights, 0), Rect(0, 0, 64, 48)
    )
    want = (restored[0].permute(1, 2, 0).clamp(0, 1) * 255).round().numpy()
    assert np.abs(got - want).max() <= 1


def test_gaussian_bits_against_the_integral() -> None:
    from statistics import NormalDist

    for scale in (0.3, 1.0, 20.0):
        for t in (0.0, 0.4, -1.2, 3 * scale):
            normal = NormalDist(0, scale)
            p = normal.cdf(t + 0.5) - normal.cdf(t - 0.5)
            got = gaussian_bits(torch.tensor([t]), torch.tensor([np.log2(scale)]))
            assert float(got) == pytest.approx(-np.log2(p), rel=1e-3, abs=1e-4)
    far = gaussian_bits(torch.tensor([30.0, 60.0]), torch.tensor([-2.0, -2.0]))
    assert 100 < far[0] < far[1]


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(vqcodec.UsageError, match="known are"):
        override(TrainConfig(), {"stepz": "3"})
    with pytest.raises(vqcodec.UsageError, match="int"):
        override(TrainConfig(), {"steps": "many"})
    with pytest.raises(vqcodec.UsageError, match="add up"):
        override(ModelConfig(), {"latents": "100"})


def test_the_card_names_what_it_ships() -> None:
    files = zoo.find()
    for name in zoo.FILES:
        assert len(files.verified(name)) == files.card["files"][name]["bytes"]
    assert sum(entry["bytes"] for entry in files.card["files"].values()) < 25e6
