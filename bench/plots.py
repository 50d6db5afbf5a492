# SPDX-License-Identifier: MIT
"""The figures: rate-distortion and scaling, as matplotlib figures and as SVG and PNG files. No measuring here.

Every codec has a colour (Okabe and Ito, told apart by colour-blind readers too), a marker and a line of its own, the
same in every figure; markers and lines alone tell them apart in grey.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from bench.curves import curves, digest, eye, judged, label, measured, short_list
from bench.metrics import METRICS, Metric
from bench.store import Store

# name -> colour, marker, line, filled marker
STYLES: dict[str, tuple[str, str, str, bool]] = {
    "jpeg": ("#000000", "o", "-", True),
    "jpeg444": ("#000000", "o", "--", False),
    "jpegli": ("#7a7a7a", "d", "-", False),
    "mozjpeg": ("#7a7a7a", "s", "-", True),
    "webp": ("#e69f00", "^", "--", False),
    "webp-sharp": ("#e69f00", "^", "-", True),
    "avif-psnr": ("#0072b2", "D", ":", False),
    "avif-psnr-444": ("#0072b2", "D", "-", True),
    "avif-psnr-slow": ("#0072b2", "D", "-.", False),
    "avif-iq": ("#56b4e9", "X", ":", False),
    "avif-iq-444": ("#56b4e9", "X", "-", True),
    "avif-iq-slow": ("#56b4e9", "X", "-.", False),
    "jpeg2000": ("#cc79a7", "v", "-.", True),
    "jxl": ("#009e73", "P", "--", False),
    "jxl-9": ("#009e73", "P", "-", True),
    "heic": ("#a05a9a", "<", "-.", False),
    "heic-psnr": ("#a05a9a", "<", "-", True),
    "vvc": ("#4b3c8f", "p", "-", True),
    "vvc-eye": ("#4b3c8f", "p", "--", False),
    "vvc-slow": ("#4b3c8f", "p", "-.", False),
    "vqcodec": ("#d55e00", "*", "-", True),
    "vqcodec-psnr": ("#d55e00", "*", "-", True),
    "vqcodec-eye": ("#8f3b00", "*", "-", False),
    "vqcodec-e1": ("#d55e00", "*", ":", False),
    "vqcodec-e7": ("#d55e00", "*", "--", False),
    "vqcodec-e9": ("#8f3b00", "*", "--", True),
    "vqcodec-realistic": ("#8f3b00", "h", ":", False),
    "bmshj2018-hyperprior": ("#666666", "1", "--", False),
    "cheng2020-anchor": ("#666666", "2", "-.", False),
}
FIRST = ("vqcodec", "vqcodec-psnr", "vqcodec-eye")
PUBLISHED = ((0, (1, 1)), (0, (4, 1)), (0, (6, 1, 1, 1)), (0, (2, 2)))
SETTINGS: Any = {"svg.hashsalt": "vqcodec", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}


def _style(name: str, place: int) -> dict[str, Any]:
    if name not in STYLES:
        return {"color": "#9a9a9a", "linestyle": PUBLISHED[place % len(PUBLISHED)], "linewidth": 1.0}
    colour, marker, line, filled = STYLES[name]
    first = name in FIRST
    return {
        "color": colour, "marker": marker, "linestyle": line, "linewidth": 2.2 if first else 1.2,
        "markersize": 9 if first else 5, "markerfacecolor": colour if filled else "white", "zorder": 3 if first else 2,
    }  # fmt: skip


def _rate_axis(axes: Axes, log_rate: bool) -> None:
    if log_rate:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel("bits per pixel, whole file" + (" (logarithmic)" if log_rate else ""))


def _draw(axes: Axes, store: Store, metric: Metric, log_rate: bool, names: Sequence[str] | None) -> None:
    """Quality over rate; of every codec, or of some, and of the published curves, which are dotted lines."""
    found = curves(store, metric)
    if names is not None:
        found = {name: points for name, points in found.items() if name in names or name in store.published}
    for place, (name, points) in enumerate(found.items()):
        style = _style(name, place)
        axes.plot([p.bpp for p in points], [p.quality for p in points], label=label(store, name), **style)
    _rate_axis(axes, log_rate)
    axes.set_ylabel(metric.label)
    axes.set_title(f"{store.run['set']}, mean of {judged(store, metric)} pictures", fontsize=10)
    axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
    axes.legend(fontsize=8, loc="lower right", framealpha=0.9)


def rate_distortion(
    store: Store, metrics: Sequence[Metric], log_rate: bool = False, names: Sequence[str] | None = None
) -> Figure:
    """Quality over rate under one metric or several side by side; of every codec, or of `names`."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2 * len(metrics), 4.8), layout="constrained")
        for place, metric in enumerate(metrics, 1):
            _draw(figure.add_subplot(1, len(metrics), place), store, metric, log_rate, names)
    return figure


def scaling(store: Store) -> Figure | None:
    """Seconds and peak memory of whole processes over megapixels; None if that was not measured."""
    rows = [row for row in store.processes.values() if row["scope"] == "scaling" and "seconds" in row]
    if not rows:
        return None
    names = [name for name in store.run["peers"] if any(row["peer"] == name for row in rows)]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9.6, 6.4), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True)
        for column, direction in enumerate(("encode", "decode")):
            mine = [row for row in rows if row["direction"] == direction]
            for place, name in enumerate(names):
                some = sorted((r for r in mine if r["peer"] == name), key=lambda r: r["pixels"])
                sizes = [r["pixels"] / 1e6 for r in some]
                style = _style(name, place)
                grid[0, column].plot(sizes, [r["seconds"] for r in some], label=label(store, name), **style)
                peaks = [(r.get("peak_bytes") or float("nan")) / 1e6 for r in some]
                grid[1, column].plot(sizes, peaks, label=label(store, name), **style)
            grid[0, column].set_title(f"{direction}: whole process, seconds", fontsize=10)
            grid[1, column].set_title(f"{direction}: peak resident memory, MB", fontsize=10)
            grid[1, column].set_xlabel("megapixels")
        for axes in grid.flat:
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.grid(True, which="both", color="#e4e4e4", linewidth=0.5)
        grid[0, 0].legend(fontsize=8)
    return figure


def svg(figure: Figure, description: str) -> str:
    """A figure as SVG text, coordinates to a hundredth of a point: the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Description": description})
    rounded = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", buffer.getvalue())
    return re.sub(r"\n\s+", "\n", rounded)


def write(store: Store, folder: Path, log_rate: bool = True) -> list[Path]:
    """SVGs of the short list of codecs and the published curves, one per metric; and of the scaling."""
    short = short_list(store)
    figures: dict[str, Figure | None] = {
        f"rd-{metric.name}": rate_distortion(store, [metric], log_rate, short) for metric in measured(store)
    }
    figures["scaling"] = scaling(store)
    written = []
    for name, figure in figures.items():
        if figure is not None:
            path = folder / f"{name}.svg"
            path.write_text(svg(figure, f"data {digest(store)}"), encoding="utf-8")
            written.append(path)
    return written


def write_pair(store: Store, folder: Path) -> Path:
    """README's figure: PSNR and the metric of the eye side by side, of the short list of codecs."""
    judge = eye(store)
    figure = rate_distortion(store, [METRICS["psnr"], *([judge] if judge else [])], True, short_list(store))
    path = folder / "rd.svg"
    path.write_text(svg(figure, f"data {digest(store)}"), encoding="utf-8")
    return path
