# SPDX-License-Identifier: MIT
"""Where the time of one whole vqcodec process goes: interpreter, imports, model, transform, prior, coder, files.

`python -m bench stages PICTURE` runs the command line several times under a clock (clock.py) and keeps the medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bench.errors import BenchError
from bench.progress import Progress
from bench.store import described
from bench.tables import Table
from vqcodec.spans import STAGES

ROOT = Path(__file__).parent.parent
FILE = "stages.json"
WHOLE = "whole process"
ORDER = ("interpreter", "imports", *STAGES, "the rest", "exit", WHOLE)
BEGIN, END = "<!-- stages:begin -->", "<!-- stages:end -->"


def measure(picture: Path, folder: Path, quality: int, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Medians of several processes: direction -> stage -> milliseconds.

    Raises:
        BenchError: the command failed.
    """
    code, back = folder / "stages.vqc", folder / "stages.png"
    common = ["--force", "--threads", str(threads)]
    commands = {
        "compress": ["compress", "-q", str(quality), *common, str(picture), str(code)],
        "decompress": ["decompress", *common, str(code), str(back)],
    }
    found: dict[str, dict[str, float]] = {}
    progress = Progress("stages", dict.fromkeys(commands, repeats + 1.0))
    for direction, command in commands.items():
        runs = []
        for _ in range(repeats + 1):
            runs.append(_one(command))
            progress.step(direction, 1)
        runs = runs[1:]  # the first fills the system's caches
        found[direction] = {
            stage: round(1000 * statistics.median(run.get(stage, 0.0) for run in runs), 1) for stage in ORDER
        }
    progress.clear()
    return found


def _one(command: list[str]) -> dict[str, float]:
    start = time.monotonic_ns()
    child = [sys.executable, "-P", str(Path(__file__).with_name("clock.py")), str(start), *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(child, capture_output=True, text=True, env=environment, check=False)
    end = time.monotonic_ns()
    if done.returncode:
        raise BenchError((done.stderr.strip().splitlines() or ["the process failed"])[-1])
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    seconds: dict[str, float] = facts["seconds"]
    return {**seconds, "exit": (end - facts["end_ns"]) / 1e9, WHOLE: (end - start) / 1e9}


def write(folder: Path, command: Sequence[str], picture: Path, quality: int, threads: int, repeats: int) -> None:
    """Measure, and keep the medians in `folder`/stages.json."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Image.open(picture) as image:
            size = image.size
    except OSError as error:
        raise BenchError(f"cannot read {picture}: {error}") from None
    facts = described(
        list(command), picture=picture.name, width=size[0], height=size[1], quality=quality, threads=threads,
        repeats=repeats,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        stages = measure(picture.resolve(), Path(scratch), quality, threads, repeats)
    content = json.dumps({**facts, "milliseconds": stages}, indent=1) + "\n"
    (folder / FILE).write_text(content, encoding="utf-8")


def table(folder: Path) -> Table:
    """The medians as a table.

    Raises:
        BenchError: they are not there.
    """
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        stages = facts["milliseconds"]
        rows = [(stage, *(f"{stages[way][stage]:.0f}" for way in ("compress", "decompress"))) for stage in ORDER]
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"{folder} holds no stages ({error!r}): run python -m bench stages PICTURE") from None
    return Table(("milliseconds", "compress", "decompress"), rows)


def section(folder: Path) -> str:
    """The part of docs/performance.md between the marks, marks included."""
    shown = table(folder).markdown()
    facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
    about = (
        f"{facts['picture']}, {facts['width']} × {facts['height']}, quality {facts['quality']}, medians of "
        f"{facts['repeats']} processes, {facts['threads'] or facts['processors']} threads; {facts['processor']}, "
        f"{facts['processors']} processors, Python {facts['python']}, {facts['date']}. `{facts['commands'][0]}`"
    )
    return "\n\n".join((BEGIN, shown, about, END))
