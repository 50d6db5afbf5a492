# SPDX-License-Identifier: MIT
"""The figures: rate-distortion and scaling, as matplotlib figures and as SVG and PNG files. No measuring here.

Every codec has a colour (Okabe and Ito, told apart by colour-blind readers too), a marker and a line of its own, the
same in every figure; markers and lines alone tell them apart in grey.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from bench import report
from bench.metrics import METRICS, Metric
from bench.store import Store

# name -> colour, marker, line, filled marker
STYLES: dict[str, tuple[str, str, str, bool]] = {
    "jpeg": ("#000000", "o", "-", True),
    "jpeg444": ("#000000", "o", "--", False),
    "mozjpeg": ("#7a7a7a", "s", "-", True),
    "webp": ("#e69f00", "^", "-", True),
    "avif": ("#0072b2", "D", "-", True),
    "avif-slow": ("#0072b2", "D", "--", False),
    "jpeg2000": ("#cc79a7", "v", "-.", True),
    "jxl": ("#009e73", "P", "-", True),
    "heic": ("#56b4e9", "X", "-.", True),
    "vqcodec": ("#d55e00", "*", "-", True),
    "vqcodec-e1": ("#d55e00", "*", ":", False),
    "vqcodec-e7": ("#d55e00", "*", "--", False),
    "vqcodec-e9": ("#8f3b00", "*", "--", True),
    "vqcodec-realistic": ("#8f3b00", "h", ":", False),
}
PUBLISHED = ((0, (1, 1)), (0, (4, 1)), (0, (6, 1, 1, 1)), (0, (2, 2)))
SETTINGS: Any = {"svg.hashsalt": "vqcodec", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}


def _style(name: str, place: int) -> dict[str, Any]:
    if name not in STYLES:
        return {"color": "#9a9a9a", "linestyle": PUBLISHED[place % len(PUBLISHED)], "linewidth": 1.0}
    colour, marker, line, filled = STYLES[name]
    first = name == report.FOCUS
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


def rate_distortion(store: Store, metric: Metric, log_rate: bool = False) -> Figure | None:
    """Quality over rate of every codec; None if the metric was not measured."""
    found = report.curves(store, metric)
    if not found:
        return None
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, points) in enumerate(found.items()):
            style = _style(name, place)
            axes.plot([p.bpp for p in points], [p.quality for p in points], label=report.label(store, name), **style)
        _rate_axis(axes, log_rate)
        axes.set_ylabel(metric.label)
        axes.set_title(f"{store.run['set']}, mean of {len(store.run['pictures'])} pictures", fontsize=10)
        axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=8, loc="lower right", framealpha=0.9)
    return figure


def scaling(store: Store) -> Figure | None:
    """Seconds and peak memory of whole processes over megapixels; None if that was not measured."""
    rows = [row for row in store.processes.values() if row["picture"] == "scaling" and "seconds" in row]
    if not rows:
        return None
    names = [name for name in store.run["peers"] if any(row["peer"] == name for row in rows)]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9.6, 6.4), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True)
        for column, direction in enumerate(("encode", "decode")):
            mine = [row for row in rows if row["direction"] == direction]
            for place, name in enumerate(names):
                some = sorted((r for r in mine if r["peer"] == name), key=lambda r: r["width"] * r["height"])
                sizes = [r["width"] * r["height"] / 1e6 for r in some]
                style = _style(name, place)
                grid[0, column].plot(sizes, [r["seconds"] for r in some], label=report.label(store, name), **style)
                peaks = [(r.get("peak_bytes") or float("nan")) / 1e6 for r in some]
                grid[1, column].plot(sizes, peaks, label=report.label(store, name), **style)
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
    """A figure as SVG text: the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Description": description})
    return buffer.getvalue()


def all_figures(store: Store, log_rates: Sequence[bool] = (False, True)) -> dict[str, Figure]:
    """File name without suffix -> figure."""
    found: dict[str, Figure | None] = {
        f"rd-{name}" + ("-log" if log_rate else ""): rate_distortion(store, metric, log_rate)
        for name, metric in METRICS.items()
        for log_rate in log_rates
    }
    found["scaling"] = scaling(store)
    return {name: figure for name, figure in found.items() if figure is not None}


def write(store: Store, log_rate: bool = False) -> list[Path]:
    """Every figure as SVG and PNG into the store's folder; with `log_rate` the rate axes are logarithmic."""
    written = []
    for name, figure in all_figures(store, (log_rate,)).items():
        stem = store.folder / name.removesuffix("-log")
        description = f"data {report.digest(store)}"
        stem.with_suffix(".svg").write_text(svg(figure, description), encoding="utf-8")
        figure.savefig(stem.with_suffix(".png"), dpi=110, metadata={"Description": description, "Software": None})
        written += [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    return written
