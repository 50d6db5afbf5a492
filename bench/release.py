# SPDX-License-Identifier: MIT
"""What of a run is committed: one page of tables, one figure per metric, the raw rows compressed; README's section.

A release's folder can be read like a run's, so that its page and figures can be made again without measuring.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from bench import plots, seams
from bench.curves import rated, short_list
from bench.errors import BenchError
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
from bench.store import PACKED, PROCESSES, PUBLISHED, ROWS, RUN, SEAMS, Store, pack, replace
from bench.tables import Table, write_section

PAGE = "results.md"
SHORT = ("psnr", "ms_ssim", "ssimulacra2", "cvvdp", "gmsd")  # README's sentences
PARTS = ("rates", "speed", "seams")  # what a release measures
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"  # README
PAGE_BEGIN, PAGE_END = "<!-- tables:begin -->", "<!-- tables:end -->"  # docs/results.md


def parts(names: str) -> list[str]:
    """Parts of the measurement, by their names with commas in between.

    Raises:
        BenchError: an unknown name.
    """
    found = [name.strip() for name in names.split(",")]
    unknown = [name for name in found if name not in PARTS]
    if unknown:
        raise BenchError(f"--only: unknown part {', '.join(unknown) or '(none)'}; known are {', '.join(PARTS)}")
    return found


def earlier_of(folder: Path | None, name: str) -> Path | None:
    """The results of a set in an earlier release; `folder` is the release or one set of it."""
    found = [] if folder is None else [one for one in (folder / name, folder) if (one / RUN).is_file()]
    return found[0] if found else None


def restore(committed: Path, folder: Path) -> None:
    """Let a run go on from what is committed, where its own folder is gone."""
    if (committed / RUN).exists() and not (folder / RUN).exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in (RUN, PUBLISHED, *(rows + PACKED for rows in (ROWS, PROCESSES, SEAMS))):
            if (committed / name).exists():
                shutil.copyfile(committed / name, folder / name)


def _bulleted(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _rates(report: Report) -> list[str]:
    """Bits at equal quality: sentences, the table against the anchor, and every codec against every other."""
    names = [*rated(report.store), *report.store.published]
    title = f"## Bits at equal quality, against {report.label(report.anchor)}"
    parts = [_bulleted(sentences(report))]
    parts += [f"![{m.label} over bits per pixel](rd-{m.name}.svg)" for m in report.metrics if m.name == "psnr"]
    parts += [title, rate_table(report, names, interval=True).markdown()]
    parts += ["## What the curves cover", range_table(report).markdown()]
    for metric in report.metrics:
        parts += [f"## {metric.short}: every codec against every other", matrix_table(report, metric).markdown()]
        parts += [f"<details><summary>Intervals, shared ranges and wins</summary>\n\n"
                  f"{detail_table(report, metric).markdown()}\n\n</details>"]  # fmt: skip
    return parts


def markdown(report: Report) -> str:
    """Everything about one set of pictures, as a page; a set of seams alone has no tables of rates and speed."""
    store = report.store
    parts = [f"# {store.run['set']}: {len(store.run['pictures'])} pictures"]
    parts += _rates(report) if store.rows else []
    parts += _speed(store) if store.rows or store.processes else []
    found = seams.table(store)
    parts += ["## Seams and hues", found.markdown(), seams.METHOD] if found else []
    parts += ["## How it was measured", METHOD, provenance(store.run), _bulleted(notices(report)), _sources(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _speed(store: Store) -> list[str]:
    """Speed and memory, or how to measure them."""
    found, scaling = cost_table(store), scaling_table(store)
    parts = ["## Speed and memory"]
    if not found.rows and scaling is None:
        return [*parts, "Not measured: it wants an idle machine (`python -m bench release --only speed`)."]
    parts += [found.markdown()] if found.rows else []
    return (
        [*parts, "Whole processes, seconds / peak MB, over the size of the picture:", scaling.markdown()]
        if scaling
        else parts
    )


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
    metrics = [metric for metric in report.metrics if metric.name in SHORT[:-1]]
    processes = {one.name: one.process for one in costs(report.store)}
    rows = []
    for name in short_list(report.store):
        mine = processes.get(name, {})
        times = (seconds_of(mine.get(("process", way))) for way in ("encode", "decode"))
        rows.append((report.label(name), *(report.cell(m, name, report.anchor) for m in metrics), *times))
    return Table(("codec", *map(report.head, metrics), "compress s", "decompress s"), rows).filled()


def section(report: Report, folder: str) -> str:
    """README's section, marks included; `folder` is where README finds the release."""
    store = report.store
    figure = f"![PSNR and a metric of the eye over bits per pixel, on {store.run['set']}]({folder}/rd.svg)"
    marks = "≈: these pictures do not tell which is better. †: trained on that metric."
    timed = "; seconds of a whole process" if any(one.process for one in costs(store)) else ""
    about = (
        f"Bits at equal quality against {report.label(report.anchor)} (BD-rate; negative is better), "
        f"{len(store.run['pictures'])} pictures ({store.run['set']}){timed}. {marks} "
        f"All codecs against each other, intervals and versions: [{PAGE}]({folder}/{PAGE})."
    )
    told = _bulleted(sentences(report, SHORT))
    return "\n\n".join([BEGIN, figure, readme_table(report).markdown(), told, about, END])


def page_section(report: Report, folder: str) -> str:
    """The section of docs/results.md, marks included: all codecs against the anchor, the best of each family direct."""
    store = report.store
    parts = [PAGE_BEGIN, f"## Bits at equal quality, against {report.label(report.anchor)}"]
    parts += [rate_table(report, [*rated(store), *store.published]).markdown(), _bulleted(sentences(report))]
    parts += ["## Directly against each other"]
    judges = [metric for metric in (METRICS["psnr"], report.eye) if metric is not None]
    parts += [matrix_table(report, metric, short_list(store)).markdown() for metric in judges]
    parts += _speed(store)
    full = f"Every metric, interval, shared range and win: [{PAGE}]({folder}/{PAGE})."
    return "\n\n".join(part for part in (*parts, full, METHOD, provenance(store.run), PAGE_END) if part)


def write_documents(report: Report, folder: Path, readme: Path | None, page: Path | None) -> list[str]:
    """Put the results between the marks of README and of the page of results; returns a sentence about each.

    Raises:
        BenchError: the marks are not there.
    """
    told = [f"{plots.write_pair(report.store, folder)} is README's figure"] if readme else []
    wanted = ((readme, section, BEGIN, END), (page, page_section, PAGE_BEGIN, PAGE_END))
    for document, content, begin, end in wanted:
        if document is not None:
            place = Path(os.path.relpath(folder.resolve(), document.resolve().parent)).as_posix()
            changed = write_section(document, content(report, place), begin, end)
            told.append(f"{document} " + ("has the new numbers" if changed else "had these numbers already"))
    return told
