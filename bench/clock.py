# SPDX-License-Identifier: MIT
"""One vqcodec process under a clock. A program for stages.py; it loads nothing but what the command line loads.

    python -P bench/clock.py START_NS compress|decompress ARGUMENTS...      prints the stages' seconds as JSON

The command line itself runs, and the clock listens to the spans of its code; a stage's time is without that of the
stages inside it.
"""

from __future__ import annotations

import json
import sys
import threading
import time


class Clock:
    """Adds up the time of named stages, each without the stages inside it, of the thread that it was made in.

    What another thread loads meanwhile costs time only where this one waits for it, and counts as what waits.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []
        self._mark = time.monotonic()
        self._thread = threading.get_ident()

    def _charge(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._mark
        self._mark = now

    def enter(self, name: str) -> None:
        """From here on the time is `name`'s."""
        if threading.get_ident() != self._thread:
            return
        self._charge(self._open[-1][0] if self._open else "the rest")
        self._open.append((name, self._mark))

    def leave(self) -> None:
        """Back to the stage outside."""
        if threading.get_ident() != self._thread:
            return
        self._charge(self._open.pop()[0])


def _child(started_ns: int, arguments: list[str]) -> None:
    """Run the command line under the clock; prints the stages and the time at the end."""
    clock = Clock()
    clock.seconds["interpreter"] = time.monotonic() - started_ns / 1e9
    clock.enter("imports")
    import constriction
    import onnxruntime

    from vqcodec import spans
    from vqcodec.cli.main import main as vqcodec_main

    _ = constriction, onnxruntime
    clock.leave()
    spans.listen(clock)
    code = vqcodec_main(arguments)
    clock.enter("exit")
    clock.leave()
    if code:
        sys.exit(code)
    print(json.dumps({"seconds": clock.seconds, "end_ns": time.monotonic_ns()}))


if __name__ == "__main__":
    _child(int(sys.argv[1]), sys.argv[2:])
