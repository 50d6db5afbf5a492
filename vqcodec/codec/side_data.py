# SPDX-License-Identifier: MIT
"""What a file holds beside the indices: alpha and metadata."""

from __future__ import annotations

from typing import NamedTuple

from vqcodec.pictures import metadata, png
from vqcodec.pictures.picture import Picture


class SideData(NamedTuple):
    """What a file holds beside the indices."""

    srgb: bool
    alpha: bytes | None
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None


def side_data(picture: Picture, *, strip: bool = False) -> SideData:
    """Alpha and metadata of a picture as a file holds them; with `strip` no more than its colours need."""
    srgb = picture.icc is not None and metadata.is_srgb(picture.icc)
    return SideData(
        srgb=srgb and not strip,
        alpha=None if picture.alpha is None else png.encode_alpha(picture.alpha),
        icc=None if srgb else picture.icc,  # not stripped: without it the colours would be others
        exif=None if strip else picture.exif,
        xmp=None if strip else picture.xmp,
    )
