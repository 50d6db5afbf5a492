# SPDX-License-Identifier: MIT
"""Files for the before/after slider: one picture through every codec at matched bits per pixel.

What browsers can show is the codec's own file; everything else is shown as a lossless WebP of what it decodes to.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from bench.metrics import Rgb, psnr
from bench.peers import Peer
from bench.pictures import PictureFile
from bench.report import FOCUS, bpp_of
from bench.store import Store


def _uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _lossless(image: Image.Image) -> str:
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
    source = _uri(data, peer.browser_type) if peer.browser_type else _lossless(decoded)
    return {
        "codec": peer.label,
        "setting": setting,
        "bpp": round(8 * len(data) / (rgb.shape[0] * rgb.shape[1]), 4),
        "psnr": round(psnr(rgb, np.asarray(decoded)), 2),
        "src": source,
    }


def slides(
    store: Store, files: Sequence[PictureFile], peers: Sequence[Peer], targets_bpp: Sequence[float]
) -> list[dict[str, Any]]:
    """What the page needs of each picture: the original and, for each target, every codec's version of it.

    vqcodec comes first and meets the target as well as it can; the others are matched to what it needed.
    """
    ordered = sorted(peers, key=lambda peer: peer.name != FOCUS)
    found = []
    for file in files:
        rgb = file.pixels()
        image = Image.fromarray(rgb)
        levels = []
        for wanted in targets_bpp:
            target, shown = wanted, []
            for peer in ordered:
                try:
                    shown.append(_shown(peer, rgb, *matched(peer, image, target, store, file.name)))
                except (
                    Exception
                ) as error:  # a codec that fails here has failed in the table too, or is not here any more
                    shown.append({"codec": peer.label, "error": str(error)[:200]})
                    continue
                if peer.name == FOCUS:
                    target = shown[-1]["bpp"]
            levels.append({"bpp": wanted, "shown": shown})
        found.append(
            {
                "picture": file.name,
                "width": rgb.shape[1],
                "height": rgb.shape[0],
                "original": _lossless(image),
                "levels": levels,
            }
        )
    return found
