# SPDX-License-Identifier: MIT
"""How large the numbers of a model's priors can get, in Python integers, from its tables alone: `docs/exactness.md`.

    python -m tests.bounds [MODEL_FOLDER]

prints, for every kind of number, the largest magnitude that any picture could bring about, counted in units of the
number's last bit. Below 2**24 every such number is a float32, below 2**53 a float64, and so every sum is exact in any
order. It shares no code with `vqcodec/model/` and none of its checks; only the constants of docs/FORMAT.md are written
down here again.
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

ONE = 2**10  # units of a stream
LIMIT = 2**10 * ONE  # to which streams are clipped
LATENT_CLIP = 2**24
MAX_INDEX = 2**20
SIGNED, ACTIVE = 128, 231  # the largest magnitudes of codes
ALIGNED = 2**10  # a shift of at most 10: sums times this are integers

Arrays = Mapping[str, NDArray[Any]]


def peak(array: NDArray[Any]) -> int:
    """The largest magnitude of an integer array."""
    return max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0


def codes_into(name: str) -> int:
    """The largest magnitude of the codes that a layer takes."""
    return ACTIVE if name.endswith((".reduce", ".depthwise", ".spread")) else SIGNED


def layers(arrays: Arrays) -> dict[str, int]:
    """Of every layer the largest magnitude of a sum or a part of one, in units of its last bit."""
    found = {}
    for key in arrays:
        if not key.endswith(".weight"):
            continue
        name = key.removesuffix(".weight")
        sums = np.abs(arrays[key].astype(np.int64)).reshape(len(arrays[key]), -1).sum(1).tolist()
        biases, shifts = arrays[f"{name}.bias"].tolist(), arrays[f"{name}.shift"].tolist()
        if arrays[key].ndim == 3:  # depthwise: the bias is added before the shift
            sizes = [ACTIVE * total + abs(bias) for total, bias in zip(sums, biases, strict=True)]
        else:
            most = codes_into(name)
            parts = zip(sums, biases, shifts, strict=True)
            sizes = [(most * total << (10 - shift)) + abs(bias) for total, bias, shift in parts]
        found[name] = max(sizes)
    return found


def added(arrays: Arrays, name: str) -> int:
    """The largest magnitude of what is added to the outputs of a layer, in units of a stream."""
    if name.endswith((".leave", ".reduce")):
        return LIMIT
    if name.endswith(".join"):
        return peak(arrays[f"{name.removesuffix('.join')}.quality"])
    if name == "base_prior.enter":
        return peak(arrays["base_prior.passes"])
    if name in ("prior.activity", "base_prior.out"):
        return 0
    places = 12 * ONE  # 16 classes of 3 / 4
    return peak(arrays["prior.ratio"]) + places if name.startswith("prior.steps.") and name.endswith(".out") else LIMIT


def float32_bounds(arrays: Arrays) -> dict[str, int]:
    """Kind of number that is held in float32 -> its largest magnitude in units of its last bit."""
    sums = layers(arrays)
    depthwise = [size for name, size in sums.items() if arrays[f"{name}.weight"].ndim == 3]
    linear = [size for name, size in sums.items() if arrays[f"{name}.weight"].ndim == 2]
    return {
        "sums of the linear layers": max(linear),
        "sums of the depthwise layers": max(depthwise),
        "a layer's result and what is added to it": max(
            size + added(arrays, name) for name, size in sums.items() if arrays[f"{name}.weight"].ndim == 2
        ),
        "differences of logits": 2 * sums["base_prior.out"],
    }


def float64_bounds(arrays: Arrays) -> dict[str, int]:
    """Kind of number that is held in float64 -> its largest magnitude in units of its last bit."""
    sums, step = layers(arrays), peak(arrays["prior.step_size"])
    scales = [arrays[name] for name in arrays if name.endswith(".mean_scale")]
    outputs = [sums[name] for name in sums if name.endswith(".out") and name.startswith("prior.")]
    if "prior.factors" in arrays:
        step = max(step, step * peak(arrays["prior.factors"]) >> 14)
    found = {"base means, before rounding": sums["prior.base_mean"] * peak(arrays["prior.base_scale"])}
    found["corrections of means, before rounding"] = max(outputs) * max(map(peak, scales))
    unit = 2 ** (10 + 8)  # of a mean's last bit
    mean = LATENT_CLIP + found["corrections of means, before rounding"] // unit + 1
    found["means"] = mean
    found["latents, before they are clipped"] = mean + MAX_INDEX * step + step * peak(arrays["tables.shrink"]) // 256
    found["reconstruction offsets, before rounding"] = step * peak(arrays["tables.shrink"])
    contexts = 2 * LATENT_CLIP * peak(arrays["prior.context_scale"])
    found["contexts, before rounding"] = contexts
    found["what the first code of a context leaves, eight times"] = 8 * contexts
    size, weight = len(arrays["codebook"]), peak(arrays["base_prior.exp2"])
    if "prior.activity.weight" in arrays:
        strength, factor = peak(arrays["prior.strength"]), peak(arrays["prior.factors"])
        found["place classes, before rounding"] = sums["prior.activity"] * strength
        found["steps by place, before rounding"] = peak(arrays["prior.step_size"]) * factor
    found["sums of weights of the base prior"] = size * weight
    found["weights times the row's factor"] = weight * (2**48 // weight)
    return found


def main() -> None:
    """Prints the bounds of a model."""
    files = zoo.find(sys.argv[1] if len(sys.argv) > 1 else None)
    arrays: dict[str, NDArray[Any]] = dict(np.load(Path(files.folder) / "tables.npz", allow_pickle=False))
    for limit, found in ((24, float32_bounds(arrays)), (53, float64_bounds(arrays))):
        for kind, size in found.items():
            print(f"{kind}: below 2^{math.ceil(math.log2(size + 1))}, where 2^{limit} is allowed")


if __name__ == "__main__":
    main()
