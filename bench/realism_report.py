# SPDX-License-Identifier: MIT
"""From the lines of realism.py to realism.md and realism.html. Nothing is measured here."""

from __future__ import annotations

import base64
import html
import statistics
from collections.abc import Mapping
from pathlib import Path
from string import Template

from bench import page, swd
from bench.metrics import METRICS
from bench.realism import ORIGINALS, Line, Results
from bench.report import provenance
from bench.tables import NOTHING, Table

MARKDOWN, HTML = "realism.md", "realism.html"
DISTORTION = {"psnr": "PSNR dB", "ms_ssim": "MS-SSIM dB", "ssimulacra2": "SSIMULACRA2"}
TOLD = {"accuracy": "C2ST accuracy", "auc": "AUC", "patch_auc": "patch AUC"}
METHOD = (
    "Each picture is coded for itself, to the file that comes closest to the target without exceeding it by more than "
    "3 %; † marks codecs that cannot get so low on some pictures, and stand there with the smallest file that they "
    "make. bpp, PSNR, MS-SSIM (−10 log₁₀(1 − x)) and SSIMULACRA2 are means over the pictures; more is better. SWD is "
    "the sliced Wasserstein distance of patches of 7 × 7 from originals to restored pictures, times 1,000, at full "
    "size (1/1) and reduced (1/2, ...), and the mean; C2ST is how well a small network, trained for each line, tells "
    "restored pictures that it has not seen from originals: share of crops of 64 × 64 that it gets right, area under "
    "its ROC curve, and that of patches of 18 × 18; 0.5 is chance. Less is better for both. The line of the originals "
    "says what perfect pictures would have: SWD of other patches of the originals, and C2ST of originals against "
    "themselves. Neither looks at whether a restored picture is like its own original: read them together with the "
    "distortion. SWD takes the edges of JPEG's blocks and ringing for detail, so that it flatters JPEG at low rates; "
    "C2ST does not."
)
PAGE = """<!doctype html>
<!-- SPDX-License-Identifier: MIT -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@@title</title>
<style>
  body { margin: 0 auto; max-width: 1400px; padding: 1.5rem 1rem 4rem; color: #1c1c1c; background: #fff;
         font: 15px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
  p.small, li { color: #666; font-size: .87rem; max-width: 60rem; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
  th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
  thead th { white-space: normal; vertical-align: bottom; color: #666; } th:first-child { text-align: left; }
</style>
</head>
<body>
<h1>@@title</h1>
<p class="small">@@provenance</p>
@@notices
@@rates
<h2>How it was measured</h2>
<p class="small">@@method</p>
</body>
</html>
"""


class _Page(Template):
    delimiter = "@@"


def bpp_of(results: Results, line: Line) -> float:
    """Bits of the whole file per pixel."""
    facts = results.run["pictures"][line["picture"]]
    return float(8 * line["bytes"] / (int(facts["width"]) * int(facts["height"])))


def _mean(lines: list[Line], name: str) -> str:
    """Of a metric over the pictures that have it; a codec that has failed on some has none."""
    if any("error" in line for line in lines):
        return NOTHING
    values = [METRICS[name].shown(line[name]) for line in lines if name in line]
    return f"{statistics.fmean(values):.2f}" if values else NOTHING


def _sets(line: Line, levels: list[str], others: list[str]) -> list[str]:
    distances = line.get("swd", {})
    shown = [f"{1000 * distances[level]:.0f}" if level in distances else NOTHING for level in levels]
    mean = swd.mean({int(level): value for level, value in distances.items()}) if distances else None
    told = [f"{line['c2st'][name]:.3f}" if "c2st" in line else NOTHING for name in TOLD]
    more = [f"{line[name]:.3f}" if name in line else NOTHING for name in others]
    return [*shown, NOTHING if mean is None else f"{1000 * mean:.0f}", *told, *more]


def table(results: Results, target_bpp: float) -> Table:
    """A row per codec at one rate, the originals first."""
    floor = results.lines.get(("", ORIGINALS, 0.0), {})
    levels = list(floor.get("swd", {}))
    known = {"codec", "target_bpp", "swd", "c2st"}
    others = sorted({name for key, line in results.lines.items() if not key[0] for name in line} - known)
    metrics = [name for name in DISTORTION if name in results.run["metrics"]]
    head = (
        "codec", "bpp", *(DISTORTION[name] for name in metrics), *(f"SWD 1/{level}" for level in levels), "SWD mean",
        *TOLD.values(), *others,
    )  # fmt: skip
    rows = [(ORIGINALS, NOTHING, *(NOTHING for _ in metrics), *_sets(floor, levels, others))]
    for name, peer in results.run["peers"].items():
        lines = results.of_codec(name, target_bpp)
        if lines:
            whole = [line for line in lines if "bytes" in line]
            rate = f"{statistics.fmean(bpp_of(results, line) for line in whole):.3f}" if whole else NOTHING
            mark = "†" if any(line.get("missed") for line in lines) else ""
            told = _sets(results.lines.get(("", name, target_bpp), {}), levels, others)
            rows.append((peer["label"], rate + mark, *(_mean(lines, metric) for metric in metrics), *told))
    return Table(head, rows)


def notices(results: Results) -> list[str]:
    """What was left out or missed, and why."""
    found = [f"{name} is left out: {why}" for name, why in results.run["missing"].items()]
    for target_bpp in results.targets_bpp:
        for name, peer in results.run["peers"].items():
            lines = results.of_codec(name, target_bpp)
            missed = [bpp_of(results, line) for line in lines if line.get("missed")]
            if missed:
                found.append(
                    f"{peer['label']} cannot get to {target_bpp:g} bpp on {len(missed)} of {len(lines)} pictures: "
                    f"its smallest files there have {min(missed):.3f} to {max(missed):.3f} bpp"
                )
            found += [
                f"{peer['label']} at {target_bpp:g} bpp failed on {line['picture']}: {line['error']}"
                for line in lines
                if "error" in line
            ][:3]
    return found


def text(results: Results) -> str:
    """The report for the terminal."""
    parts = [f"{target:g} bpp\n\n{table(results, target).plain()}" for target in results.targets_bpp]
    return "\n\n".join([*parts, *notices(results), METHOD])


def markdown(results: Results) -> str:
    """The contents of realism.md."""
    parts = [f"# Realism at low rates: {results.run['set']}"]
    for target in results.targets_bpp:
        parts += [f"## {target:g} bpp", table(results, target).markdown()]
    parts += ["\n".join(f"- {line}" for line in notices(results)), provenance(results.run), METHOD]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(results: Results, sheets: Mapping[float, Path]) -> list[Path]:
    """realism.md, and realism.html with the sheets in it, into the results' folder."""
    parts = []
    for target in results.targets_bpp:
        parts += [f"<h2>{target:g} bits per pixel</h2>", page.table(table(results, target))]
        if target in sheets:
            data = base64.b64encode(sheets[target].read_bytes()).decode()
            parts.append(
                f'<div class="wide"><img alt="crops at {target:g} bpp" src="data:image/jpeg;base64,{data}"></div>'
            )
    content = _Page(PAGE).substitute(
        title=html.escape(f"Realism at low rates: {results.run['set']}"),
        provenance=page.prose(provenance(results.run)),
        notices=page.listed(notices(results)),
        rates="\n".join(parts),
        method=page.prose(METHOD),
    )
    written = [results.folder / MARKDOWN, results.folder / HTML]
    written[0].write_text(markdown(results), encoding="utf-8")
    written[1].write_text(content, encoding="utf-8")
    return written
