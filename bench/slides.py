# SPDX-License-Identifier: MIT
"""Files for the before/after slider: one picture through some codecs at matched bits per pixel.

What browsers can show is the codec's own file; everything else is shown as an AVIF copy that nobody can tell from it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, features

from bench.codecs import Peer
from bench.curves import bpp_of
from bench.metrics import Rgb, psnr
from bench.pictures import PictureFile
from bench.progress import Progress
from bench.store import Store

COPY_DB = 45.0  # the least PSNR of a copy against what it shows
COPY_QUALITIES = (80, 86, 91, 95, 98)
METHOD = (
    "JPEG, WebP and AVIF are shown from their own files by this browser's decoder. The original and the other codecs "
    f"are shown as AVIF copies of at least {COPY_DB:g} dB. PSNR is of the pixels that each library decodes."
)


def _uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _copy(image: Image.Image) -> str:
    """A copy of at least `COPY_DB` dB where Pillow writes AVIF, and a lossless one elsewhere."""
    rgb = np.asarray(image)
    for quality in COPY_QUALITIES if features.check("avif") else ():
        buffer = io.BytesIO()
        image.save(buffer, "AVIF", quality=quality, speed=8, subsampling="4:4:4")
        with Image.open(buffer) as copy:
            if psnr(rgb, np.asarray(copy.convert("RGB"))) >= COPY_DB:
                return _uri(buffer.getvalue(), "image/avif")
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=60, method=3)
    return _uri(buffer.getvalue(), "image/webp")


def matched(peer: Peer, image: Image.Image, target_bpp: float, store: Store, picture: str) -> tuple[int, bytes]:
    """The setting whose file comes closest to `target_bpp`, and that file.

    Bisects the whole numbers between the two measured settings that bracket the target.
    """
    rows = sorted(
        (
            row
            for row in store.rows.values()
            if row["peer"] == peer.name and row["picture"] == picture and "bytes" in row
        ),
        key=lambda row: row["setting"],
    )
    below = [row["setting"] for row in rows if bpp_of(store, row) <= target_bpp]
    above = [row["setting"] for row in rows if bpp_of(store, row) > target_bpp]
    low = max(below, default=min(above, default=peer.settings[0]))
    high = min((s for s in above if s >= low), default=low)
    pixels = image.width * image.height
    tried: dict[int, bytes] = {}

    def distance(setting: int) -> float:
        if setting not in tried:
            tried[setting] = peer.encode(image, setting)
        return 8 * len(tried[setting]) / pixels - target_bpp

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if distance(middle) <= 0 else (low, middle)
    best = min((low, high), key=lambda setting: abs(distance(setting)))
    return best, tried[best]


def _shown(peer: Peer, rgb: Rgb, setting: int, data: bytes) -> dict[str, Any]:
    decoded = peer.decode(data)
    source = _uri(data, peer.browser_type) if peer.browser_type else _copy(decoded)
    return {
        "codec": peer.label,
        "setting": setting,
        "bpp": round(8 * len(data) / (rgb.shape[0] * rgb.shape[1]), 4),
        "psnr": round(psnr(rgb, np.asarray(decoded)), 2),
        "src": source,
    }


def _level(
    store: Store, file: PictureFile, rgb: Rgb, peers: Sequence[Peer], wanted: float, progress: Progress
) -> dict[str, Any]:
    """One picture at one rate: vqcodec meets the rate as well as it can, the others are matched to what it needed."""
    image = Image.fromarray(rgb)
    target, shown = wanted, []
    for peer in peers:
        try:
            shown.append(_shown(peer, rgb, *matched(peer, image, target, store, file.name)))
            if peer is peers[0]:
                target = shown[-1]["bpp"]
        except Exception as error:  # a codec that fails here has failed in the table too, or is not here any more
            shown.append({"codec": peer.label, "error": str(error)[:200]})
        progress.step(peer.name, 1, text=f"{file.name} {peer.label}")
    return {"bpp": wanted, "shown": shown}


def slides(
    store: Store, files: Sequence[PictureFile], peers: Sequence[Peer], targets_bpp: Sequence[float]
) -> list[dict[str, Any]]:
    """What the page needs of each picture: the original and, for each target, every codec's version of it."""
    ordered = sorted(peers, key=lambda peer: not peer.name.startswith("vqcodec"))
    progress = Progress("slider", {peer.name: float(len(files) * len(targets_bpp)) for peer in ordered})
    found = []
    for file in files:
        rgb = file.pixels()
        levels = [_level(store, file, rgb, ordered, wanted, progress) for wanted in targets_bpp]
        facts = {"picture": file.name, "width": rgb.shape[1], "height": rgb.shape[0]}
        found.append({**facts, "original": _copy(Image.fromarray(rgb)), "levels": levels})
    progress.clear()
    return found
