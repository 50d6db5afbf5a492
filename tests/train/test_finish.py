# SPDX-License-Identifier: MIT
"""How long finishing may take: the base indices that the base prior learns from are found in a part of its time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.train.conftest import run
from vqcodec.train import finish
from vqcodec.train.cli import samples_for


@pytest.mark.parametrize(
    ("least", "most", "seconds", "crops"),
    [
        (16, 400, 0.0, 16),  # no time: the least
        (16, 400, 50.0, 56),  # seven seconds a turn
        (16, 24, 1000.0, 24),  # all of them
        (40, 40, 1.0, 40),  # as many as were asked for, whatever it takes
    ],
)
def test_base_indices_are_found_while_time_lasts(
    monkeypatch: pytest.MonkeyPatch, least: int, most: int, seconds: float, crops: int
) -> None:
    now = iter(range(0, 10_000, 7))
    monkeypatch.setattr(finish.time, "perf_counter", lambda: float(next(now)))
    coded = SimpleNamespace(indices=torch.zeros(8, 2, 2, dtype=torch.int64))
    model: Any = SimpleNamespace(
        analysis=lambda x, weights: (None, x), anchor_weights=lambda level: level, quantiser=lambda z: coded
    )
    pictures: Any = SimpleNamespace(crop_size=lambda size: size, crops=lambda rng, n, size: torch.zeros(n, 3, 2, 2))
    told: list[float] = []
    found = finish._base_indices(
        model, pictures, least, most, seconds, np.random.default_rng(1), lambda _, done: told.append(done)
    )
    assert len(found) == crops
    assert told == sorted(told)
    assert all(0 <= done < 1 for done in told)


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
