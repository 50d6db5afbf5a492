# SPDX-License-Identifier: MIT
"""The codebook indices of a .vqc file, as arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream import colour
from vqcodec.bitstream.codebook import MAX_INDEX, Ints
from vqcodec.bitstream.tiles import Tile
from vqcodec.codec.decode import decode_tile, named, open_file, payloads_of
from vqcodec.options import DecodeOptions
from vqcodec.threads import in_order, single_blas


class Indices(NamedTuple):
    """The codebook indices of a picture: all that a .vqc file says of its pixels.

    Examples:
        >>> import numpy as np, vqcodec
        >>> data = vqcodec.encode(np.full((40, 100, 3), 128, np.uint8), quality=1)
        >>> indices = vqcodec.indices(data)
        >>> indices.base.shape, indices.refinement is None
        ((3, 7), True)
    """

    base: NDArray[np.int32]  # [ceil(H/16), ceil(W/16)], in [0, codebook size)
    refinement: NDArray[np.int32] | None  # [ceil(H/16), ceil(W/16), latent channels]; None in a base-only file
    colour: NDArray[np.int32] | None  # the colour layer, [1 + K, 3] (colour.py); None in a file without


def read_indices(data: bytes, options: DecodeOptions = DecodeOptions()) -> Indices:
    """The codebook indices of a .vqc file; see `api.indices`."""
    contents, model, grid, at_once = open_file(data, replace(options, allow_partial=False))
    base = np.empty((grid.latent_height, grid.latent_width), np.int32)
    refinement = None
    if contents.refinement is not None:
        refinement = np.empty((*base.shape, model.prior.latents), np.int32)

    def work(tile: Tile) -> tuple[Tile, Ints, Ints | None]:
        base_payload, payload = payloads_of(contents, tile)
        assert base_payload is not None  # the file is whole
        with named(tile):
            _, coarse, fine = decode_tile(model, tile, contents.header, base_payload, payload)
        return tile, coarse, fine

    with single_blas():
        for tile, coarse, fine in in_order(work, grid.tiles, at_once):
            base[tile.latents.slices] = coarse
            if refinement is not None and fine is not None:
                assert np.abs(fine).max(initial=0) <= 2 * MAX_INDEX
                refinement[tile.latents.slices] = fine
    layer = None if contents.colour is None else colour.read(contents.colour, model.tables)
    return Indices(base, refinement, None if layer is None else layer.array())
