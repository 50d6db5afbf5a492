# SPDX-License-Identifier: MIT
"""Time and memory of the command line on huge pictures, which are photographs laid side by side.

    python -m tests.huge [--most MEGAPIXELS] [--options "-e 9"] [PHOTOGRAPH...]

prints the table of docs/reliability.md; without photographs, of the bundled one. Each picture is compressed and
decompressed in processes of their own, two threads each, under the watcher of the benchmark (`bench/process.py`), which
tells the largest resident memory as the kernel counted it. Up to 20 megapixels the decoded picture is also compared
with one that was restored without tiles, from the same indices.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from bench.store import processor
from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid
from vqcodec.cli import demo
from vqcodec.codec import decode
from vqcodec.model import zoo
from vqcodec.options import TILE_LOG2, DecodeOptions
from vqcodec.pictures import read

ROOT = Path(__file__).parent.parent
UNTILED_PIXELS = 20_000_000
LIMIT_SECONDS = 3600

U8 = NDArray[np.uint8]


def mosaic(photographs: Sequence[U8], pixels: int) -> U8:
    """About that many pixels in the shape 3:2, filled with the photographs in turn, every second one mirrored."""
    height = round((pixels / 1.5) ** 0.5)
    width = round(height * 1.5)
    out = np.empty((height, width, 3), np.uint8)
    top, number = 0, 0
    cell_height = min(len(photograph) for photograph in photographs)
    while top < height:
        left = 0
        while left < width:
            cell = photographs[number % len(photographs)][: height - top, : width - left][:cell_height]
            if number // len(photographs) % 2:
                cell = cell[:, ::-1]
            out[top : top + len(cell), left : left + cell.shape[1]] = cell
            left, number = left + cell.shape[1], number + 1
        top += cell_height
    return out


def watched(*arguments: str) -> dict[str, Any]:
    """Runs `vqcodec` with these arguments in a small process that watches it."""
    watcher = [sys.executable, "-S", str(ROOT / "bench" / "process.py"), "watch", str(LIMIT_SECONDS)]
    command = [*watcher, sys.executable, "-m", "vqcodec", *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
    if found["code"]:
        raise SystemExit(f"vqcodec {' '.join(arguments)} ended with {found['code']}: {found['stderr']}")
    return found


def restored_at_once(data: bytes) -> U8:
    """The picture of a file by one run of the synthesis over all of it: no strips and no halos."""
    contents, model, grid, _ = decode.open_file(data, DecodeOptions())
    latents = np.empty((grid.latent_height, grid.latent_width, model.prior.latents), np.float32)
    reader = decode.TileReader(model, grid, contents, partial=False)
    for tile in grid.tiles:
        latents[tile.latents.slices] = reader.latents(tile)
    header = contents.header
    setting = model.setting(header.quality, header.tune)
    weights = model.synthesis_weights(setting, base_only=contents.refinement is None)
    window, corrections = grid.latents.scaled(LATENT_STRIDE), reader.corrections(grid.tile(0))
    found: U8 = model.synthesis(latents, weights, window, corrections)
    return found[: header.height, : header.width]


class Case(NamedTuple):
    """One picture of the table."""

    megapixels: float
    suffix: str = ".png"  # of the pictures that are read and written
    alpha: bool = False

    def __str__(self) -> str:
        return f"{self.megapixels:g}{', with alpha' * self.alpha}{', JPEG' * (self.suffix == '.jpg')}"


CASES = (Case(1), Case(10), Case(100), Case(100, alpha=True), Case(100, ".jpg"))


def measure(case: Case, photographs: Sequence[U8], options: Sequence[str], folder: Path) -> None:
    """Prints a line of the table per direction."""
    source, code, back = (folder / file for file in (f"in{case.suffix}", "a.vqc", f"out{case.suffix}"))
    picture = Image.fromarray(mosaic(photographs, round(case.megapixels * 1e6)))
    grid = Grid(picture.width, picture.height, 1 << TILE_LOG2)
    if case.alpha:
        picture.putalpha(picture.getchannel("G"))
    picture.save(source)
    del picture
    for direction, arguments, written in (
        ("compress", [*options, source, code], code),
        ("decompress", [code, back], back),
    ):
        ran = watched(direction, "--threads", "2", *map(str, arguments))
        print(
            f"| {case} | {direction} | {ran['user_seconds']:.1f} | {ran['seconds']:.1f} "
            f"| {ran['peak_bytes'] / 1e6:,.0f} MB | {written.stat().st_size:,} |",
            flush=True,
        )
    if case.megapixels * 1e6 <= UNTILED_PIXELS:
        apart = np.abs(read.load(back).rgb.astype(np.int16) - restored_at_once(code.read_bytes()))
        print(
            f"{case} megapixels, {grid.tile_count} tiles against one: {apart.max()} levels apart at most, "
            f"{np.mean(apart > 0):.2%} of the samples differ",
            file=sys.stderr,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="*", type=Path)
    parser.add_argument("--most", type=float, default=100, help="megapixels of the largest picture")
    parser.add_argument("--options", default="", help="further options of vqcodec compress")
    given = parser.parse_args()
    names = given.photographs or [demo.PHOTOGRAPH]
    photographs = [read.load(path).rgb for path in names]
    load = f", {os.getloadavg()[0]:.1f} processes at work before it" if hasattr(os, "getloadavg") else ""
    print(
        f"vqcodec {vqcodec.__version__}, model {zoo.find().checksum.hex()}, {datetime.date.today()}; {processor()}, "
        f"{os.cpu_count()} processors{load}; Python {platform.python_version()}\n"
    )
    print("| megapixels | | user seconds | wall seconds | peak memory | bytes |\n|---|---|---|---|---|---|")
    for case in CASES:
        if case.megapixels <= given.most:
            with tempfile.TemporaryDirectory() as folder:
                measure(case, photographs, given.options.split(), Path(folder))


if __name__ == "__main__":
    main()
