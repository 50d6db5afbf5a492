# SPDX-License-Identifier: MIT
"""Training on from what is shipped: a model folder becomes torch again, grows, and is exported again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr
from tests.train.conftest import run
from vqcodec.bitstream.codebook import LATENT_BITS
from vqcodec.bitstream.quality import Setting
from vqcodec.model import zoo
from vqcodec.model.prior import checkerboard
from vqcodec.train.codec import Codec
from vqcodec.train.export import analysis_graph, synthesis_graph
from vqcodec.train.quantise import Quantisation
from vqcodec.train.shipped import load_shipped
from vqcodec.train.widen import widened


@pytest.fixture(scope="module")
def shipped() -> Codec:
    return load_shipped(zoo.DEFAULT_MODEL)[0].eval()


def test_exported_again_it_is_what_it_was(shipped: Codec) -> None:
    files = zoo.find()
    for name, graph in (("analysis.onnx", analysis_graph(shipped)), ("synthesis.onnx", synthesis_graph(shipped))):
        assert hashlib.sha256(graph).hexdigest() == files.card["files"][name]["sha256"], name


def test_the_float_priors_predict_what_the_integer_ones_do(shipped: Codec) -> None:
    """Means and classes of every step, on contexts of a file: equal but for the rounding of codes."""
    model, rng = zoo.load(zoo.find()), np.random.default_rng(1)
    base, setting = rng.integers(0, model.codebook.size, (9, 10)), Setting(60)
    code = shipped.quantiser.codebook[torch.from_numpy(base)].permute(2, 0, 1)[None]
    weights = shipped.anchor_weights(torch.tensor([58 / 98]))
    with torch.no_grad():
        features, base_mean = shipped.prior.base(code)
        before: torch.Tensor | None = None
        codes, means = model.prior.base(base)
        assert np.corrcoef(means.ravel(), base_mean[0].permute(1, 2, 0).numpy().ravel())[0, 1] > 0.999
        known, last = model.prior.nothing_known((9, 10)), None
        for step, network in zip(model.prior.steps, shipped.prior.steps, strict=True):
            nothing = torch.zeros_like(base_mean)
            mean, log2, before = network(nothing, features, weights, before)
            got, classes, last = model.prior.predict(step, known, codes, means, setting.row, None, last)
            where = torch.from_numpy(checkerboard(9, 10, step.half))
            sigma = shipped.prior.sigma[step.channels, None, None]
            wanted = (base_mean[0, step.channels] + sigma * mean[0])[:, where].T.numpy()
            error = got * 2.0**-LATENT_BITS - wanted
            assert error.std() < 0.1 * wanted.std(), step.number
            size = model.prior.step_size[setting.row, step.channels] * 2.0**-LATENT_BITS
            octaves = log2[0][:, where].T.numpy() + np.log2(sigma[:, 0, 0].numpy() / size)
            apart = classes - np.clip(6 * (octaves + 3.5), 0, 63)
            assert np.abs(apart).mean() < 1, step.number
            assert np.abs(apart.mean()) < 0.5, step.number


def coded(model: Codec, photo: NDArray[np.uint8], tune: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(photo[:128, :128].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        out = model(x, torch.tensor([0.6]), torch.tensor([tune]), 0, Quantisation.CHOICE)
    return out.bits, out.restored


def test_a_wider_prior_and_another_tune_change_nothing_yet(shipped: Codec, photo: NDArray[np.uint8]) -> None:
    wide = widened(shipped, replace(shipped.config, prior_width=224, tunes=("psnr", "eye"))).eval()
    assert wide.prior.enter.weight.shape[0] == 224
    for tune in (0, 1):
        bits, restored = coded(shipped, photo, tune)
        again = coded(wide, photo, tune)
        torch.testing.assert_close(again[0], bits, rtol=1e-4, atol=0)
        torch.testing.assert_close(again[1], restored, rtol=0, atol=1e-4)


def test_new_channels_can_learn(shipped: Codec, photo: NDArray[np.uint8]) -> None:
    wide = widened(shipped, replace(shipped.config, prior_width=224))
    x = torch.from_numpy(photo[:64, :64].copy()).permute(2, 0, 1)[None].float() / 255
    wide(x, torch.tensor([0.6])).bits.sum().backward()
    for name, p in wide.prior.named_parameters():
        if p.ndim == 4 and p.shape[1] == 224 and not name.startswith("activity"):
            assert p.grad is not None
            assert p.grad[:, 192:].abs().max() > 0, f"{name}: no gradient where the new channels enter"


def test_a_shape_that_cannot_grow_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vqcodec.train.cli import main

    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    common = [str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--resume", zoo.DEFAULT_MODEL, "--set", "steps=1"]
    for setting in ("codebook_size=64", "prior_width=64"):
        assert main([*common, "--set-model", setting]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "prior_width, upwards" in said


def test_anybody_fine_tunes_what_is_shipped(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """One command from the shipped weights to a finished folder, and a picture there and back."""
    Image.fromarray(photo[:144, :192]).save(tmp_path / "a.png")
    common = [tmp_path / "a.png", "-o", tmp_path / "run", "--threads", 1]
    quick = [x for s in ("crop=64", "batch=2", "log_seconds=0", "learning_rate=1e-5", "steps=2") for x in ("--set", s)]
    finish = ["--base-minutes", "0.01", "--base-crops", 16, "--samples", 16]
    log = run(*common, "--resume", zoo.DEFAULT_MODEL, *quick, *finish)
    assert "joint step 2 " in log
    picture = photo[:160, :240]
    data = vqcodec.encode(picture, 60, model=tmp_path / "run" / "model")
    back = np.asarray(vqcodec.decode(data, model=tmp_path / "run" / "model"))
    assert psnr(picture, back) > psnr(picture, np.asarray(vqcodec.decode(vqcodec.encode(picture, 60)))) - 1.5
    with pytest.raises(vqcodec.ModelError):
        vqcodec.decode(data)
