# SPDX-License-Identifier: MIT
"""The range coder of docs/FORMAT.md: symbols and their weights <-> 32-bit words. No classes and no indices here.

There are two of them, which write the same words: constriction's (Rust, `queue`), and one in Python for machines on
which constriction cannot be installed. VQCODEC_CODER=plain or =constriction in the environment forces one of them.

The weights of an alphabet of n symbols sum to 2**24, and every caller gives them less one, as *frequencies* that sum to
2**24 - n: constriction, called with float64 and `perfect=False`, then scales them by exactly 1.0 and adds the one
itself, so that no rounding of its own takes part.

Range coding: G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised message" (1979).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import Ints
from vqcodec.errors import DamagedError, UsageError

PRECISION = 24
TOTAL = 2**PRECISION  # frequencies of an alphabet of n symbols sum to TOTAL - n; every symbol weighs one more
ENVIRONMENT = "VQCODEC_CODER"
Words = NDArray[np.uint32]
Frequencies = NDArray[np.float64]
_WORD = 32
_ONE_WORD = 2**_WORD
_START = 2**64 - 1  # the first range
_AT_ONCE = 2**16  # symbols that wait for the loop, in Python


class RangeEncoder(Protocol):
    """Symbols -> words."""

    def put(self, symbols: Ints, table: Any) -> None:
        """Symbols [n] that share a table (`Coder.table`)."""

    def put_each(self, symbols: Ints, frequencies: Frequencies) -> None:
        """Symbols [n] with the frequencies [n, K] of each."""

    def put_uniform(self, symbol: int, size: int) -> None:
        """One of `size` >= 2 symbols that weigh the same, but the last, which has what is left to TOTAL."""

    def words(self) -> Words:
        """All of them; nothing can be put after this."""


class RangeDecoder(Protocol):
    """Words -> symbols. Words behind the end count as zero.

    Raises:
        DamagedError: by all methods, when the words cannot come from an encoder with these tables.
    """

    def get(self, count: int, table: Any) -> Ints:
        """Symbols [count] that share a table (`Coder.table`)."""

    def get_each(self, frequencies: Frequencies) -> Ints:
        """Symbols [n] by the frequencies [n, K] of each."""

    def get_uniform(self, size: int) -> int:
        """See `RangeEncoder.put_uniform`."""

    def exhausted(self) -> bool:
        """False when data is certainly left over."""


class Coder(Protocol):
    """One of the two."""

    def table(self, frequencies: Frequencies) -> Any:
        """What `put` and `get` take for an alphabet with these frequencies [n], n >= 2; worth keeping."""

    def encoder(self) -> RangeEncoder:
        """For one payload."""

    def decoder(self, words: Words) -> RangeDecoder:
        """For one payload."""


@cache
def _named(name: str) -> Coder:
    if name == "plain":
        return Plain()
    try:
        return Constriction()
    except ImportError:
        if name == "constriction":
            raise UsageError(f"{ENVIRONMENT} is constriction, which is not installed") from None
        return Plain()


def choose() -> Coder:
    """The coder that is installed, or that the environment asks for.

    The first call imports constriction. It should come from the main thread: a signal that arrives within an import can
    leave Python's import lock with the main thread, and other threads that import then wait for ever.

    Raises:
        UsageError: the environment asks for one that there is not.
    """
    wanted = os.environ.get(ENVIRONMENT, "")
    if wanted not in ("", "plain", "constriction"):
        raise UsageError(f"{ENVIRONMENT} must be plain or constriction, not {wanted!r}")
    return _named(wanted)


def _damaged(why: object) -> DamagedError:
    return DamagedError(f"the compressed data cannot have been written by this model ({why})")


# ---- constriction ----------------------------------------------------------------------------------------------------


class Constriction:
    """constriction's coder. It is imported when it is chosen: training counts tables on machines without it."""

    def __init__(self) -> None:
        from constriction import stream

        self._stream: Any = stream
        self._each: Any = stream.model.Categorical(perfect=False)

    def table(self, frequencies: Frequencies) -> Any:
        """See Coder."""
        return self._stream.model.Categorical(frequencies, perfect=False)

    def encoder(self) -> RangeEncoder:
        """See Coder."""
        return _ConstrictionEncoder(self._stream, self._each)

    def decoder(self, words: Words) -> RangeDecoder:
        """See Coder."""
        return _ConstrictionDecoder(self._stream, self._each, words)


class _ConstrictionEncoder:
    def __init__(self, stream: Any, each: Any) -> None:
        self._uniform, self._each = stream.model.Uniform, each
        self._coder: Any = stream.queue.RangeEncoder()

    def put(self, symbols: Ints, table: Any) -> None:
        self._coder.encode(symbols.astype(np.int32), table)

    def put_each(self, symbols: Ints, frequencies: Frequencies) -> None:
        self._coder.encode(symbols.astype(np.int32), self._each, frequencies)

    def put_uniform(self, symbol: int, size: int) -> None:
        self._coder.encode(np.array([symbol], np.int32), self._uniform(size))

    def words(self) -> Words:
        words: Words = self._coder.get_compressed()
        return words


class _ConstrictionDecoder:
    def __init__(self, stream: Any, each: Any, words: Words) -> None:
        self._uniform, self._each = stream.model.Uniform, each
        self._coder: Any = stream.queue.RangeDecoder(words)
        self._untouched = bool(len(words))

    def _decode(self, *arguments: Any) -> Ints:
        self._untouched = False
        try:
            return np.asarray(self._coder.decode(*arguments)).astype(np.int64)
        except (AssertionError, ValueError) as error:
            raise _damaged(error) from None

    def get(self, count: int, table: Any) -> Ints:
        return self._decode(table, count)

    def get_each(self, frequencies: Frequencies) -> Ints:
        return self._decode(self._each, frequencies)

    def get_uniform(self, size: int) -> int:
        return int(self._decode(self._uniform(size), 1)[0])

    def exhausted(self) -> bool:
        return bool(self._coder.maybe_exhausted()) and not self._untouched


# ---- Python ----------------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """An alphabet of the coder in Python: where the interval of each symbol begins, and how much each weighs."""

    lefts: Ints  # [n]
    weights: Ints  # [n]
    ends: list[int]  # [n], where each ends
    likely: int  # the symbol that weighs most
    spans: list[tuple[int, int]]  # [n], (left, weight) of each


class Plain:
    """The coder in Python."""

    def table(self, frequencies: Frequencies) -> Table:
        """See Coder."""
        weights = frequencies.astype(np.int64) + 1
        ends = np.cumsum(weights)
        lefts = ends - weights
        spans = list(zip(lefts.tolist(), weights.tolist(), strict=True))
        return Table(lefts, weights, ends.tolist(), int(weights.argmax()), spans)

    def encoder(self) -> RangeEncoder:
        """See Coder."""
        return PlainEncoder()

    def decoder(self, words: Words) -> RangeDecoder:
        """See Coder."""
        return PlainDecoder(words)


def _uniform(size: int) -> tuple[int, int]:
    """What each symbol weighs, and what the last one weighs."""
    each = TOTAL // size
    return each, TOTAL - each * (size - 1)


class PlainEncoder:
    """Symbols -> words, in Python.

    The message is one long number: the sum over all symbols of `scale * left`, each moved up by as many words as the
    range was moved up after it. How the range shrinks does not depend on that sum. So the loop from symbol to symbol
    does nothing but shrink the range, and the sum and its carries are made in arrays.
    """

    def __init__(self) -> None:
        self._lefts: list[Ints] = []
        self._weights: list[Ints] = []
        self._waiting = 0
        self._sums: list[tuple[int, NDArray[np.uint64]]] = []  # (first word, [words]): the number, carries to be done
        self._range, self._shifts = _START, 0

    def put(self, symbols: Ints, table: Table) -> None:
        """See RangeEncoder."""
        self._add(table.lefts[symbols], table.weights[symbols])

    def put_each(self, symbols: Ints, frequencies: Frequencies) -> None:
        """See RangeEncoder."""
        rows, weights = np.arange(len(symbols)), frequencies.astype(np.int64) + 1
        own = weights[rows, symbols]
        self._add(np.cumsum(weights, 1)[rows, symbols] - own, own)

    def put_uniform(self, symbol: int, size: int) -> None:
        """See RangeEncoder."""
        each, last = _uniform(size)
        self._add(np.array([symbol * each]), np.array([last if symbol == size - 1 else each]))

    def _add(self, lefts: Ints, weights: Ints) -> None:
        self._lefts.append(lefts)
        self._weights.append(weights)
        self._waiting += len(lefts)
        if self._waiting > _AT_ONCE:
            self._work()

    def _work(self) -> None:
        """Take what waits into the sums."""
        scales, shifts, range_ = [], [], self._range
        for number, weight in enumerate(np.concatenate(self._weights).tolist(), 1):
            scale = range_ >> PRECISION
            scales.append(scale)
            range_ = scale * weight
            if range_ < _ONE_WORD:
                range_ <<= _WORD
                shifts.append(number)
        products = np.array(scales, np.uint64) * np.concatenate(self._lefts).astype(np.uint64)
        begins = np.array([0, *(number for number in shifts if number < len(products))])  # of the symbols of a word
        sums = np.zeros(len(shifts) + 2, np.uint64)
        sums[: len(begins)] = np.add.reduceat(products >> np.uint64(_WORD), begins)
        sums[1 : len(begins) + 1] += np.add.reduceat(products & np.uint64(_ONE_WORD - 1), begins)
        self._sums.append((self._shifts, sums))
        self._range, self._shifts = range_, self._shifts + len(shifts)
        self._lefts, self._weights, self._waiting = [], [], 0

    def words(self) -> Words:
        """See RangeEncoder."""
        if self._waiting:
            self._work()
        if self._range == _START:
            return np.zeros(0, np.uint32)
        sums = np.zeros(self._shifts + 2, np.uint64)
        for start, part in self._sums:
            sums[start : start + len(part)] += part
        digits = _carried(sums.tolist())
        upper = (digits[-2] << _WORD) + digits[-1] + self._range
        # A point of the interval that stays in it whatever follows its words: one word suffices, or two
        digits[-1] += _ONE_WORD - 1
        digits = _carried(digits)
        digits[-1:] = [0] if upper >> _WORD & (_ONE_WORD - 1) == digits[-2] else []
        return np.array(digits, np.uint32)


def _carried(digits: list[int]) -> list[int]:
    """The same number with every digit below 2**32, the most significant first."""
    carry = 0
    for place in reversed(range(len(digits))):
        carry, digits[place] = divmod(digits[place] + carry, _ONE_WORD)
    return digits


class PlainDecoder:
    """Words -> symbols, in Python.

    What FORMAT.md calls (point - low) mod 2^64 is one number here, the offset; it is always smaller than the range.
    """

    def __init__(self, words: Words) -> None:
        self._next = words[::-1].tolist()  # the next one at the end
        self._empty = not self._next
        self._offset = (self._word() << _WORD) + self._word()
        self._range = _START

    def _word(self) -> int:
        return self._next.pop() if self._next else 0

    def get(self, count: int, table: Table) -> Ints:
        """See RangeDecoder."""
        offset, range_, following = self._offset, self._range, self._next
        ends, spans, likely = table.ends, table.spans, table.likely
        likely_left, likely_weight = spans[likely]
        symbols = np.full(count, likely)
        try:
            for number in range(count):
                scale = range_ >> PRECISION
                above = offset - scale * likely_left
                range_ = scale * likely_weight
                if not 0 <= above < range_:
                    symbol = bisect_right(ends, offset // scale)
                    left, weight = spans[symbol]
                    above = offset - scale * left
                    range_ = scale * weight
                    symbols[number] = symbol
                offset = above
                if range_ < _ONE_WORD:
                    range_ <<= _WORD
                    offset = (offset << _WORD) + (following.pop() if following else 0)
        except IndexError:
            raise _damaged("invalid data") from None
        self._offset, self._range = offset, range_
        return symbols

    def _take(self, scale: int, left: int, weight: int) -> None:
        self._offset -= scale * left
        self._range = scale * weight
        if self._range < _ONE_WORD:
            self._range <<= _WORD
            self._offset = (self._offset << _WORD) + self._word()

    def _quantile(self, scale: int) -> int:
        quantile = self._offset // scale
        if quantile >= TOTAL:
            raise _damaged("invalid data")
        return quantile

    def get_each(self, frequencies: Frequencies) -> Ints:
        """See RangeDecoder."""
        weights = frequencies.astype(np.int64) + 1
        ends, symbols = np.cumsum(weights, 1), np.empty(len(weights), np.int64)
        for row, end in enumerate(ends):
            scale = self._range >> PRECISION
            symbol = symbols[row] = int(end.searchsorted(self._quantile(scale), "right"))
            weight = int(weights[row, symbol])
            self._take(scale, int(end[symbol]) - weight, weight)
        return symbols

    def get_uniform(self, size: int) -> int:
        """See RangeDecoder."""
        each, last = _uniform(size)
        scale = self._range >> PRECISION
        symbol = min(self._quantile(scale) // each, size - 1)
        self._take(scale, symbol * each, last if symbol == size - 1 else each)
        return symbol

    def exhausted(self) -> bool:
        """See RangeDecoder."""
        untouched = self._range == _START and not self._empty
        return not self._next and self._offset < 2**33 - 1 and not untouched
