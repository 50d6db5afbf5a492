# SPDX-License-Identifier: MIT
"""What a quality of vqcodec gives: rate, PSNR and CVVDP at some points of its scale, and what bounds the scale above.

`python -m bench scale --images DIR --out FOLDER --page docs/quality.md` measures, keeps the figures in scale.json and
writes the page's table. A run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.learned import VqcodecPeer
from bench.metrics import METRICS, psnr
from bench.peers import PEERS
from bench.pictures import PictureSet
from bench.progress import Progress
from bench.session import metrics_here
from bench.store import Kept, described, read_facts
from bench.tables import NOTHING, Table

Rgb = NDArray[np.uint8]  # [H, W, 3]
Row = dict[str, Any]
FILE = "scale.json"
BEGIN, END = "<!-- scale:begin -->", "<!-- scale:end -->"
QUALITIES = (1, 10, 25, 50, 75, 90, 100)
TUNED = {"eye": "vqcodec-eye", "psnr": "vqcodec-psnr"}  # tune -> codec of the benchmark
BOUND = "no quantisation"  # the transforms alone: what finer steps could reach


def transformed(rgb: Rgb, tune: str) -> Rgb:
    """The picture through analysis and synthesis at quality 100, nothing quantised but its samples."""
    from vqcodec.model import zoo

    model = zoo.load(zoo.find(), 1)
    setting = model.setting(100, tune)
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
    latents, _ = model.analysis(padded, model.anchor_weights(setting))
    restored = model.synthesis.unrounded(latents, model.synthesis_weights(setting, base_only=False))
    samples: Rgb = np.clip(np.rint(255 * restored[0].transpose(1, 2, 0)), 0, 255).astype(np.uint8)
    return samples[:height, :width]


def _row(rgb: Rgb, tune: str, quality: int | str, metrics: Iterable[str]) -> Row:
    if isinstance(quality, str):
        return {"psnr": round(psnr(rgb, transformed(rgb, tune)), 3)}
    peer = PEERS[TUNED[tune]]
    data = peer.encode(Image.fromarray(rgb), quality, 1)
    restored = np.asarray(peer.decode(data, 1))
    row: Row = {"bpp": round(8 * len(data) / (rgb.shape[0] * rgb.shape[1]), 4)}
    values = {name: METRICS[name].of(rgb, restored) for name in metrics}
    return {**row, **{name: round(value, 3) for name, value in values.items() if value is not None}}


def measure(images: PictureSet, folder: Path, command: Sequence[str], qualities: Sequence[int] = QUALITIES) -> None:
    """Measure every picture at every quality of both tunes, and keep the figures in `folder`/scale.json.

    Figures of the same pictures, model and metrics that are there already are kept.
    """
    path = folder / FILE
    peer = PEERS[TUNED["psnr"]]
    assert isinstance(peer, VqcodecPeer)
    metrics, missing = metrics_here("cvvdp")
    facts: dict[str, Any] = dict(
        described(
            list(command),
            set=images.name,
            pictures=images.facts(),
            version=peer.version(),
            metrics=metrics,
            missing=missing,
        )
    )
    kept = Kept(path, facts, ("pictures", "version", "metrics"))
    done = {(row["picture"], row["tune"], row["quality"]) for row in kept.rows}
    points: list[int | str] = [*qualities, BOUND]
    wanted = [(file, tune, quality) for file in images.files for tune in TUNED for quality in points]
    todo = [case for case in wanted if (case[0].name, *case[1:]) not in done]
    progress = Progress("scale", {"case": float(len(todo))})
    for file, tune, quality in todo:
        kept.add(
            {"picture": file.name, "tune": tune, "quality": quality, **_row(file.pixels(), tune, quality, metrics)}
        )
        progress.step("case", 1, text=f"{file.name} {tune} {quality}")
    progress.clear()


def read(folder: Path) -> dict[str, Any]:
    """What `measure` left; raises as `read_facts`."""
    return read_facts(folder / FILE)


def table(folder: Path) -> Table:
    """A row per quality: for each tune the means over the pictures, and of PSNR the least and the most."""
    rows = read(folder)["rows"]
    head = ["quality"]
    for tune in TUNED:
        head += [f"{tune}: bpp", "PSNR, dB", "least to most", "CVVDP, JOD"]
    lines = []
    for quality in dict.fromkeys(row["quality"] for row in rows):
        cells = [str(quality)]
        for tune in TUNED:
            here = [row for row in rows if row["quality"] == quality and row["tune"] == tune]
            decibels = [row["psnr"] for row in here]
            cells += [_mean(here, "bpp", 3), _mean(here, "psnr", 2)]
            cells += [f"{min(decibels):.1f} to {max(decibels):.1f}", _mean(here, "cvvdp", 2)]
        lines.append(tuple(cells))
    return Table(tuple(head), lines)


def _mean(rows: Sequence[Row], name: str, digits: int) -> str:
    """The mean of a figure that every row has."""
    found = [row[name] for row in rows if name in row]
    return f"{sum(found) / len(found):.{digits}f}" if found and len(found) == len(rows) else NOTHING


def section(folder: Path) -> str:
    """The part of docs/quality.md between the marks, marks included."""
    facts = read(folder)
    count = len(facts["pictures"])
    about = (
        f"Means over {count} pictures ({facts['set']}); {facts['version']}; {facts['date']}. `{facts['commands'][0]}`"
    )
    return "\n\n".join((BEGIN, table(folder).markdown(), about, END))
