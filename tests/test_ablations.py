# SPDX-License-Identifier: MIT
"""`python -m bench ablations` on results with a known answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("matplotlib")
pytest.importorskip("bjontegaard")

from bench import ablations
from bench.__main__ import main

BPP = (0.05, 0.1, 0.2, 0.5, 1.2)


def line(name: str, factor: float = 1.0, codebook: list[dict[str, float]] | None = None) -> dict[str, Any]:
    rows = [
        {"level": 0.1 + 0.2 * k, "bpp": factor * b, "base_bpp": 0.02 * factor, "refinement_bpp": (b - 0.02) * factor,
         "psnr": 27 + 4 * k, "base_psnr": 25.5}
        for k, b in enumerate(BPP)
    ]  # fmt: skip
    return {
        "name": name, "settings": {}, "steps": 2000, "seconds": 60.0, "crops_per_second": 1234.5, "codebook": codebook,
        "parameters": {"analysis transform": 1000, "synthesis transform": 234}, "rows": rows,
        "kmac": {"analysis transform": 9.27, "refinement's prior, 6 steps": 5.384, "synthesis transform": 8.37},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stage = {"size": 1024, "used": 512, "perplexity": 400.4, "bits_per_index": 8.7}
    failed = {**line("k16384"), "rows": [], "failed": "diverged"}
    lines = [line("default", 1.0, [stage]), line("2x1024", 0.9, [stage, stage]), line("scalar-base", 1.25), failed]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"name": "cut sh')
    train = {"batch": 64, "crop": 256, "seed": 1}
    machine = {"torch": "2.9", "device": "cpu", "threads": 2}
    settings = {"train": train, "data": {"pictures": 1217}, "validation": {"pictures": 100}, "machine": machine}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    return tmp_path


def test_tables_and_figure(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "committed"
    done = CliRunner().invoke(main, ["ablations", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = (out / "ablations.md").read_text(encoding="utf-8")
    summary = ablations.summary(ablations.read(folder)[0])
    shown = {row[0]: dict(zip(summary.head, row, strict=True)) for row in summary.rows}
    assert shown["default"]["BD-rate against default"] == "+0.0 %"
    assert shown["2x1024"]["BD-rate against default"] == "−10.0 %"
    assert shown["scalar-base"]["BD-rate against default"] == "+25.0 %"
    assert shown["k16384"]["BD-rate against default"] == "diverged"
    assert shown["2x1024"]["codebook used"] == "50% + 50%"
    assert shown["2x1024"]["perplexity"] == "400 + 400"
    assert shown["default"]["parameters"] == "1,234"
    assert shown["scalar-base"]["bits per index"] == "–"
    assert shown["default"]["kMAC per pixel: analysis + prior + synthesis"] == "9.27 + 5.38 + 8.37"
    assert all(cell in text for row in summary.rows for cell in row)
    assert "0.0200 + 1.1800, 43.00" in text
    assert "1,217 pictures" in text
    assert (out / "ablations.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (out / "ablations.png").read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(main, ["ablations", str(out), "--anchor", "2x1024"])
    assert again.exit_code == 0, "what was committed makes its own report"
    assert "+11.1 %" in again.output


def test_mistakes_are_told(folder: Path, tmp_path: Path) -> None:
    for arguments, text in (
        ([str(tmp_path / "nowhere")], "is not there"),
        ([str(folder), "--anchor", "k7"], "there is no variant 'k7' here"),
    ):
        done = CliRunner().invoke(main, ["ablations", *arguments])
        assert done.exit_code == 1
        assert text in done.output
        assert done.output.count("\n") == 1
    (folder / "results.jsonl").write_text("{}\n")
    done = CliRunner().invoke(main, ["ablations", str(folder)])
    assert done.exit_code == 1
    assert "cannot be read" in done.output
    (folder / "results.jsonl").write_text("")
    assert "no results yet" in CliRunner().invoke(main, ["ablations", str(folder)]).output
