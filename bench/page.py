# SPDX-License-Identifier: MIT
"""The HTML page: figures, tables and slider in one file that needs nothing beside it. The markup is in page.html."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from bench import plots, seams, slides
from bench.curves import digest, rated
from bench.metrics import METRICS, Metric
from bench.report import (
    METHOD,
    Report,
    compared,
    cost_table,
    notices,
    picture_table,
    provenance,
    rate_table,
    scaling_table,
    sentences,
)  # fmt: skip
from bench.store import Store
from bench.tables import Table, signed, span

PAGE = "index.html"
MAX_BYTES = 3_000_000
SLIDES = "@@slides"


class _Page(Template):
    delimiter = "@@"


def table(found: Table | None, marked: bool = False, titles: Sequence[Sequence[str]] = ()) -> str:
    """A table as HTML; with `marked`, cells where vqcodec loses are marked; `titles` are shown when pointed at."""
    if found is None:
        return "<p>Not measured.</p>"
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in found.head)
    lines = []
    for place, row in enumerate(found.rows):
        cells = []
        for column, cell in enumerate(row[1:]):
            loss = ' class="loss"' if marked and cell.startswith("+") else ""
            title = f' title="{html.escape(titles[place][column])}"' if titles else ""
            cells.append(f"<td{loss}{title}>{html.escape(cell)}</td>")
        lines.append(f"<tr><th>{html.escape(row[0])}</th>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _figure(name: str, drawn: str) -> str:
    """An img element with a figure in it."""
    data = base64.b64encode(drawn.encode()).decode()
    return f'<img class="figure" data-metric="{name}" alt="{name}" src="data:image/svg+xml;base64,{data}">'


def _figures(store: Store, metrics: Sequence[Metric]) -> str:
    found = [(m.name, plots.svg(plots.rate_distortion(store, [m], log_rate=True), digest(store))) for m in metrics]
    return "\n".join(_figure(name, drawn) for name, drawn in found)


def _title(report: Report, metric: Metric, name: str, other: str) -> str:
    found = report.against(metric, name, other)
    if found is None:
        return ""
    interval = "" if found.interval is None else f"95 %: {signed(found.interval[0])} to {signed(found.interval[1])}; "
    wins = f"; fewer bits on {found.wins} of {found.judged}" if found.judged else ""
    return f"{report.label(name)} against {report.label(other)}: {interval}shared {span(found.bd)}{wins}"


def _matrix(report: Report, metric: Metric) -> str:
    names = compared(report, metric)
    rows = [(report.label(a), *(report.cell(metric, a, b) for b in names)) for a in names]
    titles = [[_title(report, metric, a, b) for b in names] for a in names]
    shown = Table((metric.short, *(report.label(name) for name in names)), rows)
    return f'<div data-metric="{metric.name}">{table(shown, titles=titles)}</div>'


def prose(text: str) -> str:
    """Text as HTML, with `code` marked."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def listed(lines: Sequence[str]) -> str:
    """Sentences as an HTML list."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _pictures(report: Report) -> str:
    metrics = [METRICS["psnr"], *([report.eye] if report.eye else [])]
    parts = [(m, picture_table(report, m)) for m in metrics if m.name in report.matrices]
    return "\n".join(f"<h3>{html.escape(m.short)}</h3>{table(found, marked=True)}" for m, found in parts)


def _scaling(store: Store) -> tuple[str, str]:
    """The scaling's figure and table; empty where it was not measured."""
    figure, found = plots.scaling(store), scaling_table(store)
    if figure is None or found is None:
        return "", ""
    return _figure("scaling", plots.svg(figure, digest(store))), table(found)


def content(report: Report) -> str:
    """The page's text, with `SLIDES` in place of what the slider shows."""
    store = report.store
    names = rated(store)
    found = seams.table(store)
    scaling_figure, scaling = _scaling(store)
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return _Page(template).safe_substitute(
        title=html.escape(f"Rate and distortion on {store.run['set']}"),
        provenance=prose(provenance(store.run)),
        method=prose(METHOD),
        anchor=html.escape(report.label(report.anchor)),
        rates=table(rate_table(report, names)),
        sentences=listed(sentences(report)),
        notices=listed(notices(report)),
        costs=table(cost_table(store)),
        matrices="\n".join(_matrix(report, metric) for metric in report.metrics),
        pictures=_pictures(report),
        metrics="".join(f'<option value="{m.name}">{html.escape(m.label)}</option>' for m in report.metrics),
        figures=_figures(store, report.metrics),
        scaling=scaling,
        scaling_figure=scaling_figure,
        seams=f"<h2>Seams and hues</h2>{table(found)}<p class='small'>{html.escape(seams.METHOD)}</p>" if found else "",
        shown=html.escape(slides.METHOD),
    )


def write(report: Report, shown: Sequence[dict[str, Any]]) -> Path:
    """Write the page into the store's folder, with fewer pictures in the slider where it would be too large."""
    shown, page = list(shown), content(report)
    while True:
        text = page.replace(SLIDES, json.dumps(shown).replace("</", "<\\/"))
        if len(text.encode()) <= MAX_BYTES or not shown:
            break
        shown.pop()
    path = report.store.folder / PAGE
    path.write_text(text, encoding="utf-8")
    return path
