# SPDX-License-Identifier: MIT
"""Tables and figure of a quantiser bake-off, from the lines that `python -m vqcodec.train.bakeoff` wrote.

Rates are estimates, not files: how they are made stands in docs/model.md. Nothing is trained or measured here.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bench import plots
from bench.bd import BdRate, Curve, bd_rate
from bench.errors import BenchError, NoOverlapError
from bench.tables import NOTHING, Table, percent

RESULTS, SETTINGS = "results.jsonl", "settings.json"
ANCHOR = "default"
COSTS = ("analysis", "prior", "synthesis")
# Okabe and Ito's colours; lines tell variants of the same colour apart
COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#7a7a7a")
LINES = ("-", "--", ":", "-.")
LONGEST = 30.0  # percent; longer bars end there
Line = dict[str, Any]


def read(folder: Path) -> tuple[dict[str, Line], dict[str, Any]]:
    """Variants by name, in the order of their measurement, and the settings that they share.

    Raises:
        BenchError: the folder is not one of a bake-off, or has no results yet.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        text = (folder / RESULTS).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        found = {line["name"]: line for line in lines}
    except FileNotFoundError as error:
        raise BenchError(f"{error.filename} is not there: python -m vqcodec.train.bakeoff writes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{folder} cannot be read as a bake-off's results: {error}") from None
    if not found:
        raise BenchError(f"{folder / RESULTS} has no results yet")
    return found, settings


def curve(line: Line) -> Curve:
    """(bits per pixel, PSNR) at each level."""
    return [(row["bpp"], row["psnr"]) for row in line["rows"]]


def compared(found: dict[str, Line], anchor: str) -> dict[str, BdRate | None]:
    """BD-rate of each variant against the anchor; None where the curves share too little."""
    if anchor not in found:
        raise BenchError(f"there is no variant {anchor!r} here; there are {', '.join(found)}")
    rates: dict[str, BdRate | None] = {}
    for name, line in found.items():
        try:
            rates[name] = bd_rate(curve(found[anchor]), curve(line))
        except NoOverlapError:
            rates[name] = None
    return rates


def _mean(line: Line, key: str) -> str:
    return f"{statistics.fmean(row[key] for row in line['rows']):.4f}" if line["rows"] else NOTHING


def _costs(line: Line) -> str:
    """Thousand multiply-accumulates per pixel of analysis, refinement's prior and synthesis."""
    if "kmac" not in line:
        return NOTHING
    rows = line["kmac"].items()
    return " + ".join(f"{sum(value for name, value in rows if part in name):.2f}" for part in COSTS)


def _stages(line: Line, key: str, form: str = "{:,.0f}") -> str:
    return " + ".join(form.format(stage[key]) for stage in line["codebook"]) if line["codebook"] else NOTHING


def _use(line: Line) -> str:
    if not line["codebook"]:
        return NOTHING
    return " + ".join(f"{stage['used'] / stage['size']:.0%}" for stage in line["codebook"])


def summary(found: dict[str, Line], anchor: str = ANCHOR) -> Table:
    """A row per variant: BD-rate, the base layer, the codebook's use, cost."""
    head = (
        "variant", f"BD-rate against {anchor}", "base, bpp", "base alone, dB", "codebook used", "perplexity",
        "bits per index", "parameters", f"kMAC per pixel: {' + '.join(COSTS)}", "steps", "crops/s",
    )  # fmt: skip
    rates = compared(found, anchor)
    rows: list[tuple[str, ...]] = []
    for name, line in found.items():
        alone = statistics.fmean(row["base_psnr"] for row in line["rows"]) if line["rows"] else math.nan
        rows.append(
            (name, str(line["failed"]) if "failed" in line else percent(rates[name]), _mean(line, "base_bpp"),
             f"{alone:.2f}" if line["rows"] else NOTHING, _use(line), _stages(line, "perplexity"),
             _stages(line, "bits_per_index", "{:.2f}"), f"{sum(line['parameters'].values()):,}", _costs(line),
             f"{line['steps']:,}", f"{line['crops_per_second']:,.0f}")
        )  # fmt: skip
    return Table(head, rows)


def levels(found: dict[str, Line]) -> Table:
    """A row per variant, a column per level: base + refinement bits per pixel, and PSNR."""
    known = sorted({row["level"] for line in found.values() for row in line["rows"]})
    rows = []
    for name, line in found.items():
        cells = {
            row["level"]: f"{row['base_bpp']:.4f} + {row['refinement_bpp']:.4f}, {row['psnr']:.2f}"
            for row in line["rows"]
        }
        rows.append((name, *(cells.get(level, NOTHING) for level in known)))
    return Table(("variant", *(f"level {level:g}" for level in known)), rows)


def provenance(found: dict[str, Line], settings: dict[str, Any]) -> str:
    """What was trained on what, in two sentences."""
    train, machine = settings["train"], settings["machine"]
    steps = sorted({line["steps"] for line in found.values()})
    minutes = sum(line["seconds"] for line in found.values()) / 60
    return (
        f"{steps[0]:,}{f' to {steps[-1]:,}' if len(steps) > 1 else ''} steps of {train['batch']} crops of "
        f"{train['crop']}² each, seed {train['seed']}, on {settings['data']['pictures']:,} pictures; judged on "
        f"{settings['validation']['pictures']:,}; {minutes:.0f} minutes of training on {machine['device']} "
        f"(torch {machine['torch']}). One seed each: differences of a few tenths of a percent may be chance."
    )


def figure(found: dict[str, Line], anchor: str = ANCHOR) -> Figure:
    """Rate-distortion curves, and BD-rates as bars."""
    rates = compared(found, anchor)
    with matplotlib.rc_context(plots.SETTINGS):
        drawn = Figure(figsize=(9.6, 4.8), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        for place, (name, line) in enumerate(found.items()):
            points = curve(line)
            colour, dash = COLOURS[place % len(COLOURS)], LINES[place // len(COLOURS) % len(LINES)]
            left.plot(
                [p[0] for p in points], [p[1] for p in points], color=colour, linestyle=dash, marker=".",
                linewidth=2 if name == anchor else 1, label=name,
            )  # fmt: skip
        left.set_xscale("log")
        left.set_xlabel("estimated bits per pixel (logarithmic)")
        left.set_ylabel("RGB PSNR, dB")
        left.grid(True, which="both", color="#dddddd", linewidth=0.6)
        left.legend(fontsize=5, ncols=2)
        bars = [(name, rate.percent) for name, rate in rates.items() if rate is not None and name != anchor]
        drawn_bars = right.barh([name for name, _ in bars], [min(value, LONGEST) for _, value in bars], color="#0072b2")
        right.bar_label(drawn_bars, [f"{value:+.1f}" for _, value in bars], padding=2, fontsize=6)
        right.tick_params("y", labelsize=7)
        right.margins(x=0.15)
        right.axvline(0, color="#000000", linewidth=0.8)
        right.invert_yaxis()
        right.set_xlabel(f"BD-rate against {anchor}, % (bars end at {LONGEST:.0f})")
    return drawn


def write(folder: Path, out: Path, anchor: str = ANCHOR) -> list[Path]:
    """`ablations.md`, `ablations.svg` and `ablations.png` in `out`, and copies of the results themselves."""
    found, settings = read(folder)
    text = "\n\n".join(
        [
            "# Quantisers and parts of the model, compared", provenance(found, settings),
            summary(found, anchor).markdown(),
            "Base + refinement in bits per pixel, PSNR in dB:", levels(found).markdown(),
            "![Rate and distortion, and BD-rates](ablations.svg)",
            "How it was trained and what the rates are: docs/model.md. Made by `python -m bench ablations`.",
        ]
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    written = [out / name for name in ("ablations.md", "ablations.svg", "ablations.png", RESULTS, SETTINGS)]
    written[0].write_text(text + "\n", encoding="utf-8")
    drawn = figure(found, anchor)
    written[1].write_text(plots.svg(drawn, f"{len(found)} variants"), encoding="utf-8")
    drawn.savefig(written[2], dpi=110, metadata={"Software": None})
    if out.resolve() != folder.resolve():
        for path in written[3:]:
            path.write_bytes((folder / path.name).read_bytes())
    return written
