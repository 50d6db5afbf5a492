# SPDX-License-Identifier: MIT
"""From the store's rows to curves, tables and README's section. Text only; figures are drawn in plots.py.

A point of a curve is the mean over all pictures of bpp and of the metric at one setting (for PSNR: the mean of the
decibels). A setting that is missing or has failed on any picture gives no point, so that every point of every codec
is about the same pictures.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError, NoOverlapError
from bench.metrics import METRICS, WINDOW_DB, BdRate, Metric, bd_rate
from bench.store import ProcessRow, Row, Run, Store

FOCUS = "vqcodec"  # the codec that the table of single pictures is about
ANCHOR = "jpeg"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"  # README
PAGE_BEGIN, PAGE_END = "<!-- tables:begin -->", "<!-- tables:end -->"  # docs/results.md
README_CODECS = ("jpeg", "webp", "jxl", "heic", "avif", "avif-slow", "vqcodec", "vqcodec-e9")  # eight rows at most
NOTHING = "–"


@dataclass(frozen=True)
class Point:
    """One point of a curve: the codec's setting (None for published ones), mean bpp, mean quality as it is shown."""

    setting: int | None
    bpp: float
    quality: float


Curves = dict[str, list[Point]]


def pixels_of(store: Store, picture: str) -> int:
    """Width times height."""
    facts = store.run["pictures"][picture]
    return int(facts["width"]) * int(facts["height"])


def bpp_of(store: Store, row: Row) -> float:
    """Bits of the whole file per pixel."""
    return 8 * row["bytes"] / pixels_of(store, row["picture"])


def _value(row: Row, metric: Metric) -> float:
    return metric.shown(float(row[metric.name]))  # type: ignore[literal-required]


def curves(store: Store, metric: Metric, pictures: Iterable[str] | None = None, published: bool = True) -> Curves:
    """Codec -> its points, ascending in setting; published curves follow under their own names.

    Args:
        pictures: only these; None for all (for MS-SSIM: all that are large enough).
    """
    good = {key: row for key, row in store.rows.items() if metric.name in row}
    wanted = {key[0] for key in good} & set(store.run["pictures"] if pictures is None else pictures)
    found: Curves = {}
    for name in store.run["peers"]:
        points = []
        for setting in sorted({key[2] for key in good if key[1] == name}):
            rows = [good[picture, name, setting] for picture in wanted if (picture, name, setting) in good]
            if rows and len(rows) == len(wanted):
                bpp = statistics.fmean(bpp_of(store, row) for row in rows)
                points.append(Point(setting, bpp, statistics.fmean(_value(row, metric) for row in rows)))
        if points:
            found[name] = points
    if published and pictures is None:
        for name, given in store.published.items():
            points = [Point(None, p["bpp"], metric.shown(p[metric.name])) for p in given if metric.name in p]
            if points:
                found[name] = sorted(points, key=lambda point: point.bpp)
    return found


def digest(store: Store) -> str:
    """A fingerprint of all that the figures show; it is written into them."""
    content = {
        name: {peer: [(round(p.bpp, 5), round(p.quality, 4)) for p in points] for peer, points in found.items()}
        for name, metric in METRICS.items()
        if (found := curves(store, metric))
    }
    scaling = [row for row in store.processes.values() if row["picture"] == "scaling"]
    return hashlib.sha256(json.dumps([content, scaling], sort_keys=True).encode()).hexdigest()[:16]


def label(store: Store, name: str) -> str:
    """What a codec is called in tables and figures."""
    return store.run["peers"][name]["label"] if name in store.run["peers"] else name


def compare(found: Curves, anchor: str, test: str, metric: Metric, window: tuple[float, float] | None = None) -> BdRate:
    """BD-rate of one curve against another.

    Raises:
        NoOverlapError: there is none.
    """
    if anchor not in found or test not in found:
        raise NoOverlapError(f"no complete curve of {anchor if anchor not in found else test}")
    first, second = ([(p.bpp, p.quality) for p in found[name]] for name in (anchor, test))
    return bd_rate(first, second, window=window, min_shared=metric.min_shared)


@dataclass
class Summary:
    """What the table says of one codec. A BD-rate is missing where there is none."""

    name: str
    label: str
    bpp: tuple[float, float]
    psnr: tuple[float, float]
    bd: dict[str, BdRate] = field(default_factory=dict)  # "psnr", "window" and the other metrics
    why_not: dict[str, str] = field(default_factory=dict)
    enc_mps: float | None = None  # median over pictures and settings of megapixels per second, in one warm process
    dec_mps: float | None = None
    process: dict[str, ProcessRow] = field(default_factory=dict)  # "encode", "decode"
    failures: int = 0


def summarise(store: Store, anchor: str = ANCHOR) -> list[Summary]:
    """One summary per codec, in the order of the run, published curves last."""
    by_metric = {name: curves(store, metric) for name, metric in METRICS.items()}
    found = []
    for name, points in by_metric["psnr"].items():
        bpp, quality = [p.bpp for p in points], [p.quality for p in points]
        summary = Summary(name, label(store, name), (min(bpp), max(bpp)), (min(quality), max(quality)))
        for key, metric in METRICS.items():
            _fill(summary, key, by_metric[key], anchor, metric, None)
        _fill(summary, "window", by_metric["psnr"], anchor, METRICS["psnr"], WINDOW_DB)
        found.append(summary)
    shown = {summary.name for summary in found}
    found += [Summary(n, label(store, n), (0, 0), (0, 0)) for n in store.run["peers"] if n not in shown]
    for summary in found:
        _fill_costs(summary, store)
    return found


def _fill(
    summary: Summary, key: str, found: Curves, anchor: str, metric: Metric, window: tuple[float, float] | None
) -> None:
    try:
        summary.bd[key] = compare(found, anchor, summary.name, metric, window)
    except NoOverlapError as error:
        summary.why_not[key] = error.message


def _fill_costs(summary: Summary, store: Store) -> None:
    rows = [row for row in store.rows.values() if row["peer"] == summary.name]
    timed = [(pixels_of(store, row["picture"]) / 1e6, row) for row in rows if "enc_seconds" in row]
    if timed:
        summary.enc_mps = statistics.median(size / max(row["enc_seconds"], 1e-9) for size, row in timed)
        summary.dec_mps = statistics.median(size / max(row["dec_seconds"], 1e-9) for size, row in timed)
    summary.failures = sum("error" in row for row in rows)
    for row in store.processes.values():
        if row["peer"] == summary.name and row["picture"] != "scaling" and "seconds" in row:
            summary.process[row["direction"]] = row


@dataclass(frozen=True)
class Table:
    """A table as text: the first column is names, the others are figures."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def _widths(self) -> list[int]:
        return [max(len(row[i]) for row in [self.head, *self.rows]) for i in range(len(self.head))]

    def _line(self, row: Sequence[str], gap: str) -> str:
        cells = [cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(self._pairs(row))]
        return gap.join(cells)

    def _pairs(self, row: Sequence[str]) -> list[tuple[str, int]]:
        return list(zip(row, self._widths(), strict=True))

    def plain(self) -> str:
        """For a terminal."""
        rule = "  ".join("─" * width for width in self._widths())
        return "\n".join([self._line(self.head, "  "), rule, *(self._line(row, "  ") for row in self.rows)])

    def markdown(self) -> str:
        """For README."""
        rule = "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(self._widths()))
        lines = [f"| {self._line(row, ' | ')} |" for row in [self.head, *self.rows]]
        return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def percent(bd: BdRate | None) -> str:
    """A BD-rate for a table cell."""
    return NOTHING if bd is None else f"{bd.percent:+.1f} %".replace("-", "−")


def _span(bd: BdRate | None) -> str:
    return NOTHING if bd is None else f"{bd.low:.1f}–{bd.high:.1f}"


def _windowed(bd: BdRate | None) -> str:
    """A BD-rate within the window, with its range where the curves do not cover all of the window."""
    if bd is None:
        return NOTHING
    whole = bd.low < WINDOW_DB[0] + 0.05 and bd.high > WINDOW_DB[1] - 0.05
    return percent(bd) if whole else f"{percent(bd)} ({_span(bd)})"


def _speed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _process(summary: Summary, direction: str) -> tuple[str, str]:
    row = summary.process.get(direction)
    if row is None:
        return NOTHING, NOTHING
    peak = row.get("peak_bytes")
    return f"{row['seconds']:.2f}", NOTHING if peak is None else f"{peak / 1e6:.0f}"


def rate_table(summaries: Sequence[Summary], anchor_label: str) -> Table:
    """BD-rates against the anchor."""
    head = ("codec", f"BD-rate, PSNR, against {anchor_label}", "shared dB", "within 28–36 dB", "MS-SSIM", "SSIMULACRA2")
    rows = []
    for s in summaries:
        perceptual = (percent(s.bd.get(key)) for key in ("ms_ssim", "ssimulacra2"))
        over_all = s.bd.get("psnr")
        rows.append((s.label, percent(over_all), _span(over_all), _windowed(s.bd.get("window")), *perceptual))
    return Table(head, rows)


def cost_table(summaries: Sequence[Summary]) -> Table:
    """Speed and memory."""
    head = (
        "codec", "bpp", "PSNR dB", "encode MP/s", "decode MP/s",
        "process enc s", "dec s", "peak enc MB", "dec MB", "failed",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for s in summaries:
        if s.enc_mps is None and not s.failures:
            continue
        encode, decode = _process(s, "encode"), _process(s, "decode")
        ranges = (f"{s.bpp[0]:.2f}–{s.bpp[1]:.2f}", f"{s.psnr[0]:.1f}–{s.psnr[1]:.1f}")
        costs = (_speed(s.enc_mps), _speed(s.dec_mps), encode[0], decode[0], encode[1], decode[1])
        rows.append((s.label, *ranges, *costs, str(s.failures)))
    return Table(head, rows)


def short_table(summaries: Sequence[Summary]) -> Table:
    """README's: BD-rates and seconds of whole processes, of README_CODECS alone."""
    head = ("codec", "PSNR", "MS-SSIM", "SSIMULACRA2", "compress s", "decompress s")
    rows: list[tuple[str, ...]] = []
    for s in summaries:
        if s.name in README_CODECS:
            rates = (percent(s.bd.get(key)) for key in ("psnr", "ms_ssim", "ssimulacra2"))
            rows.append((s.label, *rates, _process(s, "encode")[0], _process(s, "decode")[0]))
    return Table(head, rows)


def direct(store: Store, others: Sequence[str] = ("avif", "avif-slow"), focus: str = FOCUS) -> list[str]:
    """A sentence for each of the other codecs that has curves: its BD-rates as the anchor of vqcodec."""
    found = []
    by_metric = {name: curves(store, metric) for name, metric in METRICS.items()}
    for other in others:
        rates = []
        for key, name in (("psnr", "PSNR"), ("ms_ssim", "MS-SSIM"), ("ssimulacra2", "SSIMULACRA2")):
            try:
                rates.append(f"{percent(compare(by_metric[key], other, focus, METRICS[key]))} ({name})")
            except NoOverlapError:
                continue
        if rates:
            found.append(f"{label(store, focus)} against {label(store, other)} directly: {', '.join(rates)}.")
    return found


def picture_table(store: Store, focus: str = FOCUS) -> Table | None:
    """BD-rate (PSNR) of vqcodec against each codec but its own variants, picture by picture; None without vqcodec."""
    if focus not in store.run["peers"]:
        return None
    others = [name for name in store.run["peers"] if name != focus and not name.startswith(f"{focus}-")]
    rows = []
    for picture in store.run["pictures"]:
        found = curves(store, METRICS["psnr"], [picture])
        cells = []
        for other in others:
            try:
                cells.append(percent(compare(found, other, focus, METRICS["psnr"])))
            except NoOverlapError:
                cells.append(NOTHING)
        rows.append((picture, *cells))
    return Table((f"{label(store, focus)} against", *(label(store, name) for name in others)), rows)


def losses(table: Table | None) -> list[str]:
    """A sentence for each codec that beats vqcodec on some picture."""
    found = []
    for column, other in enumerate(table.head[1:] if table else (), 1):
        assert table is not None
        lost = [row[0] for row in table.rows if row[column].startswith("+")]
        if lost:
            names = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
            found.append(f"{other} needs fewer bits than vqcodec on {len(lost)} of {len(table.rows)}: {names}")
    return found


def scaling_table(store: Store) -> Table | None:
    """Seconds and peak memory of whole processes over the picture's size; None if that was not measured."""
    rows = [row for row in store.processes.values() if row["picture"] == "scaling"]
    if not rows:
        return None
    sizes = sorted({row["width"] * row["height"] for row in rows})
    lines = []
    for name in store.run["peers"]:
        for direction in ("encode", "decode"):
            mine = {r["width"] * r["height"]: r for r in rows if r["peer"] == name and r["direction"] == direction}
            if mine:
                title = f"{label(store, name)} {direction}"
                lines.append((title, *(_scaled(mine.get(size)) for size in sizes)))
    return Table(("s / peak MB", *(f"{round(size / 1e6, 1):g} MP" for size in sizes)), lines)


def _scaled(row: ProcessRow | None) -> str:
    if row is None:
        return NOTHING
    if "error" in row:
        return "failed"
    peak = row.get("peak_bytes")
    return f"{row['seconds']:.2f} / " + (NOTHING if peak is None else f"{peak / 1e6:.0f}")


def provenance(run: Run) -> str:
    """One paragraph: what, with what, where, when."""
    versions = "; ".join(dict.fromkeys(peer["version"] for peer in run["peers"].values()))
    metrics = ", ".join(version for version in run["metrics"].values() if not version.startswith("bench"))
    return (
        f"{len(run['pictures'])} pictures ({run['set']}), measured {run['date']} on {run['processor']} "
        f"({run['threads']} of {run['processors']} processors used, {run['system']}, Python {run['python']}) "
        f"by {' and '.join(f'`{command}`' for command in run['commands'])}. Codecs: {versions}."
        + (f" Metrics: {metrics}." if metrics else "")
    )


METHOD = (
    "bpp is the whole file over width × height. Curves are means over the pictures of bpp and of the metric (for PSNR: "
    "of the decibels over all RGB samples). BD-rate: `bjontegaard`, piecewise cubic (pchip), over the quality range "
    "that both curves share; negative means fewer bits. Megapixels per second: one warm process, median over pictures "
    "and settings; process seconds and peak memory: whole processes, file to file, one picture at the middle setting."
)


def notices(store: Store) -> list[str]:
    """What was left out, and why."""
    found = [f"{name} is left out: {why}" for name, why in store.run["missing"].items()]
    errors = [row for row in store.rows.values() if "error" in row]
    found += [f"{r['peer']} at {r['setting']} failed on {r['picture']}: {r['error']}" for r in errors[:5]]
    if len(errors) > 5:
        found.append(f"and {len(errors) - 5} more failures")
    found += [
        f"{row['peer']} {row['direction']} of {row['picture']} as a process failed: {row['error']}"
        for row in store.processes.values()
        if "error" in row
    ]
    return found


def text(store: Store, anchor: str = ANCHOR) -> str:
    """The report for the terminal."""
    summaries = summarise(store, anchor)
    table = picture_table(store)
    parts = [rate_table(summaries, label(store, anchor)).plain(), cost_table(summaries).plain()]
    scaling = scaling_table(store)
    parts += [scaling.plain()] if scaling else []
    reasons = [f"{s.label}: no BD-rate ({s.why_not['psnr']})" for s in summaries if "psnr" in s.why_not]
    parts += ["\n".join(reasons + losses(table) + notices(store)), METHOD]
    return "\n\n".join(part for part in parts if part)


def section(store: Store, folder: str, anchor: str = ANCHOR) -> str:
    """README's section, marks included; `folder` is where README finds the figures."""
    about = (
        f"BD-rate against {label(store, anchor)} on {len(store.run['pictures'])} pictures ({store.run['set']}): bits "
        "at equal quality, negative means fewer. Seconds: one whole process, file to file."
    )
    parts = [
        BEGIN,
        f"![Rate against PSNR of every codec on {store.run['set']}]({folder}/rd-psnr.svg)",
        short_table(summarise(store, anchor)).markdown(),
        " ".join([about, *direct(store)]),
        END,
    ]
    return "\n\n".join(parts)


def page_section(store: Store, anchor: str = ANCHOR) -> str:
    """The section of docs/results.md, marks included: all codecs, costs, lost pictures and provenance."""
    summaries = summarise(store, anchor)
    measured = [s for s in summaries if s.name in store.run["peers"]]
    parts = [PAGE_BEGIN, rate_table(summaries, label(store, anchor)).markdown(), cost_table(measured).markdown()]
    scaling = scaling_table(store)
    if scaling:
        parts += ["Whole processes, seconds / peak MB, over the size of the picture:", scaling.markdown()]
    lines = [*direct(store), *losses(picture_table(store))]
    parts += ["\n".join(f"- {line}" for line in lines)] if lines else []
    return "\n\n".join([*parts, provenance(store.run), METHOD, PAGE_END])


def write_readme(readme: Path, content: str) -> bool:
    """Put the results between README's marks; returns whether anything changed.

    Raises:
        BenchError: the marks are not there.
    """
    return write_section(readme, content, BEGIN, END)


def write_section(page: Path, content: str, begin: str, end: str) -> bool:
    """Put `content`, which has the marks, in the place of what stands between them; returns whether anything changed.

    Raises:
        BenchError: the marks are not there.
    """
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{page} has no place for the results; put these two lines where they belong: {begin} {end}")
    new = before + content + after
    if new != old:
        page.write_text(new, encoding="utf-8")
    return new != old
