# SPDX-License-Identifier: MIT
"""Seams and hues: what a codec does to large photographs, whose tiles and flat areas small pictures do not show.

All figures are of the error, the restored picture minus the original. None says how good a picture is: only whether
the error is worse at certain places than elsewhere.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.codecs import Peer
from bench.curves import label
from bench.metrics import Rgb
from bench.pictures import PictureSet
from bench.progress import Progress
from bench.store import SeamRow, Store
from bench.tables import Table
from vqcodec.options import TILE_LOG2

Error = NDArray[np.float32]  # [H, W, 3]
TILE = 2**TILE_LOG2  # pixels a side, of vqcodec's tiles
CELL = 16  # pixels a side, of its latent grid
RUN = 32  # pixels along an edge over which a step is averaged, so that texture cancels out
REACH = 2  # pixels on either side of an edge
BESIDE = (-29, -23, -13, -7, 7, 13, 23, 29)  # where the same step is taken for comparison: on no grid of 8 or 16
BLOCK = 64  # pixels a side, for hues
SETTINGS = {"vqcodec": (5, 10, 20, 30, 45, 60)}  # qualities where seams would show; others take every second of theirs
METHOD = (
    f"Steps are differences of the mean error over {REACH} pixels on either side of a line, averaged along {RUN} "
    f"pixels. Seam: the mean step at the edges of vqcodec's tiles (every {TILE} pixels) over the mean step beside "
    f"them; worst is the highest of any one edge. Grid: the same at multiples of {CELL} pixels that are no tile "
    f"edges. 1.0 is no seam. Hue: the 95th percentile, over blocks of {BLOCK} × {BLOCK} pixels, of the largest shift "
    "of a block's mean in R, G or B, in levels of 255."
)


@dataclass(frozen=True)
class Judgement:
    """Seam, worst and grid as ratios of steps, 1.0 where an edge does not show; hue in levels of 255."""

    seam: float
    worst: float
    grid: float
    hue: float


def step(error: Error, at: int) -> float:
    """The mean absolute step of the error across column `at`."""
    across = error[:, at : at + REACH].mean(1) - error[:, at - REACH : at].mean(1)
    whole = len(across) // RUN * RUN
    return float(np.abs(across[:whole].reshape(-1, RUN, 3).mean(1)).mean())


def _ratio(error: Error, at: int) -> float:
    """The step at a column over the mean of the steps beside it."""
    beside = statistics.fmean(step(error, at + shift) for shift in BESIDE)
    return step(error, at) / max(beside, 1e-3)


def _lines(length: int, every: int, without: int | None = None) -> list[int]:
    """Multiples of `every` with room on both sides, but those of `without`."""
    room = max(BESIDE) + REACH
    return [at for at in range(every, length - room, every) if at > room and (without is None or at % without)]


def judge(original: Rgb, restored: Rgb, tile: int = TILE) -> Judgement:
    """Seams and hues of a restored picture; both [H, W, 3] uint8."""
    error = restored.astype(np.float32) - original
    seams: list[float] = []
    grid: list[float] = []
    for turned in (error, error.transpose(1, 0, 2)):
        length = turned.shape[1]
        if len(turned) >= RUN:
            seams += [_ratio(turned, at) for at in _lines(length, tile)]
            grid += [_ratio(turned, at) for at in _lines(length, 7 * CELL, tile)]
    height, width = error.shape[0] // BLOCK, error.shape[1] // BLOCK
    blocks = error[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK, 3).mean((1, 3))
    hue = float(np.percentile(np.abs(blocks).max(2), 95)) if blocks.size else 0.0
    mean = statistics.fmean(seams) if seams else 1.0
    return Judgement(mean, max(seams, default=1.0), statistics.fmean(grid) if grid else 1.0, hue)


def settings_of(peer: Peer) -> Sequence[int]:
    """Where a codec's seams are looked for."""
    return SETTINGS["vqcodec"] if peer.name.startswith("vqcodec") else peer.settings[::2]


def large(store: Store) -> bool:
    """Whether a set has a picture that vqcodec codes in more than one tile."""
    return any(max(int(facts["width"]), int(facts["height"])) > TILE for facts in store.run["pictures"].values())


def measure(pictures: PictureSet, peers: Sequence[Peer], store: Store, threads: int = 0) -> None:
    """Seams and hues of each codec at some settings; what the store has is not measured again."""
    todo = {
        (file.name, peer.name): wanted
        for file in pictures.files
        for peer in peers
        if (wanted := [s for s in settings_of(peer) if (file.name, peer.name, s) not in store.seams])
    }
    work: dict[str, float] = {}
    for (_, name), wanted in todo.items():
        work[name] = work.get(name, 0) + len(wanted)
    progress = Progress("seams and hues", work)
    for file in pictures.files:
        rgb = file.pixels() if any(picture == file.name for picture, _ in todo) else None
        for peer in peers if rgb is not None else ():
            for setting in todo.get((file.name, peer.name), []):
                start = time.perf_counter()
                assert rgb is not None
                store.add_seam(_row(file.name, rgb, peer, setting, threads))
                progress.step(peer.name, 1, time.perf_counter() - start, f"{file.name} {peer.label} {setting}")
    progress.clear()


def _row(picture: str, rgb: Rgb, peer: Peer, setting: int, threads: int) -> SeamRow:
    data = peer.encode(Image.fromarray(rgb), setting, threads)
    found = judge(rgb, np.asarray(peer.decode(data, threads)))
    return {
        "picture": picture, "peer": peer.name, "setting": setting,
        "bpp": round(8 * len(data) / (rgb.shape[0] * rgb.shape[1]), 4), "seam": round(found.seam, 3),
        "worst": round(found.worst, 3), "grid": round(found.grid, 3), "hue": round(found.hue, 3),
    }  # fmt: skip


def table(store: Store) -> Table | None:
    """A row per codec and setting, means over the pictures; None if seams were not measured."""
    if not store.seams:
        return None
    rows = []
    for peer in store.run["peers"]:
        for setting in sorted({key[2] for key in store.seams if key[1] == peer}):
            some = [row for key, row in store.seams.items() if key[1:] == (peer, setting)]
            bpp, seam, grid, hue = (
                statistics.fmean(values)
                for values in zip(*((r["bpp"], r["seam"], r["grid"], r["hue"]) for r in some), strict=True)
            )
            worst = max(row["worst"] for row in some)
            cells = (f"{bpp:.3f}", f"{seam:.2f}", f"{worst:.2f}", f"{grid:.2f}", f"{hue:.2f}")
            rows.append((f"{label(store, peer)} {setting}", *cells))
    return Table(("codec and setting", "bpp", "seam", "worst", "grid", "hue"), rows)
