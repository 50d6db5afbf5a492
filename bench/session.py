# SPDX-License-Identifier: MIT
"""One set of pictures from options to files: what is here, what is measured, what is written. No options are parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench import pictures, published, run, seams, speed
from bench.codecs import Peer
from bench.curves import rated
from bench.errors import BenchError, MissingError
from bench.metrics import DEFAULT_METRICS, METRICS
from bench.peers import PEERS, SLIDE_PEERS, choose
from bench.progress import clock
from bench.report import Report, text
from bench.store import Store, described
from bench.tools import TOOLS


@dataclass(frozen=True)
class Wanted:
    """What was asked for, as on the command line."""

    images: str
    out: Path
    command: tuple[str, ...]
    every: int = 1
    peers: str = "default"
    metrics: str = "default"
    settings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threads: int = 0
    repeats: int = 3
    fresh: bool = False
    timed: bool = True  # whether the rows of rates have times
    sample: int = 1  # metrics that need torch judge every Nth picture
    earlier: Path | None = None  # results of an earlier release on the same pictures


def metrics_here(names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the metrics asked for, PSNR always among them, and why some are missing.

    Raises:
        BenchError: an unknown name.
    """
    found, missing = {}, {}
    lists = {"default": DEFAULT_METRICS, "all": tuple(METRICS)}
    named = [name.strip() for name in names.split(",") if name.strip()]
    for name in dict.fromkeys(["psnr", *(one for part in named for one in lists.get(part, (part,)))]):
        if name not in METRICS:
            raise BenchError(f"unknown metric {name}; known are {', '.join([*METRICS, *lists])}")
        try:
            found[name] = METRICS[name].version()
        except MissingError as error:
            missing[name] = error.message
    return found, missing


class Session:
    """A set of pictures with the codecs and metrics that are here, and the results folder."""

    def __init__(self, wanted: Wanted, more: Sequence[Peer] = ()) -> None:
        """Open the results folder; `more` are codecs beside those of `wanted`.

        Raises:
            BenchError: unknown names, no pictures, nothing that can be measured, or a folder of other pictures.
        """
        self.wanted = wanted
        self.peers, versions, missing = run.available([*choose(wanted.peers), *more])
        metrics, lacking = metrics_here(wanted.metrics)
        missing.update(lacking)
        for name, why in missing.items():
            click.echo(f"{name} is left out: {why}", err=True)
        if not self.peers:
            raise BenchError("none of these codecs is here; nothing to measure")
        self.metrics = tuple(metrics)
        self.images = pictures.find(wanted.images, wanted.every)
        self.used = run.limit_processors(wanted.threads)
        about = described(
            list(wanted.command), set=self.images.name, threads=self.used, repeats=wanted.repeats, metrics=metrics,
            pictures=self.images.facts(), peers={p.name: p.facts(versions[p.name]) for p in self.peers},
            missing=missing,
        )  # fmt: skip
        self.store, notes = Store.start(wanted.out, about, wanted.fresh)
        if wanted.earlier is not None:
            notes += self.store.borrow(Store.read(wanted.earlier))
        for note in notes:
            click.echo(note, err=True)
        self.store.publish(self.store.published or published.known(self.store.run))

    def measure_rates(self) -> None:
        """Rate, distortion and warm speed."""
        peers = tuple(peer for peer in self.peers if peer.name in PEERS)
        wanted = self.wanted
        repeats = wanted.repeats if wanted.timed else 0
        plan = run.Plan(self.images, peers, self.metrics, wanted.settings, wanted.threads, repeats, wanted.sample)
        run.measure(plan, self.store)

    def _speed_plan(self) -> speed.SpeedPlan:
        wanted = self.wanted
        return speed.SpeedPlan(self.images, tuple(self.peers), wanted.threads, wanted.repeats, self.used)

    def measure_speed(self) -> None:
        """A warm process and whole processes on the first picture, and the folder."""
        speed.measure_warm(self._speed_plan(), self.store)
        speed.measure_processes(self._speed_plan(), self.store)
        speed.measure_folder(self._speed_plan(), self.store)

    def measure_scaling(self, max_megapixels: float) -> None:
        """Whole processes on growing pictures."""
        sizes = [size for size in speed.SCALING_MEGAPIXELS if size <= max_megapixels]
        speed.measure_scaling(self._speed_plan(), self.store, sizes)

    def measure_seams(self) -> None:
        """Seams and hues of each codec."""
        peers = [peer for peer in self.peers if peer.name in PEERS]
        seams.measure(self.images, peers, self.store, self.wanted.threads)


def all_tools() -> list[Peer]:
    """The system's programs that speed is compared with."""
    return list(TOOLS.values())


def present(report: Report, images: pictures.PictureSet | None, count: int, targets_bpp: Sequence[float]) -> list[Path]:
    """The report to the terminal, figures and page to the results folder."""
    from bench import page, plots, slides  # matplotlib takes a second

    store = report.store
    click.echo("\n" + text(report))
    written = plots.write(store, store.folder)
    shown = []
    if images is not None and count:
        files = [file for file in images.files if file.name in store.run["pictures"]][:count]
        names = [name for name in SLIDE_PEERS if name in rated(store)]
        here = run.available([PEERS[name] for name in names])[0]
        shown = slides.slides(store, files, here, targets_bpp)
    return [*written, page.write(report, shown)]


def told(seconds: float, written: Sequence[Path]) -> str:
    """The last lines of a run."""
    return f"\nwritten: {', '.join(str(path) for path in written)}\n{clock(seconds)} in all"
