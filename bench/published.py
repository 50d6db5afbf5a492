# SPDX-License-Identifier: MIT
"""Curves that others measured: the committed table for Kodak, or a user's file. Nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.store import PublishedCurve, Run

FOLDER = Path(__file__).with_name("published")
COLUMNS = ("bpp", "psnr", "ms_ssim")


def known(run: Run) -> dict[str, PublishedCurve]:
    """The committed curves for exactly the pictures of a run; none for other pictures, or for some of them."""
    pictures = sorted(str(facts["sha256"]) for facts in run["pictures"].values())
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if sorted(content["pictures"]) == pictures:
            return {name: _curve(name, curve) for name, curve in content["curves"].items()}
    return {}


def _points(given: list[Any]) -> list[dict[str, float]]:
    """Points as they are kept, from lists [bpp, psnr, ms_ssim] or from objects with these names."""
    named = [point if isinstance(point, dict) else dict(zip(COLUMNS, point, strict=False)) for point in given]
    found = [{key: float(value) for key, value in point.items() if isinstance(value, int | float)} for point in named]
    if not all("bpp" in point for point in found):
        raise ValueError("a point without bpp")
    return found


def _curve(name: str, given: Any) -> PublishedCurve:
    points, facts = (given["points"], given) if isinstance(given, dict) else (given, {})
    return {
        "label": str(facts.get("label", name)),
        "source": str(facts.get("source", "")),
        "trained_on": list(facts.get("trained_on", [])),
        "points": _points(points),
    }


def read(path: Path, only: str = "") -> dict[str, PublishedCurve]:
    """Curves from a JSON file {name: [{bpp, psnr, ms_ssim?}, ...]} or {name: {points: [...]}}; `only` names some.

    Raises:
        BenchError: not such a file, or a name is not in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        curves = {name: _curve(name, given) for name, given in content.get("curves", content).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} holds no published curves ({error!r})") from None
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(curves)
    unknown = [name for name in wanted if name not in curves]
    if unknown:
        raise BenchError(f"{path} has no curve {', '.join(unknown)}; it has {', '.join(curves)}")
    return {name: curves[name] for name in wanted}
