# SPDX-License-Identifier: MIT
"""Crops that no photograph has: checkerboards, dithers, halftones, stripes, noise, text, flat graphics, screens.

A model that never saw a pattern restores its mean brightness wrongly. Some percent of such crops are enough.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Crop = NDArray[np.float32]  # [size, size, 3] in [0, 1]
Generator = np.random.Generator


def _colours(rng: Generator, count: int) -> NDArray[np.float32]:
    """[count, 3]: gray half of the time, black and white now and then."""
    colours = rng.random((count, 3))
    if rng.random() < 0.5:
        colours = np.repeat(colours[:, :1], 3, 1)
    if count > 1 and rng.random() < 0.3:
        colours[:2] = [[0.0] * 3, [1.0] * 3]
    return np.asarray(colours, np.float32)


def _mixed(weight: NDArray[Any], rng: Generator) -> Crop:
    """Two colours by a weight [size, size] in [0, 1]."""
    a, b = _colours(rng, 2)
    return np.asarray(a + (b - a) * weight[..., None], np.float32)


def _grid(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.mgrid[0:size, 0:size]
    return rows, columns


def checkerboard(rng: Generator, size: int, photo: Crop) -> Crop:
    """Squares of 1 to 4 pixels."""
    rows, columns = _grid(size)
    side = int(rng.integers(1, 5))
    return _mixed((rows // side + columns // side) % 2, rng)


def stripes(rng: Generator, size: int, photo: Crop) -> Crop:
    """Lines of 1 to 3 pixels: horizontal, vertical or diagonal."""
    rows, columns = _grid(size)
    along = (rows, columns, rows + columns, rows - columns)[int(rng.integers(4))]
    on, off = (int(n) for n in rng.integers(1, 4, 2))
    return _mixed(along % (on + off) < on, rng)


def _bayer(order: int) -> NDArray[np.float64]:
    """Bayer's threshold matrix of side 2**order, in (0, 1)."""
    matrix = np.zeros((1, 1))
    for _ in range(order):
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return (matrix + 0.5) / matrix.size


def dither(rng: Generator, size: int, photo: Crop) -> Crop:
    """The photograph with few levels, by ordered dither or by noise; in gray or in colour."""
    levels = int(rng.choice([1, 1, 1, 3, 7]))
    source = photo.mean(2, keepdims=True).repeat(3, 2) if rng.random() < 0.6 else photo
    if rng.random() < 0.75:
        matrix = _bayer(int(rng.integers(1, 4)))
        rows, columns = _grid(size)
        threshold = matrix[rows % len(matrix), columns % len(matrix)][..., None]
    else:
        threshold = rng.random((size, size, 1))
    return (np.clip(np.floor(source * levels + threshold), 0, levels) / levels).astype(np.float32)


def halftone(rng: Generator, size: int, photo: Crop) -> Crop:
    """Dots on a turned grid that grow with the photograph's darkness."""
    rows, columns = _grid(size)
    angle, period = rng.random() * np.pi / 2, 3 + 5 * rng.random()
    u = (rows * np.cos(angle) + columns * np.sin(angle)) * 2 * np.pi / period
    v = (columns * np.cos(angle) - rows * np.sin(angle)) * 2 * np.pi / period
    screen = 0.5 + 0.25 * (np.cos(u) + np.cos(v))
    return _mixed(np.clip((photo.mean(2) - screen) * 8 + 0.5, 0, 1), rng)


def noise(rng: Generator, size: int, photo: Crop) -> Crop:
    """The photograph under noise: of a sensor, or of single bad pixels."""
    if rng.random() < 0.7:
        spread = 0.02 + 0.25 * rng.random()
        depth = int(rng.choice([1, 3]))
        noisy = photo + spread * rng.standard_normal((size, size, depth))
        return np.clip(noisy, 0, 1).astype(np.float32)
    bad = rng.random((size, size, 1)) < 0.1 * rng.random()
    return np.where(bad, rng.random((size, size, 1)) < 0.5, photo).astype(np.float32)


def _samples(image: Image.Image) -> Crop:
    return np.asarray(image, np.float32) / np.float32(255)


def _words(rng: Generator, letters: int) -> str:
    alphabet = np.array(list(string.ascii_letters + string.digits + "     .,-()"))
    return "".join(rng.choice(alphabet, letters))


def _rgb(colour: NDArray[np.float32]) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in np.rint(255 * colour))
    return red, green, blue


def graphics(rng: Generator, size: int, photo: Crop) -> Crop:
    """Flat shapes and lines with hard edges, over a flat colour or over the photograph."""
    colours = _colours(rng, 9)
    over_photo = rng.random() < 0.3
    image = Image.fromarray(np.rint(255 * photo).astype(np.uint8)) if over_photo else None
    image = image or Image.new("RGB", (size, size), _rgb(colours[8]))
    draw = ImageDraw.Draw(image)
    for colour in colours[: int(rng.integers(2, 8))]:
        x, y = (int(v) for v in rng.integers(-size // 4, size, 2))
        w, h = (int(v) for v in rng.integers(2, size // 2, 2))
        shape = int(rng.integers(3))
        if shape == 0:
            draw.rectangle((x, y, x + w, y + h), fill=_rgb(colour))
        elif shape == 1:
            draw.ellipse((x, y, x + w, y + h), fill=_rgb(colour))
        else:
            draw.line((x, y, x + w, y + h), fill=_rgb(colour), width=int(rng.integers(1, 4)))
    return _samples(image)


def text(rng: Generator, size: int, photo: Crop) -> Crop:
    """Lines of text as on a page, a screen or a sign, on a flat colour, on boxes or on the photograph."""
    canvas = graphics(rng, size, photo) if rng.random() < 0.5 else np.broadcast_to(_colours(rng, 1)[0], photo.shape)
    image = Image.fromarray(np.rint(255 * canvas).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    colour = _rgb(_colours(rng, 2)[int(rng.integers(2))])
    y = int(rng.integers(0, 12))
    while y < size:
        height = int(rng.choice([9, 10, 11, 12, 13, 14, 16, 20, 28]))
        font = ImageFont.load_default(height)
        draw.text((int(rng.integers(-20, 20)), y), _words(rng, 2 * size // height), fill=colour, font=font)
        y += int(height * (1.1 + 0.5 * rng.random()))
    return _samples(image)


KINDS: tuple[Callable[[Generator, int, Crop], Crop], ...] = (
    checkerboard, stripes, dither, halftone, noise, graphics, text,
)  # fmt: skip


def pattern(rng: Generator, photo: Crop) -> Crop:
    """A synthetic crop; a third of them are a patch inside the photograph.

    Args:
        photo: [size, size, 3] float32 in [0, 1], the photograph's crop that it takes the place of.
    """
    size = len(photo)
    drawn = KINDS[int(rng.integers(len(KINDS)))](rng, size, photo)
    if rng.random() < 2 / 3:
        return drawn
    out = photo.copy()
    height, width = (int(v) for v in rng.integers(size // 4, size, 2))
    top, left = int(rng.integers(0, size - height)), int(rng.integers(0, size - width))
    out[top : top + height, left : left + width] = drawn[top : top + height, left : left + width]
    return out
