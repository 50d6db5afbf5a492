# SPDX-License-Identifier: MIT
"""Search for a target: bits per pixel, PSNR or bytes -> a quality, and an encoding that meets it.

A quality is 3 to 5 % of the bytes apart from the next. What lies between is reached by the encoder's choice of indices:
the weight of the distortion in it (`lambda_scale`) moves the size by some percent, at nearly the same efficiency, and
no decoder notices. Sizes are first estimated on latents that are analysed once for several qualities (and, in a large
picture, on a sample of it); what is returned has always been encoded, and for a PSNR decoded, in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import Ints
from vqcodec.bitstream.tiles import Grid, Tile
from vqcodec.codec import decode, encode
from vqcodec.codec.encode import Layers, PictureEncoder, kept_whole
from vqcodec.codec.patching import Chooser
from vqcodec.codec.tradeoff import CHEAPEN_EFFORT, Tradeoff
from vqcodec.errors import LimitError, UsageError
from vqcodec.model.walk import Base
from vqcodec.options import BASE_ONLY_QUALITY, DEFAULT_QUALITY, MAX_QUALITY, DecodeOptions, EncodeOptions, Target
from vqcodec.pictures import webp
from vqcodec.pictures.picture import Picture, psnr
from vqcodec.threads import Progress, in_order, single_blas

TOLERANCE = 0.02  # a size is promised within this share of the target, where the qualities reach so far,
CLOSE = 0.01  # and accepted within this one
LIMIT_AIM = 0.993  # of --max-bytes: what is aimed at, so that most first attempts fit
MAX_ATTEMPTS = 4  # full encodings before the best is taken
ANALYSIS_REACH = 8  # qualities for which one analysis serves in estimates (docs/decisions.md, 14)
SAMPLE_SIDE = 512  # [pixels] of the pieces that estimates for a large picture are made on,
SAMPLE_GRID = 3  # so many of them beside and above each other
LOG_SIZE_PER_QUALITY = 0.035  # first guesses of slopes
PSNR_PER_QUALITY = 0.16  # [dB]
EXACT_DB = 100.0  # what counts as the PSNR of a picture that comes back as it was
LOG_SIZE_PER_LOG_LAMBDA = 0.1
LAMBDA_SCALES = (0.5, 2.0)


@dataclass(frozen=True)
class Reached:
    """A file, and what it is."""

    data: bytes
    quality: int
    bpp: float
    psnr: float | None = None  # [dB]; only where it was asked for
    restored_db: float | None = None  # about its PSNR, where the encoder knows it

    @property
    def sentence(self) -> str:
        """For people: the quality, the size and, where it was asked for, the PSNR."""
        text = f"quality {self.quality}, {len(self.data):,} bytes, {self.bpp:.4g} bpp"
        return text if self.psnr is None else f"{text}, {self.psnr:.2f} dB"


def encode_to_target(
    picture: Picture, target: Target, options: EncodeOptions = EncodeOptions(), progress: Progress | None = None
) -> Reached:
    """Encode a loaded picture to a target; `progress(done, tiles)` is called in every full encoding.

    Raises:
        LimitError: no quality reaches the PSNR, or is as small as `max_bytes`.
        ModelError
        UsageError: lossless, without WebP.
    """
    encoder = _Encoder(picture, options, progress)
    if target.lossless:
        return encoder.lossless()
    if target.aim is None:
        return encoder.full(DEFAULT_QUALITY if target.quality is None else target.quality)
    if target.psnr is not None:
        return _reach_psnr(encoder, target.psnr)
    with single_blas():
        if target.max_bytes is not None:
            return _reach_size(encoder, target.max_bytes, limit=True)
        return _reach_size(encoder, target.aim * encoder.pixels / 8, limit=False)


class _Encoder(PictureEncoder):
    """Encodes one picture again and again, and measures what comes out."""

    @property
    def pixels(self) -> int:
        """Of the picture."""
        return int(self.height * self.width)

    def full(self, quality: int, lambda_scale: float = 1.0) -> Reached:
        """The whole file at a quality."""
        layers = self.layers(quality, lambda_scale)
        self.colour_bytes[quality] = len(layers.colour.payload(self.model.tables) or b"")
        data = self.pack(quality, layers)
        about = None if layers.restored is None else 10 * math.log10(255**2 / max(layers.restored, 1e-5))
        return Reached(data, quality, 8 * len(data) / self.pixels, restored_db=about)

    def without_loss(self, most_bytes: float) -> Reached | None:
        """The whole picture as one patch, if that is not larger."""
        if not self.patching:
            return None
        if not self._chooser.smaller(int(most_bytes)):
            return None
        exact = self.lossless()
        return exact if len(exact.data) <= most_bytes else None

    def lossless(self) -> Reached:
        """The whole picture as one patch."""
        if not webp.available():
            raise UsageError("lossless needs a Pillow with WebP: install Pillow's wheel")
        data = self.pack(MAX_QUALITY, kept_whole(self._chooser, self.grid))
        return Reached(data, MAX_QUALITY, 8 * len(data) / self.pixels)

    @cached_property
    def _chooser(self) -> Chooser:
        """Of the picture as a whole."""
        return Chooser(self.survey, MAX_QUALITY, 1.0, self.options.effort)

    def decoded(self, quality: int) -> Reached:
        """The whole file at a quality, with the PSNR of what a decoder makes of it."""
        reached = self.full(quality)
        o = self.options
        options = DecodeOptions(threads=o.threads, model=o.model, max_pixels=self.pixels, execution=o.execution)
        return replace(reached, psnr=psnr(self.picture.rgb, decode.decode(reached.data, options).rgb))

    @cached_property
    def bare_bytes(self) -> int:
        """About the size of the file without its payloads and its colour layer."""
        empty = (b"",) * self.grid.tile_count
        return len(self.pack(DEFAULT_QUALITY, Layers(empty, empty))) + 3 * len(empty)  # the lengths are longer then

    @cached_property
    def colour_bytes(self) -> dict[int, int]:
        """By the qualities tried, what the colour layer takes."""
        return {}

    def fixed_bytes(self, quality: int) -> int:
        """About the size of the file without its payloads, with the colour layer of the nearest quality tried."""
        tried = self.colour_bytes
        return self.bare_bytes + (tried[min(tried, key=lambda other: abs(other - quality))] if tried else 0)

    def sample(self) -> Picture:
        """The picture, or where it is large, pieces from all over it put together."""
        return replace(self.picture, rgb=_sample(self.picture.rgb), alpha=None, icc=None, exif=None, xmp=None)


def _sample(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pieces from all over a large picture, in the order in which they lie; the picture itself if it is not larger."""
    height, width = rgb.shape[:2]
    if height * width <= (SAMPLE_SIDE * SAMPLE_GRID) ** 2:
        return rgb
    if min(height, width) >= SAMPLE_SIDE * SAMPLE_GRID:
        tops, lefts = _starts(height, SAMPLE_SIDE, SAMPLE_GRID), _starts(width, SAMPLE_SIDE, SAMPLE_GRID)
        rows = [[rgb[y : y + SAMPLE_SIDE, x : x + SAMPLE_SIDE] for x in lefts] for y in tops]
        return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
    long = 0 if height > width else 1
    length = max(16, SAMPLE_SIDE**2 // max(16, min(height, width)) // 16 * 16)
    starts = _starts(rgb.shape[long], length, SAMPLE_GRID**2)
    return np.concatenate([rgb.take(range(start, start + length), long) for start in starts], axis=long)


def _starts(size: int, length: int, count: int) -> list[int]:
    """Where pieces of a length begin that are spread over a side, at whole latents."""
    return [(size - length) * number // (count - 1) // 16 * 16 for number in range(count)]


class _Estimator:
    """Sizes of the payloads, estimated: [bytes] of the whole picture by quality and lambda scale."""

    def __init__(self, encoder: _Encoder) -> None:
        self.model, self.at_once = encoder.model, encoder.at_once
        self.effort = encoder.options.effort  # its rounds are left to the correction
        self.tune = encoder.options.tune
        self.model.prepare("analysis")
        self.rgb = encoder.sample().rgb
        self.ratio: float = encoder.pixels / (self.rgb.shape[0] * self.rgb.shape[1])
        self.grid = Grid(self.rgb.shape[1], self.rgb.shape[0], 1 << encoder.options.tile_log2)
        self.analysed_at = -MAX_QUALITY
        self.tiles: list[tuple[NDArray[np.float16], int, Ints]] = []  # latents, base payload's size, base indices
        self.size = cache(self._size)

    def _size(self, quality: int, lambda_scale: float) -> float:
        if abs(quality - self.analysed_at) > ANALYSIS_REACH:
            self.analysed_at = quality
            self.tiles = list(in_order(self._analyse, self.grid.tiles, self.at_once))
        total = sum(base_bytes for _, base_bytes, _ in self.tiles)
        if quality != BASE_ONLY_QUALITY:
            tradeoff = Tradeoff(quality, self.effort, lambda_scale, self.tune)

            def refinement_bytes(tile: Tile) -> int:
                latents, _, base = self.tiles[tile.index]
                return len(
                    encode.encode_refinement(self.model, latents.astype(np.float32), Base.alone(base), tradeoff)[0]
                )

            total += sum(in_order(refinement_bytes, self.grid.tiles, self.at_once))
        return self.ratio * total

    def _analyse(self, tile: Tile) -> tuple[NDArray[np.float16], int, Ints]:
        setting = self.model.setting(self.analysed_at, self.tune)
        latents, vectors = encode.analyse(self.model, self.rgb, self.grid, tile, setting)
        base = encode.nearest(self.model, vectors)
        payload = encode.encode_base(self.model, base)
        return latents.astype(np.float16), len(payload), base


def _reach_size(encoder: _Encoder, wanted_bytes: float, *, limit: bool) -> Reached:
    """The file whose size is nearest to the one wanted; with `limit`, the largest that is not above it."""
    exact = encoder.without_loss(wanted_bytes)
    if exact is not None:
        return exact
    estimator = _Estimator(encoder)
    aim = math.log(wanted_bytes) + (math.log(LIMIT_AIM) if limit else 0.0)
    correction = 1.0  # payload as it is over payload as estimated
    tried: dict[tuple[int, float], Reached] = {}

    def log_size(quality: int, lambda_scale: float = 1.0) -> float:
        return math.log(encoder.fixed_bytes(quality) + correction * estimator.size(quality, lambda_scale))

    quality = DEFAULT_QUALITY
    for _ in range(MAX_ATTEMPTS):
        quality = _nearest_quality(log_size, aim, quality)
        lambda_scale = _lambda_scale(log_size, aim, quality) if encoder.options.effort >= CHEAPEN_EFFORT else 1.0
        if (quality, lambda_scale) in tried:
            break
        reached = tried[quality, lambda_scale] = encoder.full(quality, lambda_scale)
        share = len(reached.data) / wanted_bytes
        if (1 - TOLERANCE < share <= 1) if limit else abs(share - 1) < CLOSE:
            return reached
        payload = max(len(reached.data) - encoder.fixed_bytes(quality), 1)
        correction = payload / max(estimator.size(quality, lambda_scale), 1)
    if not limit:
        return min(tried.values(), key=lambda file: abs(math.log(len(file.data) / wanted_bytes)))
    return _below(encoder, wanted_bytes, list(tried.values()))


def _below(encoder: _Encoder, max_bytes: float, tried: list[Reached]) -> Reached:
    """The largest file tried that fits; else the first that does, going down the qualities."""
    fitting = [file for file in tried if len(file.data) <= max_bytes]
    if fitting:
        return max(fitting, key=lambda file: len(file.data))
    quality, step = min(file.quality for file in tried), 1
    while True:
        quality = max(BASE_ONLY_QUALITY, quality - step)
        step *= 2
        smaller = encoder.full(quality)
        if len(smaller.data) <= max_bytes:
            return smaller
        if quality == BASE_ONLY_QUALITY:
            raise LimitError(
                f"the picture takes {len(smaller.data):,} bytes at the lowest quality, more than the {max_bytes:,} "
                "allowed: reduce it, or leave out its metadata with --strip"
            )


def _nearest_quality(log_size: Callable[[int], float], aim: float, guess: int) -> int:
    """The quality whose size comes nearest to the aim, or one so near that `lambda_scale` does the rest."""
    low, high = BASE_ONLY_QUALITY - 1, MAX_QUALITY + 1
    known: dict[int, float] = {}
    quality = guess
    while high - low > 1:
        known[quality] = log_size(quality)
        miss = known[quality] - aim
        if abs(miss) < LOG_SIZE_PER_QUALITY / 2:
            return quality
        low, high = (low, quality) if miss > 0 else (quality, high)
        quality = _between(low, high, known, aim, quality - miss / LOG_SIZE_PER_QUALITY)
    return min((q for q in (low, high) if q in known), key=lambda q: abs(known[q] - aim))


def _between(low: int, high: int, known: dict[int, float], aim: float, guess: float) -> int:
    """Where to look next, inside an open bracket: by interpolation; by halves where that was of no use."""
    if low in known and high in known:
        share = (aim - known[low]) / max(known[high] - known[low], 1e-9)
        guess = low + share * (high - low) if len(known) < 6 else (low + high) / 2
    return min(max(round(guess), low + 1), high - 1)


def _lambda_scale(log_size: Callable[[int, float], float], aim: float, quality: int) -> float:
    """The weight of the distortion that brings the size at a quality to the aim, by the secant method."""
    before, size_before = 0.0, log_size(quality, 1.0)  # logarithms of scale and size
    slope = LOG_SIZE_PER_LOG_LAMBDA
    best = (abs(size_before - aim), 1.0)
    for _ in range(3):
        if best[0] < CLOSE / 4:
            break
        place = before + (aim - size_before) / slope
        scale = round(math.exp(min(max(place, math.log(LAMBDA_SCALES[0])), math.log(LAMBDA_SCALES[1]))), 4)
        place, size = math.log(scale), log_size(quality, scale)
        best = min(best, (abs(size - aim), scale))
        if place == before:
            break
        slope = max((size - size_before) / (place - before), LOG_SIZE_PER_LOG_LAMBDA / 10)
        before, size_before = place, size
    return best[1]


def _reach_psnr(encoder: _Encoder, wanted_db: float) -> Reached:
    """The file of the lowest quality that reaches a PSNR."""
    guess = DEFAULT_QUALITY
    sample = encoder.sample()
    if sample.rgb.size < encoder.picture.rgb.size:
        small = _Encoder(sample, encoder.options)
        guess = _lowest_quality(lambda quality: small.decoded(quality).psnr or 0.0, wanted_db, guess)
    decoded = cache(encoder.decoded)
    quality = _lowest_quality(lambda quality: decoded(quality).psnr or 0.0, wanted_db, min(guess, MAX_QUALITY))
    if quality > MAX_QUALITY:
        raise LimitError(
            f"the picture reaches {decoded(MAX_QUALITY).psnr:.2f} dB at quality {MAX_QUALITY}, "
            f"less than the {wanted_db:g} asked for: ask for lossless instead"
        )
    return decoded(quality)


def _lowest_quality(value: Callable[[int], float], wanted: float, guess: int) -> int:
    """The lowest quality that reaches a value which grows with quality; MAX_QUALITY + 1 if none does."""
    low, high = BASE_ONLY_QUALITY - 1, MAX_QUALITY + 1
    known: dict[int, float] = {}
    quality = guess
    while high - low > 1:
        known[quality] = value(quality)
        low, high = (low, quality) if known[quality] >= wanted else (quality, high)
        reached = min(known[quality], EXACT_DB)  # it may be infinite
        quality = _between(low, high, known, wanted, quality + (wanted - reached) / PSNR_PER_QUALITY)
    return high
