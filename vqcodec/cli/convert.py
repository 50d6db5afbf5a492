# SPDX-License-Identifier: MIT
"""`vqcodec compress` and `vqcodec decompress`: one file or many, and what is said of each.

NumPy and all that needs it is imported when a file is at work: `--help` and a mistyped option must not wait for it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vqcodec.cli import batch, names, options, streams
from vqcodec.cli.processes import Outcome
from vqcodec.cli.streams import DASH, shown
from vqcodec.errors import PartialError, UsageError
from vqcodec.options import (
    DECODERS,
    DEFAULT_EFFORT,
    MAX_STEPS,
    DecodeOptions,
    EncodeOptions,
    Region,
    Target,
    most_file_bytes,
)
from vqcodec.threads import Progress, processors

if TYPE_CHECKING:
    from vqcodec.codec.target import Reached
    from vqcodec.pictures.picture import Picture

SUFFIX = ".vqc"
PROGRESS_TILES = 4  # no progress bar for pictures with as many tiles or fewer
POOR_DB = 25.0
SMALL_BYTES = 1000  # a source that is no larger is nothing to speak of
MAX_DAMAGE = 20  # sentences about one damaged file


@click.command()
@options.paths
@options.quality
@click.option(
    "--bpp", type=click.FloatRange(0, min_open=True), metavar="F", help="Instead of -q: target size in bits per pixel."
)
@click.option("--psnr", type=click.FloatRange(0, min_open=True), metavar="F", help="Instead of -q: lowest PSNR in dB.")
@click.option("--max-bytes", type=click.IntRange(1), metavar="N", help="Instead of -q: largest file size.")
@click.option("--lossless", is_flag=True, help="Instead of -q: keep every pixel exactly.")
@options.effort
@options.tune
@options.output
@options.recursive
@options.jobs
@options.skip_existing
@options.force
@options.threads
@options.model
@options.strip
@click.option(
    "--denoise", callback=options.noise, metavar="auto|N",
    help="Remove noise first: of N levels of 255, or as estimated. Needs a model with a denoiser.",
)  # fmt: skip
@click.option("--no-patches", is_flag=True, help="Code everything with the model, text and screens too.")
@options.max_pixels
@click.option("-v", "--verbose", is_flag=True, help="Print size, bpp and PSNR of each file on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print the same on stdout, one JSON object per line.")
def compress(
    quality: int | None, bpp: float | None, psnr: float | None, max_bytes: int | None, lossless: bool,
    effort: int | None, tune: str | None, threads: int, model: str | None, strip: bool,
    denoise: str | float | None, no_patches: bool,
    max_pixels: int, verbose: bool, as_json: bool, **files: Any,
) -> None:  # fmt: skip
    """Compress pictures to .vqc files. Without OUT, the file is written beside the picture.

    "-" stands for stdin or stdout. A .vqc file as input is decoded and encoded again.

    \b
    vqcodec compress photo.png
    vqcodec compress photo.png photo.vqc
    vqcodec compress -v -q 50 photo.jpg small.vqc
    vqcodec compress --max-bytes 50000 photo.jpg small.vqc
    vqcodec compress --lossless photo.png exact.vqc
    vqcodec compress --denoise auto photo.jpg clean.vqc
    vqcodec compress holiday/ more.png archive/
    vqcodec compress -q 30 photo.vqc smaller.vqc
    vqcodec compress -r -j 0 --skip-existing pictures/ -o archive/
    curl -s URL | vqcodec compress - - > photo.vqc
    """
    target = {"quality": quality, "bpp": bpp, "psnr": psnr, "max_bytes": max_bytes}
    given = ["--" + name.replace("_", "-") for name, value in target.items() if value is not None]
    given += ["--lossless"] if lossless else []
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} cannot both be met: give one of them")
    if verbose and as_json:
        raise UsageError("--verbose and --json report the same: give one of them")
    if as_json and DASH in (files["output"], files["paths"][-1] if len(files["paths"]) > 1 else None):
        raise UsageError("stdout cannot take both the file and --json: give the output a name, or use -v")
    report = "json" if as_json else "text" if verbose else None
    work = partial(
        _compress, wanted=Target(bpp, psnr, max_bytes, quality, lossless), max_pixels=max_pixels, report=report
    )
    coding = EncodeOptions(
        effort or DEFAULT_EFFORT, threads, model, strip, tune=tune, patches=not no_patches, denoise=denoise
    )
    _many(work, coding, names.PICTURE_SUFFIXES, SUFFIX, say=streams.tell_scripts if as_json else streams.tell, **files)


def _region(_context: click.Context, _option: click.Parameter, text: str | None) -> Region | None:
    """Four whole numbers between commas."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise click.BadParameter(f"{text!r} is not X,Y,W,H: four whole numbers, such as 0,0,640,480")
    x, y, width, height = map(int, parts)
    return x, y, width, height


@click.command()
@options.paths
@options.output
@options.recursive
@options.jobs
@options.skip_existing
@options.force
@options.threads
@click.option("--model", metavar="PATH", help="Folder of the model, if it is one of your own.")
@click.option(
    "--format", "form", metavar="SUFFIX", help="png, jpg, webp... Default: as OUT ends; png for - and folders."
)
@click.option(
    "--decoder", type=click.Choice(DECODERS),
    help="realistic: invent plausible texture at low bit rates; diffusion: an experiment. Default: faithful.",
)  # fmt: skip
@click.option("--realism", type=click.FloatRange(0, 1), metavar="0..1", help="How much texture (default 1).")
@click.option(
    "--steps", type=click.IntRange(1, MAX_STEPS), metavar="N", help="Steps of the diffusion decoder (default 4)."
)
@options.seed("Diffusion: another seed, another picture (default 0).", None)
@click.option("--region", callback=_region, metavar="X,Y,W,H", help="Decode only this part of the picture.")
@click.option("--scale", type=click.Choice(["1", "2", "4", "8"]), default="1", help="Divide width and height by this.")
@click.option("--allow-partial", is_flag=True, help="Restore what is left of a damaged file (exit code 8).")
@options.max_pixels
def decompress(
    form: str | None, decoder: str | None, realism: float | None, steps: int | None, seed: int | None,
    region: Region | None, scale: str, threads: int, model: str | None, max_pixels: int, allow_partial: bool,
    **files: Any,
) -> None:  # fmt: skip
    """Restore pictures from .vqc files. Without OUT, a PNG is written beside the file.

    "-" stands for stdin or stdout.

    \b
    vqcodec decompress photo.vqc
    vqcodec decompress photo.vqc photo.png
    vqcodec decompress --region 0,0,128,96 photo.vqc piece.png
    vqcodec decompress --scale 8 photo.vqc thumbnail.png
    vqcodec decompress --decoder realistic photo.vqc photo.png
    vqcodec decompress --decoder diffusion --steps 4 --seed 1 photo.vqc photo.png
    vqcodec decompress --allow-partial broken.vqc rest.png
    vqcodec decompress archive/ pictures/ --format webp
    vqcodec decompress -r -j 0 archive/ -o pictures/
    vqcodec decompress - - < photo.vqc | display
    """
    suffix = None if form is None else "." + form.lower().removeprefix(".")
    coding = DecodeOptions(
        decoder, realism, region, int(scale), threads, model, max_pixels, allow_partial, steps=steps, seed=seed
    )
    _many(partial(_decompress, suffix=suffix), coding, frozenset({SUFFIX}), suffix or ".png", **files)


def _many(
    work: Any, coding: EncodeOptions | DecodeOptions, wanted: frozenset[str], suffix: str, *, paths: tuple[str, ...],
    output: str | None, recursive: bool, jobs: int, skip_existing: bool, force: bool,
    say: Callable[[str], None] = streams.tell,
) -> None:  # fmt: skip
    """Runs `work` over all inputs; `say` takes the reports that were asked for."""
    if skip_existing and force:
        raise UsageError("--skip-existing leaves existing files alone, --force replaces them: give one of them")
    todo = names.todo(paths, output, suffix, wanted, recursive=recursive)
    if output is None and len(paths) == 1 and force and suffix != SUFFIX:
        names.check_not_beside(*todo.pairs[0])
    count = min(jobs or processors(), len(todo.pairs))
    if count > 1:
        coding = replace(coding, threads=coding.threads or max(1, processors() // count))
    if todo.several and coding.model:  # said once, and not of every file
        from vqcodec.model import zoo

        zoo.find(coding.model)
    batch.run(todo, partial(work, coding=coding, force=force), jobs=count, skip_existing=skip_existing, say=say)


def _compress(
    source: str, target: str, *, wanted: Target, coding: EncodeOptions, max_pixels: int, report: str | None,
    force: bool, single: bool,
) -> Outcome:  # fmt: skip
    started = time.perf_counter()
    if Path(target).suffix.lower() in names.PICTURE_SUFFIXES:
        raise UsageError(f"{shown(target)} is the name of a picture: give the output a name that ends in {SUFFIX}")
    if not single:
        names.make_folder(os.path.dirname(target))
    names.check_target(source, target, force)
    from vqcodec.codec.denoise import before_coding
    from vqcodec.codec.target import TOLERANCE, encode_to_target

    picture = before_coding(_picture(source, coding, max_pixels), coding)
    notes = [*picture.notes]
    with streams.about(source), _progress(source, single) as progress:
        reached = encode_to_target(picture, wanted, coding, progress)
    streams.write(target, reached.data, force=force)
    if wanted.aim is not None:
        far = wanted.bpp is not None and abs(reached.bpp / wanted.bpp - 1) > TOLERANCE
        notes.append(reached.sentence + (f": the nearest to the {wanted.bpp:g} bpp asked for" if far else ""))
    height, width = picture.rgb.shape[:2]
    source_bytes = 0 if source == DASH else os.path.getsize(source)
    sizes = f"{source_bytes:,} -> {len(reached.data):,} bytes" if source_bytes else f"{len(reached.data):,} bytes"
    notes += _doubts(reached, source_bytes)
    what = f"{width} x {height}, {sizes}, {reached.bpp:.3f} bpp"
    seconds = time.perf_counter() - started
    return Outcome(
        width * height,
        source_bytes,
        len(reached.data),
        streams.noted(shown(source), notes),
        "" if report == "text" else _summary(source, target, what, seconds),
        report=_report(report, source, target, picture, reached, coding, what, seconds) if report else "",
    )


def _doubts(reached: Reached, source_bytes: int) -> list[str]:
    """What speaks against a file: it is larger than its source, or poor."""
    doubts = []
    if reached.restored_db is not None and reached.restored_db < POOR_DB:
        doubts.append(f"comes back with {reached.restored_db:.1f} dB only: give a higher quality, or keep the original")
    if len(reached.data) > source_bytes > SMALL_BYTES:
        doubts.append(f"{len(reached.data):,} bytes, more than its source has ({source_bytes:,})")
    return doubts


def _picture(source: str, coding: EncodeOptions, max_pixels: int) -> Picture:
    """The picture of any file or of stdin; that of a .vqc file is decoded."""
    from vqcodec.bitstream import container
    from vqcodec.codec import decode
    from vqcodec.pictures import read

    given = streams.picture_source(source, max_pixels)
    if not streams.begins_with(given, container.MAGIC):
        return read.load(given, max_pixels=max_pixels)
    if isinstance(given, str):
        data = streams.read_marked(given, container.MAGIC, most_file_bytes(max_pixels))
    else:
        data = given.getvalue()
    with streams.about(source):
        options = DecodeOptions(threads=coding.threads, model=coding.model, max_pixels=max_pixels)
        picture = decode.decode(data, options)
    return replace(picture, notes=("encoded again from a .vqc file: the losses of both encodings add up",))


def _report(
    form: str, source: str, target: str, picture: Picture, reached: Reached, coding: EncodeOptions, what: str,
    seconds: float,
) -> str:  # fmt: skip
    """A line about one file, with the PSNR that a decoder reaches: decoded once for it, unless that is known."""
    import json

    from vqcodec import api
    from vqcodec.codec import decode
    from vqcodec.pictures.picture import psnr

    decibels = reached.psnr
    if decibels is None:
        options = DecodeOptions(threads=coding.threads, model=coding.model, max_pixels=picture.rgb.size)
        decibels = psnr(picture.rgb, decode.decode(reached.data, options).rgb)
    if form == "text":
        return _summary(source, target, f"{what}, {_decibels(decibels)}", seconds)
    facts = api.info(reached.data)
    kept = ("width", "height", "quality", "tune", "model", "model_id", "file_bytes", "bpp")
    return json.dumps({
        "input": source, "output": target, **{name: facts[name] for name in kept},
        "psnr": decibels if math.isfinite(decibels) else None, "seconds": round(seconds, 3),
    })  # fmt: skip


def _decibels(psnr: float) -> str:
    """A PSNR, for people."""
    return f"{psnr:.2f} dB" if psnr < math.inf else "lossless"


def _decompress(
    source: str, target: str, *, suffix: str | None, coding: DecodeOptions, force: bool, single: bool
) -> Outcome:
    started = time.perf_counter()
    suffix = suffix or (".png" if target == DASH else Path(target).suffix)
    if not suffix:
        raise UsageError(f"{shown(target)} has no suffix to say its format: add .png or the like, or give --format png")
    if not single:
        names.make_folder(os.path.dirname(target))
    names.check_target(source, target, force)
    if not single and os.path.exists(target):
        names.check_not_beside(source, target)
    from vqcodec.bitstream import container
    from vqcodec.codec import decode
    from vqcodec.pictures.write import write_strips

    _check_format(suffix)
    data = streams.read_marked(source, container.MAGIC, most_file_bytes(coding.max_pixels))
    out_bytes = 0
    with streams.opened(target, force=force) as write, streams.about(source), _progress(source, single) as progress:

        def counted(piece: bytes) -> None:
            nonlocal out_bytes
            out_bytes += len(piece)
            write(piece)

        strips = decode.decode_strips(data, coding, progress)
        notes = write_strips(strips, suffix, counted)
    name, seconds = shown(target, "stdout"), time.perf_counter() - started
    partial_failure = (PartialError.exit_code, f"{shown(source)}: damaged; {name} shows what is left of it")
    return Outcome(
        strips.width * strips.height,
        len(data),
        out_bytes,
        streams.noted(shown(source), strips.damage[:MAX_DAMAGE]) + streams.noted(name, notes),
        _summary(source, target, f"{strips.width} x {strips.height}, {out_bytes:,} bytes", seconds),
        partial_failure if strips.damage else None,
    )


def _check_format(suffix: str) -> None:
    """Writes a tiny picture, to find out before the work whether this Pillow can write the format at all."""
    import numpy as np

    from vqcodec.pictures.picture import Picture
    from vqcodec.pictures.write import write_picture

    picture = Picture(np.zeros((16, 16, 3), np.uint8))
    write_picture(picture, suffix)


def _summary(source: str, target: str, what: str, seconds: float) -> str:
    """One line about one file."""
    return f"{shown(source)} -> {shown(target, 'stdout')}: {what}, {seconds:.2f} s"


@contextmanager
def _progress(name: str, single: bool) -> Iterator[Progress | None]:
    """A progress bar on a terminal's stderr for a picture of many tiles; None where there is one over all files."""
    with ExitStack() as stack:
        bar: Any = None

        def update(done: int, tiles: int) -> None:
            nonlocal bar
            if tiles <= PROGRESS_TILES:
                return
            if bar is None:
                bar = stack.enter_context(click.progressbar(length=tiles, label=shown(name), file=sys.stderr))
            bar.update(done - bar.pos)

        yield update if single and streams.on_terminal(sys.stderr) else None
