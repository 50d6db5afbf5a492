# SPDX-License-Identifier: MIT
"""Splitting the chunks of a trained prior: it predicts what it predicted, and the checkpoint trains on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.test_train import TINY  # noqa: E402
from vqcodec.errors import UsageError  # noqa: E402
from vqcodec.train.config import ModelConfig, override  # noqa: E402
from vqcodec.train.loop import load_checkpoint, save_checkpoint  # noqa: E402
from vqcodec.train.networks import Codec  # noqa: E402
from vqcodec.train.regroup import main, regroup  # noqa: E402


def trained(**settings: object) -> Codec:
    """A model of which nothing is left at its silent start."""
    torch.manual_seed(3)
    model = Codec(override(ModelConfig(), dict(s.split("=") for s in TINY) | settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def bits(model: Codec) -> torch.Tensor:
    """Of a batch of noise."""
    torch.manual_seed(4)
    x, level = torch.rand(2, 3, 64, 96), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        return model.eval()(x, level, 0, False).bits


def split(model: Codec, chunks: tuple[int, ...], checkerboard: tuple[int, ...]) -> Codec:
    config = replace(model.config, chunks=chunks, checkerboard=checkerboard, carry=True)
    new = Codec(config)
    new.load_state_dict(regroup(model.state_dict(), model.config, config))
    return new


def test_a_split_chunk_predicts_what_it_predicted() -> None:
    """Without a checkerboard nothing changes at all; features are carried with weights of zero at first."""
    model = trained(checkerboard="1", carry="false")
    new = split(model, (3, 5, 20, 12, 8), (1,))
    torch.testing.assert_close(bits(new), bits(model))
    with torch.no_grad():
        new.prior.steps[3].context.weight[:, 9:28] += 0.1  # of what is new: the channels just before
    assert (bits(new) - bits(model)).abs().min() > 1e-3


def test_halves_go_to_halves() -> None:
    """The first of a chunk's steps where there is one only; a chunk that is not split keeps both."""
    model = trained(checkerboard="2", carry="false")
    torch.testing.assert_close(bits(split(model, (8, 40), (2,))), bits(model))
    first = split(model, (8, 40), (2, 1)).prior.steps[2]
    torch.testing.assert_close(first.base.weight, model.prior.steps[2].base.weight)
    assert first.context.weight.shape[1] == 8


def test_the_command_writes_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, old, new = trained(carry="false"), tmp_path / "old.pt", tmp_path / "new.pt"
    save_checkpoint(old, model, model.state_dict(), None, {"phase": "joint", "step": 5, "elapsed": 1.0, "train": {}})
    assert main([str(old), str(new), "--chunks", "8,16,24", "--checkerboard", "2,1"]) == 0
    read, content = load_checkpoint(new)
    assert read.config.chunks == (8, 16, 24)
    assert read.config.halves() == (2, 1, 1)
    assert content["step"] == 0
    assert bits(read).isfinite().all()
    assert main([str(old), str(new), "--chunks", "16,32"]) == 2
    assert "no part of one chunk" in capsys.readouterr().err
    assert main([str(tmp_path / "none.pt"), str(new), "--chunks", "16,32"]) == 3


def test_a_chunk_across_two_is_refused() -> None:
    model = trained(carry="false")
    with pytest.raises(UsageError, match="channels 4 to 12"):
        split(model, (4, 8, 36), (1,))
