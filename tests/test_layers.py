# SPDX-License-Identifier: MIT
"""The integer layers: against int64, at the limits of float32, and the bound that refuses what could leave them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.errors import ModelError
from vqcodec.model.layers import (
    ACTIVE,
    FRACTION,
    LIMIT,
    SIGNED,
    Block,
    Depthwise,
    Linear,
    Range,
    clipped,
    leaky,
    pair,
    rounded,
)

Arrays = dict[str, NDArray[Any]]
ONE = 2**FRACTION


def half_even(number: NDArray[np.int64], shift: NDArray[np.int64]) -> NDArray[np.int64]:
    """number / 2**shift, rounded half to even, in integers."""
    half = (1 << shift) >> 1
    down = number >> shift
    rest = number - (down << shift)
    return down + ((rest > half) | ((rest == half) & (half > 0) & (down % 2 == 1)))


def codes_of(stream: NDArray[np.int64], kind: Range) -> NDArray[np.int64]:
    """The codes of streams in units of 2**-FRACTION."""
    return np.clip(half_even(stream, np.int64(FRACTION)), kind.low, kind.low + 255)


def linear_in_int64(arrays: Arrays, name: str, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A linear layer in units of 2**-FRACTION."""
    weight, bias, shift = (arrays[f"{name}.{part}"].astype(np.int64) for part in ("weight", "bias", "shift"))
    return ((codes @ weight.T) << (FRACTION - shift)) + bias


def depthwise_in_int64(arrays: Arrays, name: str, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    weight, bias, shift = (arrays[f"{name}.{part}"].astype(np.int64) for part in ("weight", "bias", "shift"))
    h, w, _ = codes.shape
    padded = np.pad(codes, ((1, 1), (1, 1), (0, 0)))
    total = bias + sum(padded[i : i + h, j : j + w] * weight[:, i, j] for i in range(3) for j in range(3))
    return np.clip(half_even(total, shift), -128, 127)


def leaky_codes_in_int64(stream: NDArray[np.int64]) -> NDArray[np.int64]:
    """Streams in units of 2**-FRACTION -> active codes; an eighth of a negative stream needs three bits more."""
    return np.clip(half_even(np.maximum(8 * stream, stream), np.int64(FRACTION + 3)), -24, 231)


def linear(rng: np.random.Generator, outputs: int, inputs: int, *, extreme: bool = False) -> Arrays:
    """Arrays of a layer; with `extreme` all weights at their limits."""
    weight = rng.integers(-64, 64, (outputs, inputs))
    if extreme:
        weight = np.where(rng.random(weight.shape) < 0.5, -64, 63)
    bias = rng.integers(-20 * ONE, 20 * ONE, outputs)
    return {"weight": weight.astype(np.int8), "bias": bias, "shift": rng.integers(9, 11, outputs).astype(np.int8)}


def depthwise(rng: np.random.Generator, channels: int) -> Arrays:
    weight = rng.integers(-64, 64, (channels, 3, 3)).astype(np.int8)
    return {"weight": weight, "bias": rng.integers(-(2**14), 2**14, channels), "shift": rng.integers(0, 9, channels)}


def named(**layers: Arrays) -> Arrays:
    return {
        f"{name.replace('_', '.')}.{part}": array for name, layer in layers.items() for part, array in layer.items()
    }


def block_arrays(rng: np.random.Generator, channels: int, *, extreme: bool = False) -> Arrays:
    """A block whose `reduce` takes pairs."""
    return named(
        b_enter=linear(rng, channels, channels, extreme=extreme),
        b_depthwise=depthwise(rng, channels),
        b_leave=linear(rng, channels, channels, extreme=extreme),
        b_expand=linear(rng, 2 * channels, channels, extreme=extreme),
        b_reduce=linear(rng, channels, 4 * channels, extreme=extreme),
    )


def block_in_int64(arrays: Arrays, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """A block on a stream in units of 2**-FRACTION."""
    clip = int(LIMIT) * ONE
    inner = leaky_codes_in_int64(linear_in_int64(arrays, "b.enter", codes_of(x, SIGNED)))
    x = np.clip(x + linear_in_int64(arrays, "b.leave", depthwise_in_int64(arrays, "b.depthwise", inner)), -clip, clip)
    wide = linear_in_int64(arrays, "b.expand", codes_of(x, SIGNED))
    wide = np.maximum(8 * wide, wide)  # in units of 2**-(FRACTION + 3)
    coarse = np.clip(half_even(wide, np.int64(FRACTION + 3)), -24, 231)
    fine = np.clip(half_even(wide - (coarse << (FRACTION + 3)), np.int64(FRACTION)), -24, 231)
    return np.clip(x + linear_in_int64(arrays, "b.reduce", np.concatenate([coarse, fine], -1)), -clip, clip)


@pytest.mark.parametrize("extreme", [False, True])
def test_a_block_equals_int64(extreme: bool) -> None:
    rng = np.random.default_rng(1)
    arrays = block_arrays(rng, 48, extreme=extreme)
    x = rng.integers(-150 * ONE, 150 * ONE, (5, 7, 48))
    if extreme:
        x = np.where(rng.random(x.shape) < 0.5, -int(LIMIT) * ONE, int(LIMIT) * ONE)
    got = Block.load(arrays, "b")((x / ONE).astype(np.float32)) * ONE
    expected = block_in_int64(arrays, x)
    np.testing.assert_array_equal(got.astype(np.int64), expected)
    assert len(np.unique(expected)) > (2 if extreme else 500), "all clipped: the test tests nothing"


def test_codes_round_half_to_even_and_stop_at_their_ends() -> None:
    x = np.array([-500, -128.5, -128, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 127.5, 230.5, 500], np.float32)
    assert rounded(x).tolist() == [-128, -128, -128, -2, -2, 0, 0, 2, 2, 127, 127, 127]
    assert rounded(x, ACTIVE).tolist() == [-24, -24, -24, -2, -2, 0, 0, 2, 2, 128, 230, 231]
    assert leaky(np.array([-8, 8], np.float32)).tolist() == [-1, 8]
    assert clipped(np.array([-5000, 5000], np.float32)).tolist() == [-LIMIT, LIMIT]


def test_pairs_hold_what_rounding_leaves() -> None:
    x = np.array([[0.30, -7.49, 130.0, 1e6]], np.float32)
    coarse, fine = np.split(pair(x), 2, -1)
    assert coarse.tolist() == [[0, -7, 127, 127]]
    assert fine.tolist() == [[2, -4, 24, 127]]
    assert np.abs(coarse + fine / 8 - x)[0, :3].max() <= 1 / 16


def test_any_order_of_summation_gives_the_same() -> None:
    """At the largest sums that a layer may have: the reason why BLAS may do as it likes."""
    rng = np.random.default_rng(2)
    arrays = named(x=linear(rng, 64, 900, extreme=True))
    arrays["x.shift"][:] = 9
    layer = Linear.load(arrays, "x")
    signs = np.sign(arrays["x.weight"][0])
    codes = np.stack([np.where(signs > 0, 127, -128), rng.integers(-128, 128, 900)]).astype(np.float32)
    order = rng.permutation(900)
    np.testing.assert_array_equal(layer(codes), codes[:, order] @ layer.weight[order] + layer.bias)
    np.testing.assert_array_equal(layer(codes) * ONE, linear_in_int64(arrays, "x", codes.astype(np.int64)))


def test_depthwise_equals_int64_on_all_borders() -> None:
    rng = np.random.default_rng(3)
    arrays = named(d=depthwise(rng, 33))
    for shape in ((1, 1), (1, 6), (4, 1), (5, 6)):
        codes = rng.integers(-24, 232, (*shape, 33))
        got = Depthwise.load(arrays, "d")(codes.astype(np.float32))
        np.testing.assert_array_equal(got.astype(np.int64), depthwise_in_int64(arrays, "d", codes))


@pytest.mark.parametrize("value", [64, 65, -65, 127])
def test_a_weight_that_kernels_could_saturate_on_is_refused(value: int) -> None:
    rng = np.random.default_rng(4)
    arrays = named(x=linear(rng, 8, 8), d=depthwise(rng, 8))
    Linear.load(arrays, "x")
    Depthwise.load(arrays, "d")
    arrays["x.weight"][3, 5] = value
    arrays["d.weight"][3, 1, 1] = value
    with pytest.raises(ModelError, match="range"):
        Linear.load(arrays, "x")
    with pytest.raises(ModelError, match="range"):
        Depthwise.load(arrays, "d")


def test_a_layer_whose_sums_could_be_rounded_is_refused() -> None:
    """Sums stay below 2**24 units of 2**-FRACTION, with what is added to them."""
    inputs = 2**24 // ONE // 128 * 8 // 64  # of weight -64 at shift 3: just what there is room for
    exact = {"x.weight": np.full((1, inputs), -64, np.int8), "x.bias": np.zeros(1, np.int32), "x.shift": np.array([3])}
    with pytest.raises(ModelError, match="exact"):
        Linear.load(exact, "x", added=0)
    fewer = {**exact, "x.weight": exact["x.weight"][:, 1:]}
    Linear.load(fewer, "x", added=0)
    for change in ({"x.bias": np.full(1, 2**23)}, {"x.shift": np.array([2])}):
        with pytest.raises(ModelError, match="exact"):
            Linear.load({**fewer, **change}, "x", added=0)
    with pytest.raises(ModelError, match="exact"):
        Linear.load(fewer, "x")  # to be added to a stream
    with pytest.raises(ModelError, match="exact"):
        Linear.load(fewer, "x", ACTIVE, added=0)  # inputs up to 231
    with pytest.raises(ModelError, match="exact"):
        Depthwise.load(
            {"d.weight": np.ones((1, 3, 3), np.int8), "d.bias": np.full(1, 2**24 - 2000), "d.shift": np.zeros(1, int)},
            "d",
        )
