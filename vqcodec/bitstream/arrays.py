# SPDX-License-Identifier: MIT
"""Arrays in NumPy's .npy format out of a stranger's file: its header is held against the bytes that are there.

No pickle, no objects, nothing allocated beyond the bytes that are there.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_array(data: bytes, kinds: str) -> NDArray[Any]:
    """One array, whole.

    Args:
        data: the file's bytes.
        kinds: letters of the NumPy kinds that it may be of: b, i, u, f, U.

    Raises:
        ValueError: it is no such array.
    """
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"NumPy's format {version} is not used here")
    shape, column_major, dtype = _HEADERS[version](stream)
    if dtype.hasobject or dtype.kind not in kinds or column_major:
        raise ValueError(f"an array of {dtype}")
    size_bytes = len(data) - stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size_bytes:
        raise ValueError("an array that is larger than its file")
    if math.prod(shape) * dtype.itemsize != size_bytes:
        raise ValueError("an array whose header does not fit its data")
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)
    return array
