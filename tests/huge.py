# SPDX-License-Identifier: MIT
"""Time and memory of the command line on huge pictures, which are photographs laid side by side.

    python -m tests.huge [--megapixels 1,10,100] [--suffix .png] [--alpha] [--options "-e 9"] PHOTOGRAPH...

Each size is compressed and decompressed in processes of their own, two threads each, under the watcher of the
benchmark (`bench/process.py`), which prints the largest resident memory as the kernel counted it. Up to 20 megapixels
the decoded picture is also compared with one that was restored without tiles, from the same indices.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqcodec.bitstream.tiles import LATENT_STRIDE, Grid
from vqcodec.codec import decode
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


def main() -> None:
    """Prints a line per size and direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", type=Path)
    parser.add_argument("--megapixels", default="1,10,100")
    parser.add_argument("--suffix", default=".png", help="of the pictures that are read and written")
    parser.add_argument("--alpha", action="store_true", help="with a soft alpha channel")
    parser.add_argument("--options", default="", help="further options of vqcodec compress")
    given = parser.parse_args()
    photographs = [read.load(path).rgb for path in given.photographs]
    print("| megapixels | | seconds | user seconds | peak memory [MB] | bytes |\n|---|---|---|---|---|---|")
    for size in map(float, given.megapixels.split(",")):
        with tempfile.TemporaryDirectory() as name:
            source, code, back = (Path(name) / file for file in (f"in{given.suffix}", "a.vqc", f"out{given.suffix}"))
            rgb = mosaic(photographs, round(size * 1e6))
            grid = Grid(rgb.shape[1], rgb.shape[0], 1 << TILE_LOG2)
            picture = Image.fromarray(rgb)
            if given.alpha:
                picture.putalpha(picture.getchannel("G"))
            del rgb
            picture.save(source)
            del picture
            compress = ["compress", "--threads", "2", *given.options.split(), str(source), str(code)]
            for direction, arguments in (
                ("compress", compress),
                ("decompress", ["decompress", "--threads", "2", str(code), str(back)]),
            ):
                ran = watched(*arguments)
                written = code if direction == "compress" else back
                print(
                    f"| {size:g} | {direction} | {ran['seconds']:.1f} | {ran['user_seconds']:.1f} "
                    f"| {ran['peak_bytes'] / 1e6:.0f} | {written.stat().st_size:,} |",
                    flush=True,
                )
            if size * 1e6 <= UNTILED_PIXELS:
                tiled, whole = read.load(back).rgb.astype(np.int16), restored_at_once(code.read_bytes())
                apart = np.abs(tiled - whole)
                print(
                    f"{grid.tile_count} tiles against one: {apart.max()} levels apart at most, "
                    f"{np.mean(apart > 0):.2%} of the samples differ",
                    flush=True,
                )


if __name__ == "__main__":
    main()
