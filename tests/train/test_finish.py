# SPDX-License-Identifier: MIT
"""How long finishing may take: the base indices that the base prior learns from are found in a part of its time."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.conftest import run
from vqcodec.train import finish, rounding
from vqcodec.train.cli import samples_for
from vqcodec.train.config import ModelConfig


@pytest.mark.parametrize(
    ("most", "seconds", "crops"),
    [
        (400, 0.0, 16),  # no time: those that are known
        (400, 50.0, 72),  # seven seconds a turn
        (24, 1000.0, 24),  # all of them
        (40, math.inf, 40),  # as many as were asked for, whatever it takes
        (10, math.inf, 10),
    ],
)
def test_base_indices_are_found_while_time_lasts(
    monkeypatch: pytest.MonkeyPatch, most: int, seconds: float, crops: int
) -> None:
    now = iter(range(0, 10_000, 7))
    monkeypatch.setattr(finish.time, "perf_counter", lambda: float(next(now)))
    coded = SimpleNamespace(indices=torch.zeros(8, 2, 2, dtype=torch.int64))
    model: Any = SimpleNamespace(
        analysis=lambda x, weights: (None, x), anchor_weights=lambda level: level, quantiser=lambda z: coded
    )
    sizes: list[int] = []
    pictures: Any = SimpleNamespace(crops=lambda rng, n, size: sizes.append(size) or torch.zeros(n, 3, 2, 2))
    told: list[float] = []
    found = finish._base_indices(
        model, pictures, torch.ones(16, 2, 2, dtype=torch.int64), most, seconds, np.random.default_rng(1),
        lambda _, done: told.append(done),
    )  # fmt: skip
    assert len(found) == crops
    assert int(found.sum()) == 4 * min(16, crops), "the known ones are there"
    assert set(sizes) <= {32}
    assert told == sorted(told)
    assert all(0 <= done < 1 for done in told)


def test_the_first_samples_have_all_tunes_and_qualities_from_end_to_end() -> None:
    analysis = (torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    model: Any = SimpleNamespace(
        analysis=lambda x, weights: analysis, anchor_weights=lambda level, tune: level, config=ModelConfig(),
        quantiser=lambda z: SimpleNamespace(indices=torch.zeros(1, 2, 2, dtype=torch.int64)),
    )  # fmt: skip
    pictures: Any = SimpleNamespace(crop_size=lambda size: size, crops=lambda rng, n, size: None)
    settings = [sample.setting for sample in finish.analysed(model, pictures, 99, 32, 1, torch.device("cpu"))]
    assert sorted(setting.quality for setting in settings) == list(range(2, 101))
    for tune in range(len(ModelConfig().tunes)):
        qualities = sorted(setting.quality for setting in settings[:32] if setting.tune == tune)
        assert max(np.diff([2, *qualities, 100])) < 16


def test_error_feedback_in_blocks_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks change nothing, a batch is its members, and the outputs come closer than with plain rounding."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 400, 9)) @ rng.normal(size=(9, 9))
    weight, shift = rng.normal(size=(3, 5, 9)), np.full((3, 5), 4.0)
    xx = x.swapaxes(-1, -2) @ x / 400
    found = rounding._feed_back(weight, xx, shift)
    for member in range(3):
        assert np.array_equal(rounding._feed_back(weight[member], xx[member], shift[member]), found[member])
    monkeypatch.setattr(rounding, "BLOCK", 2)
    assert np.array_equal(rounding._feed_back(weight, xx, shift), found)

    def error(rounded: Any) -> float:
        return float(np.square((rounded / 16 - weight) @ x.swapaxes(-1, -2)).sum())

    assert error(found) < 0.5 * error(np.rint(weight * 16))


def test_a_short_training_is_finished_on_fewer_crops() -> None:
    assert [samples_for(minutes) for minutes in (0.0, 0.5, 4.0, 8.0, 60.0)] == [400, 96, 200, 400, 400]


def test_tensorboard_says_what_it_lacks(tiny_run: list[object], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    common = [*tiny_run, "--set", "steps=1", "--set", "eval_pictures=1", "--tensorboard", tmp_path / "board"]
    sentence = "TensorBoard gets no validation curves and no pictures: they need --validation"
    assert sentence in run(*common)
    assert sentence not in run(*common, "--validation", tmp_path / "a.png")
    events = b"".join(path.read_bytes() for path in (tmp_path / "board").iterdir())
    assert b"validation psnr/eye/0.5" in events
