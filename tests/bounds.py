# SPDX-License-Identifier: MIT
"""How large the sums of a model's priors can get, in Python integers, from its tables alone: `docs/exactness.md`.

    python -m tests.bounds [MODEL_FOLDER]

prints, for every kind of sum, the largest magnitude that any picture could bring about, counted in units of the
number's last bit. Below 2**53 every such number is a float64, and so every sum is exact in any order. It shares no code
with `vqcodec/model/prior.py` and none of its checks; only the constants of docs/FORMAT.md are written down here again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqcodec.model import zoo

CLIP = 2**23  # of activations
LATENT_CLIP = 2**24
UNIT = 2**14  # activations and latents are in units of 1 / UNIT
MAX_INDEX = 2**20

Arrays = Mapping[str, NDArray[Any]]


def peak(array: NDArray[Any]) -> int:
    """The largest magnitude of an integer array."""
    return max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0


def layers(arrays: Arrays) -> dict[str, int]:
    """Of every layer the largest magnitude that a sum or a part of one can have: |bias| + sum of |weight| * CLIP."""
    found = {}
    for key in arrays:
        if key.endswith(".weight"):
            name = key.removesuffix(".weight")
            sums = np.abs(arrays[key].astype(np.int64)).reshape(len(arrays[key]), -1).sum(1).tolist()
            found[name] = max(
                abs(bias) + CLIP * size for bias, size in zip(arrays[f"{name}.bias"].tolist(), sums, strict=True)
            )
    return found


def bounds(arrays: Arrays) -> dict[str, int]:
    """Kind of sum -> its largest magnitude in units of its last bit."""
    sums = layers(arrays)
    found = {"sums of the layers": max(sums.values())}
    # x / 2**s + 1/2, whose last bit is worth 2**-s, or 1/2 where s is 0
    found["layers re-scaled, before rounding"] = max(
        2 * size + 1 if (shift := int(arrays[f"{name}.shift"])) == 0 else size + 2 ** (shift - 1)
        for name, size in sums.items()
    )
    found["a layer's result and what is added to it"] = 3 * CLIP + max(
        CLIP, *(peak(arrays[name]) for name in arrays if name.endswith((".quality", ".passes")))
    )
    sigma, step = peak(arrays["prior.sigma"]), peak(arrays["prior.step_size"])
    deviation = CLIP * sigma  # in units of 1 / UNIT**2
    found["deviations, before rounding"] = deviation + UNIT // 2
    rounded = deviation // UNIT + 1
    mean = 2 * rounded
    found["means"] = mean
    found["latents, before they are clipped"] = mean + MAX_INDEX * step + step * peak(arrays["tables.shrink"]) // 256
    found["reconstruction offsets, before rounding"] = step * peak(arrays["tables.shrink"])
    contexts = (LATENT_CLIP + rounded) * peak(arrays["prior.inverse_sigma"])
    found["contexts, before rounding"] = contexts + UNIT // 2
    scales = 6 * (CLIP + peak(arrays["prior.log2_ratio"]) + 7 * UNIT // 2)
    found["scale classes, before rounding"] = scales + UNIT // 2
    found["differences of logits"] = 2 * CLIP
    return found


def int64_bounds(arrays: Arrays) -> dict[str, int]:
    """Kind of number that is held in int64 -> its largest magnitude."""
    size, weight = len(arrays["codebook"]), peak(arrays["base_prior.exp2"])
    return {"sums of weights of the base prior": size * weight, "weights times 2^24": weight * 2**24}


def main() -> None:
    """Prints the bounds of a model."""
    files = zoo.find(sys.argv[1] if len(sys.argv) > 1 else None)
    arrays: dict[str, NDArray[Any]] = dict(np.load(Path(files.folder) / "tables.npz", allow_pickle=False))
    for limit, found in ((53, bounds(arrays)), (63, int64_bounds(arrays))):
        for kind, size in found.items():
            print(f"{kind}: below 2^{math.ceil(math.log2(size + 1))}, where 2^{limit} is allowed")


if __name__ == "__main__":
    main()
