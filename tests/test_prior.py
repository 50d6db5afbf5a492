# SPDX-License-Identifier: MIT
"""The integer priors: what surrounds their networks against Python integers, and the bounds of the shipped weights."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bounds
from vqcodec.model import zoo
from vqcodec.model.prior import RefinementPrior, checkerboard, quarter
from vqcodec.model.walk import Predicted

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load(zoo.find())


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return dict(np.load(Path(zoo.find().folder) / "tables.npz", allow_pickle=False))


def limited(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def test_no_number_of_the_shipped_model_can_leave_the_exact_range(arrays: Arrays) -> None:
    """The proof of docs/exactness.md with the numbers of the weights: `python -m tests.bounds`."""
    assert len(bounds.layers(arrays)) > 50
    for limit, found in ((24, bounds.float32_bounds(arrays)), (53, bounds.float64_bounds(arrays))):
        assert max(found.values()) < 2**limit, found
        assert min(found.values()) > 2 ** (limit // 3), "a bound that small forgets something"
    louder = {**arrays, "prior.steps.3.join.weight": arrays["prior.steps.3.join.weight"].astype(np.int64) * 16}
    assert max(bounds.float32_bounds(louder).values()) > 2**24, "no weight would be too large for this test"


def test_contexts_are_pairs_of_exact_numbers(model: zoo.Model, arrays: Arrays) -> None:
    rng = np.random.default_rng(0)
    channels = slice(16, 32)
    above = rng.integers(-(2**17), 2**17, (40, 16))
    above[0], above[1] = 2**25, -(2**25)
    got = model.prior.contexts(above.astype(np.float64), channels).astype(int) - 128
    scales = arrays["prior.context_scale"][channels].tolist()
    for row in range(40):
        for number, scale in enumerate(scales):
            exact = Fraction(int(above[row, number]) * scale, 2**24)
            coarse = limited(round(exact), -128, 127)
            fine = limited(round(8 * (exact - coarse)), -128, 127)
            assert got[row, 2 * number : 2 * number + 2].tolist() == [coarse, fine]
    assert len(np.unique(got)) > 100


def test_means_are_rounded_exactly(model: zoo.Model, arrays: Arrays) -> None:
    prior, rng = model.prior, np.random.default_rng(1)
    base = rng.integers(0, model.codebook.size, (6, 7))
    features, base_mean = prior.base(base)
    outputs = model.prior._engine.base(prior._codes.of(base))[1]
    for row, column, channel in [(0, 0, 0), (3, 5, 17), (5, 6, prior.latents - 1)]:
        exact = Fraction(float(outputs[row, column, channel])) * int(arrays["prior.base_scale"][channel]) / 2**8
        assert int(base_mean[row, column, channel]) == round(exact)
    known, before = prior.nothing_known((6, 7)), None
    for step in prior.steps[:3]:
        mean, classes, before = prior.predict(step, known, features, base_mean, 59, None, before)
        where = checkerboard(6, 7, step.half)
        assert mean.shape == classes.shape == (where.sum(), step.channels.stop - step.channels.start)
        assert (mean == np.rint(mean)).all()
        assert classes.max() < 64
        assert (mean != base_mean[:, :, step.channels][where]).any()


def test_steps_see_what_is_known_and_nothing_else(model: zoo.Model) -> None:
    prior = model.prior
    rng = np.random.default_rng(2)
    features, base_mean = prior.base(rng.integers(0, model.codebook.size, (5, 4)))
    step = prior.steps[4]
    before = rng.integers(0, 256, (5, 4, step.quality.shape[1])).astype(np.uint8)
    known = rng.integers(0, 256, (5, 4, 2 * prior.latents)).astype(np.uint8)
    later, earlier = known.copy(), known.copy()
    later[:, :, 2 * step.channels.start :] = 128
    earlier[2, 2, 0] ^= 255
    usual, same, other = (
        prior.predict(step, k, features, base_mean, 59, None, before)[0] for k in (known, later, earlier)
    )
    np.testing.assert_array_equal(usual, same)
    assert (usual != other).any(), "the context does not matter"
    louder = prior.predict(step, known, features, base_mean, 89, None, before)[0]
    assert (usual != louder).any(), "the quality does not matter"


def test_steps_cover_every_position_once() -> None:
    for h, w in [(1, 1), (1, 2), (3, 5), (8, 8)]:
        assert (sum(quarter(h, w, n).astype(int) for n in range(4)) == 1).all()
        assert (sum(checkerboard(h, w, n).astype(int) for n in range(2)) == 1).all()


def test_base_frequencies_equal_python_integers(model: zoo.Model, arrays: Arrays) -> None:
    prior, rng = model.base_prior, np.random.default_rng(3)
    indices, known, where = rng.integers(0, model.codebook.size, (6, 7)), quarter(6, 7, 0), quarter(6, 7, 1)
    got = prior.frequencies(indices, known, 1)
    logits = prior._engine.indices(prior._codes.known(indices, known), prior._passes[1], where)
    exp2, size = arrays["base_prior.exp2"].tolist(), model.codebook.size
    for row in range(len(got)):
        scores = [int(x) for x in logits[row].astype(float) * 2**10]
        below = [256 * (max(scores) - score) // 2**10 for score in scores]
        weights = [exp2[b % 256] >> (b // 256) for b in below]
        factor = 2**24 * (2**24 - size) // sum(weights)
        expected = [v * factor // 2**24 for v in weights]
        expected[below.index(min(below))] += 2**24 - size - sum(expected)
        assert got[row].tolist() == expected
    assert got.max() > 4 * got.mean(), "all indices alike: the test tests little"


def test_base_frequencies_do_not_depend_on_what_is_unknown(model: zoo.Model) -> None:
    rng = np.random.default_rng(3)
    indices = rng.integers(0, model.codebook.size, (6, 7))
    known = quarter(6, 7, 0)
    other = np.where(known, indices, rng.integers(0, model.codebook.size, (6, 7)))
    a, b = (model.base_prior.frequencies(i, known, 1) for i in (indices, other))
    np.testing.assert_array_equal(a, b)
    assert a.min() >= 0
    assert (a.sum(1) == 2**24 - model.codebook.size).all()
    changed = np.where(known, (indices + 1) % model.codebook.size, indices)
    assert (model.base_prior.frequencies(changed, known, 1) != a).any(), "the context does not matter"


def test_values_do_not_depend_on_the_order_in_memory(arrays: Arrays) -> None:
    rng, shape = np.random.default_rng(5), (50, 8)
    step = RefinementPrior(arrays).steps[0]
    means = rng.integers(-(2**14), 2**14, shape).astype(np.float64)
    classes, sizes = rng.integers(0, 4, shape), rng.integers(500, 4000, shape).astype(np.float64)
    indices = rng.integers(-2, 3, shape)
    expected = Predicted(step, np.ones(shape, bool), means, classes, sizes).values(indices, None)
    for order in ("C", "F"):
        found = Predicted(
            step, np.ones(shape, bool), *(np.array(part, order=order) for part in (means, classes, sizes))
        )
        np.testing.assert_array_equal(found.values(np.array(indices, order=order), None), expected)
    assert np.array_equal(expected[indices == 0], means[indices == 0])
    assert (expected != means)[indices != 0].all()
