# SPDX-License-Identifier: MIT
"""Damage whose right order is known, to see whether the measures of realism order it so: blur, JPEG, noise.

`python -m bench orders --images DIR --out FOLDER` measures every case, for the table in docs/benchmark.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import c2st, swd
from bench.errors import BenchError, MissingError
from bench.peers import PEERS
from bench.pictures import PictureSet
from bench.progress import Progress
from bench.store import described, read_facts
from bench.tables import NOTHING, Table

Rgb = NDArray[np.uint8]  # [H, W, 3]
FILE = "orders.json"
BEGIN, END = "<!-- orders:begin -->", "<!-- orders:end -->"
ORIGINALS = "originals"
Case = dict[str, Any]


def blurred(pictures: Sequence[Rgb], sigma: float) -> list[Rgb]:
    """Gaussian blur of so many pixels."""
    from scipy.ndimage import gaussian_filter

    planes = (gaussian_filter(rgb.astype(np.float32), (sigma, sigma, 0)) for rgb in pictures)
    return [plane.round().clip(0, 255).astype(np.uint8) for plane in planes]


def noisy(pictures: Sequence[Rgb], sigma: float) -> list[Rgb]:
    """White Gaussian noise of that deviation, in 255ths, always the same."""
    random = np.random.default_rng(4)
    planes = (rgb + random.normal(0, sigma, rgb.shape) for rgb in pictures)
    return [plane.round().clip(0, 255).astype(np.uint8) for plane in planes]


def _coded(name: str) -> Callable[[Sequence[Rgb], float], list[Rgb]]:
    def through(pictures: Sequence[Rgb], setting: float) -> list[Rgb]:
        peer = PEERS[name]
        files = (peer.encode(Image.fromarray(rgb), int(setting)) for rgb in pictures)
        return [np.asarray(peer.decode(data)) for data in files]

    return through


@dataclass(frozen=True)
class Family:
    """One kind of damage in growing amounts."""

    name: str
    damaged: Callable[[Sequence[Rgb], float], list[Rgb]]
    amounts: tuple[float, ...]  # from the least damage to the most


FAMILIES = (
    Family("blur, sigma", blurred, (0.5, 1.0, 2.0, 4.0)),
    Family("JPEG, quality", _coded("jpeg"), (75, 25, 10, 5)),
    Family("noise, sigma", noisy, (2.0, 5.0, 10.0, 20.0)),
)


def _judged(reference: swd.Reference, originals: Sequence[Rgb], restored: Sequence[Rgb]) -> Case:
    distances = reference.distances(restored)
    try:
        told = {name: round(value, 5) for name, value in asdict(c2st.c2st(originals, restored)).items()}
    except MissingError:
        told = {}
    return {"swd": {str(level): round(value, 5) for level, value in distances.items()}, **told}


def measure(images: PictureSet, folder: Path, command: Sequence[str]) -> None:
    """Measure every case, and keep the figures in `folder`/orders.json; cases that are there already are kept.

    Raises:
        BenchError: the folder holds figures of other pictures, or the pictures are too few or too small.
    """
    path = folder / FILE
    facts: dict[str, Any] = dict(described(list(command), set=images.name, pictures=images.facts()))
    cases: list[Case] = []
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        if old["pictures"] != facts["pictures"]:
            raise BenchError(f"{path} is of other pictures; give another --out")
        cases = old["cases"]
    done = {(case["family"], case["amount"]) for case in cases}
    wanted = [(ORIGINALS, 0.0), *((family.name, amount) for family in FAMILIES for amount in family.amounts)]
    originals = [file.pixels() for file in images.files]
    families = {family.name: family for family in FAMILIES}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        reference = swd.Reference(originals)
        todo = [case for case in wanted if case not in done]
        progress = Progress("orders", {"case": float(len(todo))})
        for name, amount in todo:
            restored = originals if name == ORIGINALS else families[name].damaged(originals, amount)
            cases.append({"family": name, "amount": amount, **_judged(reference, originals, restored)})
            path.write_text(json.dumps({**facts, "cases": cases}, indent=1) + "\n", encoding="utf-8")
            progress.step("case", 1, text=f"{name} {amount:g}")
        progress.clear()
    except ValueError as error:
        raise BenchError(str(error)) from None


def read(folder: Path) -> dict[str, Any]:
    """What `measure` left; raises as `read_facts`."""
    return read_facts(folder / FILE)


def table(folder: Path) -> Table:
    """A row per case: SWD at every level and in the mean, times 1,000, and C2ST."""
    cases = read(folder)["cases"]
    levels = list(cases[0]["swd"])
    head = ("case", *(f"SWD 1/{level}" for level in levels), "mean", "C2ST accuracy", "AUC", "patch AUC")
    rows = []
    for case in cases:
        distances = [case["swd"][level] for level in levels]
        shown = [f"{1000 * value:.0f}" for value in (*distances, sum(distances) / len(distances))]
        told = [f"{case[key]:.3f}" if key in case else NOTHING for key in ("accuracy", "auc", "patch_auc")]
        name = case["family"] if case["family"] == ORIGINALS else f"{case['family']} {case['amount']:g}"
        rows.append((name, *shown, *told))
    return Table(head, rows)


def _measures(case: Case) -> dict[str, float]:
    told = {f"C2ST {key}": case[key] for key in ("accuracy", "auc", "patch_auc") if key in case}
    return {"SWD": swd.mean({int(level): value for level, value in case["swd"].items()}), **told}


def wrong(folder: Path) -> list[str]:
    """A sentence for each pair of neighbours that a measure orders wrongly."""
    cases = read(folder)["cases"]
    first = next(case for case in cases if case["family"] == ORIGINALS)
    found = []
    for family in FAMILIES:
        mine = sorted((c for c in cases if c["family"] == family.name), key=lambda c: family.amounts.index(c["amount"]))
        for less, more in zip([first, *mine], mine, strict=False):
            before, after = _measures(less), _measures(more)
            found += [
                f"{key} puts {family.name} {more['amount']:g} ({after[key]:.3f}) "
                f"before {less['family']} {less['amount']:g} ({before[key]:.3f})"
                for key in before
                if after[key] < before[key]
            ]
    return found


def section(folder: Path) -> str:
    """The part of docs/benchmark.md between the marks, marks included."""
    facts = read(folder)
    sizes = [f["width"] * f["height"] / 1e6 for f in facts["pictures"].values()]
    about = (
        f"{len(sizes)} photographs of {min(sizes):.1f} to {max(sizes):.1f} megapixels; Python {facts['python']}, "
        f"{facts['date']}. SWD times 1,000. `{facts['commands'][0]}`"
    )
    lines = wrong(folder)
    verdict = (
        "Ordered wrongly: " + "; ".join(lines) + "." if lines else "Every measure orders every kind of damage rightly."
    )
    return "\n\n".join((BEGIN, table(folder).markdown(), about, verdict, END))
