# SPDX-License-Identifier: MIT
"""The commands beside the comparison of codecs: stages, realism, orders, scale, denoise, learning. Options only."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click

from bench import c2st, cleaning, orders, pictures, realism, run, scale, stages
from bench.errors import BenchError, MissingError
from bench.peers import choose, realistic
from bench.session import metrics_here
from bench.store import described
from bench.tables import write_section


def _write_page(page: Path | None, measure: ModuleType, out: Path) -> None:
    """Put a measure's section into the page that --page names."""
    if page is not None:
        changed = write_section(page, measure.section(out), measure.BEGIN, measure.END)
        click.echo(f"{page} " + ("has the new numbers" if changed else "had these numbers already"))


_images = click.option(
    "--images", default="photographs", show_default=True, metavar="DIR|NAME", help="As of python -m bench."
)
_every = click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Take every Nth picture.")
_page = click.option(
    "--page", type=click.Path(path_type=Path, exists=True), help="Rewrite the marked section of this file."
)


def _out(folder: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    path = click.Path(path_type=Path)
    return click.option("--out", default=Path(folder), show_default=True, type=path, help="The results folder.")


@click.command("stages")
@click.argument("picture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-q", "--quality", default=75, show_default=True, type=click.IntRange(1, 100))
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="0: all processors.")
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(1), help="Times are medians of so many.")
@_out("runs/bench")
@_page
def stages_command(picture: Path, quality: int, threads: int, repeats: int, out: Path, page: Path | None) -> None:
    """Where the time of one vqcodec process on PICTURE goes, from the interpreter's start to its exit."""
    stages.write(out, sys.argv[1:], picture, quality, threads, repeats)
    click.echo(stages.table(out).plain())
    _write_page(page, stages, out)


@click.command("realism")
@_images
@_every
@click.option("--bpp", default="0.05,0.1,0.2", show_default=True, metavar="RATES", help="Bits per pixel, with commas.")
@click.option("--peers", default="jpeg,webp,avif-iq,vqcodec", show_default=True, metavar="NAMES", help="With commas.")
@click.option("--realism", "amounts", default="1,0.5", show_default=True, metavar="AMOUNTS",
              help="Of vqcodec's realistic decoder, 0 to 1, with commas; empty for none.")  # fmt: skip
@click.option("--metrics", default="psnr,ms_ssim,ssimulacra2", show_default=True, metavar="NAMES",
              help="Of distortion.")  # fmt: skip
@click.option("--crops", type=click.Path(path_type=Path), help="JSON list of what the sheets show; see crops.json.")
@click.option("--out", default=Path("runs/realism"), show_default=True, type=click.Path(path_type=Path))
def realism_command(
    images: str, every: int, bpp: str, peers: str, amounts: str, metrics: str, crops: Path | None, out: Path
) -> None:
    """How real do pictures look at low and equal rates? Tables, contact sheets and a page."""
    from bench import pretrained, realism_report, sheets

    rates, strengths = numbers("--bpp", bpp, 0.001, 24), numbers("--realism", amounts, 0, 1)
    if not rates:
        raise BenchError("--bpp: name at least one rate")
    wanted = [*choose(peers), *(realistic(strength) for strength in strengths)]
    found, versions, missing = run.available(list({peer.name: peer for peer in wanted}.values()))
    measured, missing_metrics = metrics_here(metrics)
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
        sys.argv[1:], format=realism.FORMAT, set=files.name, threads=run.limit_processors(0), repeats=1,
        metrics=measured, pictures=files.facts(), missing=missing, targets_bpp=rates,
        peers={
            p.name: {**p.facts(versions[p.name]), "writer": p.writer}
            for p in found
        },
    )  # fmt: skip
    results, notes = realism.Results.start(out, about)
    for note in notes:
        click.echo(note, err=True)
    plan = realism.Plan(files, tuple(found), tuple(rates), tuple(measured), pretrained.available())
    try:
        realism.measure(plan, results)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; what is done is in {out}, and the same command goes on from there", err=True)
        sys.exit(130)
    click.echo(realism_report.text(results))
    drawn = sheets.write(results, files.files, found, shown)
    written = [*realism_report.write(results, drawn), *drawn.values()]
    click.echo("\nwritten: " + ", ".join(str(path) for path in written))


def numbers(option: str, text: str, low: float, high: float) -> list[float]:
    """Ascending numbers with commas in between, as they were given to an option."""
    try:
        found = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        found = [math.nan]
    if not all(low <= value <= high for value in found):
        raise BenchError(f"{option} {text}: write numbers from {low:g} to {high:g} with commas in between")
    return found


@click.command("orders")
@_images
@_out("runs/orders")
@_page
def orders_command(images: str, out: Path, page: Path | None) -> None:
    """Do the measures of realism order blur, JPEG and noise rightly? Goes on where it was stopped."""
    orders.measure(pictures.find(images), out, sys.argv[1:])
    click.echo(orders.table(out).plain())
    click.echo("\n".join(f"wrong: {line}" for line in orders.wrong(out)))
    _write_page(page, orders, out)


@click.command("scale")
@_images
@_every
@_out("runs/scale")
@_page
def scale_command(images: str, every: int, out: Path, page: Path | None) -> None:
    """What do the qualities of vqcodec give, and where does their scale end? Goes on where it was stopped."""
    scale.measure(pictures.find(images, every), out, sys.argv[1:])
    click.echo(scale.table(out).plain())
    _write_page(page, scale, out)


@click.command("denoise")
@_images
@_every
@_out("runs/denoise")
@_page
def denoise_command(images: str, every: int, out: Path, page: Path | None) -> None:
    """The denoiser beside others: noise removed, holes filled. Goes on where it was stopped."""
    cleaning.measure(pictures.find(images, every), out, sys.argv[1:])
    click.echo(cleaning.noise_table(out).plain())
    click.echo(cleaning.hole_table(out).plain())
    _write_page(page, cleaning, out)


@click.command("learning")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@_out("runs/learning")
def learning_command(runs: tuple[Path, ...], out: Path) -> None:
    """Learning curves of RUNS, with power laws fitted: folders or logs of vqcodec train, or a learning.json."""
    from bench import learning  # matplotlib takes a second

    table, written = learning.write(runs, out)
    click.echo(table.plain())
    click.echo("\nwritten: " + ", ".join(str(path) for path in written))


def others() -> list[click.Command]:
    """All commands of this file."""
    return [stages_command, realism_command, orders_command, scale_command, denoise_command, learning_command]
