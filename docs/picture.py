# SPDX-License-Identifier: MIT
"""Makes docs/images/coffee.jpg, decoders.jpg and samples.jpg: `python docs/picture.py`, again after every new model.

Pieces of the bundled photograph (CC0): original, JPEG and vqcodec in the files that `vqcodec demo` shows first; at a
low rate AVIF and both decoders of one .vqc file; pictures that the priors draw, and variations of the photograph.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vqcodec.cli.compare import peers_of
from vqcodec.cli.demo import PHOTOGRAPH, psnr
from vqcodec.codec import decode, encode, target
from vqcodec.codec.sample import Sampler
from vqcodec.options import DecodeOptions, SampleOptions, Target
from vqcodec.pictures import read

QUALITY = 50  # the first pair of `vqcodec demo`
LOW_BPP = 0.1
PIECE, LOW_PIECE = (60, 20, 420, 380), (250, 90, 530, 370)  # left, upper, right, lower
MARGIN, CAPTION_HEIGHT, FONT_SIZE = 8, 30, 17  # [pixels]
FOLDER = Path(__file__).parent / "images"

Rgb = NDArray[np.uint8]


def opened(file: bytes) -> Rgb:
    """The pixels of a picture file."""
    with Image.open(io.BytesIO(file)) as found:
        return np.asarray(found.convert("RGB"))


def write(name: str, shown: list[tuple[str, Rgb]], piece: tuple[int, int, int, int]) -> None:
    """Writes the pieces side by side with their captions, and prints these."""
    width, height = piece[2] - piece[0], piece[3] - piece[1]
    sheet = Image.new("RGB", (len(shown) * (width + MARGIN) - MARGIN, height + CAPTION_HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (caption, rgb) in enumerate(shown):
        x = number * (width + MARGIN)
        sheet.paste(Image.fromarray(rgb).crop(piece), (x, 0))
        draw.text((x, height + 5), caption, "black", font)
        print(caption)
    FOLDER.mkdir(exist_ok=True)
    sheet.save(FOLDER / name, "JPEG", quality=85, optimize=True)


def main() -> None:
    """Writes the pictures and prints their numbers."""
    picture = read.load(PHOTOGRAPH)
    jpeg, avif = peers_of(Image.fromarray(picture.rgb), None)
    data = encode.encode(picture, QUALITY)
    file = min((jpeg.file(quality) for quality in range(1, 60)), key=lambda f: abs(len(f) - len(data)))
    restored = decode.decode(data).rgb
    shown = [
        (f"original, {picture.rgb.size:,} bytes", picture.rgb),
        (f"JPEG, {len(file):,} bytes, {psnr(picture.rgb, opened(file)):.1f} dB", opened(file)),
        (f"vqcodec, {len(data):,} bytes, {psnr(picture.rgb, restored):.1f} dB", restored),
    ]
    write("coffee.jpg", shown, PIECE)
    data = target.encode_to_target(picture, Target(bpp=LOW_BPP)).data
    file = min((avif.file(quality) for quality in range(1, 40)), key=lambda f: abs(len(f) - len(data)))
    faithful, realistic = (decode.decode(data, DecodeOptions(realism=realism)).rgb for realism in (0.0, 1.0))
    shown = [
        ("original", picture.rgb),
        (f"AVIF, {len(file):,} bytes", opened(file)),
        (f"faithful, {len(data):,} bytes", faithful),
        ("realistic, the same file", realistic),
    ]
    write("decoders.jpg", shown, LOW_PIECE)
    drawn = Sampler(SampleOptions(), size=picture.rgb.shape[1::-1])
    kept = {keep: Sampler(SampleOptions(keep=keep), like=picture) for keep in ("base", 4)}
    shown = [
        ("drawn, seed 1", drawn.picture(1).rgb),
        ("drawn, seed 2", drawn.picture(2).rgb),
        ("base layer kept", kept["base"].picture(1).rgb),
        ("4 of 8 steps kept", kept[4].picture(1).rgb),
    ]
    write("samples.jpg", shown, LOW_PIECE)


if __name__ == "__main__":
    main()
