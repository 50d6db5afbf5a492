# SPDX-License-Identifier: MIT
"""Speed as users meet it: a warm process, whole processes on one picture, a folder, growing pictures; both directions.

Files are PNG on the way in and out, as people have them; for growing pictures they are PPM, so that PNG's own time
does not hide how a codec scales. Everything measured goes straight to the store. No tables here.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bench.codecs import Peer
from bench.learned import VqcodecPeer
from bench.metrics import Rgb
from bench.pictures import PictureSet, grown
from bench.progress import Progress
from bench.run import timed
from bench.store import ProcessRow, Store
from bench.tools import SUFFIXES, Tool

ROOT = Path(__file__).resolve().parent.parent
SCALING_MEGAPIXELS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SCALING_PEERS = "jpeg,webp,avif-iq,jxl,vqcodec"
LIMIT_SECONDS = 900.0
ENOUGH_SECONDS = 10.0  # a process is not repeated any more once it has taken this long in all


@dataclass(frozen=True)
class SpeedPlan:
    """What to measure and how; `processors` is how many a folder's pictures may share."""

    pictures: PictureSet
    peers: tuple[Peer, ...]
    threads: int = 0
    repeats: int = 3
    processors: int = 1


def watched(command: Sequence[str]) -> dict[str, object]:
    """Run a command in a process of its own under the watcher of process.py; its times, peak and exit code."""
    watcher = [sys.executable, "-S", str(Path(__file__).with_name("process.py")), "watch", str(LIMIT_SECONDS)]
    done = subprocess.run([*watcher, *command], capture_output=True, text=True, cwd=ROOT, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _timed(row: ProcessRow, command: Sequence[str], repeats: int) -> ProcessRow:
    """Fill in a process's row: median seconds and largest peak of up to `repeats` runs."""
    seconds: list[float] = []
    peaks: list[int] = []
    while len(seconds) < repeats and sum(seconds) < ENOUGH_SECONDS:
        found = watched(command)
        if found["code"] != 0:
            lines = str(found["stderr"]).strip().splitlines() or [f"ended with {found['code']}"]
            row["error"] = lines[-1][:300]
            return row
        seconds.append(float(str(found["seconds"])))
        if found["peak_bytes"] is not None:
            peaks.append(int(str(found["peak_bytes"])))
    row["seconds"] = round(statistics.median(seconds), 4)
    row["peak_bytes"] = max(peaks) if peaks else None
    return row


def _rows(scope: str, picture: str, pixels: int, peer: Peer) -> list[ProcessRow]:
    return [
        {"scope": scope, "picture": picture, "pixels": pixels, "peer": peer.name, "setting": peer.middle,
         "direction": direction}
        for direction in ("encode", "decode")
    ]  # fmt: skip


def _done(store: Store, rows: Sequence[ProcessRow]) -> bool:
    found = [store.processes.get(Store.process_key(row)) for row in rows]
    return all(row is not None and "error" not in row for row in found)


def _pair(scope: str, picture: str, rgb: Rgb, peer: Peer, suffix: str, plan: SpeedPlan, store: Store) -> None:
    """Both directions of one codec on one picture, as whole processes."""
    rows = _rows(scope, picture, rgb.shape[0] * rgb.shape[1], peer)
    if _done(store, rows):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, back = folder / f"in{suffix}", folder / f"out{suffix}"
        code = folder / f"code{SUFFIXES.get(peer.name, '.bin')}"
        Image.fromarray(rgb).save(source)
        for row, (before, after) in zip(rows, ((source, code), (code, back)), strict=True):
            store.add_process(_timed(row, peer.command(row["direction"], peer.middle, before, after, plan.threads),
                                     plan.repeats))  # fmt: skip
            if "error" in row:
                return


def measure_warm(plan: SpeedPlan, store: Store) -> None:
    """The first picture in this process, after a first call that is not timed: pixels to bytes and back."""
    file = plan.pictures.files[0]
    image = Image.fromarray(file.pixels())
    peers = [peer for peer in plan.peers if not isinstance(peer, Tool)]
    progress = Progress("warm process", {peer.name: 1.0 for peer in peers})
    for peer in peers:
        rows = _rows("warm", file.name, image.width * image.height, peer)
        if not _done(store, rows):
            _warm(peer, rows, image, plan)
            for row in rows:
                store.add_process(row)
        progress.step(peer.name, 1, text=peer.label)
    progress.clear()


def _warm(peer: Peer, rows: Sequence[ProcessRow], image: Image.Image, plan: SpeedPlan) -> None:
    """Fill in both rows; whatever goes wrong becomes their error."""
    try:
        peer.decode(peer.encode(image.crop((0, 0, 256, 256)), peer.middle, plan.threads), plan.threads)
        data, seconds = timed(lambda: peer.encode(image, peer.middle, plan.threads), plan.repeats)
        rows[0]["seconds"] = round(seconds, 5)
        rows[1]["seconds"] = round(timed(lambda: peer.decode(data, plan.threads), plan.repeats)[1], 5)
    except Exception as error:  # a codec's failure is a result: it stands in the table
        for row in rows:
            row["error"] = f"{type(error).__name__}: {error}"[:300]


def measure_processes(plan: SpeedPlan, store: Store) -> None:
    """Whole processes on the first picture: wall time and peak memory of each codec, both ways."""
    file = plan.pictures.files[0]
    rgb = file.pixels()
    progress = Progress("whole processes", {peer.name: 1.0 for peer in plan.peers})
    for peer in plan.peers:
        _pair("process", file.name, rgb, peer, ".png", plan, store)
        progress.step(peer.name, 1, text=peer.label)
    progress.clear()


def measure_scaling(plan: SpeedPlan, store: Store, megapixels: Sequence[float]) -> None:
    """Whole processes on pictures of growing size, made from the first picture by repeating it in mirror image."""
    rgb = plan.pictures.files[0].pixels()
    progress = Progress("growing pictures", {peer.name: sum(megapixels) for peer in plan.peers})
    for size in megapixels:
        picture = grown(rgb, round(size * 1e6))
        for peer in plan.peers:
            _pair("scaling", "scaling", picture, peer, ".ppm", plan, store)
            progress.step(peer.name, size, text=f"{size:g} megapixels, {peer.label}")
    progress.clear()


def _folder_commands(peer: Peer, direction: str, files: Sequence[Path], target: Path) -> list[list[str]]:
    """The commands that take all files of a folder to `target`: one for vqcodec, one per picture for the others."""
    suffix = ".png" if direction == "decode" else SUFFIXES.get(peer.name, ".bin")
    if isinstance(peer, VqcodecPeer):
        return [peer.folder_command(direction, peer.middle, files[0].parent, target)]
    return [peer.command(direction, peer.middle, file, target / f"{file.stem}{suffix}", 1) for file in files]


def _folder(row: ProcessRow, commands: Sequence[list[str]], processors: int) -> ProcessRow:
    """Seconds of all commands, so many at a time."""

    def run(command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL)
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return lines[-1] if done.returncode else ""

    start = time.perf_counter()
    with ThreadPoolExecutor(processors) as pool:
        errors = [error for error in pool.map(run, commands) if error]
    if errors:
        row["error"] = errors[0][:300]
    else:
        row["seconds"] = round(time.perf_counter() - start, 4)
    return row


def measure_folder(plan: SpeedPlan, store: Store) -> None:
    """All pictures there and back, on all processors: vqcodec with -j 0, the others as many processes at a time."""
    count = len(plan.pictures.files)
    pixels = sum(int(f["width"]) * int(f["height"]) for f in store.run["pictures"].values())
    progress = Progress(f"a folder of {count}", {peer.name: 1.0 for peer in plan.peers})
    with tempfile.TemporaryDirectory() as name:
        originals = Path(name) / "originals"
        originals.mkdir()
        for place, file in enumerate(plan.pictures.files):
            Image.fromarray(file.pixels()).save(originals / f"{place:04d}.png", compress_level=1)
        for peer in plan.peers:
            rows = _rows("folder", str(count), pixels, peer)
            if not _done(store, rows):
                _there_and_back(peer, rows, originals, Path(name) / peer.name, plan, store)
            progress.step(peer.name, 1, text=peer.label)
    progress.clear()


def _there_and_back(
    peer: Peer, rows: Sequence[ProcessRow], originals: Path, work: Path, plan: SpeedPlan, store: Store
) -> None:
    """One codec's two rows of the folder's measurement."""
    source = originals
    for row in rows:
        target = work / row["direction"]
        target.mkdir(parents=True)
        files = sorted(path for path in source.iterdir() if path.is_file())
        store.add_process(_folder(row, _folder_commands(peer, row["direction"], files, target), plan.processors))
        if "error" in row:
            return
        source = target
