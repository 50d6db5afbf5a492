# SPDX-License-Identifier: MIT
"""Pictures that are not photographs, drawn by code: `python -m bench.screens FOLDER [PHOTOGRAPH]` writes them as PNG.

Text on a terminal, a page with a photograph, a slide, a plot, a map, pixel art, dithers, checkerboards and a halftone.
The page, the dithers and the halftone are made of a photograph: the bundled one, if none is given.
With a file `measured.json` in place of the folder it measures them instead: what each takes, and how it comes back.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

import vqcodec
from bench.metrics import psnr
from vqcodec.model import zoo

Rgb = NDArray[np.uint8]
TEXT = "the quick brown fox jumps over a lazy dog 0123456789 {[(<=>)]} 'l1I|O0' rn m if else return"
QUALITIES = (50, 75, 20)
FONTS = Path("/usr/share/fonts/truetype/dejavu")


def font(size: int, *, mono: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu, of Debian or of matplotlib; else Pillow's own."""
    name = "DejaVuSansMono.ttf" if mono else "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(str(FONTS / name), size)
    except OSError:
        return ImageFont.load_default(size)


def _line(rng: np.random.Generator, letters: int) -> str:
    return " ".join(rng.choice(TEXT.split(), letters // 4))[:letters]


def terminal(width: int = 1024, height: int = 768) -> Rgb:
    """Coloured text on a dark ground."""
    rng, image = np.random.default_rng(1), Image.new("RGB", (width, height), (20, 22, 28))
    draw, face = ImageDraw.Draw(image), font(13, mono=True)
    for top in range(4, height - 16, 16):
        colour = [int(level) for level in rng.integers(110, 255, 3)]
        draw.text((4, top), _line(rng, int(rng.integers(width // 24, width // 8))), font=face, fill=tuple(colour))
    return np.asarray(image)


def page(photo: Rgb, width: int = 1024, height: int = 768) -> Rgb:
    """Black text on white, with a photograph in it."""
    rng, image = np.random.default_rng(2), Image.new("RGB", (width, height), "white")
    draw, face = ImageDraw.Draw(image), font(12)
    for top in range(60, height - 14, 18):
        draw.text((20, top), _line(rng, width // 14), font=face, fill="black")
    draw.text((20, 12), "A page of text", font=font(28), fill=(20, 60, 160))
    image.paste(Image.fromarray(photo[: height - 100, : width // 2 - 20]), (width // 2, 80))
    return np.asarray(image)


def slide(width: int = 1280, height: int = 720) -> Rgb:
    """Large letters and boxes on a gradient."""
    across = np.linspace(20, 90, width)[None, :, None] * np.array([0.4, 0.6, 1.6])
    image = Image.fromarray(np.broadcast_to(across, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for number in range(4):
        top = 180 + 120 * number
        draw.rounded_rectangle((90, top, 520 + 120 * number, top + 80), 16, fill=(240, 170 - 30 * number, 40))
        draw.text((110, top + 20), f"Point {number + 1} of four", font=font(32), fill="black")
    draw.text((90, 60), "What we have found", font=font(56), fill="white")
    return np.asarray(image)


def plot(width: int = 960, height: int = 640) -> Rgb:
    """Curves with a legend, by matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_subplot()
    x = np.linspace(0, 10, 400)
    for number in range(5):
        axes.plot(x, np.sin(x + number) * np.exp(-x / (4 + number)), label=f"run {number}")
    axes.set(xlabel="time [s]", ylabel="level", title="Five decays")
    axes.grid(True)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream).convert("RGB"))


def street_map(side: int = 768) -> Rgb:
    """Fields, water and streets with names."""
    rng, image = np.random.default_rng(3), Image.new("RGB", (side, side), (242, 239, 233))
    draw = ImageDraw.Draw(image)
    for colour in [(170, 211, 223), (200, 230, 190), (225, 220, 200)] * 3:
        corners = rng.integers(0, side, 2) + rng.integers(-120, 120, (7, 2))
        draw.polygon([(int(x), int(y)) for x, y in corners], fill=colour)
    for number in range(24):
        ends = [int(n) for n in rng.integers(0, side, 4)]
        draw.line(ends, fill=(160, 160, 160), width=7)
        draw.line(ends, fill="white", width=5)
        draw.text((ends[0], ends[1]), f"Street {number}", font=font(10), fill=(90, 70, 70))
    return np.asarray(image)


def pixel_art(cells: int = 48, size: int = 8) -> Rgb:
    """Few colours in large pixels."""
    rng = np.random.default_rng(4)
    colours = rng.integers(0, 256, (8, 3), np.uint8)
    return np.repeat(np.repeat(colours[rng.integers(0, 8, (cells, cells))], size, 0), size, 1)


def checkerboard(low: int = 0, high: int = 255, size: int = 1, side: int = 256) -> Rgb:
    """Squares of two grays."""
    rows, columns = np.indices((side, side)) // size
    board = np.where((rows + columns) % 2, high, low).astype(np.uint8)
    return np.repeat(board[:, :, None], 3, 2)


def dithered(photo: Rgb, colours: int = 2) -> Rgb:
    """A photograph in few colours, by error diffusion; 2: black and white."""
    image = Image.fromarray(photo)
    few = (
        image.convert("1")
        if colours == 2
        else image.quantize(colours).convert("RGB").quantize(colours, dither=Image.Dither.FLOYDSTEINBERG)
    )
    return np.asarray(few.convert("RGB"))


def halftone(photo: Rgb, period: int = 6) -> Rgb:
    """Black dots on white, as in print, then seen by a scanner: blurred, with noise."""
    gray = photo.mean(2)
    rows, columns = np.indices(gray.shape)
    screen = np.cos(2 * np.pi * (rows + columns) / period) + np.cos(2 * np.pi * (rows - columns) / period)
    dots = np.where(gray / 255 * 4 - 2 > screen, 255.0, 0.0)
    soft = (dots + np.roll(dots, 1, 0) + np.roll(dots, 1, 1) + np.roll(dots, (1, 1), (0, 1))) / 4
    noisy = np.clip(soft + np.random.default_rng(5).normal(0, 4, soft.shape), 0, 255).astype(np.uint8)
    return np.repeat(noisy[:, :, None], 3, 2)


def drawn(photo: Rgb) -> dict[str, Rgb]:
    """All of them, by name."""
    return {
        "terminal": terminal(),
        "page": page(photo),
        "slide": slide(),
        "plot": plot(),
        "map": street_map(),
        "pixel-art": pixel_art(),
        "dither-2": dithered(photo),
        "dither-16": dithered(photo, 16),
        "checker-1": checkerboard(),
        "checker-faint": checkerboard(96, 160),
        "checker-3": checkerboard(size=3),
        "halftone": halftone(photo),
    }


def measured(name: str, rgb: Rgb, quality: int) -> dict[str, object]:
    """One picture at one quality, beside lossless WebP as Pillow writes it; `exact` is the share of equal pixels."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "WEBP", lossless=True)
    data = vqcodec.encode(rgb, quality=quality, threads=1)
    back = np.asarray(vqcodec.decode(data, threads=1))
    return {
        "picture": name, "quality": quality, "bytes": len(data), "webp_lossless_bytes": len(stream.getvalue()),
        "psnr": None if np.array_equal(back, rgb) else round(psnr(rgb, back), 2),
        "exact": round(float((back == rgb).all(2).mean()), 4),
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    """Write the set into a folder, or measure it."""
    folder = Path(arguments[0])
    if folder.suffix == ".json":
        rows: list[dict[str, object]] = []
        for name, rgb in drawn(_photograph(arguments)).items():
            rows += [measured(name, rgb, quality) for quality in QUALITIES]
            versions = {"model": zoo.find().checksum.hex(), "pillow": PIL.__version__, "webp": features.version("webp")}
            folder.write_text(json.dumps({**versions, "rows": rows}, indent=1) + "\n")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, rgb in drawn(_photograph(arguments)).items():
        Image.fromarray(rgb).save(folder / f"{name}.png")


def _photograph(arguments: list[str]) -> Rgb:
    path = arguments[1] if len(arguments) > 1 else next(Path(vqcodec.__file__).with_name("photographs").glob("*.png"))
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    main(sys.argv[1:])
