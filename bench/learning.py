# SPDX-License-Identifier: MIT
"""Learning curves from the logs of `vqcodec train`: loss against crops seen, and power laws fitted to it.

Runs that go on where another ended make one curve. Two laws are fitted to the loss in training, loss = a n^-b and
loss = c + a n^-b, on windows averaged over logarithmic steps of n, and each is asked what twice as many crops would
give. Their disagreement, and what resampling says of each, is the uncertainty; neither knows of the learning rate.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench import plots
from bench.errors import BenchError
from bench.tables import NOTHING, Table
from vqcodec.train.config import ModelConfig, TrainConfig

DATA = "learning.json"
STEP = re.compile(
    r"(\w+) step (\d+) ([\d.]+) min (?:[\d.]+% )?loss (\S+) bpp (\S+) psnr (\S+) .*?lr (\S+) crops/s ([\d.]+)"
)
JUDGED = re.compile(r"val level ([\d.]+): ([\d.]+) bpp ([\d.]+) dB")
BINS = 24  # per factor of ten
FROM = 10_000  # crops, where the warm-up and the start of the codebook lie behind
SPAN, POINTS = 5.0, 16  # a fit wants so large a range of crops, and so many bins
EXPONENTS = np.geomspace(0.005, 1.5, 600)
RESAMPLED, BLOCK = 400, 4
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
NOTE = (
    "Loss is what training minimises, bits per pixel + λ · MSE over all rates alike, as the log tells it: means over "
    "the log's intervals, on crops, with noise. Runs that go on where another ended are one curve. The laws are fitted "
    f"from {FROM:,} crops on, to {BINS} means per factor of ten; ranges hold 95 % of {RESAMPLED} fits to resampled "
    "residuals. They say how well each law is determined by this one run, not that it holds: the learning rate falls "
    "along the curve and its fall looks like a steeper law, and one run is one seed. Where the two laws disagree, "
    "nothing is known. Diamonds: the same loss on the validation pictures, truly quantised, of averaged weights."
)
Floats = NDArray[np.float64]


@dataclass
class Curve:
    """One curve: numbers of crops, and the losses that training and validation saw there."""

    name: str
    phase: str
    crops: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    judged_crops: list[int] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)  # bpp + lambda MSE, weighted as in training; truly quantised
    steps: int = 0


def _judged_loss(rows: Sequence[tuple[float, float, float]]) -> float:
    """What training minimises, of (level, bpp, dB) rows of the log's validation table."""
    c, t, total = ModelConfig(), TrainConfig(), []
    for level, bpp, decibels in rows:
        weight = c.lambda_min * (c.lambda_max / c.lambda_min) ** level
        total.append((bpp + weight * 10 ** (-decibels / 10)) * (weight / 436.0) ** -t.weight_balance)
    return statistics.fmean(total)


def _crops_per_step(lines: Sequence[re.Match[str]]) -> int:
    """The batch of all processes, which the log tells only as a speed; the minutes in it are rounded."""
    crops, steps = 0.0, 0
    for before, line in itertools.pairwise(lines):
        crops += float(line[8]) * 60 * (float(line[3]) - float(before[3]))
        steps += int(line[2]) - int(before[2])
    if crops <= 0 or steps <= 0:
        raise BenchError("too short to tell how many crops a step had")
    return max(1, round(crops / steps))


def read_log(path: Path, name: str) -> Curve:
    """The curve of one run's log.txt.

    Raises:
        BenchError: not such a log, or too short.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}") from None
    steps = [found for line in text.splitlines() if (found := STEP.match(line))]
    if len(steps) < 2:
        raise BenchError(f"{path} is no log of vqcodec train, or has less than two lines of training")
    try:
        batch = _crops_per_step(steps)
    except BenchError as error:
        raise BenchError(f"{path}: {error.message}") from None
    curve, rows = Curve(name, steps[0][1]), []
    for line in text.splitlines():
        if found := STEP.match(line):
            curve.steps = int(found[2])
            curve.crops.append(curve.steps * batch)
            curve.loss.append(float(found[4]))
        elif found := JUDGED.match(line):
            rows.append((float(found[1]), float(found[2]), float(found[3])))
            if len(rows) == 5:
                curve.judged_crops.append(curve.crops[-1] if curve.crops else 0)
                curve.judged.append(round(_judged_loss(rows), 5))
                rows = []
    return curve


def joined(curves: Sequence[Curve]) -> list[Curve]:
    """Runs of one phase whose steps go on where the one before ended, as one curve."""
    out: list[Curve] = []
    for curve in curves:
        last = out[-1] if out else None
        if last and last.phase == curve.phase and 0 < curve.crops[0] - last.crops[-1] < 0.1 * last.crops[-1]:
            out[-1] = Curve(
                f"{last.name}, {curve.name}", last.phase, last.crops + curve.crops, last.loss + curve.loss,
                last.judged_crops + curve.judged_crops, last.judged + curve.judged, curve.steps,
            )  # fmt: skip
        else:
            out.append(curve)
    return out


def read(runs: Sequence[Path]) -> list[Curve]:
    """Curves of run folders, log files, or of a learning.json (or its folder) that was written before."""
    curves: list[Curve] = []
    for run in runs:
        data = run / DATA if run.is_dir() else run
        if data.name == DATA and data.exists():
            try:
                curves += [Curve(**entry) for entry in json.loads(data.read_text(encoding="utf-8"))]
            except (OSError, ValueError, TypeError) as error:
                raise BenchError(f"{data} cannot be read: {error}") from None
        else:
            log = run / "log.txt" if run.is_dir() else run
            curves.append(read_log(log, run.name if run.is_dir() else run.stem))
    return joined(curves)


def binned(curve: Curve) -> tuple[Floats, Floats]:
    """Mean loss, and geometric mean of crops, of each logarithmic step from FROM on."""
    crops, loss = np.array(curve.crops, np.float64), np.array(curve.loss)
    keep = crops >= FROM
    crops, loss = crops[keep], loss[keep]
    place = np.floor(np.log10(crops) * BINS)
    bins = np.unique(place)
    n = np.array([np.exp(np.log(crops[place == b]).mean()) for b in bins])
    return n, np.array([loss[place == b].mean() for b in bins])


def fit(n: Floats, loss: Floats, floor: bool) -> tuple[float, float, float]:
    """Least squares of loss = c + a n^-b with c >= 0, or c = 0: (a, b, c). b is searched on a grid, the rest exact."""
    columns = (n / n[0]) ** -EXPONENTS[:, None]
    a, c = columns @ loss / np.square(columns).sum(1), np.zeros(len(EXPONENTS))
    if floor:
        centred = columns - columns.mean(1, keepdims=True)
        slope = centred @ loss / np.square(centred).sum(1)
        free = loss.mean() - slope * columns.mean(1)
        good = (slope > 0) & (free > 0)
        a, c = np.where(good, slope, a), np.where(good, free, c)
    best = int(np.square(c[:, None] + a[:, None] * columns - loss).sum(1).argmin())
    return float(a[best] * n[0] ** EXPONENTS[best]), float(EXPONENTS[best]), float(c[best])


def _law(law: tuple[float, float, float], n: Floats | float) -> Any:
    a, b, c = law
    return c + a * n**-b


@dataclass
class Fit:
    """A law, the 95 % range of its exponent, and what it says of twice as many crops as were seen."""

    law: tuple[float, float, float]
    exponent: tuple[float, float]
    twice: float
    twice_range: tuple[float, float]


def fitted(curve: Curve, floor: bool) -> Fit | None:
    """The fit of one curve, its ranges from resampled residuals in blocks; None where it is too short."""
    if max(curve.crops) < FROM:
        return None
    n, loss = binned(curve)
    if len(n) < POINTS or n[-1] / n[0] < SPAN:
        return None
    law = fit(n, loss, floor)
    smooth = _law(law, n)
    rest = loss / smooth
    rng = np.random.default_rng(0)
    again = []
    for _ in range(RESAMPLED):
        starts = rng.integers(0, len(n) - BLOCK + 1, -(-len(n) // BLOCK))
        rows = (starts[:, None] + np.arange(BLOCK)).ravel()[: len(n)]
        again.append(fit(n, smooth * rest[rows], floor))
    end = 2.0 * curve.crops[-1]
    low, high = np.percentile([[b, _law((a, b, c), end)] for a, b, c in again], [2.5, 97.5], axis=0)
    return Fit(law, (float(low[0]), float(high[0])), float(_law(law, end)), (float(low[1]), float(high[1])))


Laws = list[tuple[Fit | None, Fit | None]]


def laws(curves: Sequence[Curve]) -> Laws:
    """Both fits of each curve, without a floor and with one."""
    return [(fitted(curve, False), fitted(curve, True)) for curve in curves]


def table(curves: Sequence[Curve], fits: Laws) -> Table:
    """A row per curve and law."""
    head = (
        "runs", "phase", "crops", "loss at the end", "law", "exponent b (95 %)", "floor c",
        "loss at twice the crops (95 %)",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for curve, both in zip(curves, fits, strict=True):
        last = statistics.fmean(curve.loss[-max(1, len(curve.loss) // 20) :])
        start = (curve.name, curve.phase, f"{curve.crops[0]:,}–{curve.crops[-1]:,}", f"{last:.4f}")
        for name, found in zip(("a n^−b", "c + a n^−b"), both, strict=True):
            if found is None:
                rows.append((*start, NOTHING, "too short for a fit", NOTHING, NOTHING))
                break
            b, (low, high) = found.law[1], found.exponent
            ahead = f"{found.twice:.4f} ({found.twice_range[0]:.4f} to {found.twice_range[1]:.4f})"
            rows.append((*start, name, f"{b:.3f} ({low:.3f} to {high:.3f})", f"{found.law[2]:.3f}", ahead))
    return Table(head, rows)


def figure(curves: Sequence[Curve], fits: Laws) -> Figure:
    """Loss over crops, both axes logarithmic, with the laws, drawn on to twice the crops."""
    with matplotlib.rc_context(plots.SETTINGS):
        drawn = Figure(figsize=(7.2, 4.8), layout="constrained")
        axes = drawn.add_subplot()
        for place, (curve, both) in enumerate(zip(curves, fits, strict=True)):
            colour = COLOURS[place % len(COLOURS)]
            label = f"{curve.name} ({curve.phase})"
            axes.plot(curve.crops, curve.loss, color=colour, linewidth=0.7, alpha=0.6, label=label)
            if curve.judged:
                axes.plot(curve.judged_crops, curve.judged, color=colour, marker="D", markersize=4, linestyle="none")
            for found, dash in zip(both, ("--", ":"), strict=True):
                if found is not None:
                    n = np.geomspace(FROM, 2 * curve.crops[-1], 60)
                    axes.plot(n, _law(found.law, n), color="#000000", linestyle=dash, linewidth=1.2)
        axes.plot([], [], color="#000000", linestyle="--", label="a n^−b")
        axes.plot([], [], color="#000000", linestyle=":", label="c + a n^−b")
        axes.plot([], [], color="#000000", marker="D", markersize=4, linestyle="none", label="validation, no noise")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        axes.set_xlabel("crops seen (logarithmic)")
        axes.set_ylabel("loss: bpp + λ · MSE, all rates weighted alike (logarithmic)")
        axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=8)
    return drawn


def write(runs: Sequence[Path], out: Path) -> tuple[Table, list[Path]]:
    """`learning.md`, `.svg`, `.png` and the data, `learning.json`, in `out`; the table, and what was written."""
    curves = read(runs)
    fits = laws(curves)
    shown, drawn = table(curves, fits), figure(curves, fits)
    out.mkdir(parents=True, exist_ok=True)
    written = [out / name for name in ("learning.md", "learning.svg", "learning.png", DATA)]
    text = "\n\n".join(
        ["# Learning curves", shown.markdown(), "![Loss against crops](learning.svg)", NOTE,
         "Made by `python -m bench learning RUN... --out FOLDER`; `learning.json` makes it again."]
    )  # fmt: skip
    written[0].write_text(text + "\n", encoding="utf-8")
    written[1].write_text(plots.svg(drawn, f"{len(curves)} curves"), encoding="utf-8")
    drawn.savefig(written[2], dpi=110, metadata={"Software": None})
    lines = [json.dumps(asdict(curve)) for curve in curves]
    written[3].write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return shown, written
