# SPDX-License-Identifier: MIT
"""Indices + integer frequency tables <-> bytes.

A payload is the output of one range coder (range_coder.py). Symbols are coded grouped by table, because that is ten
times faster than one by one. The frequencies of an alphabet of n symbols sum to 2**24 - n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import range_coder
from vqcodec.bitstream.codebook import MAX_INDEX, Ints
from vqcodec.bitstream.range_coder import TOTAL, Coder
from vqcodec.errors import DamagedError, ModelError
from vqcodec.spans import span

AnyClasses = NDArray[np.integer[Any]]
_CUT_BYTES = 16  # after two words that differ in all bits two decoders cannot agree any more
_LENGTH = 32  # alphabet of the bit length of an escaped value
_SLACK_BITS = 64  # by which the information of a payload's symbols may exceed its size


@dataclass(frozen=True)
class ClassTables:
    """The static table of every scale class: symbols 0 .. 2L are the indices -L .. L, symbol 2L + 1 is the escape.

    Args:
        limits: [64] int64, L of each class; 0 for classes that are not coded (their indices are all zero).
        frequencies: per class [2L + 2] float64 holding integers >= 0 that sum to 2**24 - (2L + 2).
        shrink: [64, 3] float64: reconstruction offsets of |index| = 0 (always 0), 1 and >= 2, in 1/256 of a step.
    """

    limits: Ints
    frequencies: tuple[NDArray[np.float64], ...]
    shrink: NDArray[np.float64]

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ClassTables:
        """From `tables.limits`, `tables.counts` (all classes one after the other) and `tables.shrink`."""
        try:
            limits = arrays["tables.limits"].astype(np.int64)
            counts, shrink = arrays["tables.counts"].astype(np.float64), arrays["tables.shrink"].astype(np.float64)
        except KeyError as error:
            raise ModelError(f"the model's tables lack {error}") from None
        if (limits > MAX_INDEX).any():
            raise ModelError("the model's frequency tables are malformed")
        sizes = np.where(limits > 0, 2 * limits + 2, 0)
        fits = limits.shape == (64,) and shrink.shape == (64, 3) and sizes.sum() == len(counts)
        if not fits or (limits < 0).any() or (counts < 0).any() or (shrink < 0).any() or (shrink > 127).any():
            raise ModelError("the model's frequency tables are malformed")
        frequencies = tuple(np.split(counts, np.cumsum(sizes)[:-1]))
        if any(len(row) and row.sum() != TOTAL - len(row) for row in frequencies):
            raise ModelError("the model's frequency tables do not sum to what the coder needs")
        return cls(limits, frequencies, shrink)

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """Ideal cost of an index by class and magnitude: [64, 2 * 256] float64 bits, column = index + 256 (clipped).

        Escapes are costed with their extra bits. For the encoder's choices only.
        """
        out = np.zeros((64, 512))
        values = np.arange(-256, 256)
        for number, limit in enumerate(self.limits):
            if limit == 0:
                out[number] = np.where(values == 0, 0.0, 1e9)
                continue
            cost = -np.log2((self.frequencies[number] + 1) / TOTAL)
            magnitude = np.abs(values)
            extra = 2 * np.floor(np.log2(np.maximum(magnitude - limit, 1))) + 6
            inside = np.minimum(np.abs(values), limit) * np.sign(values) + limit
            out[number] = np.where(magnitude <= limit, cost[inside], cost[-1] + extra)
        return out

    @cached_property
    def information(self) -> list[NDArray[np.float64]]:
        """Bits of every symbol of every class, escapes without the bits that follow them."""
        return [np.log2(TOTAL / (row + 1)) for row in self.frequencies]

    @cached_property
    def _prepared(self) -> dict[Coder, list[Any]]:
        return {}

    def prepared(self, coder: Coder) -> list[Any]:
        """The tables as a range coder takes them, one per class; None for classes that are not coded."""
        if coder not in self._prepared:
            self._prepared[coder] = [coder.table(row) if len(row) else None for row in self.frequencies]
        return self._prepared[coder]

    def reconstruction(self, indices: Ints, classes: AnyClasses) -> NDArray[np.float64]:
        """The `shrink` entry of every index: same shape as `indices`."""
        return self.shrink[classes, np.minimum(np.abs(indices), 2)]


def _groups(classes: AnyClasses, limits: Ints) -> Iterator[tuple[int, Ints]]:
    """The classes present that are coded, ascending, each with the flat positions of its elements in raster order."""
    flat = classes.ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.cumsum(np.bincount(flat, minlength=64))
    for number in range(64):
        start = ends[number - 1] if number else 0
        if limits[number] and ends[number] > start:
            yield number, order[start : ends[number]]


class Encoder:
    """Writes one payload."""

    def __init__(self) -> None:
        self._kind = range_coder.choose()
        self._coder = self._kind.encoder()

    @span("coder")
    def put_base(self, indices: Ints, frequencies: NDArray[Any]) -> None:
        """Code base indices [n] with the frequencies [n, K] of each."""
        if len(indices):
            self._coder.put_each(indices, frequencies.astype(np.float64))

    @span("coder")
    def put_refinement(self, indices: Ints, classes: AnyClasses, tables: ClassTables) -> None:
        """Code the indices [n, C] of one step by their scale classes [n, C]; uncoded classes must be zero."""
        flat, prepared = indices.ravel(), tables.prepared(self._kind)
        for number, where in _groups(classes, tables.limits):
            values, limit = flat[where], int(tables.limits[number])
            inside = np.abs(values) <= limit
            self._coder.put(np.where(inside, values + limit, 2 * limit + 1), prepared[number])
            if not inside.all():
                self._put_escapes(values[~inside], limit)

    def _put_escapes(self, values: Ints, limit: int) -> None:
        """Per value: sign, then excess = |value| - limit >= 1 as bit length (5 bits) and the bits below the top one."""
        for value in values.tolist():
            excess = abs(value) - limit
            assert 0 < excess <= MAX_INDEX
            length = excess.bit_length()
            self.put_uniform(int(value < 0), 2)
            self.put_uniform(length, _LENGTH)
            if length > 1:
                self.put_uniform(excess - (1 << (length - 1)), 1 << (length - 1))

    def put_uniform(self, symbol: int, size: int) -> None:
        """Code one of `size` symbols that are equally probable."""
        self._coder.put_uniform(symbol, size)

    @span("coder")
    def finish(self) -> bytes:
        """The payload: little-endian 32-bit words."""
        return self._coder.words().astype("<u4").tobytes()


class Decoder:
    """Reads one payload. The caller knows that it is intact (lengths and CRC are the container's duty).

    Raises:
        DamagedError: by all methods, when the payload cannot have been written by this model.
    """

    def __init__(self, payload: bytes) -> None:
        self._kind = range_coder.choose()
        self._coder = self._kind.decoder(np.frombuffer(payload, "<u4").astype(np.uint32))
        self._escapes = 8 + 8 * len(payload) // 6  # each costs 6 bits or more: a bound on hostile work
        self._room_bits = 8.0 * len(payload) + _SLACK_BITS

    def _take(self, bits: float) -> None:
        """Count the information of symbols: words that are not there would go on for ever as zeros."""
        self._room_bits -= bits
        if self._room_bits < 0:
            raise DamagedError("the compressed data is too short for what it would say")

    @span("coder")
    def get_base(self, frequencies: NDArray[Any]) -> Ints:
        """Base indices [n] by their frequencies [n, K]."""
        if not len(frequencies):
            return np.zeros(0, np.int64)
        indices = self._coder.get_each(np.asarray(frequencies, np.float64))
        self._take(float(np.log2(TOTAL / (frequencies[np.arange(len(indices)), indices] + 1)).sum()))
        return indices

    @span("coder")
    def get_refinement(self, classes: AnyClasses, tables: ClassTables) -> Ints:
        """Indices of one step by their scale classes: [n, C] -> [n, C] int64."""
        flat, prepared = np.zeros(classes.size, np.int64), tables.prepared(self._kind)
        for number, where in _groups(classes, tables.limits):
            limit = int(tables.limits[number])
            values = self._coder.get(len(where), prepared[number])
            information = tables.information[number]
            self._take(float(np.bincount(values, minlength=len(information)) @ information))
            values -= limit
            escaped = np.flatnonzero(values > limit)
            for place in escaped.tolist():
                values[place] = self._get_escape(limit)
            flat[where] = values
        return flat.reshape(classes.shape)

    def _get_escape(self, limit: int) -> int:
        self._escapes -= 1
        if self._escapes < 0:
            raise DamagedError("the compressed data holds more escapes than its length allows")
        negative = self.get_uniform(2)
        length = self.get_uniform(_LENGTH)
        if not 1 <= length <= MAX_INDEX.bit_length():
            raise DamagedError("the compressed data holds an impossible index")
        excess = 1 << (length - 1)
        if length > 1:
            excess += self.get_uniform(1 << (length - 1))
        if limit + excess > MAX_INDEX:
            raise DamagedError("the compressed data holds an impossible index")
        return -(limit + excess) if negative else limit + excess

    def get_uniform(self, size: int) -> int:
        """One of `size` symbols that are equally probable."""
        return self._coder.get_uniform(size)

    def exhausted(self) -> bool:
        """False when data is certainly left over: the payload was not what the prior expected."""
        return self._coder.exhausted()


class CutDecoder:
    """Reads the start of a payload that was cut off: the symbols that follow from it, whatever is missing.

    The words that are missing are read as all zeros and as all ones. Where both give the same symbols, any words would:
    a range coder's symbols are intervals, and the missing words decide where between these two ends the point lies.

    Args:
        start: what is there, in whole words.
        size_bytes: of the whole payload.
    """

    def __init__(self, start: bytes, size_bytes: int) -> None:
        missing = min(size_bytes - len(start), _CUT_BYTES)
        self._ends = Decoder(start + bytes(missing)), Decoder(start + b"\xff" * missing)
        self._over = False

    def _common(self, read: Callable[[Decoder], Ints]) -> Ints | None:
        if self._over:
            return None
        with suppress(DamagedError):
            first, second = map(read, self._ends)
            if np.array_equal(first, second):
                return first
        self._over = True
        return None

    def get_base(self, frequencies: NDArray[Any]) -> Ints | None:
        """As `Decoder.get_base`; None where what is there does not decide all of them, and for all that follows."""
        return self._common(lambda decoder: decoder.get_base(frequencies))

    def get_refinement(self, classes: AnyClasses, tables: ClassTables) -> Ints | None:
        """As `Decoder.get_refinement`; None as above."""
        return self._common(lambda decoder: decoder.get_refinement(classes, tables))
