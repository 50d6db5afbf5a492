# SPDX-License-Identifier: MIT
"""The colour layer's section: what is added to the restored picture and belongs to all of it.

It holds a polynomial in the restored colours (colour.py), or slow shifts from place to place (drift.py), or both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import colour, drift
from vqcodec.bitstream.colour import Colour
from vqcodec.bitstream.drift import Drift
from vqcodec.bitstream.entropy import ClassTables, Decoder, Encoder
from vqcodec.bitstream.tiles import Rect
from vqcodec.errors import DamagedError


class Corrections(NamedTuple):
    """The two parts; None for one that the picture does not have."""

    colour: Colour | None = None
    drift: Drift | None = None

    def apply(self, picture: NDArray[np.float32], window: Rect) -> None:
        """Correct a picture [1, 3, H, W] float32, nominally in [0, 1], in place; it lies at `window` [pixels]."""
        if self.colour is not None:
            self.colour.apply(picture)
        if self.drift is not None:
            self.drift.apply(picture, window)

    def payload(self, tables: ClassTables) -> bytes | None:
        """The section; None if there is nothing to say."""
        if self == NONE:
            return None
        coder = Encoder()
        if self.colour is None:
            colour.write_none(coder)
        else:
            self.colour.write(coder, tables)
        coder.put_uniform(int(self.drift is not None), 2)
        if self.drift is not None:
            self.drift.write(coder, tables)
        return coder.finish()


NONE = Corrections()


def read(payload: bytes, tables: ClassTables, width: int, height: int) -> Corrections:
    """What `Corrections.payload` wrote, for a picture of this size in pixels.

    Raises:
        DamagedError: it cannot have been written by it.
    """
    coder = Decoder(payload)
    polynomial = colour.read(coder, tables)
    shifts = drift.read(coder, tables, width, height) if coder.get_uniform(2) else None
    if not coder.exhausted():
        raise DamagedError("data is left over behind the colour layer")
    return Corrections(polynomial, shifts)
