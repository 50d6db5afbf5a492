# SPDX-License-Identifier: MIT
"""The codebook indices of a .vqc file, as arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqcodec.bitstream.codebook import MAX_INDEX, Ints
from vqcodec.bitstream.tiles import Tile
from vqcodec.codec.decode import TileReader, decode_refinement, named, open_file
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
    colour: NDArray[np.int32] | None  # the colour layer's polynomial, [1 + K, 3] (colour.py); None in a file without
    drift: NDArray[np.int32] | None = None  # its slow shifts, [1 + rows, columns, 3] (drift.py); None in a file without


def read_indices(data: bytes, options: DecodeOptions = DecodeOptions()) -> Indices:
    """The codebook indices of a .vqc file; see `api.indices`."""
    contents, model, grid, at_once = open_file(data, replace(options, allow_partial=False))
    header = contents.header
    reader, setting = TileReader(model, grid, contents, False), model.setting(header.quality, header.tune)
    refinement = None
    if contents.refinement is not None:
        refinement = np.empty((*reader.base.shape, model.prior.latents), np.int32)

    def work(tile: Tile) -> tuple[Tile, Ints | None]:
        base = reader.around(tile)
        assert base is not None  # the file is whole
        if contents.refinement is None:
            return tile, None
        if reader.kept(tile.index):
            return tile, np.zeros((tile.latents.height, tile.latents.width, model.prior.latents), np.int64)
        payload = contents.refinement[tile.index]
        assert payload is not None
        with named(tile):
            return tile, decode_refinement(model, base, setting, payload)[1]

    with single_blas():
        for tile, fine in in_order(work, grid.tiles, at_once):
            if refinement is not None and fine is not None:
                assert np.abs(fine).max(initial=0) <= 2 * MAX_INDEX
                refinement[tile.latents.slices] = fine
    return Indices(reader.base, refinement, *(None if part is None else part.array() for part in reader.layer))
