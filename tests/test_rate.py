# SPDX-License-Identifier: MIT
"""Targets: bits per pixel, PSNR, bytes. What is reached, what it costs, and what is said when it cannot be."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr, wide_gamut_profile
from vqcodec.codec import encode, target
from vqcodec.options import Target
from vqcodec.pictures import read

U8 = NDArray[np.uint8]


quick = functools.partial(vqcodec.encode, effort=3)  # sizes depend on the effort, how they are reached does not


@pytest.fixture(scope="module")
def crop(photo: U8) -> U8:
    """A piece of the photograph, [208, 272, 3] uint8."""
    return np.ascontiguousarray(photo[60:268, 200:472])


@pytest.fixture(scope="module")
def scale(crop: U8) -> dict[int, int]:
    """Sizes in bytes of the crop at some qualities."""
    return {quality: len(quick(crop, quality)) for quality in (1, 30, 100)}


def bpp_of(data: bytes, picture: U8) -> float:
    return 8 * len(data) / (picture.shape[0] * picture.shape[1])


@pytest.mark.parametrize(("place", "effort"), [(0.3, 3), (0.5, 5), (0.65, 3), (0.8, 5), (0.97, 3)])
def test_bpp_is_met_within_two_percent(crop: U8, scale: dict[int, int], place: float, effort: int) -> None:
    """Targets spread between the sizes of the lowest and the highest quality, none of which a quality was made for."""
    wanted = 8 / crop[..., 0].size * scale[1] * (scale[100] / scale[1]) ** place
    data = quick(crop, bpp=wanted, effort=effort)
    assert bpp_of(data, crop) == pytest.approx(wanted, rel=0.02)
    assert np.asarray(vqcodec.decode(data)).shape == crop.shape
    assert data == quick(crop, bpp=wanted, effort=effort)


def test_the_choice_of_indices_reaches_what_lies_between_two_qualities(
    crop: U8, scale: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half way between neighbours, where without it the miss would be largest."""
    low, high = (len(quick(crop, quality)) for quality in (80, 81))
    wanted_bytes = (low * high) ** 0.5
    reached = len(quick(crop, bpp=8 * wanted_bytes / crop[..., 0].size))
    assert abs(reached / wanted_bytes - 1) < 0.02
    monkeypatch.setattr(target, "_lambda_scale", lambda *_: 1.0)
    without = len(quick(crop, bpp=8 * wanted_bytes / crop[..., 0].size))
    assert without in (low, high)


def test_beyond_the_scale_its_end_is_given(crop: U8) -> None:
    assert quick(crop, bpp=0.001) == quick(crop, 1)
    assert vqcodec.info(quick(crop, bpp=20))["quality"] == 100


@pytest.mark.parametrize("options", [{"bpp": 1e300}, {"bpp": 1e-300}, {"max_bytes": 10**400}, {"psnr": 1e-300}])
def test_enormous_targets(photo: U8, options: dict[str, Any]) -> None:
    assert quick(photo[:20, :20], **options)


def test_everything_in_the_file_counts(crop: U8) -> None:
    """ICC profile, EXIF and alpha are a good part of this one."""
    alpha = np.random.default_rng(1).integers(0, 3, crop.shape[:2], np.uint8) * 100
    source = Image.fromarray(np.dstack([crop, alpha]))
    exif = Image.Exif()
    exif[0x010E] = "".join(map(chr, np.random.default_rng(2).integers(33, 127, 500)))
    profile = wide_gamut_profile()
    stream = io.BytesIO()
    source.save(stream, "PNG", exif=exif, icc_profile=profile)
    plain = vqcodec.info(quick(stream.getvalue(), 60))
    others = plain["alpha_bytes"] + plain["icc_bytes"] + plain["exif_bytes"]
    assert others > plain["file_bytes"] / 4
    data = quick(stream.getvalue(), bpp=1.1 * plain["bpp"])
    assert bpp_of(data, crop) == pytest.approx(1.1 * plain["bpp"], rel=0.02)
    assert len(quick(stream.getvalue(), max_bytes=plain["file_bytes"])) <= plain["file_bytes"]
    bare = quick(stream.getvalue(), bpp=1.1 * plain["bpp"], strip=True)
    assert bpp_of(bare, crop) == pytest.approx(1.1 * plain["bpp"], rel=0.02)
    assert vqcodec.info(bare)["quality"] > vqcodec.info(data)["quality"]  # EXIF left out, the profile not


@pytest.mark.parametrize("share", [1.02, 1.5, 4.0])
def test_max_bytes_is_never_exceeded_and_well_used(crop: U8, scale: dict[int, int], share: float) -> None:
    limit = int(scale[30] * share)
    data = quick(crop, max_bytes=limit)
    assert 0.94 * limit < len(data) <= limit


def test_max_bytes_at_the_ends_of_the_scale(crop: U8, scale: dict[int, int]) -> None:
    assert len(quick(crop, max_bytes=scale[1])) == scale[1]
    assert vqcodec.info(quick(crop, max_bytes=10 * scale[100]))["quality"] == 100
    with pytest.raises(vqcodec.LimitError, match=f"takes {scale[1]:,} bytes at the lowest quality") as caught:
        quick(crop, max_bytes=scale[1] - 1)
    assert caught.value.exit_code == 7


def test_max_bytes_holds_where_the_estimates_are_wrong(
    crop: U8, scale: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = target._Estimator._size
    monkeypatch.setattr(target._Estimator, "_size", lambda self, q, s: 0.2 * original(self, q, s) + 7 * q)
    for limit in (scale[1], scale[30] + 200):
        assert len(quick(crop, max_bytes=limit)) <= limit


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 20)])
def test_tiny_pictures(photo: U8, size: tuple[int, int]) -> None:
    tiny = photo[: size[0], : size[1]]
    smallest = len(quick(tiny, 1))
    assert len(quick(tiny, max_bytes=smallest)) == smallest
    assert quick(tiny, bpp=3)
    assert quick(tiny, psnr=5)


def test_psnr_takes_the_lowest_quality_that_reaches_it(crop: U8) -> None:
    def reached(quality: int) -> float:
        return psnr(crop, np.asarray(vqcodec.decode(quick(crop, quality))))

    for wanted in (reached(40) - 0.01, reached(85) + 0.03):
        data = quick(crop, psnr=wanted)
        quality = vqcodec.info(data)["quality"]
        assert psnr(crop, np.asarray(vqcodec.decode(data))) >= wanted
        assert reached(quality - 1) < wanted
    with pytest.raises(vqcodec.LimitError, match=r"dB at quality 100, less than the 80 asked for") as caught:
        quick(crop, psnr=80)
    assert caught.value.exit_code == 7


def test_gray_pictures(crop: U8) -> None:
    gray = crop[..., 1]
    data = quick(gray, psnr=30)
    assert psnr(gray, np.asarray(vqcodec.decode(data))) >= 30
    assert bpp_of(quick(gray, bpp=0.4), gray) == pytest.approx(0.4, rel=0.02)


def test_large_pictures_are_searched_on_a_sample(photo: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 64 x 64 in place of 512 x 512: the target is still met, with few encodings of the whole."""
    monkeypatch.setattr(target, "SAMPLE_SIDE", 64)
    sizes: list[int] = []
    original, analyse = encode.encode_layers, encode.analyse
    monkeypatch.setattr(encode, "encode_layers", lambda *a, **k: sizes.append(a[1].size) or original(*a, **k))
    pixels: list[int] = []
    monkeypatch.setattr(encode, "analyse", lambda *a: pixels.append(a[1].size) or analyse(*a))
    data = quick(photo, bpp=0.5)
    assert bpp_of(data, photo) == pytest.approx(0.5, rel=0.02)
    assert sizes == [photo.size] * len(sizes)
    assert len(sizes) <= target.MAX_ATTEMPTS
    assert min(pixels) == 3 * (3 * 64) ** 2
    wanted = psnr(photo, np.asarray(vqcodec.decode(quick(photo, 50)))) - 0.01
    assert vqcodec.info(quick(photo, psnr=wanted))["quality"] == 50


@pytest.mark.parametrize("shape", [(100, 100), (192, 192), (500, 500), (4000, 50), (20, 9000), (3, 200_000)])
def test_samples(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """From all over the picture, of bounded size, at the places of whole latents."""
    monkeypatch.setattr(target, "SAMPLE_SIDE", 64)
    rgb = np.zeros((*shape, 3), np.uint8)
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = y % 16, x % 16, y * 250 // shape[0] // 2 + x * 250 // shape[1] // 2
    sample = target._sample(rgb)
    assert sample[..., 0].size <= max((3 * 64) ** 2, 9 * 16 * min(shape))
    if rgb[..., 0].size > (3 * 64) ** 2:
        assert sample.size < rgb.size
    for channel, axis in ((0, 0), (1, 1)):
        flat = sample[..., channel].take(0, 1 - axis)
        assert np.array_equal(flat, np.arange(len(flat)) % 16)
    assert sample[..., 2].min() < 10
    assert sample[..., 2].max() > 200


def test_work_is_bounded(crop: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two full encodings, and analyses only where the quality has moved far."""
    counts = {"encode_layers": 0, "analyse": 0, "encode_refinement": 0}

    def counted(name: str) -> Any:
        original = getattr(encode, name)

        def call(*arguments: Any, **more: Any) -> Any:
            counts[name] += 1
            return original(*arguments, **more)

        return call

    for name in counts:
        monkeypatch.setattr(encode, name, counted(name))
    for bpp in (0.1, 0.5, 1.5):
        counts.update(dict.fromkeys(counts, 0))
        vqcodec.encode(crop, bpp=bpp)
        assert counts["encode_layers"] <= 2, counts
        assert counts["analyse"] <= 7, counts
        assert counts["encode_refinement"] <= 17, counts  # a full encoding chooses three times


def test_fast_effort_gives_the_nearest_quality(crop: U8) -> None:
    sizes = [len(quick(crop, quality, effort=1)) for quality in (69, 70, 71)]
    wanted = sizes[1] + (sizes[2] - sizes[1]) // 4
    assert len(quick(crop, bpp=8 * wanted / crop[..., 0].size, effort=1)) == sizes[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bpp": 0}, "bpp must be greater than 0"),
        ({"bpp": float("nan")}, "bpp must be greater than 0"),
        ({"bpp": "much"}, "bpp must be a number"),
        ({"psnr": -1.0}, "psnr must be greater"),
        ({"psnr": float("inf")}, "psnr must be greater"),
        ({"max_bytes": 100.5}, "max_bytes must be a whole number"),
        ({"max_bytes": True}, "max_bytes must be a whole number"),
        ({"max_bytes": 0}, "max_bytes must be greater"),
        ({"bpp": 1.0, "quality": 50}, "quality and bpp cannot both"),
        ({"psnr": 30.0, "max_bytes": 50}, "psnr and max_bytes cannot both"),
        ({"bpp": 1.0, "effort": 0}, "effort"),
        ({"quality": 0}, "quality"),
    ],
)
def test_targets_that_make_no_sense(crop: U8, options: dict[str, Any], words: str) -> None:
    with pytest.raises(vqcodec.UsageError, match=words):
        quick(crop, **options)


def test_what_was_reached_is_said(crop: U8) -> None:
    reached = target.encode_to_target(read.load(crop), Target(psnr=25))
    assert reached.quality == vqcodec.info(reached.data)["quality"]
    assert reached.bpp == bpp_of(reached.data, crop)
    assert reached.psnr == pytest.approx(psnr(crop, np.asarray(vqcodec.decode(reached.data))))
    assert reached.sentence.startswith(f"quality {reached.quality}, {len(reached.data):,} bytes, {reached.bpp:.4g} bpp")
    assert reached.sentence.endswith(f"{reached.psnr:.2f} dB")
