# SPDX-License-Identifier: MIT
"""The integer priors against plain Python integers, and the bound that makes their sums exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bounds
from vqcodec.errors import ModelError
from vqcodec.model import zoo
from vqcodec.model.prior import CLIP, Depthwise, Linear, checkerboard, quarter


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load(zoo.find())


def half_up(numerator: int, shift: int) -> int:
    """floor(n / 2**shift + 1/2) in Python integers, clipped as activations are."""
    value = (numerator + (1 << (shift - 1))) >> shift if shift > 0 else numerator << -shift
    return max(-int(CLIP), min(int(CLIP), value))


@pytest.fixture(scope="module")
def arrays() -> dict[str, NDArray[Any]]:
    return dict(np.load(Path(zoo.find().folder) / "tables.npz", allow_pickle=False))


def test_linear_equals_python_integers(model: zoo.Model, arrays: dict[str, NDArray[Any]]) -> None:
    layer = model.prior.steps[3].context
    assert layer is not None
    weight, bias, shift = (arrays[f"prior.steps.3.context.{part}"].tolist() for part in ("weight", "bias", "shift"))
    rng = np.random.default_rng(0)
    x = rng.integers(-int(CLIP), int(CLIP), (3, layer.weight.shape[0])).astype(np.float64)
    got = layer(x)
    for row in range(3):
        for column in range(0, layer.weight.shape[1], 7):
            products = zip(x[row].tolist(), weight[column], strict=True)
            total = bias[column] + sum(int(a) * b for a, b in products)
            assert int(got[row, column]) == half_up(total, shift)


def test_depthwise_equals_python_integers(model: zoo.Model, arrays: dict[str, NDArray[Any]]) -> None:
    layer = model.base_prior.spread
    weight, bias, shift = (arrays[f"base_prior.spread.{part}"].tolist() for part in ("weight", "bias", "shift"))
    channels = layer.weight.shape[2]
    x = np.random.default_rng(1).integers(-(2**20), 2**20, (4, 5, channels)).astype(np.float64)
    got = layer(x)
    for row, column, c in [(0, 0, 0), (3, 4, 1), (2, 2, channels - 1), (0, 4, 5), (1, 3, 7)]:
        total = bias[c]
        for dy in range(3):
            for dx in range(3):
                i, j = row + dy - 1, column + dx - 1
                if 0 <= i < 4 and 0 <= j < 5:
                    total += int(x[i, j, c]) * weight[c][dy][dx]
        assert int(got[row, column, c]) == half_up(total, shift)


def test_any_order_of_summation_gives_the_same(model: zoo.Model) -> None:
    layer = model.prior.steps[5].context
    assert layer is not None
    rng = np.random.default_rng(2)
    x = rng.integers(-int(CLIP), int(CLIP), (64, layer.weight.shape[0])).astype(np.float64)
    order = rng.permutation(layer.weight.shape[0])
    np.testing.assert_array_equal(x @ layer.weight, x[:, order] @ layer.weight[order])


def test_no_sum_of_the_shipped_model_can_leave_the_exact_range(arrays: dict[str, NDArray[Any]]) -> None:
    """The proof of docs/exactness.md with the numbers of the weights: `python -m tests.bounds`."""
    assert len(bounds.layers(arrays)) > 50
    assert bounds.peak(arrays["codebook"]) <= CLIP
    found = bounds.bounds(arrays)
    assert len(found) == 10
    assert max(found.values()) < 2**51, found  # the loader leaves a factor of four
    assert min(found.values()) > 2**20, "a bound that small forgets something"
    assert max(bounds.int64_bounds(arrays).values()) < 2**63
    louder = {**arrays, "prior.enter.weight": arrays["prior.enter.weight"].astype(np.int64) * 2**20}
    assert max(bounds.bounds(louder).values()) > 2**53, "no weight would be too large for this test"


def test_the_largest_sums_that_the_shipped_layers_can_have_are_exact(arrays: dict[str, NDArray[Any]]) -> None:
    """Activations at their limits with the signs of an output's weights: its sum is the bound, in any order."""
    rng = np.random.default_rng(4)
    for name, bound in bounds.layers(arrays).items():
        weights, biases = arrays[f"{name}.weight"].astype(np.int64), arrays[f"{name}.bias"]
        sizes = np.abs(weights).reshape(len(weights), -1).sum(1) * int(CLIP) + np.abs(biases)
        worst = int(sizes.argmax())
        assert sizes[worst] == bound
        sign = -1 if biases[worst] < 0 else 1
        x = CLIP * sign * np.sign(weights[worst])
        if weights.ndim == 2:
            layer = Linear.load(arrays, name)
            order = rng.permutation(len(x))
            half = 2.0 ** int(arrays[f"{name}.shift"]) / 2  # which is added to every sum
            for sums in (x @ layer.weight + layer.bias, x[order] @ layer.weight[order] + layer.bias):
                assert sums[worst] * 2 * half == sign * bound + half
            found = layer(x[None])[0, worst]
        else:
            depthwise = Depthwise.load(arrays, name)
            field = np.zeros((3, 3, len(weights)))
            field[:, :, worst] = x
            found = depthwise(field)[1, 1, worst]
        assert int(found) == half_up(sign * bound, int(arrays[f"{name}.shift"]))


def test_a_layer_that_could_overflow_is_refused() -> None:
    arrays = {
        "x.weight": np.full((1, 2**12), 32767, np.int16),
        "x.bias": np.zeros(1, np.int64),
        "x.shift": np.array(3),
    }
    Linear.load(arrays, "x")  # 2**12 inputs, 15-bit weights, 23-bit activations: just below 2**50
    for change in ({"x.bias": np.full(1, 2**52)}, {"x.weight": np.full((1, 2**14), 32767, np.int16)}):
        with pytest.raises(ModelError, match="exact"):
            Linear.load({**arrays, **change}, "x")


def test_steps_cover_every_position_once() -> None:
    for h, w in [(1, 1), (1, 2), (3, 5), (8, 8)]:
        assert (sum(quarter(h, w, n).astype(int) for n in range(4)) == 1).all()
        assert (sum(checkerboard(h, w, n).astype(int) for n in range(2)) == 1).all()


def test_base_frequencies_do_not_depend_on_what_is_unknown(model: zoo.Model) -> None:
    rng = np.random.default_rng(3)
    indices = rng.integers(0, model.codebook.size, (6, 7))
    known = quarter(6, 7, 0)
    other = np.where(known, indices, rng.integers(0, model.codebook.size, (6, 7)))
    a, b = (model.base_prior.frequencies(i, known, 1) for i in (indices, other))
    np.testing.assert_array_equal(a, b)
    assert a.min() >= 0
    assert (a.sum(1) == 2**24 - model.codebook.size).all()
    assert a.dtype == np.int64
    changed = np.where(known, (indices + 1) % model.codebook.size, indices)
    assert (model.base_prior.frequencies(changed, known, 1) != a).any(), "the context does not matter"
