# SPDX-License-Identifier: MIT
"""Pictures that the priors draw: the decoder's walk, with random numbers where it reads a file.

At temperature 1 the indices are those that a range decoder makes of random bits, but for its rounding: a range coder
leaves up to 1/256 of its range unused, and random bits that fall there decode to nothing (decision 54). So a random
number of 24 bits picks each index from the same integer frequencies. Integers alone decide, and Philox (Salmon et al.,
2011) gives the random numbers: the same seed draws the same indices on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import container
from vqcodec.bitstream.codebook import Classes, Floats, Ints
from vqcodec.bitstream.corrections import NONE
from vqcodec.bitstream.entropy import ClassTables
from vqcodec.bitstream.tiles import Grid, Tile
from vqcodec.codec.tokens import Tokens, of_file, of_picture, to_picture
from vqcodec.errors import LimitError, UsageError
from vqcodec.model import zoo
from vqcodec.model.prior import MIN_TEMPERATURE
from vqcodec.model.walk import Base, Predicted, walk_base
from vqcodec.options import (
    BASE_ONLY_QUALITY,
    MAX_SEED,
    SAMPLE_QUALITY,
    TILE_LOG2,
    DecodeOptions,
    EncodeOptions,
    SampleOptions,
    whole_number,
)
from vqcodec.pictures.picture import Picture
from vqcodec.threads import in_order, share, single_blas

_WEIGHT = 2**29  # of the most probable symbol of a class, at other temperatures than 1
_BASE, _REFINEMENT = 0, 1  # layers, of the random numbers
SIDES = ("width", "height")


class _Random:
    """Random numbers for one layer of one tile; those of other tiles and layers are others."""

    def __init__(self, seed: int, tile: Tile, layer: int) -> None:
        self._philox = np.random.Philox(key=seed, counter=[0, 0, tile.index, layer])

    def words(self, count: int) -> NDArray[np.uint64]:
        """[count] uint64: 24 bits at the top pick a symbol, the lowest bit a sign."""
        return np.asarray(self._philox.random_raw(count), np.uint64)


def base_symbols(frequencies: Floats, words: NDArray[np.uint64]) -> Ints:
    """Base indices [n] of frequencies [n, K] (`BasePrior.frequencies`) and random words [n]."""
    upper = np.cumsum(frequencies + 1, axis=1)
    return np.asarray((upper <= (words >> np.uint64(40)).astype(np.float64)[:, None]).sum(1), np.int64)


class RefinementTables:
    """The class tables at a temperature: random words -> indices.

    A symbol's weight is (frequency + 1)^(1 / temperature), rounded: by `decimal`, whose results are specified to the
    last digit, and not by the processor's pow().
    """

    def __init__(self, tables: ClassTables, temperature: float) -> None:
        self.limits = tables.limits
        power = 1 / Decimal(max(temperature, MIN_TEMPERATURE))
        self._upper = [_cumulated(row, power) for row in tables.frequencies]

    def symbols(self, classes: Classes, words: NDArray[np.uint64]) -> Ints:
        """Indices [n, C] of scale classes [n, C] and random words [n, C]; zero where a class is not coded.

        A table's escape says only that an index lies beyond the table: it becomes the first that does.
        """
        out = np.zeros(classes.shape, np.int64)
        for number in np.unique(classes):
            limit, upper = int(self.limits[number]), self._upper[number]
            if not limit:
                continue
            where = classes == number
            word = words[where]
            point = ((word >> np.uint64(40)).astype(np.int64) * upper[-1]) >> 24
            index = np.searchsorted(upper, point, "right") - limit
            escaped = index > limit
            sign = 1 - 2 * (word & np.uint64(1)).astype(np.int64)
            out[where] = np.where(escaped, sign * (limit + 1), index)
        return out


def _cumulated(frequencies: Floats, power: Decimal) -> Ints:
    """The upper ends of the symbols' ranges: int64, the last at most 2**39."""
    if not len(frequencies):
        return np.zeros(0, np.int64)
    if power == 1:
        return np.asarray(np.cumsum(frequencies + 1), np.int64)
    context = Context(prec=20, Emin=-999_999)
    most = Decimal(int(frequencies.max()) + 1)
    values = {int(f): Decimal(int(f) + 1) for f in np.unique(frequencies)}
    weights = {f: int(_WEIGHT * context.power(context.divide(v, most), power)) for f, v in values.items()}
    return np.cumsum([weights[int(f)] for f in frequencies], dtype=np.int64)


# ---- whole pictures --------------------------------------------------------------------------------------------------


class Sampler:
    """Draws pictures of a size from the priors alone, or variations of a picture.

    Args:
        size: width and height in pixels.
        like: a picture, or the bytes of a .vqc file, to vary instead: its base layer and the first steps of its
            refinement are kept, the rest is drawn.

    Raises:
        DamagedError, LimitError, ModelError
        UsageError: the model lacks the tune, nothing is left to draw, or more is to be kept than there is.
    """

    def __init__(
        self, options: SampleOptions, *, size: tuple[int, int] | None = None, like: Picture | bytes | None = None
    ) -> None:
        self._options = options
        if (size is None) == (like is None):
            raise UsageError("give a size, or a picture to vary; not both")
        if isinstance(like, bytes):
            files = zoo.by_checksum(container.read_header(like).header.model, options.model)
        else:
            files = zoo.find(options.model)
        self.model = zoo.load(files, share(options.threads, 1)[1])
        self._keeps_base = size is None
        self._start = self._empty(size) if size else self._kept(like)
        self._grid = Grid(self._start.width, self._start.height, self._start.tile_side)
        self._prior = self.model.base_prior.at(options.temperature)
        self._tables = RefinementTables(self.model.tables, options.temperature)

    @property
    def pixels(self) -> int:
        """Of a picture."""
        return self._start.width * self._start.height

    def _empty(self, size: tuple[int, int]) -> Tokens:
        """A picture of which nothing is known."""
        width, height = (whole_number(f"the {n}", x, 1, container.MAX_SIDE) for n, x in zip(SIDES, size, strict=True))
        if width * height > self._options.max_pixels:
            raise LimitError(f"{width} x {height} pixels are more than the limit of {self._options.max_pixels:,}")
        grid = Grid(width, height, 1 << TILE_LOG2)
        base = np.zeros((grid.latent_height, grid.latent_width), np.int32)
        quality = SAMPLE_QUALITY if self._options.quality is None else self._options.quality
        if self._options.kept_steps:
            raise UsageError("keep is for the variations of a picture")
        return Tokens(base, None, width, height, quality, tune=self.model.tune(self._options.tune))

    def _kept(self, like: Picture | bytes | None) -> Tokens:
        """The picture to vary."""
        options, steps = self._options, len(self.model.prior.steps)
        if options.kept_steps >= steps:
            raise UsageError(f"keep must be 'base' or a number of steps from 1 to {steps - 1}, not {options.keep!r}")
        if isinstance(like, bytes):
            decoding = DecodeOptions(threads=options.threads, model=options.model, max_pixels=options.max_pixels)
            tokens = of_file(like, decoding)
            if options.kept_steps and (options.quality is not None or options.tune is not None):
                raise UsageError("steps that are kept have the quality and the tune of their file: give neither")
            tune = tokens.tune if options.tune is None else self.model.tune(options.tune)
            tokens = replace(tokens, quality=options.quality or tokens.quality, tune=tune)
        else:
            assert like is not None
            encoding = EncodeOptions(threads=options.threads, model=self.model.files.folder, tune=options.tune)
            tokens = of_picture(like, options.quality or SAMPLE_QUALITY, encoding)
        if tokens.quality == BASE_ONLY_QUALITY:
            raise UsageError("nothing is left to draw: quality 1 is the base layer alone, which is kept")
        return tokens

    def draw(self, seed: int) -> Tokens:
        """The picture of a seed from 0 to 2**63 - 1, as tokens.

        Raises:
            UsageError: no such seed.
        """
        seed = whole_number("seed", seed, 0, MAX_SEED)
        tokens = self._start if self._keeps_base else self._with_base(seed)
        return tokens if tokens.quality == BASE_ONLY_QUALITY else self._with_refinement(tokens, seed)

    def picture(self, seed: int) -> Picture:
        """The same, restored by the decoder that the options name."""
        options, folder = self._options, self.model.files.folder
        noise = seed if options.decoder == "diffusion" else None
        decoding = DecodeOptions(options.decoder, threads=options.threads, model=folder, seed=noise)
        return to_picture(self.draw(seed), decoding)

    def _with_base(self, seed: int) -> Tokens:
        """A base layer that is drawn."""
        base = np.empty_like(self._start.base)

        def one(tile: Tile) -> None:
            random, shape = _Random(seed, tile, _BASE), (tile.latents.height, tile.latents.width)
            base[tile.latents.slices] = walk_base(
                self._prior, shape, lambda _, frequencies: base_symbols(frequencies, random.words(len(frequencies)))
            )

        self._for_all_tiles(one)
        return replace(self._start, base=base)

    def _with_refinement(self, tokens: Tokens, seed: int) -> Tokens:
        """A refinement that is drawn, but for the steps that are kept."""
        setting = self.model.setting(tokens.quality, tokens.tune)
        out = np.empty((*tokens.base.shape, self.model.prior.latents), np.int32)

        def one(tile: Tile) -> None:
            random = _Random(seed, tile, _REFINEMENT)

            def choose(p: Predicted) -> Ints:
                if p.step.number < self._options.kept_steps and tokens.refinement is not None:
                    return tokens.refinement[tile.latents.slices][:, :, p.step.channels][p.where].astype(np.int64)
                return self._tables.symbols(p.classes, random.words(p.classes.size).reshape(p.classes.shape))

            base = Base.of(tokens.base, self._grid, tile, self.model.prior.halo)
            out[tile.latents.slices] = self.model.walk_refinement(base, setting, choose)[1]

        self._for_all_tiles(one)
        return replace(tokens, refinement=out, colour=NONE)

    def _for_all_tiles(self, work: Callable[[Tile], None]) -> None:
        with single_blas():
            for _ in in_order(work, self._grid.tiles, share(self._options.threads, self._grid.tile_count)[0]):
                pass
