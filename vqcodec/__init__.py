# SPDX-License-Identifier: MIT
"""vqcodec: a learned image codec. Pictures to codebook indices to small .vqc files, and back.

    import vqcodec
    data = vqcodec.encode("photo.png", quality=75)
    picture = vqcodec.decode(data)

`encode`, `decode`, `info` and `indices` are loaded when first used, so that the command line can start fast and set the
number of threads before NumPy is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vqcodec.errors import (
    DamagedError,
    InputError,
    LimitError,
    ModelError,
    OutputExistsError,
    PartialError,
    UsageError,
    VqcError,
)

if TYPE_CHECKING:
    from vqcodec.codec import Indices, decode, encode, indices, info

__version__ = "0.1.0"
__all__ = [
    "DamagedError",
    "Indices",
    "InputError",
    "LimitError",
    "ModelError",
    "OutputExistsError",
    "PartialError",
    "UsageError",
    "VqcError",
    "decode",
    "encode",
    "indices",
    "info",
]
_LAZY = ("Indices", "decode", "encode", "indices", "info")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from vqcodec import codec

        return getattr(codec, name)
    raise AttributeError(f"module 'vqcodec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
