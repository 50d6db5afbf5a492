# SPDX-License-Identifier: MIT
"""Who computes the priors' networks: ONNX Runtime's 8-bit kernels, or the NumPy layers that are their reference.

Both give the same integers, so the choice is one of speed and never changes a byte. A graph must give the reference's
answer to a small question before it is trusted. Otherwise the reference takes over, and one line on stderr says so.
VQCODEC_ENGINE=plain or =onnx in the environment forces one of them.

Codes cross this interface as uint8, less the low end of their range (layers.py); arrays are [h, w, C], positions of a
tile row by row.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vqcodec.errors import ModelError, UsageError
from vqcodec.model.layers import (
    ACTIVE,
    FRACTION,
    ROOM,
    SIGNED,
    Arrays,
    Block,
    Codes,
    Depthwise,
    Linear,
    Streams,
    clipped,
    integers,
    leaky,
    pair,
    rounded,
)
from vqcodec.model.transforms import ask, session
from vqcodec.threads import Once

CLASSES = 64
BASE, INDICES, STEP = "prior-base.onnx", "prior-indices.onnx", "prior-step-{}.onnx"
ENVIRONMENT = "VQCODEC_ENGINE"
MAX_OFFSET = 2.0**23 * 2.0**-FRACTION  # of a vector of the quality or the pass
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Engine(Protocol):
    """What the priors ask for. M latents, N channels, K codewords of D numbers."""

    def base(self, code: Bytes) -> tuple[Bytes, Streams]:
        """Pairs of the codewords [h, w, 2 D] -> features [h, w, N or 2 N], and outputs for the base means [h, w, M]."""

    def step(
        self,
        number: int,
        features: Bytes,
        known: Bytes,
        before: Bytes | None,
        quality: Streams,
        ratio: Streams,
        where: Mask | None,
    ) -> tuple[Streams, Bytes, Bytes]:
        """One step of the refinement.

        Args:
            features: from `base`.
            known: [h, w, 2 M] pairs of the contexts.
            before: [h, w, N] what the step before gave as its third; None for the first.
            quality: [N], what is added for the quality.
            ratio: [n, C] or [1, C], what is added to the scales.
            where: [h, w], the n positions of the step; None for all of them.

        Returns:
            outputs for the means [n, C], classes [n, C] in [0, CLASSES), and what is `before` to the next step.
        """

    def indices(self, code: Bytes, offset: Streams, where: Mask) -> Streams:
        """Pairs of the codewords known, offset [N] of the pass -> logits [n, K] of the positions `where` [h, w]."""

    def load_all(self) -> None:
        """Load now what would be loaded when first used."""


T = TypeVar("T")
MAX_CHANNELS = 2**16  # of an input of a graph
PROBED: Mask = np.arange(12).reshape(3, 4) % 2 == 1  # the grid of the small question


def stored(codes: NDArray[Any], low: int = SIGNED.low) -> Bytes:
    """Codes as they cross the interface."""
    return (codes - low).astype(np.uint8)


def codes_of(data: Bytes) -> Codes:
    """Signed codes as numbers."""
    return data.astype(np.float32) + np.float32(SIGNED.low)


class _Step:
    """The layers of one step."""

    def __init__(self, arrays: Arrays, name: str) -> None:
        offset = np.abs(integers(arrays, f"{name}.quality", 2, -ROOM / 2, ROOM / 2)).max(initial=0) * 2.0**-FRACTION
        self.join = Linear.load(arrays, f"{name}.join", added=float(offset))
        self.block1 = Block.load(arrays, f"{name}.block1")
        self.block2 = Block.load(arrays, f"{name}.block2")
        self.out = Linear.load(arrays, f"{name}.out", added=MAX_OFFSET / 2)


class Plain:
    """The reference: float32 products of integers."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self._enter = Linear.load(arrays, "prior.enter")
        names = {name.split(".")[2] for name in arrays if name.startswith("prior.blocks.")}
        self._blocks = [Block.load(arrays, f"prior.blocks.{i}") for i in range(len(names))]
        self._base_mean = Linear.load(arrays, "prior.base_mean")
        count = len({name.split(".")[2] for name in arrays if name.startswith("prior.steps.")})
        self._steps = [_Step(arrays, f"prior.steps.{i}") for i in range(count)]
        passes = np.abs(integers(arrays, "base_prior.passes", 2, -ROOM / 2, ROOM / 2)).max(initial=0) * 2.0**-FRACTION
        self._indices_enter = Linear.load(arrays, "base_prior.enter", added=float(passes))
        self._spread = Depthwise.load(arrays, "base_prior.spread")
        self._indices_blocks = [Block.load(arrays, f"base_prior.blocks.{i}") for i in range(2)]
        self._logits = Linear.load(arrays, "base_prior.out", added=0)

    def base(self, code: Bytes) -> tuple[Bytes, Streams]:
        """See Engine."""
        x = clipped(self._enter(codes_of(code)))
        for block in self._blocks:
            x = block(x)
        features = rounded(x) if self._steps[0].join.inputs == x.shape[-1] else pair(x)
        return stored(features), self._base_mean(self._base_mean.take(x))

    def step(
        self,
        number: int,
        features: Bytes,
        known: Bytes,
        before: Bytes | None,
        quality: Streams,
        ratio: Streams,
        where: Mask | None,
    ) -> tuple[Streams, Bytes, Bytes]:
        """See Engine."""
        layers = self._steps[number]
        seen = layers.join.inputs - features.shape[-1] - (0 if before is None else before.shape[-1])
        inputs = [features, known[:, :, :seen], *([] if before is None else [before])]
        x = clipped(layers.join(codes_of(np.concatenate(inputs, -1))) + quality)
        x = layers.block1(x)
        after = stored(rounded(x))
        if where is None:
            where = np.ones(x.shape[:2], bool)
        y = layers.out(layers.out.take(layers.block2(x, where)))
        count = y.shape[1] // 2
        classes = np.clip(np.rint(y[:, count:] + ratio), 0, CLASSES - 1)
        return y[:, :count], classes.astype(np.uint8), after

    def indices(self, code: Bytes, offset: Streams, where: Mask) -> Streams:
        """See Engine."""
        x = self._spread(rounded(leaky(self._indices_enter(codes_of(code)) + offset), ACTIVE))
        x = self._indices_blocks[1](self._indices_blocks[0](x), where)
        return self._logits(self._logits.take(x))

    def load_all(self) -> None:
        """See Engine."""

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self._steps)

    def answer(self, name: str, question: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """What a graph must give for these inputs, one place of the grid PROBED for each of theirs."""
        asked = {key: value[0] if value.ndim == 4 else value for key, value in question.items()}
        where = PROBED if "where" in asked else None
        if name == INDICES:
            return [self.indices(asked["code"], asked["offset"], PROBED)]
        if name == BASE:
            features, means = self.base(asked["code"])
            return [features[None], means[None]]
        number = next(n for n in range(self.steps) if STEP.format(n) == name)
        last = asked.get("before")
        means, classes, after = self.step(
            number, asked["features"], asked["known"], last, asked["quality"], asked["ratio"], where
        )
        return [means, classes, after[None]]


def weights_of(arrays: Arrays, graph: str) -> dict[str, NDArray[np.int8]]:
    """The weights that a graph shares with the tables, as its operators want them: [I, O], depthwise [C, 1, 3, 3]."""
    layers = {BASE: ("prior.enter.", "prior.blocks.", "prior.base_mean."), INDICES: ("base_prior.",)}
    step = graph.removeprefix(STEP[: STEP.index("{")]).removesuffix(".onnx")
    found = {}
    for name, weight in arrays.items():
        if name.startswith(layers.get(graph, (f"prior.steps.{step}.",))) and name.endswith(".weight"):
            found[name] = np.ascontiguousarray(weight.T if weight.ndim == 2 else weight[:, None], np.int8)
    return found


class Different(ModelError):
    """A graph does not give the answer of the reference."""


class Onnx:
    """Graphs with 8-bit kernels (train/prior_graph.py writes them), loaded when first used and held to the reference.

    Args:
        read: name of a graph -> its bytes.
        threads: of ONNX Runtime; 0 for one per processor.
        plain: the reference.
        answers: the reference's to the small question, by graph (`digest`); where one is missing, it is asked.

    Raises:
        Different: by all methods, if the graph gives another answer than the reference.
    """

    def __init__(
        self, read: Callable[[str], bytes], threads: int, plain: Plain, answers: Mapping[str, str] | None = None
    ) -> None:
        self._read, self._threads, self._plain = read, threads, plain
        self.answers = dict(answers or {})  # with those of the graphs loaded so far
        self._session = Once(self._load)

    def _load(self, name: str) -> Any:
        """The session of a graph that has answered rightly."""
        weights = weights_of(self._plain.arrays, name)
        loaded = session(self._read(name), self._threads, optimise=False, weights=weights)
        question = _small_question(name, loaded)
        if name not in self.answers:
            self.answers[name] = digest(self._plain.answer(name, question))
        if digest(ask(loaded, question)) != self.answers[name]:
            raise Different(f"the model's graph {name} does not give the numbers that it must give")
        return loaded

    def load_all(self) -> None:
        """See Engine. In the order in which they are needed."""
        for name in (INDICES, BASE, *map(STEP.format, range(self._plain.steps))):
            self._session(name)

    def base(self, code: Bytes) -> tuple[Bytes, Streams]:
        """See Engine."""
        features, means = ask(self._session(BASE), {"code": code[None]})
        return features[0], means[0]

    def step(
        self,
        number: int,
        features: Bytes,
        known: Bytes,
        before: Bytes | None,
        quality: Streams,
        ratio: Streams,
        where: Mask | None,
    ) -> tuple[Streams, Bytes, Bytes]:
        """See Engine."""
        inputs: dict[str, NDArray[Any]] = {"features": features[None], "quality": quality, "ratio": ratio}
        inputs["known"] = known[None]
        if before is not None:
            inputs["before"] = before[None]
        if where is not None:
            inputs["where"] = np.flatnonzero(where)
        means, classes, after = ask(self._session(STEP.format(number)), inputs)
        return means, classes, after[0]

    def indices(self, code: Bytes, offset: Streams, where: Mask) -> Streams:
        """See Engine."""
        inputs: dict[str, NDArray[Any]] = {"code": code[None], "offset": offset, "where": np.flatnonzero(where)}
        (logits,) = ask(self._session(INDICES), inputs)
        return logits


class Trusted:
    """ONNX Runtime as long as it gives the answers of the reference."""

    def __init__(self, onnx: Onnx, plain: Plain) -> None:
        self._engine: Engine = onnx
        self._plain = plain

    def _ask(self, question: Callable[[Engine], T]) -> T:
        try:
            return question(self._engine)
        except ImportError:  # the indices need no ONNX Runtime
            self._engine = self._plain
        except Different as error:
            if self._engine is not self._plain:  # another thread may have been faster
                self._engine = self._plain
                print(f"vqcodec: {error}; going on with NumPy, slower and exact", file=sys.stderr)
        return question(self._plain)

    def base(self, code: Bytes) -> tuple[Bytes, Streams]:
        """See Engine."""
        return self._ask(lambda engine: engine.base(code))

    def step(
        self,
        number: int,
        features: Bytes,
        known: Bytes,
        before: Bytes | None,
        quality: Streams,
        ratio: Streams,
        where: Mask | None,
    ) -> tuple[Streams, Bytes, Bytes]:
        """See Engine."""
        return self._ask(lambda engine: engine.step(number, features, known, before, quality, ratio, where))

    def indices(self, code: Bytes, offset: Streams, where: Mask) -> Streams:
        """See Engine."""
        return self._ask(lambda engine: engine.indices(code, offset, where))

    def load_all(self) -> None:
        """See Engine."""
        self._ask(lambda engine: engine.load_all())


def _small_question(name: str, loaded: Any) -> dict[str, NDArray[Any]]:
    """Inputs for a graph, from what it says of them: codes of which every other one is an extreme, and zeros."""
    question: dict[str, NDArray[Any]] = {}
    for given in loaded.get_inputs():
        channels = given.shape[-1] if given.shape else None
        if given.name == "where":
            question[given.name] = np.flatnonzero(PROBED)
            continue
        if not isinstance(channels, int) or not 0 < channels <= MAX_CHANNELS:
            raise ModelError(f"the model's graph {name} has an input {given.name!r} of another shape")
        if given.type == "tensor(uint8)":
            question[given.name] = _probe(channels)[None]
        else:
            question[given.name] = np.zeros((1, channels) if len(given.shape) == 2 else channels, np.float32)
    return question


def _probe(channels: int) -> Bytes:
    """Codes for the small question; every other one is an extreme."""
    shape = (*PROBED.shape, channels)
    number = np.arange(math.prod(shape), dtype=np.int64) * 2654435761 % 2**32 >> 11
    codes = np.where(number & 1024, 255 * (number >> 9 & 1), number & 255)
    return codes.astype(np.uint8).reshape(shape)


def digest(outputs: Sequence[NDArray[Any]]) -> str:
    """SHA-256 of arrays: their kinds, shapes and numbers."""
    found = hashlib.sha256()
    for array in outputs:
        found.update(f"{array.dtype.kind}{array.dtype.itemsize}{list(array.shape)}".encode())
        found.update((array + array.dtype.type(0)).astype(array.dtype.newbyteorder("<")).tobytes())  # there is one zero
    return found.hexdigest()


def choose(
    plain: Plain, read: Callable[[str], bytes] | None, threads: int, answers: Mapping[str, str] | None = None
) -> Engine:
    """The engine for a model.

    Args:
        plain: the reference, on the model's tables.
        read: name of a graph -> its bytes; None for a model without graphs.
        threads: of ONNX Runtime; 0 for one per processor.
        answers: see `Onnx`.

    Raises:
        UsageError: the environment asks for an engine that there is not.
    """
    wanted = os.environ.get(ENVIRONMENT, "")
    if wanted not in ("", "plain", "onnx"):
        raise UsageError(f"{ENVIRONMENT} must be plain or onnx, not {wanted!r}")
    if wanted == "plain" or read is None:
        return plain
    onnx = Onnx(read, threads, plain, answers)
    return onnx if wanted == "onnx" else Trusted(onnx, plain)
