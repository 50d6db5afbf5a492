# SPDX-License-Identifier: MIT
"""Colour profiles, XMP, thumbnails and HEIC: what comes along with a picture, through a .vqc file and back."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

import vqcodec
from tests.conftest import psnr, wide_gamut_profile
from tests.golden.make import FOLDER
from vqcodec.codec import decode
from vqcodec.errors import InputError
from vqcodec.pictures import colorimetry, metadata, read, write
from vqcodec.pictures.picture import Picture

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/><tiff:Orientation>8</tiff:Orientation></x:xmpmeta>'
UPRIGHT_XMP = XMP.replace(b'"6"', b'"1"').replace(b">8<", b">1<")


def saved(picture: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, name, **options)
    return out.getvalue()


def in_srgb(picture: Image.Image) -> NDArray[np.uint8]:
    """The picture as a screen of sRGB shows it, its profile obeyed."""
    icc = picture.info.get("icc_profile")
    if icc is None:
        return np.asarray(picture)
    profile, target = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(picture, profile, target))


# ---- colour profiles -------------------------------------------------------------------------------------------------


def test_which_profiles_are_srgb() -> None:
    srgb = metadata.srgb_profile()
    assert srgb is not None
    assert srgb == metadata.srgb_profile()
    assert metadata.is_srgb(srgb)
    assert metadata.is_srgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    named_otherwise = srgb.replace("sRGB".encode("utf-16-be"), "XXXX".encode("utf-16-be"))
    assert named_otherwise != srgb
    assert metadata.is_srgb(named_otherwise)
    assert not metadata.is_srgb(wide_gamut_profile())
    power = srgb.replace(struct.pack(">i", round(2.4 * 65536)), struct.pack(">i", round(2.2 * 65536)))
    assert power != srgb
    assert not metadata.is_srgb(power)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for other in (lab, srgb[:100], srgb[:200], srgb[:16] + b"GRAY" + srgb[20:], b"", bytes(1000)):
        assert not metadata.is_srgb(other)


def test_without_littlecms_a_profile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = metadata.srgb_profile()
    assert profile is not None

    def missing(*_: object) -> None:
        raise ImportError("The _imagingcms C module is not installed")

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", missing)
    assert not metadata.is_srgb.__wrapped__(profile)
    assert metadata.srgb_profile.__wrapped__() is None


def test_an_srgb_profile_costs_one_byte_and_comes_back(photo: NDArray[np.uint8]) -> None:
    piece = Image.fromarray(photo[:40, :50])
    plain = vqcodec.encode(saved(piece), 50, tune="psnr")
    marked = vqcodec.encode(saved(piece, icc_profile=metadata.srgb_profile()), 50, tune="psnr")
    assert len(marked) == len(plain) + 1
    assert vqcodec.info(marked)["srgb"]
    assert vqcodec.info(marked)["icc_bytes"] is None
    back = vqcodec.decode(marked)
    assert metadata.is_srgb(back.info["icc_profile"])
    assert "icc_profile" not in vqcodec.decode(plain).info
    assert np.array_equal(np.asarray(back), np.asarray(vqcodec.decode(plain)))
    assert vqcodec.encode(saved(piece, icc_profile=metadata.srgb_profile()), 50, tune="psnr", strip=True) == plain


@pytest.mark.parametrize("strip", [False, True])
def test_a_wide_gamut_photograph_looks_right(photo: NDArray[np.uint8], strip: bool) -> None:
    source = Image.open(io.BytesIO(saved(Image.fromarray(photo[:200, :200]), icc_profile=wide_gamut_profile())))
    data = vqcodec.encode(source, 80, strip=strip)
    back = vqcodec.decode(data)
    assert back.info["icc_profile"] == wide_gamut_profile()
    wanted = in_srgb(source)
    assert psnr(wanted, in_srgb(back)) > 28
    del back.info["icc_profile"]
    assert psnr(wanted, in_srgb(back)) < 26  # what a lost profile would look like


def test_gray_profiles_are_kept(photo: NDArray[np.uint8]) -> None:
    srgb = metadata.srgb_profile() or b""
    gray = srgb[:16] + b"GRAY" + srgb[20:]
    data = vqcodec.encode(saved(Image.fromarray(photo[:40, :50, 0]), icc_profile=gray), 50)
    assert vqcodec.decode(data).info["icc_profile"] == gray
    assert not vqcodec.info(data)["srgb"]


# ---- XMP and EXIF ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_xmp_goes_all_the_way(photo: NDArray[np.uint8], suffix: str) -> None:
    exif = Image.Exif()
    exif[315] = "somebody"
    source = saved(Image.fromarray(photo[:40, :50]), "JPEG", xmp=XMP, exif=exif)
    data = vqcodec.encode(source, 60)
    assert vqcodec.info(data)["xmp_bytes"] > 0
    picture = decode.decode(data)
    assert picture.xmp == UPRIGHT_XMP
    encoded, notes = write.write_picture(picture, suffix)
    assert notes == ()
    again = read.load(encoded)
    assert again.xmp == UPRIGHT_XMP
    with Image.open(io.BytesIO(encoded)) as back:
        assert back.getexif()[315] == "somebody"
    assert vqcodec.decode(vqcodec.encode(source, 60, strip=True)).info.keys() == set()


def test_an_orientation_that_only_xmp_knows(photo: NDArray[np.uint8]) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    picture = read.load(saved(Image.fromarray(photo[:40, :50]), "JPEG", xmp=xmp))
    assert picture.rgb.shape[:2] == (50, 40)
    assert picture.xmp == xmp.replace(b"6", b"1")


def test_xmp_that_a_format_does_not_hold_is_dropped_with_a_note(photo: NDArray[np.uint8]) -> None:
    rgb = photo[:8, :8]
    for suffix, xmp in ((".bmp", XMP), (".jpg", XMP + bytes(70_000)), (".png", b"\xff\xfe<\0")):
        encoded, notes = write.write_picture(Picture(rgb, xmp=xmp), suffix)
        assert len(notes) == 1
        assert "XMP data: dropped" in notes[0]
        assert read.load(encoded).xmp is None


def test_odd_exif_does_not_take_xmp_with_it(monkeypatch: pytest.MonkeyPatch, photo: NDArray[np.uint8]) -> None:
    real = write._save

    def stumble(picture: Image.Image, name: str, options: dict[str, Any]) -> bytes:
        if "exif" in options or 315 in options["tiffinfo"]:
            raise struct.error
        return real(picture, name, options)

    exif = Image.Exif()
    exif[315] = "somebody"
    monkeypatch.setattr(write, "_save", stumble)
    encoded, notes = write.write_picture(Picture(photo[:8, :8], exif=exif.tobytes(), xmp=UPRIGHT_XMP), ".tif")
    assert notes == ("TIFF does not hold this EXIF data: dropped",)
    assert read.load(encoded).xmp == UPRIGHT_XMP


def exif_with_thumbnail(thumbnail: bytes, order: str) -> bytes:
    """EXIF with a note in its first directory, a second directory, a JPEG thumbnail, and a maker note behind."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    first = struct.pack(order + "HHHI4sI", 1, 270, 2, 4, b"abc\0", 26)
    second = struct.pack(order + "HHHII HHII I", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0)
    return head + first + second + thumbnail + b"maker note"


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_thumbnail_is_left_out_and_nothing_else_moves(photo: NDArray[np.uint8], order: str) -> None:
    thumbnail = saved(Image.fromarray(photo[:120, :160]), "JPEG")
    exif = exif_with_thumbnail(thumbnail, order)
    assert exif.index(thumbnail) == 56
    kept = read.load(saved(Image.new("RGB", (3, 2)), "JPEG", exif=b"Exif\0\0" + exif)).exif
    assert kept is not None
    assert kept[:22] == exif[:22]
    assert kept[22:26] == bytes(4)
    assert kept[56:] == bytes(len(thumbnail)) + b"maker note"
    assert len(zlib.compress(kept, 9)) < 120
    for place in range(len(exif) - len(thumbnail)):  # nonsense in any field: an error that is caught, or no harm done
        for value in (0, 0xFF):
            bad = exif[:place] + bytes([value]) + exif[place + 1 :]
            read.load(saved(Image.new("RGB", (3, 2)), "JPEG", exif=b"Exif\0\0" + bad))


def test_golden_files_with_metadata() -> None:
    for name, srgb in (("metadata", False), ("srgb", True)):
        picture = decode.decode((FOLDER / f"{name}.vqc").read_bytes())
        assert (picture.exif or b"")[:4] in (b"II*\0", b"MM\0*")  # bare, without "Exif\0\0"
        exif = Image.Exif()
        exif.load(picture.exif or b"")
        assert (exif[315], picture.xmp) == ("somebody", b"<x:xmpmeta/>")
        assert metadata.is_srgb(picture.icc or b"") == srgb
        assert (picture.icc == wide_gamut_profile()) == (not srgb)


# ---- HEIC ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def heic(photo: NDArray[np.uint8]) -> bytes:
    """A HEIC picture of 60 x 40 pixels, stored turned by its EXIF, with XMP."""
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[274] = 6
    exif[315] = "somebody"
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(photo[100:160, 200:240])).save(
        out, quality=90, exif=exif.tobytes(), xmp=XMP
    )
    return out.getvalue()


def test_heic(heic: bytes, photo: NDArray[np.uint8]) -> None:
    picture = read.load(heic)
    assert psnr(picture.rgb, np.rot90(photo[100:160, 200:240], -1)) > 30
    assert picture.xmp is not None
    assert b"xmpmeta" in picture.xmp
    assert b'Orientation="6"' not in picture.xmp
    assert picture.notes == ()
    back = vqcodec.decode(vqcodec.encode(heic, 60))
    assert back.size == (60, 40)
    assert (back.getexif()[315], back.getexif().get(274, 1)) == ("somebody", 1)
    for size in range(0, len(heic), 97):
        with pytest.raises(InputError):
            read.load(heic[:size])


def test_heic_of_ten_bits_and_of_another_colour_space() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    deep = np.full((64, 64, 3), 40000, np.uint16)
    out = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (64, 64), deep.tobytes()).save(
        out, quality=90, color_primaries=pillow_heif.HeifColorPrimaries.SMPTE_EG_432_1
    )
    picture = read.load(out.getvalue())
    assert picture.notes == ("10-bit samples reduced to 8 bits",)
    assert picture.icc is not None
    assert colorimetry.profile(colorimetry._PRIMARIES[12], None) == picture.icc


def test_heic_without_its_library(heic: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"HEIC pictures need pip install 'vqcodec\[heic\]'"):
        read.load(heic)
