# SPDX-License-Identifier: MIT
"""Measures rate, distortion and warm speed: pictures times codecs times settings, in this process.

Everything measured goes straight to the store, and what the store holds is not measured again. No tables here.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from bench.codecs import Peer
from bench.errors import MissingError
from bench.metrics import METRICS, TORCH_PACKAGES, Rgb, complete
from bench.pictures import PictureSet
from bench.progress import Progress
from bench.store import Row, Store

T = TypeVar("T")
ENOUGH_SECONDS = 0.3  # a call is not repeated any more once it has taken this long in all
HELD_PIXELS = 2**25  # how many decoded pixels may wait for their metrics


@dataclass(frozen=True)
class Plan:
    """What to measure and how."""

    pictures: PictureSet
    peers: tuple[Peer, ...]
    metrics: tuple[str, ...]
    settings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # instead of a peer's own
    threads: int = 0
    repeats: int = 3  # 0: without times
    sample: int = 1  # metrics that need torch judge every Nth picture

    def settings_of(self, peer: Peer) -> tuple[int, ...]:
        """The points of a peer's curve."""
        return self.settings.get(peer.name, peer.settings)

    def metrics_of(self, picture: str) -> tuple[str, ...]:
        """The metrics that judge a picture."""
        names = [file.name for file in self.pictures.files[:: self.sample]]
        return tuple(m for m in self.metrics if picture in names or METRICS[m].package not in TORCH_PACKAGES)


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
    if plan.repeats:
        row["enc_seconds"], row["dec_seconds"] = float(f"{enc_seconds:.3g}"), float(f"{dec_seconds:.3g}")
    return row, decoded


def _judge(row: Row, rgb: Rgb, decoded: Rgb | None, metrics: Sequence[str], known: Row | None) -> Row:
    """Add the distortion to a row: what is known of the same file with the same PSNR, then what is lacking."""
    if decoded is None:
        return row
    row["psnr"] = round(METRICS["psnr"].of(rgb, decoded) or 0.0, 5)
    if known is not None and (known.get("bytes"), known.get("psnr")) == (row["bytes"], row["psnr"]):
        row = {**known, **row}
    for name in (name for name in metrics if name not in row):
        value = METRICS[name].of(rgb, decoded)
        if value is not None:
            row[name] = round(value, 5)  # type: ignore[literal-required]
    return row


def _groups(settings: Sequence[int], pixels: int) -> Iterator[Sequence[int]]:
    size = max(1, HELD_PIXELS // pixels)
    for start in range(0, len(settings), size):
        yield settings[start : start + size]


def _todo(plan: Plan, store: Store) -> dict[tuple[str, str], list[int]]:
    """(picture, codec) -> the settings that the store has not got with all metrics."""
    found = {}
    for file in plan.pictures.files:
        for peer in plan.peers:
            metrics = plan.metrics_of(file.name)
            wanted = [s for s in plan.settings_of(peer) if not _has(store, (file.name, peer.name, s), metrics)]
            if wanted:
                found[file.name, peer.name] = wanted
    return found


def _warm_up(peer: Peer, rgb: Rgb, plan: Plan) -> None:
    """Load what a codec loads at its first call, so that it is not timed."""
    _coded(peer, rgb[:256, :256].copy(), peer.middle, "", Plan(plan.pictures, (), (), repeats=1))


def measure(plan: Plan, store: Store) -> int:
    """Everything of the plan that the store has not got yet; returns the number of new rows.

    Codecs are timed one after another with nothing beside them; the metrics of a codec's settings come afterwards, in
    threads.
    """
    todo = _todo(plan, store)
    work: dict[str, float] = {}
    for (picture, name), settings in todo.items():
        facts = store.run["pictures"][picture]
        work[name] = work.get(name, 0) + len(settings) * int(facts["width"]) * int(facts["height"]) / 1e6
    progress, count, warm = Progress("rate and distortion", work), 0, set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in plan.pictures.files:
            peers = [peer for peer in plan.peers if (file.name, peer.name) in todo]
            rgb = file.pixels() if peers else np.empty((0, 0, 3), np.uint8)
            judge = partial(_judge, rgb=rgb, metrics=plan.metrics_of(file.name))
            for peer in peers:
                if peer.name not in warm:
                    _warm_up(peer, rgb, plan)
                    warm.add(peer.name)
                rows: list[Row] = []
                for group in _groups(todo[file.name, peer.name], rgb.shape[0] * rgb.shape[1]):
                    start = time.perf_counter()
                    coded = [_coded(peer, rgb, setting, file.name, plan) for setting in group]
                    known = [store.rows.get((file.name, peer.name, setting)) for setting in group]
                    judged = [
                        pool.submit(judge, row, decoded=d, known=k) for (row, d), k in zip(coded, known, strict=True)
                    ]
                    fresh = [one.result() for one in judged]
                    store.add(fresh)
                    rows += fresh
                    amount = len(group) * rgb.shape[0] * rgb.shape[1] / 1e6
                    progress.step(peer.name, amount, time.perf_counter() - start, f"{file.name} {peer.label}")
                progress.say(_line(file.name, peer, rows, rgb.shape[0] * rgb.shape[1]))
                count += len(rows)
    progress.clear()
    return count


def _line(picture: str, peer: Peer, rows: Sequence[Row], pixels: int) -> str:
    """What a codec did on a picture, for the terminal."""
    good = [row for row in rows if "bytes" in row]
    if not good:
        return f"{picture:24} {peer.label:22} failed: {rows[0].get('error', '')}"
    bpp = [8 * row["bytes"] / pixels for row in good]
    psnr = [row["psnr"] for row in good]
    failed = f"  {len(rows) - len(good)} failed" if len(good) < len(rows) else ""
    return (
        f"{picture:24} {peer.label:22} {len(good):2} points  {min(bpp):.2f}–{max(bpp):.2f} bpp  "
        f"{min(psnr):.1f}–{max(psnr):.1f} dB{failed}"
    )


def _has(store: Store, key: tuple[str, str, int], metrics: Sequence[str]) -> bool:
    """Whether the store has a row with all the metrics that it can have."""
    row = store.rows.get(key)
    if row is None:
        return False
    facts = store.run["pictures"][key[0]]
    return "error" not in row and complete(row, metrics, min(int(facts["width"]), int(facts["height"])))
