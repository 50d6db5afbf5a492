# SPDX-License-Identifier: MIT
"""Patches: what of a picture the encoder keeps without loss, and pasting it back (docs/decisions/0049-patches.md).

Two kinds of blocks. Flat graphics, text and dithers ("plain" blocks) often take fewer bits without loss than as latents
that then come back blurred. And where the networks fail, as on patterns that no photograph has, the restored block is
off by more than any photograph's: such a block is kept whatever it costs. No model and no files here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.patches import MAX_WIDTH, SIDE, Mask, Patches, Sheet, blocks, blocks_of
from vqcodec.bitstream.quality import quality_level
from vqcodec.bitstream.tiles import LATENT_STRIDE, Rect
from vqcodec.codec.ground import ground, packed
from vqcodec.pictures import webp
from vqcodec.spans import span

Rgb = NDArray[np.uint8]
Values = NDArray[np.float64]  # [rows, columns] of blocks
LATENTS = SIDE // LATENT_STRIDE  # of a block, both ways

REPEATED = 0.5  # share of a plain block's pixels that equal a neighbour
NEARLY = 0.15  # and share that nearly does, at most: photographs are smooth, graphics are flat
BANDS, BAND = 3, 6  # what a guess at the size is made of: so many, and rows of each
GUESS = 0.4  # of that guess, which the whole may turn out to take
TABLES_BYTES = 64  # of any WebP, which do not grow with the picture
EASY = 0.05  # share of new pixels up to which a block costs next to nothing
CLOSE = 8  # levels that count as nearly
ROWS = 4  # of which every so many is looked at for that
WORTH = 2.0  # an error in text or flat colour is seen more than its square says
LEGIBLE = 40  # the quality from which on letters are to stay as they are:
STRICT = 0.25  # of the error at which a block of a photograph is kept, for plain blocks
STRIP = 256  # rows, whole blocks of them
DEAR = 6.0  # bits per pixel without loss: a block of more is noise rather than a pattern, and may differ from its noise
SMALLEST_GAIN = 8000.0  # bits (of small pictures a tenth of all), and
SMALLEST_SHARE = (
    0.03  # of all bits and errors, in bits: a smaller gain is left alone, so that photographs stay as they are
)
MOSTLY = 0.9  # share of plain blocks from which the picture is first tried as a whole
SOME = 0.25  # share of blocks worth keeping from which the whole is tried, too
SLOW_EFFORT = 8  # from here on WebP takes its time
EPS_BITS = 1.0  # of the map, for a block


def rate(quality: int) -> float:
    """About the bits per pixel of a photograph of a quality."""
    return float(0.03 * 80 ** quality_level(quality))


def promised(quality: int) -> tuple[float, float]:
    """What no photograph exceeds, by far: the squared error of a block, and the shift of its mean, in levels.

    1.9 to 4.1 times the worst of 4,837 blocks of twelve photographs (decision 49).
    """
    return max(150.0, 20_000 * math.exp(-0.058 * quality)), max(2.0, 40 * math.exp(-0.035 * quality))


# ---- looking at a picture --------------------------------------------------------------------------------------------


def _sums(values: NDArray[Any], dtype: type = np.float32) -> NDArray[Any]:
    """Sums over blocks: [h, w] -> [rows, columns]."""
    h, w = values.shape
    across = np.add.reduceat(values, np.arange(0, w, SIDE), axis=1, dtype=dtype)
    return np.asarray(np.add.reduceat(across, np.arange(0, h, SIDE), axis=0))


@dataclass(frozen=True, eq=False)
class Survey:
    """What is seen of a picture before it is coded. rgb: [H, W, 3]."""

    rgb: Rgb

    @cached_property
    def _repeated(self) -> tuple[Values, Mask]:
        """Pixels that equal one beside, above, or two beside or above: number by block, and which in every ROWS-th row.

        In strips: of a large picture nothing is made that has a number for each pixel.
        """
        counts, seen = [], []
        for top in range(0, len(self.rgb), STRIP):
            first = max(0, top - 2)
            p = packed(self.rgb[first : top + STRIP])
            found = np.zeros(p.shape, bool)
            for lag in (1, 2):
                found[:, lag:] |= p[:, lag:] == p[:, :-lag]
                found[lag:] |= p[lag:] == p[:-lag]
            counts.append(_sums(found[top - first :], np.int32))
            seen.append(found[top - first :: ROWS].copy())
        return np.concatenate(counts), np.concatenate(seen)

    @cached_property
    def new(self) -> Values:
        """Pixels of each block that equal no neighbour."""
        return np.asarray(self.areas - self._repeated[0])

    @cached_property
    def areas(self) -> Values:
        """Pixels of each block."""
        height, width = self.rgb.shape[:2]
        rows, columns = (np.minimum(SIDE, n - np.arange(0, n, SIDE)) for n in (height, width))
        return np.outer(rows, columns).astype(np.float64)

    @cached_property
    def plain(self) -> Mask:
        """Blocks of graphics, text or few colours."""
        repeated = self.new <= (1 - REPEATED) * self.areas
        if not repeated.any():
            return repeated
        counts = np.concatenate([self._nearly(top) for top in range(0, len(self.rgb), STRIP)])
        return np.asarray(repeated & (counts * ROWS <= NEARLY * self.areas))

    def _nearly(self, top: int) -> NDArray[Any]:
        """Pixels of each block of a strip that nearly equal one beside or above, and do not repeat it."""
        lines = np.arange(top, min(top + STRIP, len(self.rgb)), ROWS)
        rows = self.rgb[lines].astype(np.int16)
        beside = np.abs(np.diff(rows, axis=1, prepend=rows[:, :1])).max(2)
        above = np.abs(rows - self.rgb[np.maximum(lines - 1, 0)]).max(2)
        nearly = (np.minimum(beside, above) <= CLOSE) & ~self._repeated[1][lines // ROWS]
        across = np.add.reduceat(nearly, np.arange(0, nearly.shape[1], SIDE), axis=1, dtype=np.int32)
        return np.asarray(np.add.reduceat(across, np.arange(0, len(nearly), SIDE // ROWS), axis=0))

    @cached_property
    def sampled_bits(self) -> float:
        """A guess at the bits of the whole picture without loss, from a few bands of it."""
        height, width = self.rgb.shape[:2]
        tops = np.linspace(0, max(height - BAND, 0), BANDS).astype(int)
        sample = np.concatenate([self.rgb[top : top + BAND, : webp.MAX_SIDE] for top in tops])
        bits = 8 * max(len(webp.encode(sample, quick=True)) - TABLES_BYTES, 8)
        return float(bits * (height * width) / (sample.shape[0] * sample.shape[1]))


@dataclass(eq=False)
class Watch:
    """What coding a picture of width x height pixels spends on every block, and how it comes back."""

    width: int
    height: int
    counts: bool = True  # whether the bits are wanted
    bits: NDArray[np.float32] = field(init=False)  # by latents
    errors: Values = field(init=False)  # sums of squares, in levels
    shifts: NDArray[np.float64] = field(init=False)  # [rows, columns, 3] sums of restored minus original

    def __post_init__(self) -> None:
        shape = blocks(self.width, self.height)
        self.bits = np.zeros((-(-self.height // LATENT_STRIDE), -(-self.width // LATENT_STRIDE)), np.float32)
        self.errors, self.shifts = np.zeros(shape), np.zeros((*shape, 3))

    @span("patches")
    def see(self, restored: NDArray[np.float32], original: Rgb, piece: Rect) -> None:
        """Look at a piece [3, h, w] in [0, 1], on any thread; it begins at whole blocks."""
        where = blocks_of(piece)
        errors = np.zeros(1)
        for c, plane in enumerate(restored):
            missing = plane * np.float32(255) - original[:, :, c]
            self.shifts[(*where, c)] = _sums(missing)
            np.multiply(missing, missing, out=missing)
            errors = errors + _sums(missing)
        self.errors[where] = errors

    def block_bits(self) -> Values:
        """Bits of each block."""
        across = np.add.reduceat(self.bits, np.arange(0, self.bits.shape[1], LATENTS), axis=1)
        return np.add.reduceat(across, np.arange(0, len(self.bits), LATENTS), axis=0).astype(np.float64)


# ---- the choice ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Chooser:
    """Chooses what to keep of one picture at one quality.

    Attributes:
        lagrangian: bits per pixel per unit of mean squared error.
    """

    survey: Survey
    quality: int
    lagrangian: float
    effort: int

    @property
    def rgb(self) -> Rgb:
        """The picture."""
        return self.survey.rgb

    @cached_property
    def whole(self) -> Patches:
        """All of the picture."""
        height, width = self.rgb.shape[:2]
        return self._with_pieces(width <= MAX_WIDTH, np.ones(blocks(width, height), bool))

    def at_once(self) -> bool:
        """Whether the whole is kept without trying anything else: it costs no more than a photograph would."""
        if self.survey.plain.mean() < MOSTLY:
            return False
        return bool(self._quick_whole <= rate(self.quality) * self.rgb.shape[0] * self.rgb.shape[1])

    @span("patches")
    def choose(self, watch: Watch, all_bits: int) -> Mask | None:
        """The blocks to keep, by what coding the picture without any has shown; None for none.

        `all_bits` are those of all payloads.
        """
        spent = watch.block_bits()
        worst_error, worst_shift = promised(self.quality)
        areas = self.survey.areas
        plain = self.survey.plain
        strict = np.where(plain, STRICT if self.quality >= LEGIBLE else 1.0, 1.0) * areas
        moved = np.abs(watch.shifts).max(2) > worst_shift * areas
        bad = moved | (watch.errors > worst_error * 3 * strict)
        worth = self.lagrangian / (3 * 255**2) * watch.errors
        seen = plain | bad
        losses = spent + np.where(seen, WORTH, 1.0) * worth
        least = max(min(SMALLEST_GAIN, 0.1 * all_bits), SMALLEST_SHARE * float(losses.sum()))
        if losses[seen].sum() <= least and not bad.any():
            return self._all(all_bits)
        costs = self._costs(seen)
        bad = moved | (bad & (costs <= DEAR * areas))
        mask = bad | (plain & (losses > costs))
        if (losses - costs)[mask].sum() <= least and not bad.any():
            mask = np.zeros_like(mask)
        mask = _grown(mask, plain & (self.survey.new <= EASY * areas))
        mixed = costs[mask].sum() + losses[~mask].sum()
        all_of_it = self._all(float(mixed) if mask.any() and seen.mean() > SOME else all_bits)
        if all_of_it is not None:
            return all_of_it
        return mask if mask.any() else None

    def _all(self, most_bits: float) -> Mask | None:
        """Every block, if the whole picture without loss takes no more than that."""
        if GUESS * self.survey.sampled_bits > most_bits or self._quick_whole > most_bits:
            return None
        return np.ones(self.survey.areas.shape, bool)

    def _costs(self, mask: Mask) -> Values:
        """Bits of blocks without loss, estimated: those of all of `mask` together, shared out by their new pixels."""
        shares = np.where(mask, self.survey.new + 4, 0.0)
        sheets = Patches(self.rgb.shape[1], self.rgb.shape[0], mask, ()).sheets()
        total = sum(self._quick_bits(laid_out(self.rgb, mask, sheet)) for sheet in sheets)
        return np.where(mask, total * shares / shares.sum() + EPS_BITS, np.inf)

    def _quick_bits(self, rgb: Rgb) -> float:
        tall, wide = 4096, MAX_WIDTH
        parts = [
            rgb[top : top + tall, left : left + wide]
            for top in range(0, rgb.shape[0], tall)
            for left in range(0, rgb.shape[1], wide)
        ]
        return 8.0 * sum(len(webp.encode(part, quick=True)) for part in parts)

    def smaller(self, size_bytes: int) -> bool:
        """Whether the whole picture without loss takes no more than that."""
        if GUESS * self.survey.sampled_bits > 8 * size_bytes:
            return False
        if self._quick_whole / 1.3 > 8 * size_bytes:
            return False
        return len(self.whole.payload()) <= size_bytes

    @cached_property
    def _quick_whole(self) -> float:
        """About the bits of all of the picture."""
        return self._quick_bits(self.rgb)

    def patches(self, mask: Mask) -> Patches:
        """These blocks, without loss."""
        return self.whole if mask.all() else self._with_pieces(False, mask)

    @span("patches")
    def _with_pieces(self, whole: bool, mask: Mask) -> Patches:
        empty = Patches(self.rgb.shape[1], self.rgb.shape[0], mask, (), whole)
        slow = self.effort >= SLOW_EFFORT
        if empty.whole:
            pieces = [webp.encode(self.rgb[band.slices], slow=slow) for band in empty.bands()]
        else:
            sheets = (laid_out(self.rgb, empty.mask, sheet) for sheet in empty.sheets())
            pieces = [webp.encode(sheet, slow=slow) for sheet in sheets]
            empty = replace(empty, areas=ground(self.rgb, empty.mask, rate(self.quality)))
        return replace(empty, pieces=tuple(pieces))


def _grown(mask: Mask, easy: Mask) -> Mask:
    """With the easy blocks that touch it, and those that touch these: the ground around letters, to its end."""
    while True:
        wide = np.pad(mask, 1)
        beside = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
        more = mask | (beside & easy)
        if np.array_equal(more, mask):
            return mask
        mask = more


def laid_out(rgb: Rgb, mask: Mask, sheet: Sheet) -> Rgb:
    """A sheet of the blocks of a mask; what lies beyond the picture's edges repeats its last pixels."""
    out = np.zeros((sheet.height // SIDE, sheet.width // SIDE, SIDE, SIDE, 3), np.uint8)
    places = np.argwhere(mask)[sheet.first : sheet.first + sheet.amount].tolist()
    for number, (row, column) in enumerate(places):
        block = rgb[row * SIDE : row * SIDE + SIDE, column * SIDE : column * SIDE + SIDE]
        if block.shape[:2] != (SIDE, SIDE):
            block = np.pad(block, ((0, SIDE - block.shape[0]), (0, SIDE - block.shape[1]), (0, 0)), "edge")
        out[divmod(number, sheet.columns)] = block
    return out.transpose(0, 2, 1, 3, 4).reshape(sheet.height, sheet.width, 3)


# ---- what the transforms see -----------------------------------------------------------------------------------------

_CELL = 8  # [pixels] of the grid on which holes are filled


class Filled:
    """The picture [H, W, 3] with smooth colours, those around them, in the blocks of a mask.

    It is made where it is looked at, so that no second copy of a large picture lies in memory.
    """

    @span("patches")
    def __init__(self, rgb: Rgb, mask: Mask) -> None:
        self._rgb, self._mask, self.shape = rgb, mask, rgb.shape
        height, width = rgb.shape[:2]
        n = SIDE // _CELL
        known = ~np.repeat(np.repeat(mask, n, 0), n, 1)[: -(-height // _CELL), : -(-width // _CELL)]
        down, across = np.arange(0, height, _CELL), np.arange(0, width, _CELL)
        strips = (rgb[top : top + STRIP] for top in range(0, height, STRIP))
        wide = (np.add.reduceat(strip, across, axis=1, dtype=np.float32) for strip in strips)
        sums = [np.add.reduceat(strip, np.arange(0, len(strip), _CELL), axis=0) for strip in wide]
        counts = np.outer(np.minimum(_CELL, height - down), np.minimum(_CELL, width - across))[:, :, None]
        self._means = _pulled(np.concatenate(sums) / counts, known)

    @span("patches")
    def __getitem__(self, where: tuple[slice, slice]) -> Rgb:
        """Pixels [h, w, 3]; a copy."""
        out = self._rgb[where].copy()
        down, across = (np.arange(n)[part] for n, part in zip(self.shape[:2], where, strict=True))
        holes = self._mask[np.ix_(down // SIDE, across // SIDE)]
        if holes.any():
            out[holes] = np.rint(self._means[np.ix_(down // _CELL, across // _CELL)][holes])
        return out


def _pulled(values: NDArray[Any], known: Mask) -> NDArray[Any]:
    """Values [h, w, 3] where they are known; elsewhere means of what is known around, from ever coarser grids."""
    if known.all():
        return values
    if not known.any():
        return np.full_like(values, 128)
    h, w = known.shape
    even = (-h % 2, -w % 2)
    weight = np.pad(known.astype(np.float32), ((0, even[0]), (0, even[1])))
    padded = np.pad(values, ((0, even[0]), (0, even[1]), (0, 0))) * weight[:, :, None]
    count = weight.reshape(weight.shape[0] // 2, 2, -1, 2).sum((1, 3))
    sums = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2, 3).sum((1, 3))
    coarse = _pulled(sums / np.maximum(count, 1)[:, :, None], count > 0)
    fine = np.repeat(np.repeat(coarse, 2, 0), 2, 1)
    edge = np.pad(fine, ((1, 1), (1, 1), (0, 0)), "edge")
    soft = (edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:] + 4 * edge[1:-1, 1:-1]) / 8
    return np.where(known[:, :, None], values, soft[:h, :w])


def silent(mask: Mask, height: int, width: int) -> Mask:
    """The latents [height, width] of which nothing is seen: those of kept blocks, all around them kept, too."""
    kept = np.repeat(np.repeat(mask, LATENTS, 0), LATENTS, 1)[:height, :width]
    wide = np.pad(kept, 1, "edge")
    rows = wide[:-2] & wide[1:-1] & wide[2:]
    return np.asarray(rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:])


# ---- back ------------------------------------------------------------------------------------------------------------


class Paster:
    """Pastes patches over a picture that is restored from the top; a piece is unpacked when it is needed."""

    def __init__(self, patches: Patches) -> None:
        self.patches = patches
        self._unpacked: dict[int, Rgb] = {}
        if not patches.whole:
            self._before = np.cumsum(patches.mask.sum(1)) - patches.mask.sum(1)  # blocks above each row

    @span("patches")
    def paste(self, picture: Rgb, window: Rect) -> None:
        """Paste what lies in a window of the picture over its pixels [h, w, 3], in place.

        Raises:
            DamagedError: a piece cannot be unpacked.
        """
        (self._bands if self.patches.whole else self._blocks)(picture, window)
        for place, colour in self.patches.areas:
            part = place.intersection(window)
            if not part.empty:
                picture[part.relative_to(window).slices] = colour

    def _bands(self, picture: Rgb, window: Rect) -> None:
        for number, band in enumerate(self.patches.bands()):
            part = window.intersection(band)
            if not part.empty:
                piece = self._piece(number, band.width, band.height)
                picture[part.relative_to(window).slices] = piece[part.relative_to(band).slices]

    def _blocks(self, picture: Rgb, window: Rect) -> None:
        mask, sheets = self.patches.mask, self.patches.sheets()
        rows, columns = blocks_of(window)
        for row in range(rows.start, rows.stop):
            places = self._before[row] + np.cumsum(mask[row]) - 1
            for column in np.flatnonzero(mask[row, columns]).tolist():
                column += columns.start
                number, place = divmod(int(places[column]), sheets[0].amount)
                sheet = sheets[number]
                piece = self._piece(number, sheet.width, sheet.height)
                y, x = (SIDE * n for n in divmod(place, sheet.columns))
                block = Rect(column, row, column + 1, row + 1).scaled(SIDE)
                part = block.intersection(window)
                source = part.relative_to(block)
                picture[part.relative_to(window).slices] = piece[y : y + SIDE, x : x + SIDE][source.slices]

    def _piece(self, number: int, width: int, height: int) -> Rgb:
        if number not in self._unpacked:
            self._unpacked = {number: webp.decode(self.patches.pieces[number], width, height)}
        return self._unpacked[number]
