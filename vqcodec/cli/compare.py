# SPDX-License-Identifier: MIT
"""`vqcodec compare`: one page that shows a picture beside vqcodec, JPEG and AVIF of the same size, with the numbers.

The page is a single file: pictures, script and style are in it, and it asks no server for anything. JPEG and AVIF are
shown from their own bytes by the browser's decoder; original and vqcodec as lossless WebP of their pixels.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from vqcodec import __version__
from vqcodec.cli import names, options, streams
from vqcodec.cli.streams import DASH, shown
from vqcodec.codec import decode, encode
from vqcodec.messages import on_one_line
from vqcodec.options import DEFAULT_EFFORT, DecodeOptions, EncodeOptions
from vqcodec.pictures import read
from vqcodec.pictures.picture import Picture, psnr

QUALITIES = (40, 60, 80)
TEMPLATE = Path(__file__).parents[1] / "pages" / "compare.html"
Writer = Callable[[int], bytes]  # setting -> bytes of a whole file


@dataclass
class Peer:
    """A codec to compare with; keeps the files that it has written, for the search of the next size."""

    label: str
    media_type: str
    settings: range
    write: Writer
    files: dict[int, bytes] = field(default_factory=dict)

    def file(self, setting: int) -> bytes:
        """The file of a setting."""
        if setting not in self.files:
            self.files[setting] = self.write(setting)
        return self.files[setting]

    def at_most(self, limit_bytes: int) -> tuple[int, bytes]:
        """The highest setting whose file is no larger, and that file; the lowest setting if none is."""
        low, high = self.settings.start, self.settings.stop  # low may be too large a file, high is not tried
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(self.file(middle)) <= limit_bytes else (low, middle)
        return low, self.file(low)


@click.command()
@click.argument("picture", type=click.Path(readable=False))
@click.argument("target", metavar="[PAGE]", required=False, type=click.Path(readable=False))
@click.option(
    "-q", "--quality", "qualities", type=click.IntRange(1, 100), multiple=True, metavar="N",
    help="Compare at the file size of this quality. Repeatable; default 40, 60 and 80.",
)  # fmt: skip
@options.effort
@options.tune
@options.force
@options.threads
@options.model
@options.max_pixels
def compare(
    picture: str, target: str | None, qualities: tuple[int, ...], effort: int | None, tune: str | None, force: bool,
    threads: int, model: str | None, max_pixels: int,
) -> None:  # fmt: skip
    """Compare vqcodec, JPEG and AVIF at the same file size, on a page with a slider.

    PAGE is a single HTML file for any browser; by default, photo-compare.html in the current folder. It holds lossless
    copies of the original and of vqcodec's picture, so it is large.

    \b
    vqcodec compare photo.png
    vqcodec compare photo.png page.html -q 30 -q 60
    """
    target = target or Path(picture).stem + "-compare.html"
    names.check_target(picture, target, force)
    loaded = read.load(streams.picture_source(picture, max_pixels), max_pixels=max_pixels)
    for note in streams.noted(shown(picture), loaded.notes):
        streams.complain(f"note: {note}")
    coding = EncodeOptions(effort or DEFAULT_EFFORT, threads, model, strip=True, tune=tune)
    text = page(loaded, Path(shown(picture)).name, qualities=qualities or QUALITIES, coding=coding)
    streams.write(target, text.encode("utf-8"), force=force)
    if target != DASH:
        streams.write_text(f"{on_one_line(target)}: {len(text):,} bytes, open it in a browser\n")


def page(
    picture: Picture,
    name: str,
    *,
    qualities: Sequence[int] = QUALITIES,
    coding: EncodeOptions = EncodeOptions(strip=True),
) -> str:
    """The page as HTML.

    Args:
        picture: what to compare on; transparency is laid over white first.
        name: of the picture, for the heading.
        qualities: of vqcodec, 1 to 100; the others are matched to the size of its files.
        coding: how to encode.

    Raises:
        ModelError, UsageError: as `codec.encode.encode`.
    """
    picture = _opaque(picture)
    image = Image.fromarray(picture.rgb[..., 0] if picture.gray else picture.rgb)
    peers = peers_of(image, picture.icc)
    levels = []
    for quality in sorted(set(qualities)):
        data = encode.encode(picture, quality, coding)
        restored = decode.decode(data, DecodeOptions(threads=coding.threads, model=coding.model)).rgb
        own = _shown(picture.rgb, "vqcodec", f"-q {quality}", data, restored, _lossless(restored, picture.icc))
        shown = [own]
        for peer in peers:
            setting, file = peer.at_most(len(data))
            with Image.open(io.BytesIO(file)) as restored_image:
                pixels = np.asarray(restored_image.convert("RGB"))
            uri = _uri(file, peer.media_type)
            shown.append(_shown(picture.rgb, peer.label, f"quality {setting}", file, pixels, uri))
        levels.append({"quality": quality, "shown": shown})
    height, width = picture.rgb.shape[:2]
    facts = {
        "width": width,
        "height": height,
        "raw_bytes": picture.rgb.size // (3 if picture.gray else 1),
        "original": _lossless(picture.rgb, picture.icc),
        "levels": levels,
    }
    fields = {
        "title": html.escape(f"{name}: vqcodec beside {' and '.join(peer.label for peer in peers)}"),
        "name": html.escape(name),
        "version": __version__,
        "data": json.dumps(facts).replace("<", "\\u003c"),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for key, value in fields.items():
        text = text.replace(f"@@{key}@@", value)
    return text


def _opaque(picture: Picture) -> Picture:
    """The picture over white, with nothing but what its colours depend on."""
    rgb = picture.rgb
    if picture.alpha is not None:
        alpha = picture.alpha[..., None].astype(np.uint16)
        rgb = ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return Picture(rgb, gray=picture.gray, icc=picture.icc)


def peers_of(image: Image.Image, icc: bytes | None) -> list[Peer]:
    """JPEG, and AVIF where this Pillow writes it; both with the picture's colour profile."""

    def writer(form: str, **options: Any) -> Writer:
        def write(quality: int) -> bytes:
            out = io.BytesIO()
            image.save(out, form, quality=quality, **({"icc_profile": icc} if icc else {}), **options)
            return out.getvalue()

        return write

    subsampling = {} if image.mode == "L" else {"subsampling": "4:2:0"}
    peers = [Peer("JPEG", "image/jpeg", range(1, 96), writer("JPEG", optimize=True, **subsampling))]
    if features.check("avif"):
        peers.append(Peer("AVIF", "image/avif", range(100), writer("AVIF", speed=6, subsampling="4:2:0")))
    return peers


def _shown(
    original: NDArray[np.uint8], label: str, setting: str, data: bytes, rgb: NDArray[np.uint8], uri: str
) -> dict[str, Any]:
    """One entry of the page: what it is called, its numbers, and what the browser is to show."""
    height, width = original.shape[:2]
    error_db = psnr(original, rgb)
    return {
        "label": label,
        "setting": setting,
        "bytes": len(data),
        "bpp": 8 * len(data) / (width * height),
        "psnr": error_db if np.isfinite(error_db) else None,
        "src": uri,
    }


def _lossless(rgb: NDArray[np.uint8], icc: bytes | None) -> str:
    out = io.BytesIO()
    image = Image.fromarray(rgb)
    if max(rgb.shape[:2]) > 16383:  # more than WebP holds
        image.save(out, "PNG", icc_profile=icc)
        return _uri(out.getvalue(), "image/png")
    image.save(out, "WEBP", lossless=True, quality=40, method=2, icc_profile=icc or b"")
    return _uri(out.getvalue(), "image/webp")


def _uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
