# SPDX-License-Identifier: MIT
"""Arrays in NumPy's .npy format out of a stranger's file: its header is held against the bytes that are there.

No pickle, no objects, nothing allocated beyond the bytes that are there.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The header as NumPy writes it. Its own reader compiles each header as Python, a fifth of a millisecond for each.
_USUAL = re.compile(rb"\{'descr': '([<|][biuf]\d+)', 'fortran_order': False, 'shape': \(((?:\d+, ?)*\d*)\), \} *\n")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_array(data: bytes, kinds: str) -> NDArray[Any]:
    """One array, whole.

    Args:
        data: the file's bytes.
        kinds: letters of the NumPy kinds that it may be of: b, i, u, f, U.

    Raises:
        ValueError: it is no such array.
    """
    shape, column_major, dtype, start = _header(data)
    if dtype.hasobject or dtype.kind not in kinds or column_major:
        raise ValueError(f"an array of {dtype}")
    size_bytes = len(data) - start
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size_bytes:
        raise ValueError("an array that is larger than its file")
    if math.prod(shape) * dtype.itemsize != size_bytes:
        raise ValueError("an array whose header does not fit its data")
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return array


def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, dtype, and where the numbers begin."""
    start = 10 + int.from_bytes(data[8:10], "little")
    usual = _USUAL.fullmatch(data[10:start]) if data[:8] == b"\x93NUMPY\x01\x00" else None
    if usual is not None:
        shape = tuple(int(number) for number in usual[2].split(b",") if number.strip())
        return shape, False, np.dtype(usual[1].decode()), start
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"NumPy's format {version} is not used here")
    return *_HEADERS[version](stream), stream.tell()
