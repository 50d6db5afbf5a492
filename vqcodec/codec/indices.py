# SPDX-License-Identifier: MIT
"""The codebook indices of a .vqc file, as arrays."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import MAX_INDEX, Ints
from vqcodec.bitstream.tiles import Tile
from vqcodec.codec.decode import colour_layer, decode_tile, named, opened, payloads_of
from vqcodec.options import DEFAULT_MAX_PIXELS
from vqcodec.threads import in_order, single_blas


class Indices(NamedTuple):
    """The codebook indices of a picture: all that a .vqc file says of its pixels.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=1)
        >>> found = vqcodec.indices(data)
        >>> found.base.shape, found.refinement is None
        ((3, 7), True)
    """

    base: NDArray[np.int32]  # [ceil(H/16), ceil(W/16)], in [0, codebook size)
    refinement: NDArray[np.int32] | None  # [ceil(H/16), ceil(W/16), latent channels]; None in a base-only file
    colour: NDArray[np.int32] | None  # the colour layer, [1 + K, 3] (colour.py); None in a file without


def read_indices(
    data: bytes,
    *,
    threads: int = 0,
    model: str | os.PathLike[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Indices:
    """The codebook indices of a .vqc file, the same on every machine.

    Arguments and errors are those of `decode`.

    Returns:
        base indices [h, w] int32 and refinement indices [h, w, M] int32 (None in a base-only file), with h, w the
        picture's size over 16, rounded up; and the colour layer, [1 + K, 3] int32 (None in a file without one), whose
        first row is the exponent of its step.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=50)
        >>> base, refinement, colour = vqcodec.indices(data)
        >>> base.shape, base.dtype, refinement.shape[:2]
        ((3, 7), dtype('int32'), (3, 7))
    """
    contents, loaded, grid, at_once = opened(data, max_pixels, model, threads)
    base = np.empty((grid.latent_height, grid.latent_width), np.int32)
    refinement = None
    if contents.refinement is not None:
        refinement = np.empty((*base.shape, loaded.prior.latents), np.int32)

    def work(tile: Tile) -> tuple[Tile, Ints, Ints | None]:
        base_payload, payload = payloads_of(contents, tile)
        assert base_payload is not None  # the file is whole
        with named(tile):
            found = decode_tile(loaded, tile, contents.header, base_payload, payload)
        return tile, found[1], found[2]

    with single_blas():
        for tile, coarse, fine in in_order(work, grid.tiles, at_once):
            base[tile.latents.slices] = coarse
            if refinement is not None and fine is not None:
                assert np.abs(fine).max(initial=0) <= 2 * MAX_INDEX
                refinement[tile.latents.slices] = fine
    layer = colour_layer(loaded, contents, False)
    return Indices(base, refinement, None if layer is None else layer.array())
