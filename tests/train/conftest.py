# SPDX-License-Identifier: MIT
"""What the tests of training share: a tiny model's shape, and a way to run the command."""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from vqcodec.model import zoo  # noqa: E402
from vqcodec.train.attach import attach_denoiser  # noqa: E402
from vqcodec.train.config import DenoiserConfig  # noqa: E402
from vqcodec.train.denoiser import Denoiser  # noqa: E402

SMALL = DenoiserConfig(width2=8, width4=12, width8=16, blocks2=1, blocks4=1, blocks8=1)

TINY = [
    "latents=48", "chunks=8,40", "checkerboard=2,1", "analysis_width8=16", "analysis_width16=24", "synthesis_width8=16",
    "synthesis_width16=24", "analysis_blocks8=1", "analysis_blocks16=1", "synthesis_blocks8=1", "synthesis_blocks16=1",
    "prior_width=24", "prior_base_blocks=1", "codebook_size=64", "codebook_dim=8", "base_prior_width=16", "anchors=4",
]  # fmt: skip


def run(*arguments: object) -> str:
    """Run `vqcodec train`; -> what it printed."""
    from vqcodec.train.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([str(x) for x in arguments]) == 0, said.getvalue()
    return said.getvalue()


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start new models on less: 200,000 blocks and 240 crops take seconds."""
    from vqcodec.train import data, eye, loop

    monkeypatch.setattr(loop, "block_statistics", functools.partial(data.block_statistics, blocks=4000))
    monkeypatch.setattr(eye, "CROPS", 48)


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """`quicken` for one test."""
    quicken(monkeypatch)


@pytest.fixture
def tiny_run(photo: NDArray[np.uint8], tmp_path: Path, quick_start: None) -> list[object]:
    """Data, output folder, shape and settings of a short run; crops of a small picture are small."""
    Image.fromarray(photo[:96, :144]).save(tmp_path / "a.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    settings = [x for s in ("crop=64", "batch=2", "log_seconds=0", "bf16=false") for x in ("--set", s)]
    return [
        tmp_path / "a.png",
        "-o",
        tmp_path / "run",
        "--no-finish",
        "--threads",
        1,
        "--device",
        "cpu",
        *shape,
        *settings,
    ]


@pytest.fixture
def network() -> Denoiser:
    """A small one whose last layer is not zero."""
    torch.manual_seed(1)
    out = Denoiser(SMALL).eval()
    with torch.no_grad():
        torch.nn.init.normal_(out.leave.weight, 0, 0.1)
        for p in out.parameters():  # as the graph has them on disk
            p.copy_(p.half().float())
    return out


@pytest.fixture
def model(network: Denoiser, tmp_path: Path) -> Path:
    """The shipped model with that denoiser."""
    folder = tmp_path / "model"
    shutil.copytree(zoo.find().folder, folder)
    attach_denoiser(folder, network)
    return folder
