# SPDX-License-Identifier: MIT
"""Where the time of a process goes: spans of the code, the clock that listens to them, and the table of stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench import stages
from bench.__main__ import main
from bench.clock import Clock
from vqcodec import spans

ROOT = Path(__file__).resolve().parent.parent


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_stage_is_without_the_stages_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("bench.clock.time.monotonic", lambda: now[0])
    clock = Clock()

    @spans.span("coder")
    def inner() -> str:
        now[0] += 5
        return "done"

    @spans.span("transform")
    def failing() -> None:
        now[0] += 3
        raise KeyError

    spans.listen(clock)
    try:
        with spans.span("prior"):
            now[0] += 2
            assert inner() == "done"
            with pytest.raises(KeyError):
                failing()
            now[0] += 1
        now[0] += 7
    finally:
        spans.listen(None)
    clock.enter("exit")
    assert inner() == "done"  # nobody hears of it any more
    assert clock.seconds == {"coder": 5, "prior": 3, "transform": 3, "the rest": 7}
    with pytest.raises(AssertionError):
        spans.span("no stage")


def test_stages_add_up_to_the_whole_process(crops: Path, tmp_path: Path) -> None:
    picture = sorted(crops.iterdir())[0]
    page = tmp_path / "performance.md"
    page.write_text(f"# Speed\n\n{stages.BEGIN}\n{stages.END}\n", encoding="utf-8")
    done = bench("stages", picture, "--repeats", "1", "--out", tmp_path / "results", "--page", page)
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "results" / stages.FILE).read_text(encoding="utf-8"))
    for found in facts["milliseconds"].values():
        parts = {stage: spent for stage, spent in found.items() if stage != "whole process"}
        assert sum(parts.values()) == pytest.approx(found["whole process"], rel=0.02)
        assert all(
            parts[stage] > 0 for stage in ("imports", "picture file", "transform", "prior", "coder", ".vqc file")
        )
    assert "choice of indices" in page.read_text(encoding="utf-8")
    lost = bench("stages", tmp_path / "results" / stages.FILE, "--repeats", "1", "--out", tmp_path / "more")
    assert lost.exit_code == 1
    assert "cannot read" in lost.output


def test_the_page_on_speed_says_what_was_measured() -> None:
    """The table in docs/performance.md is that of the committed results."""
    found = sorted((ROOT / "bench" / "results").glob(f"*/{stages.FILE}"))
    if not found:
        pytest.skip("no results are committed yet")
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert stages.section(found[-1].parent) in page
