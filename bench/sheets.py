# SPDX-License-Identifier: MIT
"""Contact sheets: the same pieces of pictures through every codec at one rate, side by side. Nothing is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.codecs import EXCESS, Peer
from bench.errors import BenchError
from bench.metrics import Rgb
from bench.pictures import PictureFile
from bench.realism import Results, coded

CROPS = "crops.json"
SIDE = 192  # pixels of a crop, shown one to one
ROWS = 6
GAP, HEAD, FOOT = 6, 26, 18  # pixels
INK, PAPER = (28, 28, 28), (255, 255, 255)
QUALITY = 93  # of the sheet's own JPEG, 4:4:4


@dataclass(frozen=True)
class Crop:
    """A square piece of a picture."""

    picture: str
    x: int
    y: int
    side: int = SIDE

    def of(self, rgb: Rgb) -> Rgb:
        """[side, side, 3]."""
        return rgb[self.y : self.y + self.side, self.x : self.x + self.side]


def _texture(rgb: Rgb, side: int) -> list[tuple[float, int, int]]:
    """(strength of the fine detail, x, y) of every square on a grid of half a side."""
    gray = rgb.astype(np.float32).mean(2)
    detail = np.zeros_like(gray)
    detail[:-1, :-1] = np.abs(4 * gray[:-1, :-1] - 2 * gray[1:, :-1] - 2 * gray[:-1, 1:])
    return [
        (float(np.median(detail[y : y + side, x : x + side])), x, y)
        for y in range(0, rgb.shape[0] - side + 1, side // 2)
        for x in range(0, rgb.shape[1] - side + 1, side // 2)
    ]


def chosen(files: Sequence[PictureFile], rows: int = ROWS) -> list[Crop]:
    """Crops to look at, one of a picture: half of them the strongest in texture, half from the middle.

    Strength is the median of the fine detail, so that one sharp edge does not make a texture.
    """
    best: list[tuple[float, Crop]] = []
    middle: list[tuple[float, Crop]] = []
    for file in files:
        rgb = file.pixels()
        side = min(SIDE, *rgb.shape[:2])
        ranked = sorted(_texture(rgb, side))
        for kept, place in ((best, len(ranked) - 1), (middle, len(ranked) // 2)):
            strength, x, y = ranked[place]
            kept.append((strength, Crop(file.name, x, y, side)))
    strong = [crop for _, crop in sorted(best, key=lambda one: -one[0])[: (rows + 1) // 2]]
    taken = {crop.picture for crop in strong}
    rest = sorted((one for one in middle if one[1].picture not in taken), key=lambda one: one[0])
    count = min(rows - len(strong), len(rest))
    start = (len(rest) - count) // 2
    return strong + [crop for _, crop in rest[start : start + count]]


def read_crops(path: Path, files: Sequence[PictureFile]) -> list[Crop]:
    """Crops from a JSON list of {"picture", "x", "y", "side"}; the side may be left out.

    Raises:
        BenchError: no such file, or a crop that is not inside its picture.
    """
    known = {file.name: file for file in files}
    try:
        found = [Crop(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
        for crop in found:
            height, width = known[crop.picture].pixels().shape[:2]
            inside = 0 <= crop.x <= width - crop.side and 0 <= crop.y <= height - crop.side and crop.side > 0
            if not inside:
                raise BenchError(f"{path}: {asdict(crop)} is not inside its picture of {width} x {height}")
    except KeyError as error:
        raise BenchError(f"{path}: there is no picture {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise BenchError(
            f'{path} holds no crops ({error}); write them like [{{"picture": "a.png", "x": 0, "y": 0}}]'
        ) from None
    if not found:
        raise BenchError(f"{path} names no crop")
    return found


def _tile(rgb: Rgb) -> Image.Image:
    """A crop in the sheet's size; smaller ones are enlarged without smoothing."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def sheet(
    results: Results, files: Sequence[PictureFile], peers: Sequence[Peer], target_bpp: float, crops: Sequence[Crop]
) -> Image.Image:
    """One picture: a row per crop, a column for the original and for each codec, its bits per pixel beneath.

    The bits per pixel are of the whole picture that the crop is from; where the codec cannot get as low as the target,
    that is said.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    columns = ["original", *(peer.label for peer in peers)]
    width = GAP + len(columns) * (SIDE + GAP)
    height = HEAD + len(crops) * (SIDE + FOOT + GAP)
    drawn = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(drawn)
    for column, name in enumerate(columns):
        pen.text((GAP + column * (SIDE + GAP), 4), name, INK, font)
    known = {file.name: file for file in files}
    for row, crop in enumerate(crops):
        rgb = known[crop.picture].pixels()
        tiles = [(_tile(crop.of(rgb)), crop.picture)]
        for peer in peers:
            try:
                data = coded(results, peer, rgb, target_bpp, crop.picture)
                bpp = 8 * len(data) / (rgb.shape[0] * rgb.shape[1])
                missed = ", its least" if bpp > target_bpp * (1 + EXCESS) else ""
                tiles.append((_tile(crop.of(np.asarray(peer.decode(data)))), f"{bpp:.3f} bpp{missed}"))
            except Exception as error:  # it has failed in the table too
                tiles.append((Image.new("RGB", (SIDE, SIDE), (220, 220, 220)), f"failed: {error}"[:28]))
        top = HEAD + row * (SIDE + FOOT + GAP)
        for column, (tile, text) in enumerate(tiles):
            left = GAP + column * (SIDE + GAP)
            drawn.paste(tile, (left, top))
            pen.text((left, top + SIDE + 1), text[:28], INK, small)
    return drawn


def write(
    results: Results, files: Sequence[PictureFile], peers: Sequence[Peer], crops: Sequence[Crop]
) -> dict[float, Path]:
    """A sheet per rate, sheet-BPP.jpg, and the crops that they show; rate -> path."""
    text = ",\n ".join(json.dumps(asdict(crop)) for crop in crops)
    (results.folder / CROPS).write_text(f"[{text}]\n", encoding="utf-8")
    found = {}
    for target_bpp in results.targets_bpp:
        found[target_bpp] = results.folder / f"sheet-{target_bpp:g}.jpg"
        sheet(results, files, peers, target_bpp, crops).save(found[target_bpp], quality=QUALITY, subsampling=0)
    return found
