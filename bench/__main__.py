# SPDX-License-Identifier: MIT
"""`python -m bench`: the command line. Options are read here and handed on; nothing is measured or drawn here."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from bench import c2st, orders, pictures, realism, report, run, slides, stages
from bench.errors import BenchError, MissingError
from bench.metrics import METRICS
from bench.peers import PEERS, Peer, choose, realistic
from bench.store import Store, described, read_published

# Options that `run` and `report` share
_REPORT_OPTIONS: tuple[Callable[..., Callable[..., object]], ...] = (
    click.option("--anchor", default=report.ANCHOR, show_default=True, help="The codec that BD-rates are against."),
    click.option("--log-rate", is_flag=True, help="Logarithmic rate axis in the figure files."),
    click.option("--published", type=click.Path(path_type=Path, exists=True), help="JSON of curves to show as well."),
    click.option("--published-only", default="", metavar="NAMES", help="Only these of them, with commas."),
    click.option("--slides", "slide_count", default=6, show_default=True, help="Pictures in the page's slider."),
    click.option(
        "--slide-bpp", default="0.15,0.5", show_default=True, help="Bits per pixel of the slider, with commas."
    ),
    click.option(
        "--readme", type=click.Path(path_type=Path, exists=True), help="Rewrite the marked section of this file."
    ),
    click.option("--page", type=click.Path(path_type=Path, exists=True), help="The same with all tables."),
)


def _report_options(command: Callable[..., object]) -> Callable[..., object]:
    for option in reversed(_REPORT_OPTIONS):
        command = option(command)
    return command


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--images", default="photographs", show_default=True, metavar="DIR|NAME",
    help="A folder of pictures, one picture, or a built-in set: photographs, graphics.",
)  # fmt: skip
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Take every Nth picture.")
@click.option("--peers", default="default", show_default=True, metavar="NAMES", help=f"Of {', '.join(PEERS)}, or all.")
@click.option("--settings", multiple=True, metavar="PEER=1,2,3", help="Other points for a codec's curve; repeatable.")
@click.option("--metrics", default=",".join(METRICS), show_default=True, metavar="NAMES", help="What to measure.")
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="Processors to use; 0: all.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Times are medians of so many.")
@click.option(
    "--out", default=Path("runs/bench"), show_default=True, type=click.Path(path_type=Path), help="The results folder."
)
@click.option("--fresh", is_flag=True, help="Forget what the folder holds; without it a run goes on where it was.")
@click.option("--scaling", is_flag=True, help="Only this: whole processes on 0.1 to 100 megapixels.")
@click.option("--max-megapixels", default=100.0, show_default=True, help="Where --scaling stops.")
@_report_options
@click.pass_context
def main(context: click.Context, /, **options: object) -> None:
    """How does vqcodec compare, on your pictures, on this machine?

    Measures rate, distortion and speed of every codec at hand, and writes tables, figures and a page with a slider to
    the results folder. A run that was stopped goes on where it was when it is started again.
    """
    if context.invoked_subcommand is None:
        _run(options)


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


def _metrics(names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the metrics asked for, PSNR always among them, and why some are missing."""
    found, missing = {}, {}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in dict.fromkeys(["psnr", *wanted]):
        if name not in METRICS:
            raise BenchError(f"unknown metric {name}; known are {', '.join(METRICS)}")
        try:
            found[name] = METRICS[name].version()
        except MissingError as error:
            missing[name] = error.message
    return found, missing


def _run(options: dict[str, object]) -> None:
    """Measure and report."""
    scaling, out, threads = bool(options["scaling"]), Path(str(options["out"])), int(str(options["threads"]))
    names = str(options["peers"])
    wanted = choose(run.SCALING_PEERS if scaling and names == "default" else names)
    peers, versions, missing = run.available(wanted)
    settings = _settings(options["settings"])  # type: ignore[arg-type]
    metrics, missing_metrics = _metrics(str(options["metrics"]))
    missing.update(missing_metrics)
    for name, why in missing.items():
        click.echo(f"{name} is left out: {why}", err=True)
    if not peers:
        raise BenchError("none of these codecs is here; nothing to measure")
    images = pictures.find(str(options["images"]), int(str(options["every"])))
    used = run.limit_processors(threads)
    repeats = int(str(options["repeats"]))
    about = described(
        sys.argv[1:], set=images.name, threads=used, repeats=repeats, metrics=metrics, pictures=images.facts(),
        peers={p.name: {"label": p.label, "stated": p.stated, "version": versions[p.name]} for p in peers},
        missing=missing,
    )  # fmt: skip
    store, notes = Store.start(out, about, bool(options["fresh"]))
    for note in notes:
        click.echo(note, err=True)
    plan = run.Plan(images, tuple(peers), tuple(metrics), settings, threads, repeats)
    try:
        _measure(plan, store, scaling, float(str(options["max_megapixels"])))
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what is done is in {out}, and the same command goes on from there", err=True)
        sys.exit(130)
    _report(store, images, options)


def _measure(plan: run.Plan, store: Store, scaling: bool, max_megapixels: float) -> None:
    if scaling:
        sizes = [size for size in run.SCALING_MEGAPIXELS if size <= max_megapixels]
        run.measure_scaling(plan, store, sizes, lambda line: click.echo(line, err=True))
        return
    run.measure(plan, store)
    click.echo("whole processes, on the first picture", err=True)
    run.measure_processes(plan, store)


def _published(store: Store, options: dict[str, object]) -> None:
    if options["published"] is not None:
        store.publish(read_published(Path(str(options["published"])), str(options["published_only"])))


def _here(store: Store) -> list[Peer]:
    """The store's codecs that can run here."""
    return run.available([PEERS[name] for name in store.run["peers"] if name in PEERS])[0]


def _report(store: Store, images: pictures.PictureSet | None, options: dict[str, object]) -> None:
    """Tables to the terminal; figures, page and the marked sections of documents to files."""
    from bench import page, plots  # matplotlib takes a second

    _published(store, options)
    anchor = str(options["anchor"])
    click.echo("\n" + report.text(store, anchor))
    written = plots.write(store, bool(options["log_rate"]))
    shown = []
    if images is not None:
        try:
            targets = [float(value) for value in str(options["slide_bpp"]).split(",")]
        except ValueError:
            raise BenchError(f"--slide-bpp {options['slide_bpp']}: write it like --slide-bpp 0.15,0.5") from None
        files = [file for file in images.files if file.name in store.run["pictures"]]
        shown = slides.slides(store, files[: int(str(options["slide_count"]))], _here(store), targets)
    written.append(page.write(store, shown, anchor))
    click.echo("\nwritten: " + ", ".join(str(path) for path in written))
    if options["readme"] is not None:
        readme = Path(str(options["readme"]))
        figures = os.path.relpath(store.folder.resolve(), readme.resolve().parent)
        changed = report.write_readme(readme, report.section(store, Path(figures).as_posix(), anchor))
        click.echo(f"{readme} " + ("has the new numbers" if changed else "had these numbers already"))
    if options["page"] is not None:
        full = report.page_section(store, anchor)
        changed = report.write_section(Path(str(options["page"])), full, report.PAGE_BEGIN, report.PAGE_END)
        click.echo(f"{options['page']} " + ("has the new numbers" if changed else "had these numbers already"))


@main.command("report")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--images", default=None, metavar="DIR|NAME", help="The same pictures again: the page gets its slider.")
@_report_options
def report_command(results: Path, images: str | None, **options: object) -> None:
    """Make tables, figures, page and README's section of RESULTS again, without measuring."""
    store = Store.read(results)
    _report(store, pictures.find(images) if images else None, options)


@main.command("stages")
@click.argument("picture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-q", "--quality", default=75, show_default=True, type=click.IntRange(1, 100))
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="0: all processors.")
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(1), help="Times are medians of so many.")
@click.option(
    "--out", default=Path("runs/bench"), show_default=True, type=click.Path(path_type=Path), help="The results folder."
)
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Rewrite the marked section of this file.")
def stages_command(picture: Path, quality: int, threads: int, repeats: int, out: Path, page: Path | None) -> None:
    """Where the time of one vqcodec process on PICTURE goes, from the interpreter's start to its exit."""
    stages.write(out, sys.argv[1:], picture, quality, threads, repeats)
    click.echo(stages.table(out).plain())
    if page is not None:
        changed = stages.write_page(page, out)
        click.echo(f"{page} " + ("has the new numbers" if changed else "had these numbers already"))


@main.command("realism")
@click.option("--images", default="photographs", show_default=True, metavar="DIR|NAME", help="As of python -m bench.")
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Take every Nth picture.")
@click.option("--bpp", default="0.05,0.1,0.2", show_default=True, metavar="RATES", help="Bits per pixel, with commas.")
@click.option("--peers", default="jpeg,webp,avif,vqcodec", show_default=True, metavar="NAMES", help="With commas.")
@click.option("--realism", "amounts", default="1,0.5", show_default=True, metavar="AMOUNTS",
              help="Of vqcodec's realistic decoder, 0 to 1, with commas; empty for none.")  # fmt: skip
@click.option("--metrics", default=",".join(METRICS), show_default=True, metavar="NAMES", help="Of distortion.")
@click.option("--crops", type=click.Path(path_type=Path), help="JSON list of what the sheets show; see crops.json.")
@click.option("--out", default=Path("runs/realism"), show_default=True, type=click.Path(path_type=Path))
def realism_command(
    images: str, every: int, bpp: str, peers: str, amounts: str, metrics: str, crops: Path | None, out: Path
) -> None:
    """How real do pictures look at low and equal rates? Tables, contact sheets and a page."""
    from bench import pretrained, realism_report, sheets

    rates, strengths = _numbers("--bpp", bpp, 0.001, 24), _numbers("--realism", amounts, 0, 1)
    if not rates:
        raise BenchError("--bpp: name at least one rate")
    wanted = [*choose(peers), *(realistic(strength) for strength in strengths)]
    found, versions, missing = run.available(list({peer.name: peer for peer in wanted}.values()))
    measured, missing_metrics = _metrics(metrics)
    missing.update(missing_metrics)
    try:
        c2st.version()
    except MissingError as error:
        missing["C2ST"] = error.message
    for name, why in missing.items():
        click.echo(f"{name} is left out: {why}", err=True)
    if not found:
        raise BenchError("none of these codecs is here; nothing to measure")
    files = pictures.find(images, every)
    shown = sheets.read_crops(crops, files.files) if crops else sheets.chosen(files.files)
    about = described(
        sys.argv[1:], set=files.name, threads=run.limit_processors(0), repeats=1, metrics=measured,
        pictures=files.facts(), missing=missing, targets_bpp=rates,
        peers={
            p.name: {"label": p.label, "stated": p.stated, "version": versions[p.name], "writer": p.writer}
            for p in found
        },
    )  # fmt: skip
    results, notes = realism.Results.start(out, about)
    for note in notes:
        click.echo(note, err=True)
    plan = realism.Plan(files, tuple(found), tuple(rates), tuple(measured), pretrained.available())
    try:
        realism.measure(plan, results, lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what is done is in {out}, and the same command goes on from there", err=True)
        sys.exit(130)
    click.echo(realism_report.text(results))
    drawn = sheets.write(results, files.files, found, shown)
    written = [*realism_report.write(results, drawn), *drawn.values()]
    click.echo("\nwritten: " + ", ".join(str(path) for path in written))


def _numbers(option: str, text: str, low: float, high: float) -> list[float]:
    """Ascending numbers with commas in between, as they were given to an option."""
    try:
        found = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        found = [math.nan]
    if not all(low <= value <= high for value in found):
        raise BenchError(f"{option} {text}: write numbers from {low:g} to {high:g} with commas in between")
    return found


@main.command("orders")
@click.option("--images", default="photographs", show_default=True, metavar="DIR|NAME", help="As of python -m bench.")
@click.option(
    "--out", default=Path("runs/orders"), show_default=True, type=click.Path(path_type=Path), help="The results folder."
)
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Rewrite the marked section of this file.")
def orders_command(images: str, out: Path, page: Path | None) -> None:
    """Do the measures of realism order blur, JPEG and noise rightly? Goes on where it was stopped."""
    orders.measure(pictures.find(images), out, sys.argv[1:], lambda line: click.echo(line, err=True))
    click.echo(orders.table(out).plain())
    click.echo("\n".join(f"wrong: {line}" for line in orders.wrong(out)))
    if page is not None:
        changed = orders.write_page(page, out)
        click.echo(f"{page} " + ("has the new numbers" if changed else "had these numbers already"))


@main.command("ablations")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Another folder for tables and figure.")
@click.option("--anchor", default="default", show_default=True, help="The variant that BD-rates are against.")
def ablations_command(results: Path, out: Path | None, anchor: str) -> None:
    """Tables and figure of RESULTS, the folder of a bake-off (python -m vqcodec.train.bakeoff)."""
    from bench import ablations  # matplotlib takes a second

    written = ablations.write(results, out or results, anchor)
    click.echo(ablations.summary(ablations.read(results)[0], anchor).plain())
    click.echo("\nwritten: " + ", ".join(str(path) for path in written))


@main.command("learning")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    default=Path("runs/learning"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="The results folder.",
)
def learning_command(runs: tuple[Path, ...], out: Path) -> None:
    """Learning curves of RUNS, with power laws fitted: folders or logs of vqcodec train, or a learning.json."""
    from bench import learning  # matplotlib takes a second

    table, written = learning.write(runs, out)
    click.echo(table.plain())
    click.echo("\nwritten: " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    main(prog_name="python -m bench")
