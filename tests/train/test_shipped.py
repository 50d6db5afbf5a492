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
from vqcodec.bitstream.codebook import ACT_BITS
from vqcodec.model import zoo
from vqcodec.train.codec import Codec
from vqcodec.train.export import analysis_graph, integer_tables, synthesis_graph
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
    tables = zoo.read_tables(files.verified("tables.npz"))
    again = integer_tables(*load_shipped(zoo.DEFAULT_MODEL))
    for name, array in again.items():
        unit = 1.0
        if name == "prior.log2_ratio":  # of what one unit of the step makes
            unit = 1 + 2.0**ACT_BITS * np.log2(1 + 1 / tables["prior.step_size"])
        assert (np.abs(array.astype(np.int64) - tables[name].astype(np.int64)) <= unit).all(), name


def coded(model: Codec, photo: NDArray[np.uint8], tune: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(photo[:128, :128].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        out = model(x, torch.tensor([0.6]), torch.tensor([tune]), 0, Quantisation.CHOICE)
    return out.bits, out.restored


def test_a_wider_prior_and_another_tune_change_nothing_yet(shipped: Codec, photo: NDArray[np.uint8]) -> None:
    wide = widened(shipped, replace(shipped.config, prior_width=160, tunes=("psnr", "eye"))).eval()
    assert wide.prior.enter.weight.shape[0] == 160
    bits, restored = coded(shipped, photo)
    for tune in (0, 1):
        again = coded(wide, photo, tune)
        torch.testing.assert_close(again[0], bits, rtol=1e-4, atol=0)
        torch.testing.assert_close(again[1], restored, rtol=0, atol=1e-4)


def test_new_channels_can_learn(shipped: Codec, photo: NDArray[np.uint8]) -> None:
    wide = widened(shipped, replace(shipped.config, prior_width=160))
    x = torch.from_numpy(photo[:64, :64].copy()).permute(2, 0, 1)[None].float() / 255
    wide(x, torch.tensor([0.6])).bits.sum().backward()
    for name, p in wide.prior.named_parameters():
        if p.ndim == 4 and p.shape[1] == 160 and not name.startswith("activity"):
            assert p.grad is not None
            assert p.grad[:, 128:].abs().max() > 0, f"{name}: no gradient where the new channels enter"


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
    Image.fromarray(photo[:300, :400]).save(tmp_path / "a.png")
    common = [tmp_path / "a.png", "-o", tmp_path / "run", "--threads", 1]
    quick = [x for s in ("crop=64", "batch=2", "log_seconds=0", "learning_rate=1e-5", "steps=2") for x in ("--set", s)]
    finish = ["--base-minutes", "0.01", "--base-crops", 48, "--samples", 60]
    log = run(*common, "--resume", zoo.DEFAULT_MODEL, *quick, *finish)
    assert "joint step 2 " in log
    picture = photo[:160, :240]
    data = vqcodec.encode(picture, 60, model=tmp_path / "run" / "model")
    back = np.asarray(vqcodec.decode(data, model=tmp_path / "run" / "model"))
    assert psnr(picture, back) > psnr(picture, np.asarray(vqcodec.decode(vqcodec.encode(picture, 60)))) - 1.5
    with pytest.raises(vqcodec.ModelError):
        vqcodec.decode(data)
