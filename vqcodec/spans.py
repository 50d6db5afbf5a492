# SPDX-License-Identifier: MIT
"""Named spans of the work, for whoever wants to know where the time goes. Without a listener they do nothing.

    @span("coder")
    def put_base(...): ...

The benchmark listens (`python -m bench stages`). Nothing is measured or kept here.
"""

from __future__ import annotations

from contextlib import ContextDecorator
from types import TracebackType
from typing import Protocol

# In the order of the way: one name per stage, and none beside these
STAGES = (
    "picture file", "model's tables", "networks loaded", "transform", "prior", "choice of indices", "colour layer",
    "patches", "coder", ".vqc file",
)  # fmt: skip


class Listener(Protocol):
    """What hears of every span: its stage's name at the start, and its end. Spans lie inside each other."""

    def enter(self, name: str) -> None:
        """A span begins."""

    def leave(self) -> None:
        """The span that began last ends."""


_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Tell a listener of every span from now on; None for nobody. For processes that do nothing else."""
    global _listener
    _listener = listener


class span(ContextDecorator):
    """A span of a stage, as a decorator or a context manager."""

    def __init__(self, name: str) -> None:
        assert name in STAGES, name
        self._name = name

    def __enter__(self) -> None:
        if _listener is not None:
            _listener.enter(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _listener is not None:
            _listener.leave()
