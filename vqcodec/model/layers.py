# SPDX-License-Identifier: MIT
"""The integer layers of the priors, as docs/FORMAT.md specifies them, in NumPy: the reference of every other engine.

Numbers are of two kinds. A *code* is an 8-bit integer, the input of a layer. A *stream* holds multiples of
2**-FRACTION, clipped to +-LIMIT. Weights have 7 bits, every output is re-scaled by a power of two, and the layers check
when they are loaded that no sum can reach 2**24 units of its last bit. So float32 holds every number here exactly, and
sums are the same in any order, on any machine (docs/exactness.md). Rounding is half to even.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.errors import ModelError

FRACTION = 10  # bits below the point of a stream
LIMIT = 1024.0  # of a stream after it has been clipped
ROOM = 2.0**24  # sums stay below so many units of their last bit
LOW_WEIGHT, HIGH_WEIGHT = -64, 63
MAX_DEPTHWISE_SHIFT = 16
FINER = 8.0  # the second code of a pair holds what the first leaves, in steps of 1 / FINER

Arrays = Mapping[str, NDArray[np.generic]]
Codes = NDArray[np.float32]  # [..., C] integers
Streams = NDArray[np.float32]  # [..., C] multiples of 2**-FRACTION


@dataclass(frozen=True)
class Range:
    """The codes that a layer takes: low to low + 255. Stored as uint8 they are code - low."""

    low: int

    @property
    def magnitude(self) -> int:
        """The largest magnitude of a code."""
        return max(-self.low, 255 + self.low)


SIGNED = Range(-128)
ACTIVE = Range(-24)  # behind the leaky rectifier, whose slope is 1/8


def rounded(x: NDArray[Any], kind: Range = SIGNED) -> Codes:
    """The codes of streams."""
    codes: Codes = np.rint(x)
    np.clip(codes, kind.low, kind.low + 255, out=codes)
    return codes


def pair(x: NDArray[Any], kind: Range = SIGNED) -> Codes:
    """Two codes for each number, [..., C] -> [..., 2 C]: first all that `rounded` gives, then what these leave."""
    coarse = rounded(x, kind)
    return np.concatenate([coarse, rounded((x - coarse) * x.dtype.type(FINER), kind)], -1)


def leaky(x: Streams) -> Streams:
    """Leaky rectifier with slope 1/8: max(x, x / 8)."""
    found: Streams = np.maximum(x, x * np.float32(0.125))
    return found


def clipped(x: Streams) -> Streams:
    """Clip a stream, in place."""
    return np.clip(x, -LIMIT, LIMIT, out=x)


def checked(arrays: Arrays, name: str, ndim: int, low: float, high: float) -> NDArray[np.integer[Any]]:
    """An integer array of a model, if its entries lie in [low, high].

    Raises:
        ModelError: it is missing, of another kind, or out of range.
    """
    try:
        array: NDArray[Any] = arrays[name]
    except KeyError:
        raise ModelError(f"the model's tables lack {name!r}") from None
    if array.ndim != ndim or array.dtype.kind not in "iu":
        raise ModelError(f"the model's table {name!r} is not an integer array of {ndim} dimensions")
    if array.size and not (array.min() >= low and array.max() <= high):
        raise ModelError(f"the model's table {name!r} is out of range: this model is not safe to use")
    return array


def integers(arrays: Arrays, name: str, ndim: int, low: float, high: float) -> NDArray[np.float64]:
    """The same in float64."""
    return checked(arrays, name, ndim, low, high).astype(np.float64)


def _check(name: str, largest: NDArray[np.float64], room: float) -> None:
    if float(largest.max(initial=0)) >= room:
        raise ModelError(f"the layer {name!r} could leave the range of exact sums: this model is not safe to use")


@dataclass(frozen=True)
class Linear:
    """1x1 convolution of codes: [..., I] -> streams [..., O]."""

    integer_weight: NDArray[np.integer[Any]]  # [O, I]
    scale: NDArray[np.float64]  # [O], 2**-shift
    bias: NDArray[np.float32]  # [O]
    takes: Range

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        """[I, O], times the scale. Where ONNX Runtime computes, nobody asks for it."""
        return np.ascontiguousarray((self.integer_weight * self.scale[:, None]).T, np.float32)

    @property
    def inputs(self) -> int:
        """I."""
        return int(self.integer_weight.shape[1])

    @classmethod
    def load(cls, arrays: Arrays, name: str, takes: Range = SIGNED, added: float = LIMIT) -> Linear:
        """From `name.weight` [O, I], `name.bias` [O] in units of 2**-FRACTION and `name.shift` [O].

        Args:
            takes: the range of its inputs.
            added: the largest magnitude of what will be added to its outputs.
        """
        weight = checked(arrays, f"{name}.weight", 2, LOW_WEIGHT, HIGH_WEIGHT)
        bias = integers(arrays, f"{name}.bias", 1, -ROOM, ROOM) * 2.0**-FRACTION
        scale = 2.0 ** -integers(arrays, f"{name}.shift", 1, 0, FRACTION)
        sums = np.abs(weight.astype(np.int16)).sum(1, dtype=np.int64)
        _check(name, sums * takes.magnitude * scale + np.abs(bias) + added, ROOM * 2.0**-FRACTION)
        return cls(weight, scale, bias.astype(np.float32), takes)

    def __call__(self, codes: Codes) -> Streams:
        """Apply."""
        y: Streams = codes.reshape(-1, codes.shape[-1]) @ self.weight
        y += self.bias
        return y.reshape(*codes.shape[:-1], len(self.bias))

    def take(self, x: Streams) -> Codes:
        """The codes of a stream that this layer wants: as many as its channels, or pairs."""
        return rounded(x, self.takes) if self.inputs == x.shape[-1] else pair(x, self.takes)


@dataclass(frozen=True)
class Depthwise:
    """Depthwise 3x3 convolution with zero padding of codes in the range ACTIVE: [h, w, C] -> codes [h, w, C]."""

    weight: NDArray[np.float32]  # [3, 3, C]
    bias: NDArray[np.float32]  # [C]
    scale: NDArray[np.float32]  # [C], 2**-shift

    @classmethod
    def load(cls, arrays: Arrays, name: str) -> Depthwise:
        """From `name.weight` [C, 3, 3], `name.bias` [C] in units of the sums, and `name.shift` [C]."""
        weight = integers(arrays, f"{name}.weight", 3, LOW_WEIGHT, HIGH_WEIGHT)
        bias = integers(arrays, f"{name}.bias", 1, -ROOM, ROOM)
        shift = integers(arrays, f"{name}.shift", 1, 0, MAX_DEPTHWISE_SHIFT)
        _check(name, np.abs(weight).sum((1, 2)) * ACTIVE.magnitude + np.abs(bias), ROOM)
        columns = np.ascontiguousarray(weight.transpose(1, 2, 0), np.float32)
        return cls(columns, bias.astype(np.float32), (2.0**-shift).astype(np.float32))

    def __call__(self, codes: Codes) -> Codes:
        """Apply."""
        h, w, c = codes.shape
        padded = np.zeros((h + 2, w + 2, c), np.float32)
        padded[1:-1, 1:-1] = codes
        out = np.empty_like(codes)
        part = np.empty((w, c), np.float32)
        for row in range(h):  # row by row: the sums stay in the cache
            total = out[row]
            total[:] = self.bias
            for dy in range(3):
                line = padded[row + dy]
                for dx in range(3):
                    np.multiply(line[dx : dx + w], self.weight[dy, dx], out=part)
                    total += part
        out *= self.scale
        return rounded(out)


@dataclass(frozen=True)
class Block:
    """Residual block: [1x1, leaky, depthwise 3x3, 1x1], then (if there) [1x1, leaky, 1x1], on a stream."""

    enter: Linear
    depthwise: Depthwise
    leave: Linear
    expand: Linear | None
    reduce: Linear | None

    @classmethod
    def load(cls, arrays: Arrays, name: str) -> Block:
        """From the layers `name.enter`, `.depthwise`, `.leave` and, where present, `.expand`, `.reduce`."""
        wide = f"{name}.expand.weight" in arrays
        return cls(
            Linear.load(arrays, f"{name}.enter"),
            Depthwise.load(arrays, f"{name}.depthwise"),
            Linear.load(arrays, f"{name}.leave"),
            Linear.load(arrays, f"{name}.expand") if wide else None,
            Linear.load(arrays, f"{name}.reduce", ACTIVE) if wide else None,
        )

    def __call__(self, x: Streams, where: NDArray[np.bool_] | None = None) -> Streams:
        """[h, w, C] -> [h, w, C], or [n, C] at the positions `where` [h, w] alone."""
        inner = self.depthwise(rounded(leaky(self.enter(self.enter.take(x))), ACTIVE))
        if where is not None:
            x, inner = x[where], inner[where]
        x = clipped(x + self.leave(inner))
        if self.expand is not None and self.reduce is not None:
            wide = leaky(self.expand(self.expand.take(x)))
            x = clipped(x + self.reduce(self.reduce.take(wide)))
        return x
