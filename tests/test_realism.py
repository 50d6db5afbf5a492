# SPDX-License-Identifier: MIT
"""Measures of realism: cases whose right order is known, seeds, and a run from pictures to tables and sheets."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from bench import c2st, orders, swd
from bench.errors import MissingError

Rgb = NDArray[np.uint8]


@pytest.fixture(scope="module")
def originals(photo: Rgb) -> list[Rgb]:
    """Nine pieces of the bundled photograph, 96 x 112."""
    height, width = photo.shape[:2]
    places = [
        (y, x) for y in np.linspace(0, height - 96, 3, dtype=int) for x in np.linspace(0, width - 112, 3, dtype=int)
    ]
    return [photo[y : y + 96, x : x + 112] for y, x in places]


@pytest.fixture(scope="module")
def reference(originals: list[Rgb]) -> swd.Reference:
    return swd.Reference(originals)


# Sliced Wasserstein distance


def test_the_pyramid_gives_the_picture_back(photo: Rgb) -> None:
    levels = swd.pyramid(photo[:101, :130], 4)
    assert [level.shape[:2] for level in levels] == [(101, 130), (51, 65), (26, 33), (13, 17)]
    plane = levels[-1]
    for level in levels[-2::-1]:
        plane = level + swd.enlarged(plane, level.shape[:2])
    assert np.abs(plane - photo[:101, :130]).max() < 1e-3
    flat = swd.pyramid(np.full((64, 64, 3), 90, np.uint8), 3)
    assert all(np.abs(level).max() < 1e-3 for level in flat[:-1])  # detail of nothing is nothing, at the edges too


def test_levels_end_at_sixteen_pixels() -> None:
    sizes = {15: 1, 16: 1, 31: 1, 32: 2, 512: 6, 767: 6, 1024: 7}
    assert {side: swd.level_count([np.zeros((side, 2000, 3), np.uint8)]) for side in sizes} == sizes


def test_distances_are_those_of_scipy(originals: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    """Projected one direction at a time, with SciPy's one-dimensional distance."""
    monkeypatch.setattr(swd, "PATCHES", 300)
    reference = swd.Reference(originals)
    noisy = orders.noisy(originals, 20.0)
    for level, (first, second) in enumerate(
        zip(reference._patches(originals, 0), reference._patches(noisy, 1), strict=True)
    ):
        mean, deviation = first.mean((0, 2, 3)), first.std((0, 2, 3))
        a, b = (((p - mean[:, None, None]) / deviation[:, None, None]).reshape(-1, 147) for p in (first, second))
        each = [wasserstein_distance(a @ d, b @ d) for d in reference.directions.T]
        assert np.mean(each) == pytest.approx(reference.distances(noisy)[2**level], rel=1e-4)
    assert np.allclose(np.linalg.norm(reference.directions, axis=0), 1)


def test_the_two_halves_share_no_patch(originals: list[Rgb], reference: swd.Reference) -> None:
    for first, second in zip(reference._patches(originals, 0), reference._patches(originals, 1), strict=True):
        assert first.shape == second.shape
        assert not np.array_equal(first, second)
    finest = [half[0].reshape(-1, 147) for half in (reference._patches(originals, 0), reference._patches(originals, 1))]
    assert not {row.tobytes() for row in finest[0]} & {row.tobytes() for row in finest[1]}


@pytest.mark.parametrize("family", orders.FAMILIES, ids=lambda family: family.name)
def test_swd_grows_with_the_damage(family: orders.Family, originals: list[Rgb], reference: swd.Reference) -> None:
    found = [swd.mean(reference.floor)]
    found += [swd.mean(reference.distances(family.damaged(originals, amount))) for amount in family.amounts]
    assert found == sorted(found)
    assert found[-1] > 2 * found[0]


def test_swd_says_at_which_scale(originals: list[Rgb], reference: swd.Reference) -> None:
    found = reference.distances(orders.blurred(originals, 1.0))
    assert list(found) == [1, 2, 4]
    excess = [found[level] - reference.floor[level] for level in found]
    assert excess[0] > 3 * excess[1] > 0
    assert found[4] < 1.5 * reference.floor[4]


def test_swd_is_the_same_again_and_seeds_matter_little(originals: list[Rgb], reference: swd.Reference) -> None:
    blurred = orders.blurred(originals, 1.0)
    assert swd.Reference(originals).distances(blurred) == reference.distances(blurred)
    other = swd.Reference(originals, seed=1).distances(blurred)
    assert other != reference.distances(blurred)
    assert swd.mean(other) == pytest.approx(swd.mean(reference.distances(blurred)), rel=0.2)
    with pytest.raises(ValueError, match="of the same sizes"):
        reference.distances(blurred[:-1])
    with pytest.raises(ValueError, match="more than 7"):
        swd.Reference([np.zeros((7, 30, 3), np.uint8)])


# Classifier two-sample test


@pytest.fixture(scope="module")
def torch_is_here() -> None:
    pytest.importorskip("torch", reason="torch comes with the train extra")


@pytest.mark.usefixtures("torch_is_here")
def test_c2st_is_chance_for_the_same_and_grows_with_the_damage(originals: list[Rgb]) -> None:
    same, little, much = (
        c2st.c2st(originals, restored, steps=40)
        for restored in (originals, orders.blurred(originals, 0.7), orders.blurred(originals, 3.0))
    )
    assert abs(same.accuracy - 0.5) < 0.06
    assert abs(same.auc - 0.5) < 0.06
    assert abs(same.patch_auc - 0.5) < 0.06
    assert same.auc < little.auc < much.auc
    assert same.patch_auc < little.patch_auc < much.patch_auc
    assert much.auc > 0.9


@pytest.mark.usefixtures("torch_is_here")
def test_c2st_is_the_same_again(originals: list[Rgb]) -> None:
    import torch

    noisy = orders.noisy(originals, 10.0)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = c2st.c2st(originals, noisy, steps=5)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert c2st.c2st(originals, noisy, steps=5) == first
    assert c2st.c2st(originals, noisy, steps=5, seed=1) != first
    with pytest.raises(ValueError, match="of the same sizes"):
        c2st.c2st(originals, noisy[:-1])
    with pytest.raises(ValueError, match="at least 3 pictures"):
        c2st.c2st(originals[:2], noisy[:2])


@pytest.mark.usefixtures("torch_is_here")
def test_c2st_is_judged_on_pictures_it_has_not_seen(originals: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    judged: list[set[int]] = []
    places = c2st._places

    def noted(planes: object, pictures: NDArray[np.int64], random: np.random.Generator) -> list[c2st.Place]:
        (judged if len(pictures) > c2st.PAIRS else seen).append(set(pictures.tolist()))
        return places(planes, pictures, random)  # type: ignore[arg-type]

    monkeypatch.setattr(c2st, "_places", noted)
    c2st.c2st(originals, originals, steps=10)
    folds = [set().union(*seen[start : start + 10]) for start in range(0, len(seen), 10)]
    assert len(folds) == c2st.FOLDS
    for fold, held in zip(folds, judged[::2], strict=True):
        assert not fold & held
    assert set().union(*judged) == set(range(len(originals)))


def test_auc_of_known_order() -> None:
    high, low = np.array([3.0, 4.0]), np.array([1.0, 2.0])
    assert c2st._auc(high, low) == 1
    assert c2st._auc(low, high) == 0
    assert c2st._auc(high, high) == 0.5
    assert c2st._auc(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == 0.5


def test_without_torch_c2st_says_so(originals: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    with pytest.raises(MissingError, match="torch is not installed"):
        c2st.c2st(originals, originals)
