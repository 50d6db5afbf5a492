# SPDX-License-Identifier: MIT
"""`vqcodec.torch`: the modules do what the codec does, with gradients."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import vqcodec
from tests.conftest import psnr
from vqcodec.model import zoo
from vqcodec.torch import ShippedCodec, load


@pytest.fixture(scope="module")
def codec() -> ShippedCodec:
    return load()


@pytest.fixture(scope="module")
def picture(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(photo[64:256, 96:320])


def batch(*pictures: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def test_indices_pictures_and_rates_are_those_of_files(codec: ShippedCodec, picture: NDArray[np.uint8]) -> None:
    x = batch(picture, picture[::-1].copy())
    with torch.no_grad():
        out = codec(x, torch.tensor([75.0, 30.0]), "psnr")
        base = codec.analysis(x, torch.tensor([75.0, 30.0]), "psnr").indices
    for number, quality in enumerate((75, 30)):
        rgb = (x[number] * 255).round().byte().permute(1, 2, 0).numpy()
        data = vqcodec.encode(rgb, quality, effort=2, tune="psnr")
        same = base[number].numpy() == vqcodec.indices(data).base
        assert same.mean() > 0.98
        restored = (out.pictures[number].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        assert psnr(rgb, restored) == pytest.approx(psnr(rgb, np.asarray(vqcodec.decode(data))), abs=0.25)
        facts = vqcodec.info(data)
        payload = facts["base_bpp"] + facts["refinement_bpp"]
        assert float(out.bpp[number]) == pytest.approx(payload, rel=0.1)


def test_the_base_layer_alone(codec: ShippedCodec, picture: NDArray[np.uint8]) -> None:
    """Its bits are those of a file of quality 1, its picture that of the decoder."""
    x = batch(picture)
    data = vqcodec.encode(picture, 1, effort=2)
    indices = torch.from_numpy(vqcodec.indices(data).base.astype(np.int64))[None]
    with torch.no_grad():
        rated = codec.likelihoods(codec.analysis(x, 2).latents, indices, 2)
        restored = codec.synthesis(rated.base_latents, base_only=True)[0]
    assert rated.base_bits.shape == indices.shape
    assert bool((rated.base_bits > 0).all())
    assert float(rated.base_bits.sum()) / 8 == pytest.approx(vqcodec.info(data)["base_bytes"], rel=0.05, abs=6)
    rgb = (restored.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert psnr(np.asarray(vqcodec.decode(data)), rgb) > 40


def test_gradients_reach_pictures_and_weights(codec: ShippedCodec, picture: NDArray[np.uint8]) -> None:
    x = batch(picture[:64, :64]).requires_grad_()
    torch.manual_seed(1)
    out = codec.train()(x, 50, noise=True)
    (out.bpp.sum() + (out.pictures - x).square().mean()).backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    for part in (codec.analysis.codec.analysis, codec.synthesis.codec.synthesis, codec.likelihoods.codec.prior):
        assert any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in codec.likelihoods.base_prior.parameters())
    words = codec.analysis.codec.quantiser.codebook
    assert np.array_equal(words.numpy(), vqcodec.codebook()), "training mode leaves the codebook alone"
    codec.eval().zero_grad()


def test_mistakes(codec: ShippedCodec) -> None:
    x = torch.zeros(1, 3, 32, 48)
    for wrong in (x[0], x[:, :1], x[:, :, :20]):
        with pytest.raises(vqcodec.InputError, match="multiples of 16"):
            codec(wrong)
    for quality in (1, 0, 100.5, float("nan")):
        with pytest.raises(vqcodec.InputError, match="qualities"):
            codec(x, quality)
    with pytest.raises(vqcodec.UsageError, match="no tune 'ear'"):
        codec(x, 50, "ear")
    with pytest.raises(vqcodec.ModelError):
        load("nowhere")
    assert load(zoo.find().folder).analysis.codec.config == codec.analysis.codec.config


def test_without_torch_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import vqcodec; vqcodec.codebook(); import vqcodec.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: vqcodec.torch needs torch: pip install 'vqcodec[train]'"
    )
