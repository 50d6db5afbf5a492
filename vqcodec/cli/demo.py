# SPDX-License-Identifier: MIT
"""`vqcodec demo`: the bundled photograph there and back at three qualities, beside JPEG of the same size.

A first look for people, not a benchmark (that is `python -m bench`). Writes one picture, vqcodec-demo.png.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from vqcodec.cli import atomic, names, options, streams
from vqcodec.cli.compare import peers_of
from vqcodec.codec import decode, encode
from vqcodec.messages import on_one_line
from vqcodec.options import DecodeOptions, EncodeOptions
from vqcodec.pictures import read
from vqcodec.pictures.picture import Picture, psnr

PHOTOGRAPH = Path(__file__).parents[1] / "photographs" / "coffee.png"
QUALITIES = (50, 75, 90)
NAME = "vqcodec-demo.png"
OWN_MARK = ("Software", "vqcodec demo")  # a PNG text chunk: by it the demo knows a file that it may replace
MARGIN, CAPTION_HEIGHT, FONT_SIZE = 8, 44, 16  # [pixels]
BACKGROUND, INK = "white", "black"


@dataclass(frozen=True)
class Coded:
    """A picture after its way through a codec."""

    label: str
    size_bytes: int
    rgb: NDArray[np.uint8]  # [H, W, 3]
    psnr_db: float
    enc_seconds: float = math.nan
    dec_seconds: float = math.nan

    @property
    def rate_bpp(self) -> float:
        """Bits of the whole file per pixel."""
        return float(8 * self.size_bytes / (self.rgb.shape[0] * self.rgb.shape[1]))


@click.command()
@click.option(
    "-o", "--output", "folder", metavar="DIR",
    help="Folder for the comparison (default: the current one; in a git checkout, a temporary one).",
)  # fmt: skip
@options.force
@options.threads
def demo(folder: str | None, force: bool, threads: int) -> None:
    """Compress and restore a bundled photograph at three qualities, beside JPEG at the same size.

    Prints a table and writes vqcodec-demo.png, which shows the pictures side by side.

    \b
    vqcodec demo
    vqcodec demo -o pictures/
    """
    if folder is None:
        folder = tempfile.mkdtemp(prefix="vqcodec-demo-") if _in_checkout(Path.cwd()) else "."
    names.make_folder(folder)
    run(folder, force=force, threads=threads)


def run(folder: str, *, force: bool, threads: int) -> None:
    """Runs the demo, prints its table and writes the comparison into `folder`.

    Raises:
        OutputExistsError: a file of that name is there that is not an earlier demo's, and `force` is not given.
        InputError: the folder cannot be written to.
        ModelError: no model is installed.
    """
    path = os.path.join(folder, NAME)
    force = force or _is_ours(path)
    atomic.check_writable(path, force)
    picture = read.load(PHOTOGRAPH)
    _vqcodec(picture, QUALITIES[0], threads)  # loads the model, which the seconds below leave out
    pairs = []
    for quality in QUALITIES:
        coded = _vqcodec(picture, quality, threads)
        pairs.append((coded, _jpeg(picture.rgb, coded.size_bytes)))
    streams.write_text(_table(picture.rgb, pairs))
    atomic.write_atomic(path, _comparison(picture.rgb, *pairs[0]), force=force)
    streams.write_text(f"\nSide by side at {pairs[0][0].label}: {on_one_line(path)}\n")


def _in_checkout(folder: Path) -> bool:
    """Whether a folder belongs to a git checkout, where a stray picture would be in the way."""
    return any((place / ".git").exists() for place in (folder, *folder.parents))


def _is_ours(path: str) -> bool:
    """Whether this is the picture of an earlier demo, which may be replaced."""
    if not os.path.isfile(path):
        return False
    try:
        with Image.open(path, formats=("PNG",)) as image:
            key, value = OWN_MARK
            return bool(image.info.get(key) == value)
    except (OSError, ValueError, SyntaxError):
        return False


def _vqcodec(picture: Picture, quality: int, threads: int) -> Coded:
    start = time.perf_counter()
    data = encode.encode(picture, quality, EncodeOptions(threads=threads))
    middle = time.perf_counter()
    restored = decode.decode(data, DecodeOptions(threads=threads)).rgb
    end = time.perf_counter()
    return Coded(
        f"vqcodec -q {quality}", len(data), restored, psnr(picture.rgb, restored), middle - start, end - middle
    )


def _jpeg(rgb: NDArray[np.uint8], limit_bytes: int) -> Coded:
    """JPEG at the highest quality that needs no more bytes; its smallest if none does."""
    quality, data = peers_of(Image.fromarray(rgb), None)[0].at_most(limit_bytes)
    with Image.open(io.BytesIO(data)) as image:
        restored = np.asarray(image)
    return Coded(f"JPEG -q {quality}", len(data), restored, psnr(rgb, restored))


def _table(rgb: NDArray[np.uint8], pairs: list[tuple[Coded, Coded]]) -> str:
    """The table, in columns."""
    height, width = rgb.shape[:2]
    lines = [
        f"{PHOTOGRAPH.name}: {width} x {height}, {rgb.size:,} bytes of raw pixels",
        "",
        f"{'':<14}{'bytes':>9}{'bpp':>8}{'PSNR dB':>9}{'encode s':>10}{'decode s':>10}",
    ]
    for coded, jpeg in pairs:
        lines.append(f"{_row(coded)}{coded.enc_seconds:>10.2f}{coded.dec_seconds:>10.2f}")
        remark = "" if jpeg.size_bytes <= coded.size_bytes else "  (JPEG cannot be as small)"
        lines.append(_row(jpeg) + remark)
    return "\n".join(lines) + "\n"


def _row(coded: Coded) -> str:
    return f"{coded.label:<14}{coded.size_bytes:>9,}{coded.rate_bpp:>8.3f}{coded.psnr_db:>9.2f}"


def _comparison(rgb: NDArray[np.uint8], coded: Coded, jpeg: Coded) -> bytes:
    """Original, vqcodec and JPEG beside each other, with captions, as a PNG."""
    height, width = rgb.shape[:2]
    panels = [("original", f"{rgb.size:,} bytes raw", rgb)]
    panels += [
        (c.label, f"{c.size_bytes:,} bytes, {c.rate_bpp:.3f} bpp, {c.psnr_db:.2f} dB", c.rgb) for c in (coded, jpeg)
    ]
    size = (MARGIN + len(panels) * (width + MARGIN), MARGIN + height + CAPTION_HEIGHT)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for number, (label, numbers, pixels) in enumerate(panels):
        left = MARGIN + number * (width + MARGIN)
        sheet.paste(Image.fromarray(pixels), (left, MARGIN))
        draw.multiline_text((left, MARGIN + height + 2), f"{label}\n{numbers}", INK, font, spacing=2)
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*OWN_MARK)
    out = io.BytesIO()
    sheet.save(out, "PNG", pnginfo=mark)
    return out.getvalue()
