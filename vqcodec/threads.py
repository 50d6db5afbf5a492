# SPDX-License-Identifier: MIT
"""How many threads, and who gets them: tiles side by side, the transforms inside one, NumPy's products never.

Threads within threads fight for the same processors, and those that wait for each other in a loop do so at the cost
of everybody else's work. So: as many tiles at once as there are processors (and memory: `MAX_TILES_AT_ONCE`), what is
left over goes to the transforms, and the small matrix products of the priors run in the thread that asks for them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vqcodec import memory

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int], None]  # told of (done, all) after each tile
MAX_TILES_AT_ONCE = 8  # each takes up to 160 MB


def processors() -> int:
    """The processors that this process may use."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def share(threads: int, tiles: int, most: int = MAX_TILES_AT_ONCE) -> tuple[int, int]:
    """Splits threads between tiles and the work on each.

    Args:
        threads: 0 for one per processor.
        tiles: how many there are to do, at least 1.
        most: how many tiles may be worked on at a time.

    Returns:
        how many tiles to work on at a time, and how many threads each may use.
    """
    threads = threads or processors()
    at_once = max(1, min(threads, tiles, most))
    return at_once, max(1, threads // at_once)


def in_order(work: Callable[[T], R], items: Iterable[T], at_once: int, trims: bool = True) -> Iterator[R]:
    """Maps over items, `at_once` of them at a time in threads, results in order; few wait to be taken.

    `trims`: give free memory back after each, as tiles of a large picture need it. It takes milliseconds.
    """
    if at_once <= 1:
        for number, item in enumerate(items):
            if number and trims:
                memory.trim()
            yield work(item)
        return
    from concurrent.futures import ThreadPoolExecutor  # here, because a picture of one tile can do without

    def one(item: T) -> R:
        try:
            return work(item)
        finally:
            if trims:
                memory.trim()

    pool = ThreadPoolExecutor(at_once)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(one, item))
            if len(pending) > at_once:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C what is not begun is not worth waiting for


class Once(Generic[T, R]):
    """A function whose results several threads ask for: each is worked out once, by the first that asks."""

    def __init__(self, work: Callable[[T], R]) -> None:
        self._work, self._guard = work, threading.Lock()
        self._locks: dict[T, threading.Lock] = {}
        self._results: dict[T, R] = {}

    def __call__(self, item: T) -> R:
        with self._guard:
            lock = self._locks.setdefault(item, threading.Lock())
        with lock:
            if item not in self._results:
                self._results[item] = self._work(item)
            return self._results[item]


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


_blas_lock = threading.Lock()
_blas_users = 0
_blas_undo = ExitStack()


@contextmanager
def single_blas() -> Iterator[None]:
    """NumPy's matrix products in the calling thread alone, for the whole process while this lasts.

    The setting belongs to the process, so concurrent users share it: the first sets it, the last restores it.
    """
    global _blas_users
    with _blas_lock:
        if not _blas_users:
            _blas_undo.enter_context(_controller().limit(limits=1, user_api="blas"))
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if not _blas_users:
                _blas_undo.close()


def with_single_blas(items: Iterator[T]) -> Iterator[T]:
    """The items, each made under `single_blas`; between them, where the caller works, NumPy is as it was."""
    while True:
        with single_blas():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
