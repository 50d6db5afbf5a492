# SPDX-License-Identifier: MIT
"""What a caller may choose: defaults, ranges and rules, each written once. No picture, no model, no bytes."""

from __future__ import annotations

from vqcodec.errors import UsageError

BASE_ONLY_QUALITY = 1  # the lowest quality: the base layer alone
MAX_QUALITY = 100
DEFAULT_QUALITY = 75
DEFAULT_EFFORT = 5
DEFAULT_MAX_PIXELS = 268_435_456  # 2^28 pixels, 16,384 x 16,384
TILE_LOG2 = 10
SCALES = (1, 2, 4, 8)
DECODERS = ("faithful", "realistic")

Region = tuple[int, int, int, int]  # x, y, width, height in pixels


def check_options(quality: int, effort: int) -> None:
    if not (isinstance(quality, int) and BASE_ONLY_QUALITY <= quality <= MAX_QUALITY):
        raise UsageError(f"quality must be a whole number from 1 to 100, not {quality!r}")
    if not (isinstance(effort, int) and 1 <= effort <= 9):
        raise UsageError(f"effort must be a whole number from 1 to 9, not {effort!r}")


def realism_of(decoder: str | None, realism: float | None) -> float:
    """What the reader's choice of a decoder means: 0 for the faithful one, more for the realistic one.

    Raises:
        UsageError: no such decoder, a realism outside 0 to 1, or one for the faithful decoder.
    """
    if decoder not in (None, *DECODERS):
        raise UsageError(f"there is no decoder {decoder!r}; known are {' and '.join(DECODERS)}")
    if realism is not None and not 0 <= realism <= 1:
        raise UsageError(f"realism must be a number from 0 to 1, not {realism:g}")
    if decoder == "faithful" and realism:
        raise UsageError("realism is for the realistic decoder; the faithful one has none")
    if decoder == "faithful" or (decoder is None and realism is None):
        return 0.0
    return 1.0 if realism is None else float(realism)
