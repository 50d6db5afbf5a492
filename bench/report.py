# SPDX-License-Identifier: MIT
"""From curves and comparisons to tables and sentences. Text only; figures are drawn in plots.py, pages in page.py.

Three signs stand in cells: ≈ where these pictures do not tell which codec needs fewer bits, † where the codec's model
was trained on that metric, – where there is no value.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import direct
from bench.bd import bd_rate
from bench.curves import ANCHOR, curves, eye, focus, judged, label, measured, pixels_of, rated, short_list, trained_on
from bench.direct import Direct, Matrix
from bench.errors import BenchError, NoOverlapError
from bench.metrics import METRICS, WINDOW_DB, Metric
from bench.progress import Progress
from bench.store import ProcessRow, Run, Store
from bench.tables import NOTHING, Table, enumerated, percent, signed, span

LEVEL, TRAINED = "≈ ", " †"
JUDGED = ("psnr", "ms_ssim", "ssimulacra2", "cvvdp", "gmsd", "haarpsi")  # what the sentences are about


@dataclass
class Report:
    """A store with all its comparisons; they are computed once and shared by all tables."""

    store: Store
    anchor: str = ANCHOR
    matrices: dict[str, Matrix] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [*self.store.run["peers"], *self.store.published]
        if self.store.rows and self.anchor != ANCHOR and self.anchor not in known:
            raise BenchError(f"--anchor {self.anchor}: it was not measured; these were: {', '.join(known)}")
        metrics = measured(self.store)
        progress = Progress("comparisons", {metric.name: 1.0 for metric in metrics})
        for metric in metrics:
            self.matrices[metric.name] = direct.matrix(self.store, metric)
            progress.step(metric.name, 1, text=metric.short)
        progress.clear()

    @property
    def metrics(self) -> list[Metric]:
        """Those that were measured."""
        return [METRICS[name] for name in self.matrices]

    @property
    def eye(self) -> Metric | None:
        """The metric that stands for the eye."""
        return eye(self.store)

    def label(self, name: str) -> str:
        """What a codec is called."""
        return label(self.store, name)

    def head(self, metric: Metric) -> str:
        """What tables call a metric, with the number of pictures where it judged some of them only."""
        some, every = judged(self.store, metric), len(self.store.run["pictures"])
        return metric.short if some == every else f"{metric.short} ({some} of {every} pictures)"

    def against(self, metric: Metric, name: str, other: str) -> Direct | None:
        """One codec against another; None where they share no range."""
        return self.matrices[metric.name].get((name, other))

    def cell(self, metric: Metric, name: str, other: str, interval: bool = False) -> str:
        """A comparison for a table cell."""
        found = self.against(metric, name, other)
        mark = TRAINED if metric.name in trained_on(self.store, name) else ""
        if name == other:
            return "0" + mark
        if found is None:
            return NOTHING
        text = (LEVEL if found.level else "") + percent(found.bd)
        if interval and found.interval is not None:
            text += f" [{found.interval[0]:+.1f}, {found.interval[1]:+.1f}]".replace("-", "−")
        return text + mark


def rate_table(report: Report, names: Sequence[str], interval: bool = False) -> Table:
    """BD-rates of codecs against the anchor, a column per metric."""
    head = ("codec", *map(report.head, report.metrics))
    rows = [
        (report.label(name), *(report.cell(metric, name, report.anchor, interval) for metric in report.metrics))
        for name in names
    ]
    return Table(head, rows)


def compared(report: Report, metric: Metric) -> list[str]:
    """The codecs with a curve under a metric."""
    pairs = report.matrices[metric.name]
    everybody = [*report.store.run["peers"], *report.store.published]
    return [name for name in everybody if any(pair[0] == name for pair in pairs)]


def matrix_table(report: Report, metric: Metric, names: Sequence[str] | None = None) -> Table:
    """Percent of bits that the row's codec needs more or fewer than the column's."""
    names = compared(report, metric) if names is None else [n for n in names if n in compared(report, metric)]
    rows = [(report.label(a), *(report.cell(metric, a, b) for b in names)) for a in names]
    return Table((f"{report.head(metric)}: row against column", *(report.label(name) for name in names)), rows)


def detail_table(report: Report, metric: Metric) -> Table:
    """Every pair once: BD-rate, its interval, the shared range, and the pictures that the first codec wins."""
    names = compared(report, metric)
    rows = []
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            found = report.against(metric, name, other)
            if found is not None and name in report.store.run["peers"]:
                interval = NOTHING
                if found.interval is not None:
                    interval = f"{signed(found.interval[0])} to {signed(found.interval[1])}"
                wins = f"{found.wins} of {found.judged}" if found.judged else NOTHING
                pair = f"{report.label(name)} against {report.label(other)}"
                rows.append((pair, percent(found.bd), interval, span(found.bd), wins))
    return Table((report.head(metric), "BD-rate", "95 % interval", "shared range", "fewer bits on"), rows)


def strongest(report: Report, metric: Metric, mine: str) -> tuple[str, Direct] | None:
    """The measured codec, not a vqcodec, that is furthest ahead of `mine` or least behind it."""
    others = [name for name in report.store.run["peers"] if not name.startswith("vqcodec")]
    found = [(name, pair) for name in others if (pair := report.against(metric, mine, name)) is not None]
    return max(found, key=lambda one: one[1].bd.percent, default=None)


def _sentence(report: Report, metric: Metric, mine: str, other: str, pair: Direct) -> str:
    trained = " (its model was trained on it)" if metric.name in trained_on(report.store, mine) else ""
    interval = ""
    if pair.interval is not None:
        interval = f"95 % interval {signed(pair.interval[0])} to {signed(pair.interval[1])}"
    wins = f"; fewer bits on {pair.wins} of {pair.judged} pictures" if pair.judged else ""
    first, second = report.label(mine), f"{report.label(other)}, the strongest of the others"
    if pair.level:
        return (
            f"{metric.short}{trained}: {first} and {second}, are level on these pictures "
            f"({percent(pair.bd)}, {interval}){wins}."
        )
    amount = f"{abs(pair.bd.percent):.1f} % {'fewer' if pair.bd.percent < 0 else 'more'} bits"
    return f"{metric.short}{trained}: {first} needs {amount} than {second}{'; ' * bool(interval)}{interval}{wins}."


def sentences(report: Report, names: Sequence[str] = JUDGED) -> list[str]:
    """How vqcodec stands against the strongest of the others, a sentence per metric."""
    found = []
    for metric in (metric for metric in report.metrics if metric.name in names):
        mine = focus(report.store, metric)
        rival = strongest(report, metric, mine) if mine else None
        if mine is not None and rival is not None:
            found.append(_sentence(report, metric, mine, *rival))
    return found


@dataclass
class Costs:
    """Speed and memory of one codec; a figure is missing where it was not measured."""

    name: str
    enc_mps: float | None = None  # median over pictures and settings of megapixels per second, where rows have times
    dec_mps: float | None = None
    process: dict[tuple[str, str], ProcessRow] = field(default_factory=dict)  # (scope, direction) -> row
    failures: int = 0

    @property
    def warm(self) -> tuple[str, str]:
        """Cells of megapixels per second in a warm process, both ways."""
        measured = [self.process.get(("warm", way)) for way in ("encode", "decode")]
        rest = (self.enc_mps, self.dec_mps)
        encode, decode = (_rate(row) if row else _speed(mps) for row, mps in zip(measured, rest, strict=True))
        return encode, decode


def costs(store: Store) -> list[Costs]:
    """One per codec, in the order of the run."""
    found = []
    for name in store.run["peers"]:
        one = Costs(name)
        rows = [row for row in store.rows.values() if row["peer"] == name]
        timed = [(pixels_of(store, row["picture"]) / 1e6, row) for row in rows if "enc_seconds" in row]
        if timed:
            one.enc_mps = statistics.median(size / max(row["enc_seconds"], 1e-9) for size, row in timed)
            one.dec_mps = statistics.median(size / max(row["dec_seconds"], 1e-9) for size, row in timed)
        one.failures = sum("error" in row for row in rows)
        for process in store.processes.values():
            if process["peer"] == name and process["scope"] != "scaling" and "seconds" in process:
                one.process[process["scope"], process["direction"]] = process
        if timed or one.failures or one.process:
            found.append(one)
    return found


def _speed(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def seconds_of(row: ProcessRow | None) -> str:
    """Seconds of a process for a table cell."""
    return NOTHING if row is None else f"{row['seconds']:.2f}"


def _peak(row: ProcessRow | None) -> str:
    peak = None if row is None else row.get("peak_bytes")
    return NOTHING if peak is None else f"{peak / 1e6:.0f}"


def _rate(row: ProcessRow | None) -> str:
    return NOTHING if row is None else _speed(row["pixels"] / 1e6 / row["seconds"])


def cost_table(store: Store) -> Table:
    """Speed and memory: warm, as whole processes, and for a folder; without columns of what was not measured."""
    head = (
        "codec", "warm encode MP/s", "warm decode MP/s", "process encode s", "process decode s", "peak encode MB",
        "peak decode MB", "folder encode MP/s", "folder decode MP/s", "failed",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for one in costs(store):
        pair = [one.process.get(("process", way)) for way in ("encode", "decode")]
        folder = [one.process.get(("folder", way)) for way in ("encode", "decode")]
        cells = (*one.warm, *map(seconds_of, pair), *map(_peak, pair))
        rows.append((label(store, one.name), *cells, *map(_rate, folder), str(one.failures)))
    return Table(head, rows).filled()


def range_table(report: Report) -> Table:
    """What each curve covers, and its BD-rate within 28 to 36 dB."""
    rows = []
    psnr = METRICS["psnr"]
    found = curves(report.store, psnr)
    for name, points in found.items():
        bpp, quality = [p.bpp for p in points], [p.quality for p in points]
        ranges = (f"{min(bpp):.2f}–{max(bpp):.2f}", f"{min(quality):.1f}–{max(quality):.1f}")
        rows.append((report.label(name), str(len(points)), *ranges, _windowed(report, name)))
    low, high = WINDOW_DB
    return Table(("codec", "points", "bpp", "PSNR dB", f"PSNR BD-rate within {low:g}–{high:g} dB"), rows)


def _windowed(report: Report, name: str) -> str:
    """A BD-rate within the window, with its range where the curves do not cover all of the window."""
    found = curves(report.store, METRICS["psnr"])
    if report.anchor not in found:
        return NOTHING
    anchor, test = ([(p.bpp, p.quality) for p in found[one]] for one in (report.anchor, name))
    try:
        rate = bd_rate(anchor, test, WINDOW_DB)
    except NoOverlapError:
        return NOTHING
    whole = rate.low < WINDOW_DB[0] + 0.05 and rate.high > WINDOW_DB[1] - 0.05
    return percent(rate) if whole else f"{percent(rate)} ({span(rate)})"


def picture_table(report: Report, metric: Metric) -> Table | None:
    """BD-rate of vqcodec against each of the others, picture by picture; None without vqcodec."""
    mine = focus(report.store, metric)
    if mine is None:
        return None
    others = [name for name in compared(report, metric) if not name.startswith("vqcodec")]
    others = [name for name in others if name in report.store.run["peers"]]
    rows = []
    for picture in report.store.run["pictures"]:
        alone = Store(report.store.folder, report.store.run)
        alone.rows = {key: row for key, row in report.store.rows.items() if key[0] == picture}
        pairs = direct.matrix(alone, metric, draws=0) if alone.rows else {}
        found = [pairs.get((mine, other)) for other in others]
        rows.append((picture, *(NOTHING if one is None else percent(one.bd) for one in found)))
    return Table((f"{report.label(mine)} against", *(report.label(name) for name in others)), rows)


def scaling_table(store: Store) -> Table | None:
    """Seconds and peak memory of whole processes over the picture's size; None if that was not measured."""
    rows = [row for row in store.processes.values() if row["scope"] == "scaling"]
    if not rows:
        return None
    sizes = sorted({row["pixels"] for row in rows})
    lines = []
    for name in store.run["peers"]:
        for direction in ("encode", "decode"):
            mine = {row["pixels"]: row for row in rows if row["peer"] == name and row["direction"] == direction}
            if mine:
                title = f"{label(store, name)} {direction}"
                lines.append((title, *(_scaled(mine.get(size)) for size in sizes)))
    return Table(("s / peak MB", *(f"{round(size / 1e6, 1):g} MP" for size in sizes)), lines)


def _scaled(row: ProcessRow | None) -> str:
    if row is None:
        return NOTHING
    return "failed" if "error" in row else f"{row['seconds']:.2f} / {_peak(row)}"


def notices(report: Report) -> list[str]:
    """What is missing, what failed, and which codec has no BD-rate."""
    store = report.store
    found = [f"{name} is left out: {why}" for name, why in store.run["missing"].items()]
    errors = [row for row in store.rows.values() if "error" in row]
    found += [f"{r['peer']} at {r['setting']} failed on {r['picture']}: {r['error']}" for r in errors[:5]]
    if len(errors) > 5:
        found.append(f"and {len(errors) - 5} more failures")
    found += [
        f"{row['peer']} {row['direction']} of {row['picture']} failed when it was timed: {row['error']}"
        for row in store.processes.values()
        if "error" in row
    ]
    for name in curves(store, METRICS["psnr"]) if "psnr" in report.matrices else ():
        if name != report.anchor and report.against(METRICS["psnr"], name, report.anchor) is None:
            found.append(f"{report.label(name)} shares too little PSNR with {report.label(report.anchor)}")
    return found + _partly(report)


def _partly(report: Report) -> list[str]:
    """The metrics that judged some of the pictures only: the others are too small, or a sample was asked for."""
    count = len(report.store.run["pictures"])
    named: dict[int, list[str]] = {}
    for metric in report.metrics:
        named.setdefault(judged(report.store, metric), []).append(metric.short)
    return [f"{enumerated(names)} judged {n} of {count} pictures" for n, names in named.items() if n < count]


def provenance(run: Run) -> str:
    """One paragraph: what, with what, where, when."""
    versions = "; ".join(dict.fromkeys(peer["version"] for peer in run["peers"].values()))
    metrics = ", ".join(dict.fromkeys(v for v in run["metrics"].values() if not v.startswith("bench")))
    return (
        f"{len(run['pictures'])} pictures ({run['set']}), measured {run['date']} on {run['processor']} "
        f"({run['threads']} of {run['processors']} processors used, {run['system']}, Python {run['python']}) "
        f"by {' and '.join(f'`{command}`' for command in run['commands'])}. Codecs: {versions}."
        + (f" Metrics: {metrics}." if metrics else "")
        + "".join(
            f" Files of {', '.join(names)} were measured {date}." for date, names in run.get("borrowed", {}).items()
        )
    )


METHOD = (
    "bpp is the whole file over width × height. Curves are means over the pictures of bpp and of the metric (for PSNR: "
    "of the decibels over all RGB samples). BD-rate: the mean difference of log-rate at equal quality, piecewise cubic "
    "(pchip), over the quality range that both curves share; negative means fewer bits. Intervals hold 95 % of "
    f"{direct.DRAWS} bootstrap draws of the pictures; ≈ marks pairs whose interval holds zero. † marks a metric that "
    "the codec's model was trained on. Warm: one process that has coded before, the first picture at the middle "
    "setting; where `python -m bench speed` did not run, the median over pictures and settings. "
    "Process seconds and peak memory: whole processes, PNG to PNG, the first picture at the middle setting. Folder: "
    "all pictures on all processors."
)


def text(report: Report) -> str:
    """The report for the terminal."""
    short = short_list(report.store)
    names = rated(report.store)
    parts = [f"Bits at equal quality, against {report.label(report.anchor)}:", rate_table(report, names).plain()]
    shown = [m for m in (METRICS["psnr"], report.eye) if m is not None and m.name in report.matrices]
    parts += [matrix_table(report, metric, short).plain() for metric in shown]
    parts += [cost_table(report.store).plain()]
    scaling = scaling_table(report.store)
    parts += [scaling.plain()] if scaling else []
    parts += ["\n".join([*sentences(report), *notices(report)]), METHOD]
    return "\n\n".join(part for part in parts if part)
