# SPDX-License-Identifier: MIT
"""What of a run is committed: one page of tables, one figure per metric, the raw rows compressed; README's section.

A release's folder can be read like a run's, so that its page and figures can be made again without measuring.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from bench import plots, seams
from bench.curves import rated, short_list
from bench.metrics import METRICS
from bench.report import (
    METHOD,
    Report,
    cost_table,
    costs,
    detail_table,
    matrix_table,
    notices,
    provenance,
    range_table,
    rate_table,
    scaling_table,
    seconds_of,
    sentences,
)  # fmt: skip
from bench.store import PROCESSES, PUBLISHED, ROWS, RUN, SEAMS, pack, replace
from bench.tables import Table, write_section

PAGE = "results.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def _bulleted(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def markdown(report: Report) -> str:
    """Everything about one set of pictures, as a page."""
    store = report.store
    names = rated(store)
    parts = [f"# {store.run['set']}: {len(store.run['pictures'])} pictures", _bulleted(sentences(report))]
    parts += [f"![{m.label} over bits per pixel](rd-{m.name}.svg)" for m in report.metrics if m.name == "psnr"]
    title = f"## Bits at equal quality, against {report.label(report.anchor)}"
    parts += [title, rate_table(report, [*names, *store.published], interval=True).markdown()]
    parts += ["## What the curves cover", range_table(report).markdown()]
    for metric in report.metrics:
        parts += [f"## {metric.short}: every codec against every other", matrix_table(report, metric).markdown()]
        parts += [f"<details><summary>Intervals, shared ranges and wins</summary>\n\n"
                  f"{detail_table(report, metric).markdown()}\n\n</details>"]  # fmt: skip
    parts += ["## Speed and memory", cost_table(store).markdown()]
    scaling = scaling_table(store)
    parts += ["Whole processes over the size of the picture:", scaling.markdown()] if scaling else []
    found = seams.table(store)
    parts += ["## Seams and hues", found.markdown(), seams.METHOD] if found else []
    parts += ["## How it was measured", METHOD, provenance(store.run), _bulleted(notices(report)), _sources(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sources(report: Report) -> str:
    """Where published curves come from."""
    curves = report.store.published.values()
    lines = [f"{curve['label']}: {curve['source']}" for curve in curves if curve["source"]]
    return "Published curves, not measured here:\n\n" + _bulleted(lines) if lines else ""


def write(report: Report, folder: Path) -> list[Path]:
    """The committed form of a run, into a folder of its own or over the release that it was read from."""
    store = report.store
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / RUN, json.dumps(store.run, indent=1, ensure_ascii=False) + "\n")
    for name in (ROWS, PROCESSES, SEAMS):
        pack(store.folder / name, folder / name)
    if store.published:
        replace(folder / PUBLISHED, json.dumps(store.published, ensure_ascii=False) + "\n")
    written = plots.write(store, folder)
    (folder / PAGE).write_text(markdown(report), encoding="utf-8")
    return [folder / PAGE, *written]


def readme_table(report: Report) -> Table:
    """At most eight rows: the best of each family."""
    wanted = ("psnr", "ms_ssim", "ssimulacra2", "cvvdp")
    metrics = [metric for metric in report.metrics if metric.name in wanted]
    processes = {one.name: one.process for one in costs(report.store)}
    rows = []
    for name in short_list(report.store):
        mine = processes.get(name, {})
        times = (seconds_of(mine.get(("process", way))) for way in ("encode", "decode"))
        rows.append((report.label(name), *(report.cell(m, name, report.anchor) for m in metrics), *times))
    return Table(("codec", *(metric.short for metric in metrics), "compress s", "decompress s"), rows)


def section(report: Report, folder: str) -> str:
    """README's section, marks included; `folder` is where README finds the release."""
    store = report.store
    shown = [METRICS["psnr"], *([report.eye] if report.eye else [])]
    figures = " ".join(
        f'<img src="{folder}/rd-{metric.name}.svg" width="49%" alt="{metric.short} over bits per pixel">'
        for metric in shown
    )
    marks = "≈: these pictures do not tell which is better. †: trained on that metric."
    about = (
        f"Bits at equal quality against {report.label(report.anchor)} (BD-rate; negative is better), "
        f"{len(store.run['pictures'])} pictures ({store.run['set']}); seconds of a whole process. {marks} "
        f"All codecs against each other, intervals and versions: [{PAGE}]({folder}/{PAGE})."
    )
    return "\n\n".join([BEGIN, figures, readme_table(report).markdown(), _bulleted(sentences(report)), about, END])


def write_readme(report: Report, readme: Path, folder: Path) -> bool:
    """Put the results between README's marks; returns whether anything changed.

    Raises:
        BenchError: the marks are not there.
    """
    place = Path(os.path.relpath(folder.resolve(), readme.resolve().parent)).as_posix()
    return write_section(readme, section(report, place), BEGIN, END)
