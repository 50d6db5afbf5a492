# SPDX-License-Identifier: MIT
"""How much noise is in a picture: one standard deviation, from its calmest places. Pictures in, a number out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # pixels of the blocks that are compared
CALM = 0.1  # part of the blocks that are taken to hold noise alone
BIAS = 0.887  # what the calmest tenth of the blocks of pure noise gives instead of 1, measured
CLIPPED = 4.0  # levels: blocks whose mean is nearer to black or white, or than twice the noise, have lost part of it


def noise_level(rgb: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise in a picture [H, W, 3], in levels of 255; 0 where nothing can be said.

    The Laplacian difference of Immerkaer ("Fast noise variance estimation", 1996) is blind to slopes and keeps white
    noise, times 6. Its mean magnitude in a block is that of the noise where the block has no texture; the tenth of the
    blocks where it is smallest is taken for such. Noise that neighbouring pixels share, as after JPEG or a camera's own
    noise reduction, is underestimated.
    """
    height, width = (side - 2 for side in rgb.shape[:2])
    rows, columns = height // SIDE, width // SIDE
    if rows < 1 or columns < 1:
        return 0.0
    planes = [_block_noise(rgb[:, :, channel].astype(np.float32), rows, columns) for channel in range(3)]
    found = 0.0
    for _ in range(3):  # the more noise there is, the further from black and white it is clipped
        margin = max(CLIPPED, 2 * found)
        usable = [noise[(mean > margin) & (mean < 255 - margin)] for noise, mean in planes]
        levels = [float(np.quantile(blocks, CALM)) for blocks in usable if blocks.size >= rows * columns * CALM]
        found = float(np.mean(levels)) if levels else found
    return found


def _block_noise(x: NDArray[np.float32], rows: int, columns: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What stands for the noise in each block of a plane [H, W], and the block's mean: [rows, columns] each."""
    across = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    both = np.abs(across[:-2] - 2 * across[1:-1] + across[2:])
    return _means(both, rows, columns) * np.float32(np.sqrt(np.pi / 2) / 6 / BIAS), _means(x[1:-1, 1:-1], rows, columns)


def _means(x: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Means of blocks: [rows, columns]."""
    whole = x[: rows * SIDE, : columns * SIDE]
    return np.asarray(whole.reshape(rows, SIDE, columns, SIDE).mean((1, 3)), np.float32)
