# SPDX-License-Identifier: MIT
"""Options and arguments that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from vqcodec.options import AUTO_NOISE, DEFAULT_MAX_PIXELS, MAX_EFFORT, MAX_QUALITY, MAX_SEED, TUNES

F = TypeVar("F", bound=Callable[..., Any])

output = click.option("-o", "--output", metavar="OUT|DIR", help="Output file, or a folder for any number of inputs.")
force = click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
threads = click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, metavar="N",
    help="Number of threads; 0 (default): one per processor.",
)  # fmt: skip
quality = click.option(
    "-q", "--quality", type=click.IntRange(1, MAX_QUALITY), metavar="N",
    help="Higher looks better and takes more bytes (default 75).",
)  # fmt: skip
tune = click.option(
    "--tune", type=click.Choice(TUNES), help="Optimise for the eye (default, if the model can) or for PSNR."
)
effort = click.option(
    "-e", "--effort", type=click.IntRange(1, MAX_EFFORT), metavar="N",
    help="Higher makes smaller files, more slowly (default 5).",
)  # fmt: skip


def noise(_context: click.Context, _option: click.Parameter, text: str | None) -> str | float | None:
    """Of an option: a number of levels, or "auto"."""
    if text is None or text.strip().lower() == AUTO_NOISE:
        return None if text is None else AUTO_NOISE
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither auto nor a number of levels") from None


def seed(text: str, default: int | None = 0) -> Callable[[F], F]:
    """An option --seed; its help differs."""
    return click.option("--seed", type=click.IntRange(0, MAX_SEED), default=default, metavar="S", help=text)


model = click.option("--model", metavar="ID|PATH", help="Id of a shipped model, or the folder of your own.")
max_pixels = click.option(
    "--max-pixels", type=click.IntRange(1), default=DEFAULT_MAX_PIXELS, metavar="N",
    help="Refuse larger pictures (default 268,435,456).",
)  # fmt: skip
recursive = click.option("-r", "--recursive", is_flag=True, help="Include subfolders; the output keeps their tree.")
skip_existing = click.option("--skip-existing", is_flag=True, help="Skip inputs whose output exists.")
jobs = click.option(
    "-j", "--jobs", type=click.IntRange(0, 1024), default=1, metavar="N",
    help="Work on N inputs at a time; 0: one per processor (default 1).",
)  # fmt: skip
strip = click.option("--strip", is_flag=True, help="Drop EXIF and XMP. Colour profiles other than sRGB stay.")
paths = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(readable=False), metavar="IN [OUT] | IN... DIR/"
)
