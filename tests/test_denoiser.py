# SPDX-License-Identifier: MIT
"""Noise forward and back: statistics of the noise, the sampler against known answers, and how much noise there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from vqcodec.bitstream.tiles import Rect
from vqcodec.codec.denoise import LEAST_NOISE
from vqcodec.model.denoiser import SIGMA_MAX, gaussian, levels, noised, sample, sigma_of, time_of
from vqcodec.options import MAX_STEPS
from vqcodec.pictures.noise_level import noise_level

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


# ---- forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.1, 0.35, 0.5, 0.8, 1.0])
def test_variance_at_every_time(t: float) -> None:
    x = np.full((256, 256, 3), 0.25, np.float32)
    found = noised(x, sigma_of(t), gaussian(Rect(0, 0, 256, 256), 3)) - x
    assert abs(float(found.var()) / max(sigma_of(t) ** 2, 1e-30) - 1) < 0.02 or t == 0
    assert abs(float(found.mean())) <= 0.01 * sigma_of(t)


def test_nothing_is_lost_at_time_0(photo: U8) -> None:
    x = photo[:64, :64] / np.float32(255)
    noise = gaussian(Rect(0, 0, 64, 64), 0)
    assert np.array_equal(noised(x, sigma_of(0.0), noise), x)
    where = np.zeros((64, 64), np.float32)
    where[10:20] = 1
    mixed = noised(x, 0.3 * where, noise)
    assert np.array_equal(mixed[where == 0], x[where == 0])
    assert not np.array_equal(mixed[where == 1], x[where == 1])


def test_times_and_levels() -> None:
    assert (sigma_of(0), sigma_of(1)) == (0, SIGMA_MAX)
    for sigma in (0.0, 0.01, 0.2, 1.0):
        assert sigma_of(time_of(sigma)) == pytest.approx(sigma)
    for steps in range(1, 9):
        found = levels(steps, 0.4)
        assert len(found) == steps + 1
        assert found[0] == pytest.approx(0.4)
        assert found[-1] == 0
        assert all(now > then for now, then in itertools.pairwise(found))
        times = np.diff([time_of(sigma) for sigma in found])
        assert np.allclose(times, times[0])


def test_noise_is_gaussian_and_belongs_to_places() -> None:
    whole = gaussian(Rect(0, 0, 300, 200), 7)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    assert abs(float(whole.mean())) < 0.01
    assert abs(float(whole.var()) - 1) < 0.01
    assert abs(float((whole**3).mean())) < 0.03
    assert abs(float((whole**4).mean()) - 3) < 0.1
    np.testing.assert_array_equal(gaussian(Rect(37, 90, 161, 200), 7), whole[90:200, 37:161])
    for a, b in ((whole[:, 1:], whole[:, :-1]), (whole[1:], whole[:-1]), (whole[..., 1:], whole[..., :-1])):
        assert abs(float((a * b).mean())) < 0.02
    assert abs(float((whole * gaussian(Rect(0, 0, 300, 200), 8)).mean())) < 0.02


# ---- back ------------------------------------------------------------------------------------------------------------

MEAN, DEVIATION = 0.4, 0.2  # of a made-up world of pictures whose pixels are independent


def ideal(x: F32, sigma: F32) -> F32:
    """The estimate of least squared error for that world: it is known in closed form."""
    part = DEVIATION**2 / (DEVIATION**2 + sigma[:, :, None] ** 2)
    return np.asarray(MEAN + part * (x - MEAN), np.float32)


def test_one_step_is_the_estimate() -> None:
    x = gaussian(Rect(0, 0, 40, 40), 1)
    where = np.ones((40, 40), np.float32)
    assert np.allclose(sample(ideal, x, levels(1), where), ideal(x, where), atol=1e-6)


def test_more_steps_come_nearer_to_the_world() -> None:
    """From pure noise to samples: the mean is right at once, the deviation in the limit of many steps."""
    start = MEAN + SIGMA_MAX * gaussian(Rect(0, 0, 200, 200), 2)
    where = np.ones((200, 200), np.float32)
    off = []
    for steps in (1, 2, 4, 8):
        found = sample(ideal, start, levels(steps), where)
        assert abs(float(found.mean()) - MEAN) < 0.01
        off.append(abs(float(found.std()) - DEVIATION))
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.3 * DEVIATION
    assert off[0] > 0.7 * DEVIATION


def test_what_is_known_stays() -> None:
    x = gaussian(Rect(0, 0, 40, 40), 1)
    where = np.zeros((40, 40), np.float32)
    where[5:9, 3:30] = 1
    found = sample(ideal, x, levels(4), where)
    assert np.array_equal(found[where == 0], x[where == 0])
    assert not np.isclose(found[where == 1], x[where == 1]).any(1).all()


def test_the_sampler_knows_its_limits() -> None:
    for steps in (0, MAX_STEPS + 1):
        with pytest.raises(AssertionError):
            levels(steps)
    with pytest.raises(AssertionError):
        levels(2, 1.5 * SIGMA_MAX)


# ---- how much noise --------------------------------------------------------------------------------------------------


def cloth() -> F32:
    """A weave all over, brighter and darker from thread to thread: [200, 200, 3]."""
    y, x = np.mgrid[:200, :200]
    threads = np.random.default_rng(5).uniform(0.5, 1, (2, 200))
    weave = np.sin((x + 2 * y) * 2 * np.pi / 5) * threads[0] + np.sin((x - y) * 2 * np.pi / 3) * threads[1][:, None]
    return np.repeat(120 + 20 * weave[:, :, None], 3, 2).astype(np.float32)


@pytest.mark.parametrize("sigma", [0, 3, 20])
def test_texture_is_no_noise(sigma: int) -> None:
    noise = sigma * np.random.default_rng(2).normal(size=(200, 200, 3))
    found = noise_level(np.clip(np.rint(cloth() + noise), 0, 255).astype(np.uint8))
    assert found == pytest.approx(sigma, rel=0.15) if sigma else found < LEAST_NOISE


def test_gray_noise_and_noise_that_grows_with_brightness(photo: U8) -> None:
    noise = np.random.default_rng(3).normal(size=photo.shape)
    gray = photo.mean(2, keepdims=True) + 10 * noise[:, :, :1]
    assert noise_level(np.repeat(np.clip(np.rint(gray), 0, 255).astype(np.uint8), 3, 2)) == pytest.approx(10, rel=0.1)
    grows = photo + np.sqrt(photo / photo.mean()) * 10 * noise
    assert noise_level(np.clip(np.rint(grows), 0, 255).astype(np.uint8)) == pytest.approx(10, rel=0.15)


@pytest.mark.parametrize("sigma", [3, 8, 15, 25, 50])
def test_noise_level(photo: U8, sigma: int) -> None:
    noise = np.random.default_rng(1).normal(size=photo.shape)
    for picture in (photo, np.full_like(photo, 128)):
        noisy = np.clip(np.rint(picture + sigma * noise), 0, 255).astype(np.uint8)
        assert noise_level(noisy) == pytest.approx(sigma, rel=0.1, abs=0.6)


def test_no_noise(photo: U8) -> None:
    assert noise_level(photo) < LEAST_NOISE
    for value in (0, 90, 255):
        assert noise_level(np.full((100, 100, 3), value, np.uint8)) == 0
    assert noise_level(photo[:17, :90]) == 0  # too small to say
    ramp = np.broadcast_to(np.linspace(10, 240, 200)[:, None, None], (200, 100, 3)).astype(np.uint8)
    assert noise_level(np.ascontiguousarray(ramp)) < 0.75
    assert noise_level(np.zeros((3, 300, 3), np.uint8)) == 0
