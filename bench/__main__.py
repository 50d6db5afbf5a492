# SPDX-License-Identifier: MIT
"""`python -m bench`: the command line. Options are read here and handed on; nothing is measured or drawn here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench import pictures, published, release, seams, speed
from bench.commands import numbers, others
from bench.curves import ANCHOR
from bench.errors import BenchError
from bench.metrics import METRICS
from bench.peers import PEERS
from bench.report import Report, cost_table, scaling_table
from bench.session import Session, Wanted, all_tools, present, told
from bench.store import Store

Command = Callable[..., Any]
IMAGES = click.option(
    "--images", default="photographs", show_default=True, metavar="DIR|NAME",
    help="A folder of pictures, one picture, or a built-in set: photographs, graphics.",
)  # fmt: skip
OUT = click.option(
    "--out", default=Path("runs/bench"), show_default=True, type=click.Path(path_type=Path), help="The results folder."
)
ANCHOR_OPTION = click.option("--anchor", default=ANCHOR, show_default=True, help="The codec that BD-rates are against.")
SETTINGS = click.option(
    "--settings", multiple=True, metavar="PEER=1,2,3", help="Other points for a codec's curve; repeatable."
)
DOCUMENTS: tuple[Callable[[Command], Command], ...] = (
    click.option("--readme", type=click.Path(path_type=Path, exists=True), help="Rewrite its marked section."),
    click.option("--page", type=click.Path(path_type=Path, exists=True), help="The same, with all codecs."),
)
# Options of every command that measures
MEASURING: tuple[Callable[[Command], Command], ...] = (
    IMAGES,
    click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Take every Nth picture."),
    click.option("--peers", default="default", show_default=True, metavar="NAMES",
                 help=f"Of {', '.join(PEERS)}; or default, all, slow."),
    click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="Processors; 0: all."),
    click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Times are medians of these."),
    OUT,
    click.option("--fresh", is_flag=True, help="Forget what the folder holds; without it a run goes on where it was."),
)  # fmt: skip
# Options of every command that reports
REPORTING: tuple[Callable[[Command], Command], ...] = (
    ANCHOR_OPTION,
    click.option("--published", type=click.Path(path_type=Path, exists=True), help="JSON of curves to show as well."),
    click.option("--published-only", default="", metavar="NAMES", help="Only these of them, with commas."),
    click.option("--slides", "slide_count", default=2, show_default=True, help="Pictures in the page's slider."),
    click.option("--slide-bpp", default="0.15,0.5", show_default=True, help="Its bits per pixel, with commas."),
)


def _with(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@contextmanager
def _stoppable(out: Path) -> Iterator[None]:
    """A run that is stopped from the keyboard says how it goes on, and ends with 130."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what is done is in {out}, and the same command goes on from there", err=True)
        sys.exit(130)


def _settings(given: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    found = {}
    for text in given:
        name, _, values = text.partition("=")
        try:
            found[name] = tuple(sorted({int(value) for value in values.split(",")}))
        except ValueError:
            raise BenchError(f"--settings {text}: write it like --settings jpeg=10,50,90") from None
        if name not in PEERS:
            raise BenchError(f"--settings {text}: unknown codec {name}; known are {', '.join(PEERS)}")
    return found


def _wanted(options: dict[str, Any]) -> Wanted:
    names = ("images", "out", "every", "peers", "threads", "repeats", "fresh")
    return Wanted(command=tuple(sys.argv[1:]), **{name: options[name] for name in names})


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_with(MEASURING)
@SETTINGS
@click.option("--metrics", default="default", show_default=True, metavar="NAMES",
              help=f"Of {', '.join(METRICS)}; or default, all.")  # fmt: skip
@_with(REPORTING)
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """How does vqcodec compare, on your pictures, on this machine?

    Measures rate, distortion and speed of the codecs at hand, and writes tables, figures and a page with a slider to
    the results folder. A run that was stopped goes on where it was when it is started again.
    """
    if context.invoked_subcommand is not None:
        return
    start = time.monotonic()
    targets = numbers("--slide-bpp", options["slide_bpp"], 0.001, 24)
    wanted = _wanted(options)
    more = {"metrics": options["metrics"], "settings": _settings(options["settings"])}
    session = Session(Wanted(**{**vars(wanted), **more}))
    with _stoppable(wanted.out):
        session.measure_rates()
        _publish(session.store, options["published"], options["published_only"])
        report = Report(session.store, options["anchor"])
        written = present(report, session.images, options["slide_count"], targets)
    click.echo(told(time.monotonic() - start, written))


def _publish(store: Store, path: Path | None, only: str) -> None:
    if path is not None:
        store.publish(published.read(path, only))


@main.command("report")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--images", default=None, metavar="DIR|NAME", help="The same pictures again: the page gets its slider.")
@_with(REPORTING)
@click.option("--release", "target", type=click.Path(path_type=Path), help="Write the small, committed form there.")
@_with(DOCUMENTS)
def report_command(
    results: Path, images: str | None, target: Path | None, readme: Path | None, page: Path | None, **options: Any
) -> None:
    """Make tables, figures and page of RESULTS again, without measuring; and a release's files and README's section."""
    store = Store.read(results)
    _publish(store, options["published"], options["published_only"])
    report = Report(store, options["anchor"])
    if target is not None or readme is not None or page is not None:
        written = release.write(report, target or results)
        click.echo("\n".join(release.write_documents(report, target or results, readme, page)))
    else:
        found = pictures.find(images) if images else None
        written = present(
            report, found, options["slide_count"], numbers("--slide-bpp", options["slide_bpp"], 0.001, 24)
        )
    click.echo("\nwritten: " + ", ".join(str(path) for path in written))


@main.command("speed")
@_with(MEASURING)
@click.option("--scaling", is_flag=True, help="Only this: whole processes on 0.1 to 100 megapixels.")
@click.option("--max-megapixels", default=100.0, show_default=True, help="Where --scaling stops.")
def speed_command(scaling: bool, max_megapixels: float, **options: Any) -> None:
    """Speed as users meet it: whole processes and a folder, there and back, beside cwebp, avifenc and cjxl."""
    if scaling and options["peers"] == "default":
        options["peers"] = speed.SCALING_PEERS
    session = Session(_wanted(options), () if scaling else all_tools())
    with _stoppable(options["out"]):
        if scaling:
            session.measure_scaling(max_megapixels)
        else:
            session.measure_speed()
    table = scaling_table(session.store) if scaling else cost_table(session.store)
    click.echo(table.plain() if table else "nothing was measured")


@main.command("seams")
@_with(MEASURING)
def seams_command(**options: Any) -> None:
    """Seams at tile edges and shifts of hue on large photographs."""
    session = Session(_wanted(options))
    with _stoppable(options["out"]):
        session.measure_seams()
    found = seams.table(session.store)
    click.echo(f"{found.plain() if found else 'nothing was measured'}\n\n{seams.METHOD}")


@main.command("release")
@click.option("--set", "sets", multiple=True, required=True, metavar="NAME=DIR", help="A set of pictures; repeatable.")
@click.option("--peers", default="all", show_default=True, metavar="NAMES", help="As of python -m bench.")
@click.option("--work", default=Path("runs/release"), show_default=True, type=click.Path(path_type=Path),
              help="Where the runs are; a release that was stopped goes on there.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where the committed files go.")
@click.option("--only", default=",".join(release.PARTS), show_default=True, metavar="PARTS",
              help="Some parts of the measurement, with commas; speed wants an idle machine.")  # fmt: skip
@SETTINGS
@click.option("--metrics", default="all", show_default=True, metavar="NAMES", help="As of python -m bench.")
@click.option("--sample", default=1, show_default=True, type=click.IntRange(1),
              help="Metrics that need torch judge every Nth picture.")  # fmt: skip
@click.option("--earlier", type=click.Path(path_type=Path, exists=True),
              help="An earlier release, or a set of it: codecs that have not changed are not measured.")  # fmt: skip
@click.option("--max-megapixels", default=100.0, show_default=True, help="Where growing pictures stop.")
@ANCHOR_OPTION
@_with(DOCUMENTS)
def release_command(sets: tuple[str, ...], peers: str, work: Path, out: Path, only: str, settings: tuple[str, ...],
                    metrics: str, sample: int, earlier: Path | None, max_megapixels: float, anchor: str,
                    readme: Path | None, page: Path | None) -> None:  # fmt: skip
    """Everything that a release commits: every codec and metric on every set; speed on the first one.

    Seams and hues are measured on sets with pictures of more than one tile. README's section is about the first set.
    """
    named = [tuple(text.partition("=")[::2]) for text in sets]
    if not all(name and folder for name, folder in named):
        raise BenchError("--set: write it like --set kodak=pictures/kodak")
    parts = release.parts(only)
    start = time.monotonic()
    written: list[Path] = []
    reports: list[Report] = []
    for name, folder in named:
        before = release.earlier_of(earlier, name)
        wanted = Wanted(folder, work / name, tuple(sys.argv[1:]), peers=peers, metrics=metrics, timed=False,
                        settings=_settings(settings), sample=sample, earlier=before)  # fmt: skip
        with _stoppable(work):
            release.restore(out / name, wanted.out)
            session = Session(wanted, all_tools() if not reports and "speed" in parts else ())
            if "rates" in parts:
                session.measure_rates()
            if not reports and "speed" in parts:
                session.measure_speed()
                Session(Wanted(**{**vars(wanted), "peers": speed.SCALING_PEERS})).measure_scaling(max_megapixels)
            if "seams" in parts and seams.large(session.store):
                session.measure_seams()
            reports.append(Report(Store.read(wanted.out), anchor))
            written += release.write(reports[-1], out / name)
    click.echo("\n".join(release.write_documents(reports[0], out / named[0][0], readme, page)))
    click.echo(told(time.monotonic() - start, written))


for command in others():
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m bench")
