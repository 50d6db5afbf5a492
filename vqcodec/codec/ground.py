# SPDX-License-Identifier: MIT
"""The ground of a page around a photograph, where blocks hold a part of both, as areas of one colour.

Why: docs/decisions/0064-areas-of-one-colour.md. The blocks themselves are chosen in patching.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.patches import SIDE, Area, Mask
from vqcodec.bitstream.tiles import Rect

Rgb = NDArray[np.uint8]

GROUND = 1 / 16  # of a block in one colour: its ground
MOST_AREAS = 1000  # each takes 5 to 11 bytes,
SMALLEST_AREA, SMALLEST_BITS = 48, 64  # and has at least so many pixels, and takes the place of so many bits


def ground(rgb: Rgb, mask: Mask, rate: float) -> tuple[Area, ...]:
    """Areas of one colour in blocks beside those of a mask: the page around a photograph, up to its very edge.

    Without them such blocks, which hold a part of both, come back with the shades of a photograph on a plain page.

    Args:
        rgb: [H, W, 3].
        mask: blocks that are kept.
        rate: bits per pixel, about, of what is not.
    """
    least = max(SMALLEST_AREA, SMALLEST_BITS / rate)
    found = [area for area in _rectangles(_lines(rgb, _grounds(rgb, mask))) if area.place.area >= least]
    largest = sorted(found, key=lambda area: -area.place.area)[:MOST_AREAS]
    return tuple(sorted(largest, key=lambda area: (area.place.y0, area.place.x0)))


def packed(rgb: Rgb) -> NDArray[np.int32]:
    """Colours as numbers: r << 16 | g << 8 | b."""
    wide = rgb.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


def _grounds(rgb: Rgb, mask: Mask) -> dict[tuple[int, int], int]:
    """The colour of the ground in blocks beside those of a mask, and in their neighbours as far as it goes on."""
    rows, columns = mask.shape
    wide = np.pad(mask, 1)
    near = np.any([wide[dy : dy + rows, dx : dx + columns] for dy in range(3) for dx in range(3)], axis=0) & ~mask
    found: dict[tuple[int, int], int] = {}
    waiting: list[tuple[int, int, int | None]] = [(row, column, None) for row, column in np.argwhere(near).tolist()]
    while waiting:
        row, column, wanted = waiting.pop()
        if (row, column) in found or mask[row, column]:
            continue
        block = packed(rgb[row * SIDE : row * SIDE + SIDE, column * SIDE : column * SIDE + SIDE])
        values, counts = np.unique(block, return_counts=True)
        colour = int(values[counts.argmax()])
        if counts.max() >= GROUND * block.size and wanted in (None, colour):
            found[row, column] = colour
            beside = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
            waiting += [(y, x, colour) for y, x in beside if 0 <= y < rows and 0 <= x < columns]
    return found


def _lines(rgb: Rgb, grounds: dict[tuple[int, int], int]) -> Iterator[NDArray[np.int32]]:
    """Of every row of pixels the colours of the ground; -1 elsewhere."""
    for row in range(-(-len(rgb) // SIDE)):
        colours = packed(rgb[row * SIDE : row * SIDE + SIDE])
        lines = np.full_like(colours, -1)
        for column in range(-(-colours.shape[1] // SIDE)):
            ground = grounds.get((row, column))
            if ground is not None:
                block = slice(None), slice(column * SIDE, column * SIDE + SIDE)
                lines[block][colours[block] == ground] = ground
        yield from lines


def _rectangles(lines: Iterable[NDArray[np.int32]]) -> Iterator[Area]:
    """Rectangles of one colour that together cover what is not negative: equal runs of rows, joined."""
    tops: dict[tuple[int, int, int], int] = {}  # (left, right, colour) of a run -> the first row that has it
    y = 0
    for y, line in enumerate(lines):
        runs: set[tuple[int, int, int]] = set()
        if line.max() >= 0:
            starts = np.flatnonzero(np.diff(line, prepend=-2))
            stops = np.append(starts[1:], len(line))
            runs = set(zip(starts.tolist(), stops.tolist(), line[starts].tolist(), strict=True))
            runs = {run for run in runs if run[2] >= 0}
        yield from (_area(run, tops.pop(run), y) for run in [run for run in tops if run not in runs])
        for run in runs:
            tops.setdefault(run, y)
    yield from (_area(run, top, y + 1) for run, top in tops.items())


def _area(run: tuple[int, int, int], top: int, bottom: int) -> Area:
    left, right, colour = run
    return Area(Rect(left, top, right, bottom), (colour >> 16, colour >> 8 & 255, colour & 255))
