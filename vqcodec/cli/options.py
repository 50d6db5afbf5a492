# SPDX-License-Identifier: MIT
"""Options and arguments that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

import click

from vqcodec.options import AUTO_NOISE, DEFAULT_MAX_PIXELS, MAX_EFFORT, MAX_QUALITY, TUNES

output = click.option(
    "-o", "--output", metavar="OUT|DIR", help="The file of one input, or a folder for any number of inputs."
)
force = click.option("-f", "--force", is_flag=True, help="Overwrite an existing output.")
threads = click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, metavar="N",
    help="Processor threads; 0, the default, for all.",
)  # fmt: skip
quality = click.option(
    "-q", "--quality", type=click.IntRange(1, MAX_QUALITY), metavar="N", help="More is better and larger; default 75."
)
tune = click.option(
    "--tune", type=click.Choice(TUNES), help="Serve what people see, or the PSNR; default eye, where the model has it."
)
effort = click.option(
    "-e", "--effort", type=click.IntRange(1, MAX_EFFORT), metavar="N", help="More is smaller and slower; default 5."
)


def noise(_context: click.Context, _option: click.Parameter, text: str | None) -> str | float | None:
    """Of an option: a number of levels, or "auto"."""
    if text is None or text.strip().lower() == AUTO_NOISE:
        return None if text is None else AUTO_NOISE
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither auto nor a number of levels") from None


model = click.option("--model", metavar="ID|PATH", help="A shipped model's id, or the folder of a model of your own.")
max_pixels = click.option(
    "--max-pixels", type=click.IntRange(1), default=DEFAULT_MAX_PIXELS, metavar="N",
    help="Refuse larger pictures (default 268,435,456).",
)  # fmt: skip
recursive = click.option("-r", "--recursive", is_flag=True, help="Search folders below folders; the tree is kept.")
skip_existing = click.option("--skip-existing", is_flag=True, help="Leave out inputs whose output is there.")
jobs = click.option(
    "-j", "--jobs", type=click.IntRange(0, 1024), default=1, metavar="N",
    help="Processes for several inputs, each with its share of the threads; 0 for one per processor. Default 1.",
)  # fmt: skip
strip = click.option("--strip", is_flag=True, help="Leave out EXIF and XMP; a colour profile stays if it is not sRGB.")
paths = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(readable=False), metavar="IN [OUT] | IN... DIR/"
)
