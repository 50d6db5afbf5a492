# SPDX-License-Identifier: MIT
"""The specified range decoder in plain Python, and golden files read with it where there is no constriction.

    python -m tests.plain [--package] [GOLDEN_NAME ...]

reads golden files with this decoder in constriction's place and compares their indices with the expected ones: all of
the decoder that decides about indices, on any machine that has Python, NumPy and Pillow; no ONNX Runtime is needed.
With --package the package reads them with the range coder and the engine that are there, or that the environment names.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import types
from pathlib import Path
from typing import Any


class PlainDecoder:
    """The range decoder as docs/FORMAT.md describes it, in plain Python integers: shares no code with the package."""

    def __init__(self, payload: bytes) -> None:
        self.words = [int.from_bytes(payload[i : i + 4], "little") for i in range(0, len(payload), 4)]
        self.low, self.range = 0, 2**64 - 1
        self.point = self.word() << 32 | self.word()

    def word(self) -> int:
        return self.words.pop(0) if self.words else 0

    def exhausted(self) -> bool:
        """Whether nothing is left over."""
        return not self.words and (self.point - self.low) % 2**64 < 2**33 - 1

    def symbol(self, weights: list[int]) -> int:
        """One symbol; the weights sum to 2**24."""
        scale = self.range >> 24
        quantile = ((self.point - self.low) % 2**64) // scale
        number, left = 0, 0
        while left + weights[number] <= quantile:
            left += weights[number]
            number += 1
        self.low = (self.low + scale * left) % 2**64
        self.range = scale * weights[number]
        if self.range < 2**32:
            self.low, self.range = (self.low << 32) % 2**64, self.range << 32
            self.point = (self.point << 32) % 2**64 | self.word()
        return number

    def uniform(self, size: int) -> int:
        each = 2**24 // size
        return self.symbol([each] * (size - 1) + [2**24 - each * (size - 1)])


class _RangeDecoder:
    """`constriction.stream.queue.RangeDecoder`, as far as the package uses it."""

    def __init__(self, words: Any) -> None:
        self.plain = PlainDecoder(words.astype("<u4").tobytes())

    def decode(self, model: Any, argument: Any = 1) -> Any:
        import numpy as np

        if not isinstance(argument, int):  # a family, and the parameters of each symbol
            return np.array([self.plain.symbol([int(f) + 1 for f in row]) for row in argument])
        return np.array([model(self.plain) for _ in range(argument)])

    def maybe_exhausted(self) -> bool:
        return self.plain.exhausted()


def install() -> None:
    """Puts this decoder in constriction's place."""

    def categorical(frequencies: Any = None, perfect: bool = False) -> Any:
        weights = None if frequencies is None else [int(f) + 1 for f in frequencies]
        return lambda plain: plain.symbol(weights)

    model = types.SimpleNamespace(Categorical=categorical, Uniform=lambda size: lambda plain: plain.uniform(size))
    stand_in: Any = types.ModuleType("constriction")
    stand_in.stream = types.SimpleNamespace(model=model, queue=types.SimpleNamespace(RangeDecoder=_RangeDecoder))
    sys.modules["constriction"] = stand_in


def main(names: list[str]) -> int:
    """Reads the golden files; the number of those whose indices are not the expected ones."""
    package = names[:1] == ["--package"]
    if package:
        names = names[1:]
    else:
        install()
    import numpy as np

    import vqcodec
    from tests.golden.make import digest
    from vqcodec.bitstream import range_coder

    folder = Path(__file__).with_name("golden")
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    wrong = 0
    for name in names or list(expected):
        found = vqcodec.indices((folder / f"{name}.vqc").read_bytes())
        layers = found._asdict().items()
        right = all((None if x is None else digest(x)) == expected[name][layer] for layer, x in layers)
        wrong += not right
        print(f"{name}: {'as expected' if right else 'WRONG'}", flush=True)
    import threadpoolctl

    blas = [f"{pool['internal_api']} {pool.get('architecture')}" for pool in threadpoolctl.threadpool_info()]
    coder = type(range_coder.choose()).__name__ if package else "of the specification"
    engine = os.environ.get("VQCODEC_ENGINE", "usual") if package else "plain"
    print(
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"{', '.join(blas) or 'another BLAS'}, engine {engine}, range coder {coder}: {wrong} wrong"
    )
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
