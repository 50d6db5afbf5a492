# SPDX-License-Identifier: MIT
"""The denoiser beside what people use today: noise removed in gray and in colour, and holes filled.

`python -m bench denoise --images DIR --out FOLDER --page docs/denoiser.md` measures, keeps the figures in denoise.json
and writes the page's tables. A run that was stopped goes on where it was. Each picture is the middle of one of the set.
Noise is Gaussian, clipped and rounded to 8 bits, as files have it, and every method is told its deviation. Seconds are
processor time of one thread. BM3D's package is for research only: it is used where the user has installed it.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.metrics import psnr
from bench.pictures import PictureSet
from bench.progress import Progress
from bench.store import Kept, described, read_facts
from bench.tables import NOTHING, Table

Rgb = NDArray[np.uint8]  # [H, W, 3]
Flags = NDArray[np.bool_]  # [H, W]
Row = dict[str, Any]
FILE = "denoise.json"
BEGIN, END = "<!-- denoise:begin -->", "<!-- denoise:end -->"
SIDE = 256  # pixels
SIGMAS = (15, 25, 50)  # levels of 255
MASKS = 10
CLEANERS = {  # label -> package that it takes beside vqcodec and NumPy
    "no denoising": "", "vqcodec": "", "non-local means": "scikit-image", "wavelets": "scikit-image", "BM3D": "bm3d",
}  # fmt: skip
FILLERS = {
    "vqcodec, 1 step": "", "vqcodec, 4 steps": "", "biharmonic": "scikit-image", "Telea": "opencv-python-headless",
}  # fmt: skip


def middle(rgb: Rgb) -> Rgb:
    """At most SIDE pixels each way."""
    top, left = (max(0, (size - SIDE) // 2) for size in rgb.shape[:2])
    return np.ascontiguousarray(rgb[top : top + SIDE, left : left + SIDE])


def noisy(rgb: Rgb, sigma: float, gray: bool, number: int) -> tuple[Rgb, Rgb]:
    """The picture to find, and what is given: of gray, three equal planes each."""
    rng = np.random.default_rng([number, int(sigma)])
    if gray:
        rgb = np.repeat(np.asarray(Image.fromarray(rgb).convert("L"))[:, :, None], 3, 2)
    noise = np.repeat(rng.normal(0, sigma, (*rgb.shape[:2], 1)), 3, 2) if gray else rng.normal(0, sigma, rgb.shape)
    return rgb, _samples(rgb + noise)


def _samples(x: NDArray[np.floating[Any]]) -> Rgb:
    found: Rgb = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return found


def clean(method: str, given: Rgb, sigma: float, gray: bool) -> Rgb:
    """What a method of CLEANERS makes of it."""
    if method == "no denoising":
        return given
    if method == "vqcodec":
        from vqcodec.codec.denoise import denoise
        from vqcodec.pictures.picture import Picture

        return denoise(Picture(given, gray=gray), sigma, threads=1).rgb
    x, s = (given[:, :, 0] if gray else given).astype(np.float64) / 255, sigma / 255
    axis = None if gray else 2
    if method == "BM3D":
        import bm3d

        found = bm3d.bm3d(x, s) if gray else bm3d.bm3d_rgb(x, s)
    else:
        from skimage.restoration import denoise_nl_means, denoise_wavelet

        if method == "wavelets":
            found = denoise_wavelet(x, sigma=s, convert2ycbcr=not gray, rescale_sigma=True, channel_axis=axis)
        else:  # the settings of scikit-image's own example for a known deviation
            found = denoise_nl_means(
                x, h=0.6 * s, sigma=s, patch_size=5, patch_distance=6, fast_mode=False, channel_axis=axis
            )
    found = _samples(255 * found)
    return np.repeat(found[:, :, None], 3, 2) if gray else found


def mask(number: int, height: int, width: int) -> Flags:
    """One of MASKS masks: scratches, dust, a date, and objects of growing size."""
    rng = np.random.default_rng(number)
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)

    def place() -> tuple[float, float]:
        return rng.uniform(0, width), rng.uniform(0, height)

    match number % 4:
        case 0:
            for _ in range(4):
                draw.line([place(), place()], fill=255, width=2 + number // 4)
        case 1:
            for _ in range(40):
                (x, y), r = place(), rng.uniform(1, 3)
                draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
        case 2:
            text = Image.new("L", (90, 14))
            ImageDraw.Draw(text).text((2, 1), "'98 11 30 12:45", fill=255)
            at = int(rng.integers(0, width // 3 + 1)), int(rng.integers(height // 2, height * 5 // 6 + 1))
            image.paste(text.resize((max(1, width * 3 // 5), max(1, height // 10))), at)
        case _:
            for _ in range(3):
                (x, y), r = place(), 6 + 2 * number // 4
                draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
    return np.asarray(image) >= 128


def fill(method: str, given: Rgb, holes: Flags) -> Rgb:
    """What a method of FILLERS makes of a picture that is black in the holes."""
    if method.startswith("vqcodec"):
        from vqcodec.codec.repair import repair
        from vqcodec.pictures.picture import Picture

        return repair(Picture(given), holes, steps=int(method.split()[1]), threads=1).rgb
    if method == "Telea":
        import cv2

        return np.asarray(cv2.inpaint(given, holes.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)
    from skimage.restoration import inpaint_biharmonic

    return _samples(255 * inpaint_biharmonic(given / 255, holes, channel_axis=2))


def _timed(work: Callable[[], Rgb]) -> tuple[Rgb, float]:
    begin = time.process_time()
    return work(), time.process_time() - begin


def noise_row(rgb: Rgb, number: int, gray: bool, sigma: int, method: str) -> Row:
    """One method on one picture with noise."""
    truth, given = noisy(middle(rgb), sigma, gray, number)
    found, seconds = _timed(partial(clean, method, given, sigma, gray))
    return {"psnr": round(psnr(truth, found), 3), "seconds": round(seconds, 3)}


def hole_row(rgb: Rgb, number: int, method: str) -> Row:
    """One method on one picture with holes; the PSNR is that inside them."""
    truth = middle(rgb)
    holes = mask(number, *truth.shape[:2])
    given = np.where(holes[:, :, None], np.uint8(0), truth)
    found, seconds = _timed(partial(fill, method, given, holes))
    return {"psnr": round(psnr(truth[holes][:, None], found[holes][:, None]), 3), "seconds": round(seconds, 3)}


def _version(package: str) -> str | None:
    try:
        return f"{package} {importlib.metadata.version(package)}" if package else ""
    except importlib.metadata.PackageNotFoundError:
        return None


def cases(count: int) -> list[Row]:
    """What is to be measured: the number of a picture, and settings of it."""
    found: list[Row] = [
        {"number": number, "task": "gray" if gray else "colour", "sigma": sigma, "method": method}
        for number in range(count) for gray in (False, True) for sigma in SIGMAS for method in CLEANERS
    ]  # fmt: skip
    found += [{"number": n, "task": "holes", "sigma": 0, "method": method} for n in range(MASKS) for method in FILLERS]
    return [case for case in found if _version({**CLEANERS, **FILLERS}[case["method"]]) is not None]


def measure(images: PictureSet, folder: Path, command: Sequence[str]) -> None:
    """Measure every method, and keep the figures in `folder`/denoise.json.

    Figures of the same pictures and versions that are there already are kept.
    """
    from vqcodec.model import zoo

    path, files = folder / FILE, images.files
    with_it = zoo.find().card["files"].get("denoiser.onnx", {}).get("sha256", "")
    packages = [_version(package) for package in dict.fromkeys([*CLEANERS.values(), *FILLERS.values()]) if package]
    facts: dict[str, Any] = dict(
        described(
            list(command), set=images.name, pictures=images.facts(), denoiser=with_it[:8],
            packages=[version for version in packages if version],
        )
    )  # fmt: skip
    kept = Kept(path, facts, ("pictures", "denoiser", "packages"))
    done = {(row["number"], row["task"], row["sigma"], row["method"]) for row in kept.rows}
    todo = [case for case in cases(len(files)) if tuple(case.values()) not in done]
    progress = Progress("denoise", {"case": float(len(todo))})
    for case in todo:
        number, task = case["number"], case["task"]
        rgb = files[number % len(files)].pixels()
        if task == "holes":
            found = hole_row(rgb, number, case["method"])
        else:
            found = noise_row(rgb, number, task == "gray", case["sigma"], case["method"])
        kept.add({**case, **found})
        progress.step("case", 1, text=f"{task} {case['sigma']} {case['method']}")
    progress.clear()


def _means(rows: Sequence[Row], method: str, name: str, digits: int, **wanted: object) -> str:
    here = [row[name] for row in rows if all(row[k] == v for k, v in {"method": method, **wanted}.items())]
    return f"{np.mean(here):.{digits}f}" if here else NOTHING


def noise_table(folder: Path) -> Table:
    """A row per method: mean PSNR by kind and deviation, and seconds."""
    rows = read_facts(folder / FILE)["rows"]
    kinds = [(task, sigma) for task in ("gray", "colour") for sigma in SIGMAS]
    lines = [
        (
            method,
            *(_means(rows, method, "psnr", 2, task=task, sigma=sigma) for task, sigma in kinds),
            *(_means(rows, method, "seconds", 2, task=task) for task in ("gray", "colour")),
        )
        for method in CLEANERS
        if any(row["method"] == method for row in rows)
    ]
    return Table(("method", *(f"{t} {s}" for t, s in kinds), "seconds, gray", "seconds, colour"), lines)


def hole_table(folder: Path) -> Table:
    """A row per method: mean PSNR inside the holes, the least, and seconds."""
    rows = read_facts(folder / FILE)["rows"]
    by_method = {method: [row["psnr"] for row in rows if row["method"] == method] for method in FILLERS}
    lines = [
        (method, f"{np.mean(decibels):.2f}", f"{min(decibels):.2f}", _means(rows, method, "seconds", 2))
        for method, decibels in by_method.items()
        if decibels
    ]
    return Table(("method", "PSNR in the holes, dB", "least", "seconds"), lines)


def section(folder: Path) -> str:
    """The part of docs/denoiser.md between the marks, marks included."""
    facts = read_facts(folder / FILE)
    about = (
        f"The middle of {len(facts['pictures'])} pictures ({facts['set']}), {SIDE} × {SIDE} pixels; PSNR in dB, means; "
        f"{MASKS} masks: scratches, dust, a date, round objects. Noise is clipped and rounded to 8 bits. Seconds of "
        f"processor time, one thread. {', '.join(facts['packages'])}; {facts['date']}. `{facts['commands'][0]}`"
    )
    return "\n\n".join((BEGIN, noise_table(folder).markdown(), hole_table(folder).markdown(), about, END))
