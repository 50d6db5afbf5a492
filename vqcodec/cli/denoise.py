# SPDX-License-Identifier: MIT
"""`vqcodec denoise` and `vqcodec repair`: a picture in, a picture out, by a model's denoiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from vqcodec.cli import names, options, streams
from vqcodec.cli.streams import DASH, shown
from vqcodec.codec import denoise as work
from vqcodec.codec.repair import repair as repair_picture
from vqcodec.errors import UsageError
from vqcodec.options import DEFAULT_STEPS, MAX_STEPS
from vqcodec.pictures import read
from vqcodec.pictures.picture import Picture
from vqcodec.pictures.write import write_picture

source = click.argument("source", metavar="IN")
target = click.argument("target", metavar="OUT")
form = click.option("--format", "form", metavar="SUFFIX", help="png, jpg, webp... Default: as OUT ends; png for -.")
MASKED_FROM = 128  # levels


@click.command()
@source
@target
@click.option(
    "--sigma", callback=options.noise, default="auto", metavar="auto|N",
    help="Standard deviation of the noise in levels of 255. Default: auto, estimated.",
)  # fmt: skip
@form
@options.force
@options.threads
@options.model
@options.max_pixels
def denoise(
    source: str, target: str, sigma: str | float, form: str | None, force: bool, threads: int, model: str | None,
    max_pixels: int,
) -> None:  # fmt: skip
    """Remove noise from a picture. Needs a model with a denoiser.

    A line on stderr says how much noise was removed. Colour profile, EXIF and transparency are kept.

    \b
    vqcodec denoise night.jpg clean.png
    vqcodec denoise night.jpg cleaner.png --sigma 12
    """

    def run(picture: Picture) -> Picture:
        found = work.denoise(picture, sigma, model=model, threads=threads)
        streams.complain(f"note: {shown(source)}: {work.told(found)}")
        return found

    _through(source, target, form, force, max_pixels, run)


@click.command()
@source
@target
@click.option("--mask", required=True, metavar="PICTURE", help="Picture of the same size: white where to repair.")
@click.option(
    "--steps", type=click.IntRange(1, MAX_STEPS), default=DEFAULT_STEPS, metavar="N",
    help="More steps invent more texture (default 4).",
)  # fmt: skip
@options.seed("Another seed gives another repair (default 0).")
@form
@options.force
@options.threads
@options.model
@options.max_pixels
def repair(
    source: str, target: str, mask: str, steps: int, seed: int, form: str | None, force: bool, threads: int,
    model: str | None, max_pixels: int,
) -> None:  # fmt: skip
    """Fill in the masked parts of a picture: scratches, dust, printed dates. Needs a model with a denoiser.

    What is filled in is invented from the surroundings. All other pixels stay as they are.

    \b
    vqcodec repair old.png new.png --mask scratches.png
    """
    if DASH == source == mask:
        raise UsageError("stdin cannot be both the picture and the mask: give one of them a name")

    def run(picture: Picture) -> Picture:
        chosen = _mask(mask, max_pixels)
        return repair_picture(picture, chosen, steps=steps, seed=seed, model=model, threads=threads)

    _through(source, target, form, force, max_pixels, run)


def _mask(name: str, max_pixels: int) -> NDArray[np.bool_]:
    """[H, W] bool: where a picture is white."""
    rgb = read.load(streams.picture_source(name, max_pixels), max_pixels=max_pixels).rgb
    return np.asarray(rgb.astype(np.uint16).sum(2) >= 3 * MASKED_FROM)


def _through(
    source: str, target: str, form: str | None, force: bool, max_pixels: int, run: Callable[[Picture], Picture]
) -> None:
    """Read a picture, put it through the work, write it."""
    suffix = "." + form.lower().removeprefix(".") if form else ".png" if target == DASH else Path(target).suffix
    if not suffix:
        raise UsageError(f"{shown(target)} has no suffix to say its format: add .png or the like, or give --format png")
    names.check_target(source, target, force)
    picture = read.load(streams.picture_source(source, max_pixels), max_pixels=max_pixels)
    with streams.about(source):
        data, notes = write_picture(run(picture), suffix)
    for note in (*picture.notes, *notes):
        streams.complain(f"note: {shown(target, 'stdout')}: {note}")
    streams.write(target, data, force=force)
