# SPDX-License-Identifier: MIT
"""Who gets which threads, and that NumPy has its own back when we are done."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

import vqcodec
from vqcodec.codec import decode, encode
from vqcodec.options import MAX_THREADS, DecodeOptions, EncodeOptions
from vqcodec.pictures import read
from vqcodec.threads import share, single_blas


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in ThreadpoolController().select(user_api="blas").info()}


@pytest.fixture
def three() -> Iterator[None]:
    """NumPy's products run in three threads, as a caller may have chosen."""
    with ThreadpoolController().limit(limits=3, user_api="blas"):
        assert blas_threads() == {3}
        yield


@pytest.mark.usefixtures("three")
def test_overlapping_users_give_the_callers_threads_back() -> None:
    first, second = single_blas(), single_blas()
    first.__enter__()
    second.__enter__()
    assert blas_threads() == {1}
    first.__exit__(None, None, None)
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == {3}


@pytest.mark.usefixtures("three")
def test_decoding_in_several_threads_gives_the_callers_threads_back() -> None:
    data = vqcodec.encode(np.zeros((300, 300, 3), np.uint8), 20)
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        vqcodec.decode(data, threads=1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert blas_threads() == {3}


@pytest.mark.usefixtures("three")
def test_a_picture_walked_halfway_leaves_the_caller_alone(photo: NDArray[np.uint8]) -> None:
    data = encode.encode(read.load(photo), 20, EncodeOptions(tile_log2=8))
    strips = decode.decode_strips(data, DecodeOptions(threads=1))
    next(strips.rows)
    assert blas_threads() == {3}
    next(strips.rows)
    assert blas_threads() == {3}


@pytest.mark.parametrize("threads", [1, 3, 8, 100, MAX_THREADS])
def test_memory_bounds_the_tiles_at_work(threads: int) -> None:
    """A tile takes up to 160 MB, whatever the number of threads; those that are left over work inside the tiles."""
    at_once, each = share(threads, 1_000_000)
    assert at_once == min(threads, 8)
    assert at_once * each <= threads < at_once * (each + 1)
