# SPDX-License-Identifier: MIT
"""One vqcodec process under a clock. Run as a program by stages.py, and loads nothing but what the command line loads.

    python -P bench/clock.py START_NS compress|decompress ARGUMENTS...      prints the stages' seconds as JSON

The command line itself runs, with a clock around the functions that make up a stage; a stage's time is without that
of the stages inside it.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

WHOLE = "whole process"
# Stage -> module and function (or class.method) whose time it is
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "picture file": (("vqcodec.pictures.read", "load"), ("vqcodec.pictures.write", "write_picture")),
    "model's tables": (
        ("vqcodec.model.zoo", "find"),
        ("vqcodec.model.zoo", "by_checksum"),
        ("vqcodec.model.zoo", "load"),
    ),
    "networks loaded": (("vqcodec.model.transforms", "session"),),
    "transform": (
        ("vqcodec.model.transforms", "Analysis.__call__"),
        ("vqcodec.model.transforms", "Synthesis.unrounded"),
    ),
    "prior": (
        ("vqcodec.model.prior", "BasePrior.frequencies"),
        ("vqcodec.model.prior", "RefinementPrior.base"),
        ("vqcodec.model.prior", "RefinementPrior.predict"),
    ),
    "choice of indices": (
        ("vqcodec.codec.encode", "quantise"),
        ("vqcodec.codec.encode", "cheapen"),
        ("vqcodec.codec.encode", "search"),
    ),
    "colour layer": (
        ("vqcodec.bitstream.colour", "sums"),
        ("vqcodec.bitstream.colour", "Fit.solve"),
        ("vqcodec.bitstream.colour", "Colour.apply"),
    ),
    "coder": (
        ("vqcodec.bitstream.entropy", "Encoder.put_base"),
        ("vqcodec.bitstream.entropy", "Encoder.put_refinement"),
        ("vqcodec.bitstream.entropy", "Encoder.finish"),
        ("vqcodec.bitstream.entropy", "Decoder.get_base"),
        ("vqcodec.bitstream.entropy", "Decoder.get_refinement"),
    ),
    ".vqc file": (
        ("vqcodec.bitstream.container", "pack"),
        ("vqcodec.bitstream.container", "unpack"),
        ("vqcodec.cli.streams", "read_marked"),
        ("vqcodec.cli.streams", "write"),
    ),
}
ORDER = ("interpreter", "imports", *PLACES, "the rest", "exit", WHOLE)


class Clock:
    """Adds up the time of named stages, each without the stages inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []
        self._mark = time.monotonic()

    def _charge(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._mark
        self._mark = now

    def enter(self, name: str) -> None:
        """From here on the time is `name`'s."""
        self._charge(self._open[-1][0] if self._open else "the rest")
        self._open.append((name, self._mark))

    def leave(self) -> None:
        """Back to the stage outside."""
        self._charge(self._open.pop()[0])

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time charged to `name`."""

        @functools.wraps(function)
        def timed(*arguments: Any, **more: Any) -> Any:
            self.enter(name)
            try:
                return function(*arguments, **more)
            finally:
                self.leave()

        return timed


def _watch(clock: Clock) -> None:
    """Put the clock around every function of `PLACES`."""
    for stage, places in PLACES.items():
        for module, path in places:
            *outer, name = path.split(".")
            owner = functools.reduce(getattr, outer, sys.modules[module])
            setattr(owner, name, clock.around(stage, getattr(owner, name)))


def _child(started_ns: int, arguments: list[str]) -> None:
    """Run the command line under the clock; prints the stages and the time at the end."""
    clock = Clock()
    clock.seconds["interpreter"] = time.monotonic() - started_ns / 1e9
    clock.enter("imports")
    import constriction
    import onnxruntime

    from vqcodec.cli.main import main as vqcodec_main

    for module in {module for places in PLACES.values() for module, _ in places}:
        importlib.import_module(module)
    _ = constriction, onnxruntime
    clock.leave()
    _watch(clock)
    code = vqcodec_main(arguments)
    clock.enter("exit")
    clock.leave()
    if code:
        sys.exit(code)
    print(json.dumps({"seconds": clock.seconds, "end_ns": time.monotonic_ns()}))


if __name__ == "__main__":
    _child(int(sys.argv[1]), sys.argv[2:])
