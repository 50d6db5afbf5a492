# SPDX-License-Identifier: MIT
"""Makes docs/images/coffee.jpg, the picture of README: `python docs/picture.py`, again after every new model.

A piece of the bundled photograph (CC0): original, JPEG and vqcodec at the same size of the whole photograph's file.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vqcodec import codec, image, rate
from vqcodec.compare import peers_of
from vqcodec.demo import PHOTOGRAPH, psnr

JPEG_QUALITY = 8  # the steps between JPEG's files are large here, so vqcodec is fitted to its size
PIECE = (60, 20, 420, 380)  # left, upper, right, lower
MARGIN, CAPTION_HEIGHT, FONT_SIZE = 8, 30, 17  # [pixels]
TARGET = Path(__file__).parent / "images" / "coffee.jpg"


def main() -> None:
    """Writes the picture and prints its numbers."""
    picture = image.load(PHOTOGRAPH)
    file = peers_of(Image.fromarray(picture.rgb), None)[0].file(JPEG_QUALITY)
    data = rate.encode_picture(picture, rate.Target(max_bytes=len(file))).data
    restored = codec.decode_picture(data).rgb
    with Image.open(io.BytesIO(file)) as found:
        other = np.asarray(found)
    shown = [
        (f"original, {picture.rgb.size:,} bytes", picture.rgb),
        (f"JPEG, {len(file):,} bytes, {psnr(picture.rgb, other):.1f} dB", other),
        (f"vqcodec, {len(data):,} bytes, {psnr(picture.rgb, restored):.1f} dB", restored),
    ]
    left, upper, right, lower = PIECE
    width, height = right - left, lower - upper
    sheet = Image.new("RGB", (len(shown) * (width + MARGIN) - MARGIN, height + CAPTION_HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, (caption, rgb) in enumerate(shown):
        x = number * (width + MARGIN)
        sheet.paste(Image.fromarray(rgb).crop(PIECE), (x, 0))
        draw.text((x, height + 5), caption, "black", font)
        print(caption)
    TARGET.parent.mkdir(exist_ok=True)
    sheet.save(TARGET, "JPEG", quality=85, optimize=True)


if __name__ == "__main__":
    main()
