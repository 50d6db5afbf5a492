# SPDX-License-Identifier: MIT
"""Measures: pictures times codecs times settings, in this process; and whole processes, also for growing pictures.

Everything measured goes straight to the store, and what the store holds is not measured again. No tables here.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from bench.errors import MissingError
from bench.metrics import METRICS, Rgb
from bench.peers import Peer
from bench.pictures import PictureSet, grown
from bench.store import ProcessRow, Row, Store

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
ENOUGH_SECONDS = 0.3  # a call is not repeated any more once it has taken this long in all
HELD_PIXELS = 2**25  # how many decoded pixels may wait for their metrics
SCALING_MEGAPIXELS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SCALING_PEERS = "jpeg,webp,avif,jxl,vqcodec"
PROCESS_LIMIT_SECONDS = 900.0


@dataclass(frozen=True)
class Plan:
    """What to measure and how."""

    pictures: PictureSet
    peers: tuple[Peer, ...]
    metrics: tuple[str, ...]
    settings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # instead of a peer's own
    threads: int = 0
    repeats: int = 3

    def settings_of(self, peer: Peer) -> tuple[int, ...]:
        """The points of a peer's curve."""
        return self.settings.get(peer.name, peer.settings)


def available(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, str], dict[str, str]]:
    """The peers that can run here, their versions, and why the others cannot."""
    found, versions, missing = [], {}, {}
    for peer in peers:
        try:
            versions[peer.name] = peer.version()
            found.append(peer)
        except MissingError as error:
            missing[peer.name] = error.message
    return found, versions, missing


def limit_processors(threads: int) -> int:
    """Keep this process and its children on `threads` processors, where the system can; returns how many it uses."""
    if hasattr(os, "sched_setaffinity"):
        here = sorted(os.sched_getaffinity(0))
        if threads:
            os.sched_setaffinity(0, here[:threads])
        return len(os.sched_getaffinity(0))
    return threads or os.cpu_count() or 1


def timed(work: Callable[[], T], repeats: int) -> tuple[T, float]:
    """The result of a call, and the median seconds of up to `repeats` calls."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
        if len(seconds) >= repeats or sum(seconds) > ENOUGH_SECONDS:
            return result, statistics.median(seconds)


class Progress:
    """A line on the terminal: how much is done, and how long the rest will take by what each codec took so far."""

    def __init__(self, work: Mapping[str, float], quiet: bool = False) -> None:
        self.left, self.total = dict(work), sum(work.values())
        self.spent: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.quiet = quiet or not sys.stderr.isatty()
        self.last_percent = -1

    def step(self, peer: str, amount: float, seconds: float, text: str) -> None:
        """Count work of a codec (setting-megapixels) that took so long."""
        self.left[peer] -= amount
        self.done[peer] = self.done.get(peer, 0) + amount
        self.spent[peer] = self.spent.get(peer, 0) + seconds
        done = sum(self.done.values())
        percent = round(100 * done / self.total) if self.total else 100
        rest = self.seconds_left()
        if not self.quiet:
            bar = "█" * (percent // 5) + "·" * (20 - percent // 5)
            sys.stderr.write(f"\r{bar} {percent:3d} %  {clock(rest)} left  {text[:40]:40}")
            sys.stderr.flush()
        elif percent // 10 > self.last_percent // 10:
            sys.stderr.write(f"{percent:3d} %  {clock(rest)} left\n")
        self.last_percent = percent

    def seconds_left(self) -> float:
        """An estimate: each codec at its own pace, those not met yet at the mean pace."""
        mean = sum(self.spent.values()) / max(sum(self.done.values()), 1e-9)
        pace = {peer: self.spent[peer] / self.done[peer] for peer in self.done if self.done[peer] > 0}
        return sum(amount * pace.get(peer, mean) for peer, amount in self.left.items())

    def end(self) -> None:
        """Leave the line."""
        if not self.quiet:
            sys.stderr.write("\r" + " " * 79 + "\r")


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _coded(peer: Peer, rgb: Rgb, setting: int, picture: str, plan: Plan) -> tuple[Row, Rgb | None]:
    """Encode and decode one picture; whatever goes wrong becomes the row's error."""
    row: Row = {"picture": picture, "peer": peer.name, "setting": setting}
    image = Image.fromarray(rgb)
    try:
        data, enc_seconds = timed(lambda: peer.encode(image, setting, plan.threads), plan.repeats)
        back, dec_seconds = timed(lambda: peer.decode(data, plan.threads), plan.repeats)
        decoded = np.asarray(back)
    except Exception as error:  # a codec's failure is a result: it stands in the table
        row["error"] = f"{type(error).__name__}: {error}"[:300]
        return row, None
    if decoded.shape != rgb.shape:
        row["error"] = f"came back as {decoded.shape}, was {rgb.shape}"
        return row, None
    row["bytes"] = len(data)
    row["enc_seconds"], row["dec_seconds"] = float(f"{enc_seconds:.3g}"), float(f"{dec_seconds:.3g}")
    return row, decoded


def _judge(row: Row, rgb: Rgb, decoded: Rgb | None, metrics: Sequence[str]) -> Row:
    """Add the distortion to a row."""
    if decoded is None:
        return row
    for name in metrics:
        value = METRICS[name].measure(rgb, decoded)
        if value is not None:
            row[name] = round(value, 5)  # type: ignore[literal-required]
    return row


def _groups(settings: Sequence[int], pixels: int) -> Iterator[Sequence[int]]:
    size = max(1, HELD_PIXELS // pixels)
    for start in range(0, len(settings), size):
        yield settings[start : start + size]


def measure(plan: Plan, store: Store, quiet: bool = False) -> int:
    """Everything of the plan that the store has not got yet; returns the number of new rows.

    Codecs are timed one after another with nothing beside them; the metrics of a codec's settings come afterwards, in
    threads.
    """
    todo: dict[tuple[str, str], list[int]] = {}
    work: dict[str, float] = {}
    for file in plan.pictures.files:
        facts = store.run["pictures"][file.name]
        for peer in plan.peers:
            wanted = [s for s in plan.settings_of(peer) if not _has(store, (file.name, peer.name, s), plan.metrics)]
            if wanted:
                todo[file.name, peer.name] = wanted
                amount = len(wanted) * int(facts["width"]) * int(facts["height"]) / 1e6
                work[peer.name] = work.get(peer.name, 0) + amount
    progress, count, warm = Progress(work, quiet), 0, set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in plan.pictures.files:
            peers = [peer for peer in plan.peers if (file.name, peer.name) in todo]
            rgb = file.pixels() if peers else None
            for peer in peers:
                assert rgb is not None
                if peer.name not in warm:
                    _coded(peer, rgb[:256, :256].copy(), peer.middle, file.name, Plan(plan.pictures, (), (), repeats=1))
                    warm.add(peer.name)
                for settings in _groups(todo[file.name, peer.name], rgb.shape[0] * rgb.shape[1]):
                    start = time.perf_counter()
                    coded = [_coded(peer, rgb, setting, file.name, plan) for setting in settings]
                    rows = list(pool.map(lambda pair, rgb=rgb: _judge(pair[0], rgb, pair[1], plan.metrics), coded))
                    store.add(rows)
                    count += len(rows)
                    amount = len(settings) * rgb.shape[0] * rgb.shape[1] / 1e6
                    progress.step(peer.name, amount, time.perf_counter() - start, f"{file.name} {peer.label}")
    progress.end()
    return count


def _has(store: Store, key: tuple[str, str, int], metrics: Sequence[str]) -> bool:
    """Whether the store has a row with all the metrics that it can have."""
    row = store.rows.get(key)
    if row is None:
        return False
    facts = store.run["pictures"][key[0]]
    small = min(int(facts["width"]), int(facts["height"])) < 161
    return "error" in row or all(name in row or (small and name == "ms_ssim") for name in metrics)


def _watched(command: list[str]) -> dict[str, object]:
    """Run a command in a process of its own under the watcher."""
    watcher = [sys.executable, "-S", str(Path(__file__).with_name("process.py")), "watch", str(PROCESS_LIMIT_SECONDS)]
    done = subprocess.run([*watcher, *command], capture_output=True, text=True, cwd=ROOT, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _process_row(row: ProcessRow, command: list[str], repeats: int) -> ProcessRow:
    """Fill in a process's row: median seconds and largest peak of up to `repeats` runs."""
    seconds: list[float] = []
    peaks: list[int] = []
    while len(seconds) < repeats and sum(seconds) < 10:
        found = _watched(command)
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


def _processes_of(peer: Peer, name: str, rgb: Rgb, plan: Plan, store: Store, folder: Path) -> None:
    """Both directions of one codec on one picture, as whole processes."""
    height, width = rgb.shape[:2]
    setting = peer.middle
    source, code, back = folder / "in.ppm", folder / "code.bin", folder / "out.ppm"
    pair: list[ProcessRow] = [
        {"picture": name, "width": width, "height": height, "peer": peer.name, "setting": setting, "direction": way}
        for way in ("encode", "decode")
    ]
    if all((name, width * height, peer.name, setting, row["direction"]) in store.processes for row in pair):
        return
    if not source.exists():
        Image.fromarray(rgb).save(source)
    for row, (before, after) in zip(pair, ((source, code), (code, back)), strict=True):
        command = peer.command(row["direction"], setting, before, after, plan.threads)
        store.add_process(_process_row(row, command, plan.repeats))
        if "error" in row:
            return


def measure_processes(plan: Plan, store: Store) -> None:
    """Whole processes on the first picture: wall time and peak memory of each codec, both ways."""
    file = plan.pictures.files[0]
    rgb = file.pixels()
    with tempfile.TemporaryDirectory() as folder:
        for peer in plan.peers:
            _processes_of(peer, file.name, rgb, plan, store, Path(folder))


def measure_scaling(plan: Plan, store: Store, megapixels: Sequence[float], say: Callable[[str], None]) -> None:
    """Whole processes on pictures of growing size, made from the first picture by repeating it in mirror image."""
    rgb = plan.pictures.files[0].pixels()
    for size in megapixels:
        picture = grown(rgb, round(size * 1e6))
        with tempfile.TemporaryDirectory() as folder:
            for peer in plan.peers:
                start = time.perf_counter()
                _processes_of(peer, "scaling", picture, plan, store, Path(folder))
                say(f"{size:g} megapixels, {peer.label}: {time.perf_counter() - start:.1f} s")
