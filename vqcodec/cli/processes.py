# SPDX-License-Identifier: MIT
"""Jobs on files in one process or in several: what became of each, and what an error of one means. No file names here.

What several processes need is imported for them: one file must not wait for it.

Several processes rather than threads: the entropy coder and half of the prior hold Python's lock, and a picture that
brings a process down (out of memory, a library's crash) must not take the others with it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vqcodec.cli import streams
from vqcodec.cli.streams import shown
from vqcodec.errors import InputError, LimitError, VqcError
from vqcodec.messages import reason

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

EXIT_INTERNAL = 1
Pair = tuple[str, str]  # input, output
Item = tuple[int, Pair]


@dataclass(frozen=True)
class Outcome:
    """What became of one file; the numbers of several add up."""

    pixels: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    notes: tuple[str, ...] = ()
    summary: str = ""
    failure: tuple[int, str] | None = None  # exit code, message
    report: str = ""  # a line that was asked for

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.pixels + other.pixels, self.in_bytes + other.in_bytes, self.out_bytes + other.out_bytes
        )  # fmt: skip


class Work(Protocol):
    """What is done with one input and its output; `single` when it is the only one."""

    def __call__(self, source: str, target: str, *, single: bool) -> Outcome: ...


def failure(error: BaseException) -> tuple[int, str]:
    """The exit code and the message that an error of one file stands for."""
    match error:
        case VqcError():
            return error.exit_code, str(error)
        case MemoryError():
            return LimitError.exit_code, "not enough memory: reduce the picture, or take fewer --threads"
        case OSError():  # atomic.py and read.py have named theirs; what is left is stdout, or a broken system
            streams.abandon_stdout()
            place = f" {shown(str(error.filename))}" if error.filename else ""
            return InputError.exit_code, f"cannot read or write{place}: {reason(error)}"
        case _:
            text = f"{type(error).__name__}: {error}"
            return EXIT_INTERNAL, f"internal error, please report it ({text}); VQCODEC_TRACEBACK=1 shows where"


def outcomes(pairs: dict[int, Pair], work: Work, jobs: int) -> Iterator[tuple[int, Outcome]]:
    """Runs all jobs, in `jobs` processes if there are more than one; yields number and outcome as they end."""
    if min(jobs, len(pairs)) <= 1:
        for number, (source, target) in pairs.items():
            yield number, _attempt(work, source, target)
    else:
        yield from _in_processes(pairs, work, min(jobs, len(pairs)))


def _attempt(work: Work, source: str, target: str) -> Outcome:
    """One job; a failure is an outcome, too."""
    try:
        return work(source, target, single=False)
    except Exception as error:
        if os.environ.get("VQCODEC_TRACEBACK"):
            raise
        code, message = failure(error)
        named = isinstance(error, VqcError)
        return Outcome(failure=(code, message if named else f"{shown(source)}: {message}"))


# ---- several processes -----------------------------------------------------------------------------------------------


def _in_processes(pairs: dict[int, Pair], work: Work, count: int) -> Iterator[tuple[int, Outcome]]:
    """Feeds a pool; when one of its processes dies, those that were at work are tried again, one by one."""
    from concurrent.futures import FIRST_COMPLETED, wait
    from concurrent.futures.process import BrokenProcessPool

    waiting = deque(pairs.items())
    suspects: deque[Item] = deque()
    while waiting or suspects:
        again = bool(suspects)
        queue = deque([suspects.popleft()]) if again else waiting
        running: dict[Future[Outcome], Item] = {}
        with _pool(1 if again else count) as pool:
            try:
                while queue or running:
                    while queue and len(running) < 2 * count:
                        running[pool.submit(_attempt_here, work, *queue[0][1])] = queue[0]
                        queue.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        yield running.pop(future)[0], outcome
                continue
            except BrokenProcessPool:
                pass
        for future, (number, pair) in running.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                yield number, future.result()
            elif again:
                sentence = f"{shown(pair[0])}: the process that worked on it died, probably for want of memory"
                yield number, Outcome(failure=(LimitError.exit_code, f"{sentence}: take fewer --jobs"))
            else:
                suspects.append((number, pair))


@contextmanager
def _pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one: at the end, at an error, and when it is killed."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_stop = threading.Event()


def _begin() -> None:
    """Start of a working process: Ctrl-C is the parent's affair, SIGTERM ends the job with its temporary file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _terminate(_signal: int, _frame: Any) -> None:
    _stop.set()
    raise SystemExit(143)


def _follow_parent() -> None:
    """Nobody waits for the work of a parent that was killed."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        with suppress(Exception):
            parent.join()
        os._exit(1)


def _attempt_here(work: Work, source: str, target: str) -> Outcome:
    """`_attempt` in a working process; after SIGTERM what was queued is not begun."""
    if _stop.is_set():
        raise SystemExit(143)
    return _attempt(work, source, target)
