# SPDX-License-Identifier: MIT
"""The phase that trains the prior's steps alone, on batches that the frozen encoder has analysed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.train.conftest import TINY, run
from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig, TrainConfig, override
from vqcodec.train.data import load_pictures
from vqcodec.train.loop import Replay, load_checkpoint, prior_loss


def _rate(model: Codec, x: Tensor) -> float:
    """What the prior's phase makes smaller, always of the same samples."""
    torch.manual_seed(1)
    level = torch.linspace(0.1, 0.9, len(x))
    analysed = model.analyse(x, level, torch.arange(len(x)) % 2)
    return float(prior_loss(model, analysed, level, TrainConfig())[0])


def test_pictures_stay_and_the_bits_fall(tiny_run: list[object], tmp_path: Path) -> None:
    """Only the steps of the prior change, and they describe the same latents in fewer bits."""
    last = tmp_path / "run" / "last.pt"
    run(*tiny_run, "--set", "steps=4", "--phase", "joint")
    before, _ = load_checkpoint(last)
    wanted = ("steps=80", "warmup=5", "patterns=0", "ema=0.8", "learning_rate=0.003")
    settings = [x for setting in wanted for x in ("--set", setting)]
    run(*tiny_run, "--resume", last, "--phase", "prior", *settings)
    after, _ = load_checkpoint(last)
    old, new = before.state_dict(), after.state_dict()
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed
    assert all(name.startswith("prior.steps.") for name in changed)
    pictures = load_pictures((tmp_path / "a.png",), torch.device("cpu"))
    x = pictures.crops(np.random.default_rng(5), 64, 64)
    with torch.no_grad():
        rates = [_rate(model, x) for model in (before, after)]
    assert rates[1] < 0.97 * rates[0]


def test_a_batch_is_analysed_once_and_used_a_few_times() -> None:
    """The encoder runs for about one update in `Replay.USES`."""
    model = Codec(override(ModelConfig(), dict(setting.split("=") for setting in TINY)))
    replay, rng, drawn = Replay(model), np.random.default_rng(1), 0

    def batch() -> tuple[Tensor, Tensor, Tensor]:
        nonlocal drawn
        drawn += 1
        return torch.rand(2, 3, 32, 32), torch.rand(2), torch.zeros(2, dtype=torch.int64)

    for _ in range(1500):
        analysed, level = replay.draw(rng, batch)
        assert not analysed.y.requires_grad
        assert len(level) == 2
    assert len(replay.kept) == Replay.SIZE
    assert 1500 / Replay.USES < drawn < 1.5 * 1500 / Replay.USES
