# SPDX-License-Identifier: MIT
"""`python -m bench learning` on logs that follow a known law."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")
pytest.importorskip("bjontegaard")

from bench import learning
from bench.__main__ import main

BATCH = 8


def log(
    path: Path, first: int, last: int, floor: float, exponent: float, phase: str = "joint", noise: float = 0.01
) -> Path:
    """A run's folder; its loss is floor + 2 n^-exponent over n crops, with noise."""
    rng = np.random.default_rng(first)
    path.mkdir()
    lines = []
    for step in range(first, last, 100):
        loss = (floor + 2 * (step * BATCH) ** -exponent) * (1 + noise * rng.standard_normal())
        minutes = step * BATCH / 40 / 60
        lines.append(
            f"{phase} step {step} {minutes:.1f} min 10.0% loss {loss:.4f} bpp 0.7 psnr 32.00 norm 1.00 lr 1.0e-03 "
            "crops/s 40.0 (9% of the machine)"
        )
        if step % 10_000 == 0:
            lines += [
                f"val level {level}: 0.5000 bpp 40.000 dB (base alone 26 dB)" for level in (0.1, 0.3, 0.5, 0.7, 0.9)
            ]
    (path / "log.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_runs_are_joined_and_the_law_is_found(tmp_path: Path) -> None:
    one = log(tmp_path / "run 1", 100, 20_000, 0.0, 0.1)
    two = log(tmp_path / "run 2", 20_000, 50_000, 0.0, 0.1)
    other = log(tmp_path / "tuned", 100, 1_500, 0.5, 0.5, "decoder")
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["learning", str(one), str(two), str(other), "--out", str(out)])
    assert done.exit_code == 0, done.output
    curves = learning.read([out])
    assert [(c.name, c.phase) for c in curves] == [("run 1, run 2", "joint"), ("tuned", "decoder")]
    assert curves[0].crops[:2] == [800, 1600], "a step is 8 crops, as the speed says"
    assert curves[0].crops[-1] == 49_900 * BATCH
    assert len(curves[0].judged) == 4
    found = learning.fitted(curves[0], False)
    assert found is not None
    assert found.law[1] == pytest.approx(0.1, rel=0.08)
    assert found.exponent[0] < 0.1 < found.exponent[1]
    assert found.exponent[1] - found.exponent[0] < 0.03
    assert found.twice == pytest.approx(2 * (2 * 49_900 * BATCH) ** -0.1, rel=0.01)
    assert found.twice_range[0] < found.twice < found.twice_range[1]
    text = (out / "learning.md").read_text(encoding="utf-8")
    assert f"{found.law[1]:.3f} ({found.exponent[0]:.3f} to {found.exponent[1]:.3f})" in text
    assert "too short for a fit" in text
    assert (out / "learning.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (out / "learning.png").read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again"
    assert CliRunner().invoke(main, ["learning", str(out), "--out", str(again)]).exit_code == 0
    for name in ("learning.md", "learning.svg", "learning.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), "what was committed makes it again"


def test_a_floor_is_found_where_there_is_one(tmp_path: Path) -> None:
    curve = learning.read([log(tmp_path / "run", 100, 60_000, 0.9, 0.25, noise=0.001)])[0]
    found = learning.fitted(curve, True)
    assert found is not None
    assert found.law[2] == pytest.approx(0.9, abs=0.02)
    assert found.exponent[0] < 0.25 < found.exponent[1]
    plain = learning.fitted(curve, False)
    assert plain is not None
    assert plain.law[2] == 0
    assert plain.twice < found.twice


def test_the_judged_loss_is_the_training_loss() -> None:
    """At 40 dB everywhere, from the definition."""
    weights = [4.0 * (22760 / 4) ** level for level in (0.1, 0.9)]
    want = np.mean([(0.5 + w * 1e-4) * (w / 436) ** -0.45 for w in weights])
    assert learning._judged_loss([(0.1, 0.5, 40.0), (0.9, 0.5, 40.0)]) == pytest.approx(want)


def test_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("hello\n")
    (tmp_path / "learning.json").write_text("[{}]")
    for path, text in (("nowhere", "cannot be read"), ("empty.txt", "no log"), ("learning.json", "cannot be read")):
        done = CliRunner().invoke(main, ["learning", str(tmp_path / path), "--out", str(tmp_path / "out")])
        assert done.exit_code == 1, path
        assert text in done.output
        assert done.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_committed_curves_make_their_own_table() -> None:
    folder = Path(learning.__file__).parent / "results" / "learning"
    entries = json.loads((folder / "learning.json").read_text(encoding="utf-8"))
    text = (folder / "learning.md").read_text(encoding="utf-8")
    for entry in entries:
        assert f"{entry['name']} " in text
        assert f"{entry['crops'][-1]:,}" in text
