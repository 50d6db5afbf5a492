# SPDX-License-Identifier: MIT
"""The two codebooks: learned vectors of the base layer, scalar levels of the refinement; indices <-> values.

Values here are integers: latents in units of 2**-LATENT_BITS, codewords in units of 2**-CODE_BITS. They
are held in float64 arrays (every integer below 2**53 is exact there), so that products are exact. No
probabilities, and no bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqcodec.spans import span

LATENT_BITS = 14
CODE_BITS = 14
MAX_INDEX = 2**20  # magnitude of a refinement index; larger ones cannot be written
LATENT_CLIP = 2.0**24

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Classes = NDArray[np.uint8]  # scale classes, in [0, 64)


def real(latents: Floats) -> NDArray[np.float32]:
    """Latents in units of 2**-LATENT_BITS as real numbers, of the same shape."""
    return latents.astype(np.float32) * np.float32(2.0**-LATENT_BITS)


@dataclass(frozen=True)
class BaseCodebook:
    """One learned codebook: [K, D] codewords as integers in units of 2**-CODE_BITS."""

    vectors: Floats

    @property
    def size(self) -> int:
        """Number of codewords K."""
        return len(self.vectors)

    def nearest(self, z: NDArray[np.float32]) -> Ints:
        """Index of the nearest codeword of each vector (encoder only: floats may be used here).

        Args:
            z: [N, D] float32 base vectors from the analysis transform.

        Returns:
            [N] int64 in [0, K).
        """
        words = (self.vectors * 2.0**-CODE_BITS).astype(np.float32)
        distance = (words * words).sum(1) - 2 * (z @ words.T)
        indices: Ints = distance.argmin(1).astype(np.int64)
        return indices


@span("choice of indices")
def quantise(y: Floats, mean: Floats, step: Floats) -> tuple[Ints, Floats]:
    """Nearest scalar index to each latent, around its predicted mean (encoder only).

    Finite scalar quantisation (Mentzer et al., 2023) with an offset grid.

    Args:
        y: [N, C] latents as real numbers (not scaled).
        mean: [N, C] integers in units of 2**-LATENT_BITS.
        step: [C] integers in the same unit, > 0.

    Returns:
        indices [N, C] int64 and the position t = (y - mean) / step before rounding, [N, C] float64.
    """
    t = (y * 2.0**LATENT_BITS - mean) / step
    t = np.clip(t, -MAX_INDEX + 1, MAX_INDEX - 1)
    return np.rint(t).astype(np.int64), t


def dequantise(indices: Ints, mean: Floats, step: Floats, shrink: Floats) -> Floats:
    """Latents of scalar indices, exactly.

    value = mean + index * step - sign(index) * floor(step * shrink / 256): the reconstruction point lies `shrink` /
    256 of a step closer to the mean than the middle of the bin, where the density is higher.

    Args:
        indices: [N] int64; mean, step: [N]; shrink: [N] integers in [0, 128).

    Returns:
        [N] integers in units of 2**-LATENT_BITS, clipped to +-LATENT_CLIP.
    """
    back = np.floor(step * shrink * (1 / 256)) * np.sign(indices)
    values: Floats = np.clip(mean + indices * step - back, -LATENT_CLIP, LATENT_CLIP)
    return values
