# SPDX-License-Identifier: MIT
"""Pictures through the denoiser: noise removed, holes filled. Tile by tile with halos, so that no seam shows.

Nothing here reads or writes .vqc files.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Grid, Rect, Tile
from vqcodec.model import zoo
from vqcodec.model.denoiser import SIDE, Pixels
from vqcodec.model.zoo import Model
from vqcodec.options import (
    AUTO_NOISE,
    MAX_NOISE,
    EncodeOptions,
    ModelName,
    check_noise,
)
from vqcodec.pictures.noise_level import noise_level
from vqcodec.pictures.picture import Picture, gray_means
from vqcodec.threads import in_order, share, single_blas

TILE_SIDE = 512  # pixels
LEAST_NOISE = 2.0  # levels: a picture with less, as estimated, is left alone. Fine texture can look like as much


def estimated(model: Model, x: Pixels, sigma: Pixels, at_once: int, condition: Pixels | None = None) -> Pixels:
    """One estimate of a whole picture, worked out only where there is noise.

    Args:
        x: [H, W, 3] float32, nominally in [0, 1], with noise.
        sigma: [H, W] float32, standard deviations.
        at_once: how many tiles to work on at a time.
        condition: [H, W, 3]; None for none.
    """
    out = x.copy()
    grid = Grid(x.shape[1], x.shape[0], TILE_SIDE)

    def one(tile: Tile) -> None:
        inner = tile.pixels.slices
        if not sigma[inner].any():
            return
        seen = _around(tile.pixels, model.denoiser_halo, grid.pixels)
        clean = model.denoiser(
            x[seen.slices], sigma[seen.slices], None if condition is None else condition[seen.slices]
        )
        out[inner] = clean[tile.pixels.relative_to(seen).slices]

    for _ in in_order(one, grid.tiles, at_once):
        pass
    return out


def _around(inner: Rect, halo: int, whole: Rect) -> Rect:
    """A tile and its halo, as far as the picture goes; its left and upper edges are multiples of SIDE."""
    seen = inner.grown(-(-halo // SIDE) * SIDE).intersection(whole)
    assert not (seen.x0 | seen.y0) % SIDE
    return seen


def loaded_denoiser(model: ModelName | None, threads: int, pixels: tuple[int, int]) -> tuple[Model, int]:
    """The model with its denoiser, and how many tiles to work on at a time."""
    height, width = pixels
    at_once, each = share(threads, Grid(width, height, TILE_SIDE).tile_count)
    loaded = zoo.load(zoo.find(model), each)
    loaded.prepare("denoiser")
    return loaded, at_once


def samples(x: Pixels) -> NDArray[np.uint8]:
    """Samples nominally in [0, 1] -> 0 to 255."""
    return np.clip(np.rint(x * 255), 0, 255).astype(np.uint8)


def restored(picture: Picture, x: Pixels) -> Picture:
    """The picture with other samples, [H, W, 3] in [0, 1]."""
    rgb = samples(x)
    return replace(picture, rgb=gray_means(rgb) if picture.gray else rgb)


def denoise(
    picture: Picture, noise: str | float = AUTO_NOISE, *, model: ModelName | None = None, threads: int = 0
) -> Picture:
    """Remove noise from a picture in one step.

    Args:
        noise: its standard deviation in levels of 255, 0 to 100, or "auto" to estimate it.
        model: None for the default.

    Returns:
        the picture, which stays as it is where there is no noise to remove; `denoised` says how much was.

    Raises:
        ModelError: no such model, or it has no denoiser.
        UsageError: a level out of range.
    """
    level = check_noise(noise)
    loaded, at_once = loaded_denoiser(model, threads, picture.rgb.shape[:2])
    if isinstance(level, str):
        with single_blas():
            found = noise_level(picture.rgb)
        level = 0.0 if found < LEAST_NOISE else min(found, MAX_NOISE)
    if level == 0:
        return picture
    x = picture.rgb * np.float32(1 / 255)
    with single_blas():
        clean = estimated(loaded, x, np.full(x.shape[:2], level / 255, np.float32), at_once)
    return replace(restored(picture, clean), denoised=level)


def before_coding(picture: Picture, options: EncodeOptions) -> Picture:
    """The picture to encode: without its noise, if the options say so, and then with a note of it."""
    if options.denoise is None:
        return picture
    found = denoise(picture, options.denoise, model=options.model, threads=options.threads)
    return replace(found, notes=(*found.notes, told(found)))


def told(picture: Picture) -> str:
    """What was done, for people."""
    if picture.denoised:
        return f"noise of {picture.denoised:.1f} levels removed"
    return "no noise found: left as it was"
