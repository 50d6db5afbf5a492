# SPDX-License-Identifier: MIT
"""`vqcodec sample`: pictures drawn from the priors, or variations of a picture, into a folder."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext

import click

from vqcodec.bitstream import container
from vqcodec.cli import batch, names, options, streams
from vqcodec.cli.processes import Outcome
from vqcodec.cli.streams import shown
from vqcodec.codec.sample import Sampler
from vqcodec.codec.tokens import to_file
from vqcodec.errors import UsageError
from vqcodec.options import DECODERS, MAX_SEED, MAX_TEMPERATURE, SAMPLE_TEMPERATURE, SampleOptions, most_file_bytes
from vqcodec.pictures import read
from vqcodec.pictures.picture import Picture
from vqcodec.pictures.write import write_picture

MAX_COUNT = 1_000_000


def _size(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Two whole numbers around an x."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", text.strip(), re.ASCII | re.IGNORECASE)
    if not found:
        raise click.BadParameter(f"{text!r} is not WxH: two whole numbers, such as 512x384")
    return int(found[1]), int(found[2])


@click.command()
@click.option("-o", "--output", "folder", required=True, metavar="DIR", help="Folder for the pictures.")
@click.option("--size", callback=_size, metavar="WxH", help="Width and height in pixels.")
@click.option("--like", metavar="PHOTO", help="Instead of --size: vary this picture or .vqc file.")
@click.option("--keep", metavar="base|N", help="With --like: keep the base layer (default), or N refinement steps too.")
@click.option(
    "--count", type=click.IntRange(1, MAX_COUNT), default=1, metavar="N", help="Number of pictures (default 1)."
)
@options.seed("Seed of the first picture, then S+1... (default 0).")
@click.option(
    "--temperature", type=click.FloatRange(0, MAX_TEMPERATURE), default=SAMPLE_TEMPERATURE, metavar="T",
    help="Higher is wilder; 1 follows the priors exactly (default 0.8).",
)  # fmt: skip
@click.option(
    "-q", "--quality", type=click.IntRange(1, 100), metavar="N", help="Quality of the drawn indices (default 50)."
)
@options.tune
@click.option("--decoder", type=click.Choice(DECODERS), help="As in decompress.")
@click.option("--format", "form", default="png", metavar="SUFFIX", help="png (default), jpg, webp... or vqc.")
@options.force
@options.threads
@options.model
@options.max_pixels
def sample(
    folder: str, size: tuple[int, int] | None, like: str | None, keep: str | None, count: int, seed: int,
    temperature: float, quality: int | None, tune: str | None, decoder: str | None, form: str, force: bool,
    threads: int, model: str | None, max_pixels: int,
) -> None:  # fmt: skip
    """Draw pictures from the model's priors, or variations of a picture (to augment a training set, for example).

    The priors know colours, edges and texture but no objects, so the pictures are abstract. Files are named by seed;
    the same seed draws the same indices on every machine.

    \b
    vqcodec sample -o drawn/ --size 384x256 --count 4
    vqcodec sample -o drawn/ --size 256x256 --seed 7 --temperature 1 --decoder realistic --format webp
    vqcodec sample -o variations/ --like photo.jpg --keep 4 --count 4
    """
    if (size is None) == (like is None):
        raise UsageError("give the size of the pictures with --size WxH, or one to vary with --like; not both")
    if like is None and keep is not None:
        raise UsageError("--keep is for the variations of a picture: give one with --like")
    if seed + count - 1 > MAX_SEED:
        raise UsageError(f"the last seed would be beyond {MAX_SEED}: give a smaller one")
    kept = int(keep) if keep is not None and keep.isascii() and keep.isdigit() else keep or "base"
    drawing = SampleOptions(temperature, quality, tune, decoder, kept, threads, model, max_pixels)
    suffix = "." + form.lower().removeprefix(".")
    if suffix == ".vqc" and decoder is not None:
        raise UsageError("a .vqc file has no decoder: its reader chooses one")
    given = None if like is None else _to_vary(like, max_pixels)
    with streams.about(like) if like else nullcontext():
        sampler = Sampler(drawing, size=size, like=given)
    names.make_folder(folder)
    todo = names.Todo(several=True)
    for number in range(seed, seed + count):
        todo.pairs.append((f"seed {number}", os.path.join(folder, f"sample-{number}{suffix}")))

    def one(source: str, target: str, *, single: bool) -> Outcome:
        streams.check_output(target, force)
        number = int(source.removeprefix("seed "))
        notes: tuple[str, ...] = ()
        if suffix == ".vqc":
            data = to_file(sampler.draw(number), model=sampler.model.files.folder)
        else:
            data, notes = write_picture(sampler.picture(number), suffix)
        streams.write(target, data, force=force)
        return Outcome(sampler.pixels, out_bytes=len(data), notes=streams.noted(shown(target), notes))

    batch.run(todo, one)


def _to_vary(source: str, max_pixels: int) -> Picture | bytes:
    """The picture to vary, or the bytes of its .vqc file; "-" is stdin."""
    given = streams.picture_source(source, max_pixels)
    if not streams.begins_with(given, container.MAGIC):
        return read.load(given, max_pixels=max_pixels)
    if isinstance(given, str):
        return streams.read_marked(given, container.MAGIC, most_file_bytes(max_pixels))
    return given.getvalue()
