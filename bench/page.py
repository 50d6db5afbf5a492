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

from bench import plots, report
from bench.metrics import METRICS
from bench.report import Table
from bench.store import Store

PAGE = "index.html"


class _Page(Template):
    delimiter = "@@"


def table(found: Table | None, signed: bool = False) -> str:
    """A table as HTML; with `signed`, cells where vqcodec loses are marked."""
    if found is None:
        return "<p>Not measured.</p>"
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in found.head)
    lines = []
    for row in found.rows:
        cells = "".join(
            f'<td class="{"loss" if signed and cell.startswith("+") else ""}">{html.escape(cell)}</td>'
            for cell in row[1:]
        )
        lines.append(f"<tr><th>{html.escape(row[0])}</th>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _figures(store: Store) -> dict[str, str]:
    """Name -> an img element with the figure in it."""
    found = {}
    for name, figure in plots.all_figures(store).items():
        data = base64.b64encode(plots.svg(figure, report.digest(store)).encode()).decode()
        found[name] = f'<img class="figure" id="{name}" alt="{name}" src="data:image/svg+xml;base64,{data}">'
    return found


def prose(text: str) -> str:
    """Text as HTML, with `code` marked."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def listed(lines: Sequence[str]) -> str:
    """Sentences as an HTML list."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def write(store: Store, slides: Sequence[dict[str, Any]], anchor: str = report.ANCHOR) -> Path:
    """Write the page into the store's folder."""
    summaries = report.summarise(store, anchor)
    alone = report.picture_table(store)
    measured = [name for name in METRICS if report.curves(store, METRICS[name])]
    figures = _figures(store)
    scaling_figure = figures.pop("scaling", "")
    options = "".join(f'<option value="{name}">{html.escape(METRICS[name].label)}</option>' for name in measured)
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    content = _Page(template).substitute(
        title=html.escape(f"Rate and distortion on {store.run['set']}"),
        provenance=prose(report.provenance(store.run)),
        method=prose(report.METHOD),
        rates=table(report.rate_table(summaries, report.label(store, anchor))),
        costs=table(report.cost_table(summaries)),
        pictures=table(alone, signed=True),
        losses=listed(report.losses(alone)),
        notices=listed(report.notices(store)),
        metrics=options,
        figures="\n".join(figures.values()),
        scaling=table(report.scaling_table(store)) if report.scaling_table(store) else "",
        scaling_figure=scaling_figure,
        slides=json.dumps(slides).replace("</", "<\\/"),
    )
    path = store.folder / PAGE
    path.write_text(content, encoding="utf-8")
    return path
