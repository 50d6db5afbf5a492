# SPDX-License-Identifier: MIT
"""`python -m bench denoise`: the denoiser beside others, kept between runs, and the page that says it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench import cleaning
from bench.__main__ import main


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One deviation, two masks, and what needs no other package."""
    monkeypatch.setattr(cleaning, "SIGMAS", (25,))
    monkeypatch.setattr(cleaning, "MASKS", 2)
    monkeypatch.setattr(cleaning, "CLEANERS", {"no denoising": "", "vqcodec": "", "BM3D": "no-such-package"})
    monkeypatch.setattr(cleaning, "FILLERS", {"vqcodec, 1 step": ""})


@pytest.mark.usefixtures("few")
def test_denoise(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, out = tmp_path / "denoiser.md", tmp_path / "results"
    page.write_text(f"# Denoiser\n\n{cleaning.BEGIN}\n{cleaning.END}\nand more\n", encoding="utf-8")
    arguments = ("denoise", "--images", crops, "--every", "2", "--out", out, "--page", page)
    done = bench(*arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads((out / cleaning.FILE).read_text(encoding="utf-8"))["rows"]
    for task in ("gray", "colour"):
        before, after = (
            np.mean([row["psnr"] for row in rows if (row["task"], row["method"]) == (task, method)])
            for method in ("no denoising", "vqcodec")
        )
        assert 19 < before < 22, "of noise with a deviation of 25"
        assert after > before + 4, task
    assert all(row["psnr"] > 12 for row in rows if row["task"] == "holes")
    text = page.read_text(encoding="utf-8")
    assert text.endswith("and more\n")
    assert "| vqcodec, 1 step |" in text
    assert "BM3D" not in text, "it is not installed"
    monkeypatch.setattr(cleaning, "noise_row", None)  # nothing is measured again
    monkeypatch.setattr(cleaning, "hole_row", None)
    assert "had these numbers already" in bench(*arguments).output


def test_masks() -> None:
    masks = [cleaning.mask(number, 256, 256) for number in range(cleaning.MASKS)]
    assert all(0.002 < mask.mean() < 0.1 for mask in masks), [mask.mean() for mask in masks]
    assert len({mask.tobytes() for mask in masks}) == cleaning.MASKS
    assert np.array_equal(masks[3], cleaning.mask(3, 256, 256))


@pytest.mark.parametrize("method", ["non-local means", "wavelets"])
def test_the_others_are_told_the_noise(photo: np.ndarray, method: str) -> None:
    pytest.importorskip("skimage")
    for gray in (False, True):
        truth, given = cleaning.noisy(photo[:64, :64], 25, gray, 0)
        found = cleaning.clean(method, given, 25, gray)
        assert found.shape == truth.shape
        assert cleaning.psnr(truth, found) > cleaning.psnr(truth, given) + 2
