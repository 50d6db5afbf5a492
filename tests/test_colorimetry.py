# SPDX-License-Identifier: MIT
"""Colour spaces and bit depths that files give as numbers: kept as a profile, or said to be lost."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

import vqcodec
from tests.conftest import wide_gamut_profile
from tests.test_metadata import in_srgb, saved
from vqcodec.pictures import colorimetry, heif, metadata, read

# 16 x 16 pixels of one colour, 10 bits, BT.2020 primaries, PQ
HDR_AVIF = base64.b64decode(
    "AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADybWV0YQAAAAAAAAAoaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAAAGxpYmF2aWYAAAAADnBp"
    "dG0AAAAAAAEAAAAeaWxvYwAAAABEAAABAAEAAAABAAABGgAAAB4AAAAoaWluZgAAAAAAAQAAABppbmZlAgAAAAABAABhdjAxQ29sb3IAAAAAamlwcnAAAABL"
    "aXBjbwAAABRpc3BlAAAAAAAAABAAAAAQAAAAEHBpeGkAAAAAAwoKCgAAAAxhdjFDgSBAAAAAABNjb2xybmNseAAJABAACYAAAAAXaXBtYQAAAAAAAAABAAEE"
    "AQKDBAAAACZtZGF0EgAKCDgM/9jCRAJkMhAbQCOOOMQAAKmMJ/NIeK1g"
)
P3 = colorimetry._PRIMARIES[12]


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with further chunks behind its IHDR."""
    more = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return png[:33] + more + png[33:]


def chromaticities(places: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(100_000 * place) for place in places))


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 * value))


@pytest.fixture(scope="module")
def plain(photo: NDArray[np.uint8]) -> bytes:
    return saved(Image.fromarray(photo[:40, :50]))


def test_profiles_say_what_littlecms_understands() -> None:
    assert metadata.is_srgb(colorimetry.profile(colorimetry.SRGB, None))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(colorimetry.profile(P3, None))).profile
    known = ImageCms.ImageCmsProfile(io.BytesIO(wide_gamut_profile())).profile
    assert np.allclose(profile.red_colorant[0], known.red_colorant[0], atol=1e-3)
    assert np.allclose(profile.green_colorant[0], known.green_colorant[0], atol=1e-3)
    assert np.allclose(profile.blue_colorant[0], known.blue_colorant[0], atol=1e-3)
    gray = colorimetry.profile(colorimetry.SRGB, 1.0, gray=True)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    shown = ImageCms.profileToProfile(
        ramp, ImageCms.ImageCmsProfile(io.BytesIO(gray)), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert np.asarray(shown)[0, 55].tolist() == pytest.approx([128] * 3, abs=2)  # light of 0.216 is level 128 of sRGB


def test_png_with_primaries_and_gamma_looks_the_same(plain: bytes) -> None:
    source = with_chunks(plain, gamma(1 / 1.8), chromaticities(P3))
    picture = read.load(source)
    assert picture.notes == ()
    back = vqcodec.decode(vqcodec.encode(source, 90))
    assert back.info["icc_profile"] == picture.icc == colorimetry.profile(P3, 1.8)
    right = in_srgb(back).astype(float)
    del back.info["icc_profile"]
    assert np.abs(right - in_srgb(back)).mean() > 5  # what its loss would have cost


def test_png_that_says_srgb_stays_as_it_is(plain: bytes) -> None:
    usual = (gamma(0.45455), chromaticities(colorimetry.SRGB))
    odd = (b"sRGB", b"\0"), gamma(1.0), chromaticities(P3)
    for chunks in ((), usual, usual[:1], usual[1:], odd, ((b"cICP", bytes((1, 13, 0, 1))),)):
        picture = read.load(with_chunks(plain, *chunks))
        assert (picture.icc, picture.notes) == (None, ()), chunks


def test_png_with_code_points(plain: bytes) -> None:
    picture = read.load(with_chunks(plain, (b"cICP", bytes((12, 13, 0, 1))), gamma(1.0)))
    assert picture.icc == colorimetry.profile(P3, None)
    for code, word in (
        ((9, 16), "HDR (PQ)"),
        ((9, 18), "HDR (HLG)"),
        ((12, 200), "CICP 12, 200"),
        ((77, 13), "77, 13"),
    ):
        picture = read.load(with_chunks(plain, (b"cICP", bytes((*code, 0, 1)))))
        assert picture.icc is None
        (note,) = picture.notes
        assert word in note
        assert "taken for sRGB" in note


def test_a_profile_counts_more_than_numbers(photo: NDArray[np.uint8]) -> None:
    source = saved(Image.fromarray(photo[:40, :50]), icc_profile=wide_gamut_profile())
    picture = read.load(with_chunks(source, (b"cICP", bytes((9, 16, 0, 1))), gamma(1.0)))
    assert (picture.icc, picture.notes) == (wide_gamut_profile(), ())


def test_gray_png_keeps_its_gamma(photo: NDArray[np.uint8]) -> None:
    source = with_chunks(saved(Image.fromarray(photo[:40, :50, 0])), gamma(1.0), chromaticities(P3))
    profile = vqcodec.decode(vqcodec.encode(source, 50)).info["icc_profile"]
    assert profile == colorimetry.profile(P3, 1.0, gray=True)
    assert read.load(with_chunks(saved(Image.fromarray(photo[:40, :50, 0])), chromaticities(P3))).icc is None


@pytest.mark.parametrize(
    "chunks",
    [
        (gamma(0.0),),
        (gamma(40_000.0),),
        (chromaticities((0.0,) * 8),),
        (chromaticities((0.3, 0.3) * 4),),
        (chromaticities((0.9, 0.05, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)),),
        (chromaticities((0.3127, 0.3290, 0.64, 0.33, 0.30, 0.0, 0.15, 0.06)),),
    ],
)
def test_numbers_that_make_no_sense_are_dropped(plain: bytes, chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    picture = read.load(with_chunks(plain, *chunks))
    assert picture.icc is None
    assert picture.notes == ("damaged gAMA or cHRM chunk dropped: taken for sRGB",)


def test_avif_of_ten_bits_in_hdr_is_said() -> None:
    picture = read.load(HDR_AVIF)
    assert picture.icc is None
    first, second = picture.notes
    assert first == "10-bit samples reduced to 8 bits"
    assert second.startswith("HDR (PQ) is not supported")


def test_avif_of_a_wide_gamut_keeps_it(photo: NDArray[np.uint8]) -> None:
    source = saved(Image.fromarray(photo[:40, :50]), "AVIF", quality=90)
    assert (read.load(source).icc, read.load(source).notes) == (None, ())
    place = source.index(b"nclx") + 4
    wide = source[:place] + struct.pack(">HH", 12, 13) + source[place + 4 :]
    assert read.load(wide).icc == colorimetry.profile(P3, None)
    assert vqcodec.decode(vqcodec.encode(wide, 50)).info["icc_profile"] == colorimetry.profile(P3, None)
    assert heif.coding_of_avif(io.BytesIO(source.replace(b"MA1B", b"tmap", 1))).gain_map


def test_boxes_that_make_no_sense_do_no_harm() -> None:
    assert heif.coding_of_avif(io.BytesIO(HDR_AVIF)) == heif.Coding(10, 9, 16)
    for place in range(len(HDR_AVIF)):
        for value in (0, 1, 0x7F, 0xFF):
            bad = HDR_AVIF[:place] + bytes([value]) + HDR_AVIF[place + 1 :]
            assert 0 <= heif.coding_of_avif(io.BytesIO(bad)).bit_depth <= 255
    for size in range(len(HDR_AVIF)):
        heif.coding_of_avif(io.BytesIO(HDR_AVIF[:size]))
