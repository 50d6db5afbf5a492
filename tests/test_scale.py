# SPDX-License-Identifier: MIT
"""`python -m bench scale`: what the qualities give, kept between runs, and the page that says it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import vqcodec
from bench import scale
from bench.__main__ import main
from bench.errors import BenchError
from bench.metrics import psnr

ROOT = Path(scale.__file__).parents[1]


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two qualities, and a machine without CVVDP."""
    monkeypatch.setattr(scale.measure, "__defaults__", ((10, 100),))
    monkeypatch.setattr(scale, "metrics_here", lambda _: ({"psnr": "bench.metrics"}, {"cvvdp": "not here"}))


@pytest.mark.usefixtures("few")
def test_scale(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, out = tmp_path / "quality.md", tmp_path / "results"
    page.write_text(f"# Qualities\n\n{scale.BEGIN}\n{scale.END}\nand more\n", encoding="utf-8")
    arguments = ("scale", "--images", crops, "--every", "2", "--out", out, "--page", page)
    done = bench(*arguments)
    assert done.exit_code == 0, done.output
    found = json.loads((out / scale.FILE).read_text(encoding="utf-8"))
    rows = {(row["tune"], row["quality"]): row for row in found["rows"]}
    assert set(rows) == {(tune, quality) for tune in ("eye", "psnr") for quality in (10, 100, scale.BOUND)}
    rgb = np.asarray(Image.open(crops / "a.png"))
    data = vqcodec.encode(rgb, 100, tune="psnr")
    assert rows["psnr", 100]["bpp"] == pytest.approx(8 * len(data) / (176 * 192), abs=1e-4)
    assert rows["psnr", 100]["psnr"] == pytest.approx(psnr(rgb, np.asarray(vqcodec.decode(data))), abs=1e-3)
    for tune in ("eye", "psnr"):
        at = [rows[tune, quality]["psnr"] for quality in (10, 100, scale.BOUND)]
        assert at == sorted(at), "nothing quantised is the best of all"
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Qualities")
    assert text.endswith("and more\n")
    assert f"| {scale.BOUND} |" in text
    assert scale.NOTHING in text, "no CVVDP"
    monkeypatch.setattr(scale, "_row", None)  # nothing is measured again
    again = bench(*arguments)
    assert again.exit_code == 0, again.output
    assert "had these numbers already" in again.output
    monkeypatch.setattr(scale, "metrics_here", lambda _: ({"psnr": "other"}, {}))
    assert isinstance(bench(*arguments).exception, TypeError), "with other metrics everything is"


def test_without_results(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="run python -m bench scale"):
        scale.read(tmp_path)


def test_the_page_on_qualities_says_what_was_measured() -> None:
    """The table in docs/quality.md is that of the committed results."""
    found = sorted((ROOT / "bench" / "results").glob(f"*/{scale.FILE}"))
    if not found:
        pytest.skip("no results are committed yet")
    assert scale.section(found[-1].parent) in (ROOT / "docs/quality.md").read_text(encoding="utf-8")
