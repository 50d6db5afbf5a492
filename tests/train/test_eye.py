# SPDX-License-Identifier: MIT
"""The eye tune: its distortion, its start, and that the integer prior has the place classes of the torch one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.train.conftest import TINY
from vqcodec.bitstream.quality import Setting
from vqcodec.model import prior as integer
from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig, override
from vqcodec.train.data import Pictures
from vqcodec.train.export import integer_tables
from vqcodec.train.eye import log2_contrast, start_eye
from vqcodec.train.finish import Sample
from vqcodec.train.loop import Trainer, distortion
from vqcodec.train.perception import ms_ssim
from vqcodec.train.prior import BasePrior


def batch(photo: NDArray[np.uint8], side: int = 192) -> torch.Tensor:
    crops = np.stack([photo[:side, :side], photo[100 : 100 + side, 300 : 300 + side]])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


def test_ms_ssim_is_the_benchmarks(photo: NDArray[np.uint8]) -> None:
    metrics = pytest.importorskip("bench.metrics")
    x = batch(photo)
    noisy = ((x + 0.04 * torch.randn_like(x)).clamp(0, 1) * 255).round() / 255
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        values = ms_ssim(noisy, x)
    for a, b, value in zip(noisy, x, values, strict=True):
        pixels = [(255 * t).round().byte().permute(1, 2, 0).numpy() for t in (b, a)]
        assert float(value) == pytest.approx(metrics.ms_ssim(*pixels), abs=2e-4)


def test_each_tune_has_its_own_distortion(photo: NDArray[np.uint8]) -> None:
    x = batch(photo)
    eye = torch.tensor([True, False])
    lost, mse = distortion((x + 0.02 * torch.randn_like(x)).clamp(0, 1), x, eye, 0.6)
    assert lost[1] == mse[1]
    assert lost[0] != mse[0]
    assert torch.equal(*distortion(x * 0.9, x, torch.zeros(2, dtype=torch.bool), 0.6))


def test_the_eye_sees_a_wrong_hue(photo: NDArray[np.uint8]) -> None:
    """Of two errors of one size, the tint costs more than the noise in the block means, and far more than in MSE."""
    x, eye = batch(photo).clamp(0.1, 0.9), torch.ones(2, dtype=torch.bool)
    tint = x + 0.03 * torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    lost, mse = distortion(tint, x, eye, 0.0001)
    assert (lost > 2.5 * mse).all()


def test_contrast_finds_texture() -> None:
    flat = torch.full((1, 3, 64, 64), 0.5)
    flat[:, :, :, 32:] += 0.2 * (torch.rand(1, 1, 64, 32) - 0.5)
    contrast = log2_contrast(flat)
    assert contrast.shape == (1, 1, 4, 4)
    assert (contrast[..., 3] > contrast[..., 0] + 0.1).all()


@pytest.fixture(scope="module")
def model(photo: NDArray[np.uint8]) -> Codec:
    torch.manual_seed(4)
    codec = Codec(override(ModelConfig(), dict(setting.split("=") for setting in TINY))).eval()
    pictures = Pictures(torch.from_numpy(photo.reshape(-1).copy()), np.array([photo.shape[:2]]), torch.device("cpu"))
    with torch.no_grad():
        codec.quantiser.codebook.normal_()
    before = codec.quantiser.codebook.clone()
    start_eye(codec.train(), pictures)
    assert torch.equal(codec.quantiser.codebook, before), "the base layer's indices must stay what they are"
    assert codec.training
    return codec.eval()


def test_it_starts_finer_below_and_coarser_above(model: Codec) -> None:
    anchors = model.config.anchors
    ratio = (model.log_step[anchors:] - model.log_step[:anchors]).exp()
    assert (ratio[:, 0] < 0.9).all()
    assert (ratio[:, -1] > 1.1).all()
    assert (ratio.diff(dim=1) > 0).all()


def test_the_integer_prior_has_the_same_place_classes(model: Codec) -> None:
    with torch.no_grad():
        model.prior.activity.weight.normal_(0, 0.3)
        model.prior.place_strength[model.config.anchors :] = torch.tensor([1.0, 0.8, 1.2, 0.5])
        model.prior.place_strength[: model.config.anchors] = 1.0  # of the psnr tune: without effect
        rng = np.random.default_rng(0)
        settings = [Setting(quality, tune) for quality in (2, 60, 100) for tune in (0, 1)]
        latents = [rng.normal(0, 0.3, (12, 15, model.config.latents)) for _ in settings]
        samples = [Sample(s, y, rng.integers(0, 64, (12, 15))) for s, y in zip(settings, latents, strict=True)]
        prior = integer.RefinementPrior(integer_tables(model, BasePrior(model.config), samples))
        base = samples[0].base
        features, _ = prior.base(base)
        code = model.quantiser.codebook[torch.from_numpy(base)].permute(2, 0, 1)[None]
        wanted, _ = model.prior.base(code)
        for quality, level in ((2, 0.0), (60, 58 / 98), (100, 1.0)):
            assert prior.places(features, Setting(quality, 0).row) is None
            places = prior.places(features, Setting(quality, 1).row)
            log2 = model.prior.log2_place(wanted, model.anchor_weights(torch.tensor([level]), torch.tensor([1])))
            assert places is not None
            assert len(np.unique(places)) > 3
            apart = np.abs(places - (8 * log2[0, 0]).numpy())
            assert apart.max() <= 1
            assert np.mean(apart == 0) > 0.7, "codes have 8 bits"
            sizes = prior.sizes(prior.steps[-1], Setting(quality, 1).row, places)
            step = prior.step_size[Setting(quality, 1).row, prior.steps[-1].channels]
            np.testing.assert_allclose(sizes, step * 2.0 ** (places.reshape(-1, 1) / 8), rtol=2e-4, atol=1)


def test_every_tune_is_trained_at_every_level() -> None:
    config = SimpleNamespace(batch=8, eye=0.5)
    network = SimpleNamespace(config=SimpleNamespace(tunes=("psnr", "eye")))
    trainer: Any = SimpleNamespace(c=config, network=network, device="cpu", _batch=lambda rng: None)
    rng = np.random.default_rng(1)
    drawn = [Trainer._samples(trainer, rng)[1:] for _ in range(100)]
    levels, tunes = (np.concatenate([np.asarray(draw[part]) for draw in drawn]) for part in (0, 1))
    assert tunes.mean() == 0.5
    for tune in (0, 1):
        quarters = np.histogram(levels[tunes == tune], 4, (0, 1))[0]
        assert quarters.min() > 70, "of 100"
