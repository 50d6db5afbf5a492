# SPDX-License-Identifier: MIT
"""From the store's rows to curves. No tables, no figures.

A point of a curve is the mean over all pictures of bpp and of the metric at one setting (for PSNR: the mean of the
decibels). A setting that is missing or has failed on any picture gives no point, so that every point of every codec
is about the same pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metrics import METRICS, Metric
from bench.peers import FOCUS, MAX_SHORT, SHORT_PEERS
from bench.store import Row, Store

ANCHOR = "jpeg"
EYE = ("cvvdp", "ssimulacra2", "ms_ssim")  # what stands for the eye: the first of them that was measured


@dataclass(frozen=True)
class Samples:
    """What a codec's curve is made of: one value per picture and setting.

    Attributes:
        settings: the settings that succeeded on every picture, ascending.
        bpp, quality: [pictures, settings]; quality on the scale that is shown.
    """

    pictures: tuple[str, ...]
    settings: tuple[int, ...]
    bpp: NDArray[np.float64]
    quality: NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One point of a curve: the codec's setting (None for published ones), mean bpp, mean quality as it is shown."""

    setting: int | None
    bpp: float
    quality: float


Curves = dict[str, list[Point]]


def pixels_of(store: Store, picture: str) -> int:
    """Width times height."""
    facts = store.run["pictures"][picture]
    return int(facts["width"]) * int(facts["height"])


def bpp_of(store: Store, row: Row) -> float:
    """Bits of the whole file per pixel."""
    return 8 * row["bytes"] / pixels_of(store, row["picture"])


def samples(store: Store, metric: Metric, pictures: Iterable[str] | None = None) -> dict[str, Samples]:
    """Codec -> its values on all pictures that the metric can judge, or on those that are named."""
    good = {key: row for key, row in store.rows.items() if metric.name in row}
    named = set(store.run["pictures"] if pictures is None else pictures)
    wanted = tuple(name for name in store.run["pictures"] if name in named & {key[0] for key in good})
    found = {}
    for peer in store.run["peers"]:
        settings = sorted({key[2] for key in good if key[1] == peer})
        settings = [s for s in settings if all((picture, peer, s) in good for picture in wanted)]
        if settings and wanted:
            rows = [[good[picture, peer, s] for s in settings] for picture in wanted]
            bpp = np.array([[bpp_of(store, row) for row in line] for line in rows])
            quality = np.array([[metric.shown(float(row[metric.name])) for row in line] for line in rows])  # type: ignore[literal-required]
            found[peer] = Samples(wanted, tuple(settings), bpp, quality)
    return found


def curves(store: Store, metric: Metric, pictures: Iterable[str] | None = None, published: bool = True) -> Curves:
    """Codec -> its points, ascending in setting; published curves follow under their own names.

    Args:
        pictures: only these, and no published curves; None for all (for MS-SSIM: all that are large enough).
    """
    found: Curves = {}
    for name, mine in samples(store, metric, pictures).items():
        means = zip(mine.settings, mine.bpp.mean(0), mine.quality.mean(0), strict=True)
        found[name] = [Point(setting, float(bpp), float(quality)) for setting, bpp, quality in means]
    if published and pictures is None:
        for name, curve in store.published.items():
            points = [Point(None, p["bpp"], metric.shown(p[metric.name])) for p in curve["points"] if metric.name in p]
            if points:
                found[name] = sorted(points, key=lambda point: point.bpp)
    return found


def measured(store: Store) -> list[Metric]:
    """The metrics that the store has values of, in the order of the list of all."""
    have = {name for row in store.rows.values() for name in row}
    return [metric for metric in METRICS.values() if metric.name in have]


def judged(store: Store, metric: Metric) -> int:
    """How many pictures a metric has judged."""
    return len({key[0] for key, row in store.rows.items() if metric.name in row})


def eye(store: Store) -> Metric | None:
    """The metric that stands for the eye: the first of them that was measured."""
    have = {metric.name: metric for metric in measured(store)}
    return next((have[name] for name in EYE if name in have), None)


def rated(store: Store) -> list[str]:
    """The codecs with rows, in the order of the run."""
    have = {row["peer"] for row in store.rows.values()}
    return [name for name in store.run["peers"] if name in have]


def label(store: Store, name: str) -> str:
    """What a codec is called in tables and figures."""
    if name in store.run["peers"]:
        return str(store.run["peers"][name]["label"])
    return store.published[name]["label"] if name in store.published else name


def trained_on(store: Store, name: str) -> Sequence[str]:
    """The metrics that a codec's model was trained on."""
    peer = store.run["peers"].get(name)
    if peer is not None:
        return str(peer.get("trained_on", "")).split()
    return store.published[name]["trained_on"] if name in store.published else ()


def focus(store: Store, metric: Metric) -> str | None:
    """The codec that the report is about: vqcodec, tuned for PSNR where that is the metric, else for the eye."""
    names = FOCUS if metric.name.startswith("psnr") else (FOCUS[1], FOCUS[0], FOCUS[2])
    return next((name for name in names if name in rated(store)), None)


def short_list(store: Store) -> list[str]:
    """The codecs of short tables and figures: the best of each family that was measured."""
    here = [name for name in SHORT_PEERS if name in rated(store)]
    hidden = {"vqcodec"} if "vqcodec-psnr" in here else set()
    hidden |= {"jxl"} if "jxl-9" in here else set()
    hidden |= {"webp"} if "webp-sharp" in here else set()
    short = [name for name in here if name not in hidden][:MAX_SHORT]
    return short or rated(store)[:MAX_SHORT]


def digest(store: Store) -> str:
    """A fingerprint of all that the figures show; it is written into them."""
    content = {
        metric.name: {
            peer: [(round(p.bpp, 5), round(p.quality, 4)) for p in points]
            for peer, points in curves(store, metric).items()
        }
        for metric in measured(store)
    }
    scaling = [row for row in store.processes.values() if row["scope"] == "scaling"]
    return hashlib.sha256(json.dumps([content, scaling], sort_keys=True).encode()).hexdigest()[:16]
