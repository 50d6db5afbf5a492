# SPDX-License-Identifier: MIT
"""vqcodec: a learned image codec. Pictures to codebook indices to small .vqc files, and back.

    import vqcodec
    data = vqcodec.encode("photo.png", quality=75)
    picture = vqcodec.decode(data)

These functions are loaded when first used, so that the command line can start fast and set the
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
    VqcWarning,
)

if TYPE_CHECKING:
    from vqcodec.api import Indices, codebook, decode, decode_indices, encode, from_indices, indices, info, sample
    from vqcodec.batch import decode_batch, encode_batch

__version__ = "0.2.0.dev0"
__all__ = [
    "DamagedError", "Indices", "InputError", "LimitError", "ModelError", "OutputExistsError", "PartialError",
    "UsageError", "VqcError", "VqcWarning", "codebook", "decode", "decode_batch", "decode_indices", "encode",
    "encode_batch", "from_indices", "indices", "info", "sample",
]  # fmt: skip
_LAZY = [name for name in __all__ if name not in globals()]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from vqcodec import api, batch

        return getattr(batch if name.endswith("_batch") else api, name)
    raise AttributeError(f"module 'vqcodec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
