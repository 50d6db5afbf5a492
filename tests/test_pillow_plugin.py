# SPDX-License-Identifier: MIT
"""The Pillow plugin, as the tests of Pillow's own formats go: open, load, save, draft, verify, and what goes wrong."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

import vqcodec
from tests.conftest import pillow_plugin, psnr, wide_gamut_profile
from vqcodec.codec import decode as decode_module
from vqcodec.codec import encode
from vqcodec.options import EncodeOptions
from vqcodec.pictures import metadata, read

U8 = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[Any]:
    """The plugin for all of these tests."""
    with pillow_plugin() as module:
        yield module


@pytest.fixture(scope="module")
def crop(photo: U8) -> U8:
    """A piece of the photograph, [90, 130, 3] uint8."""
    return np.ascontiguousarray(photo[100:190, 300:430])


@pytest.fixture(scope="module")
def coded(crop: U8) -> bytes:
    """The piece as a .vqc file."""
    return vqcodec.encode(crop, 60)


@pytest.fixture
def path(tmp_path: Path, coded: bytes) -> Path:
    """The piece as a .vqc file on disk."""
    (tmp_path / "photo.vqc").write_bytes(coded)
    return tmp_path / "photo.vqc"


def saved(picture: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "VQC", **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


# ---- open and load ---------------------------------------------------------------------------------------------------


def test_open_reads_the_header_and_load_the_picture(path: Path, coded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decode = decode_module.decode
    monkeypatch.setattr(decode_module, "decode", lambda *a, **k: calls.append(a) or decode(*a, **k))
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.size) == ("VQC", "RGB", (130, 90))
        assert picture.get_format_mimetype() == "image/x-vqc"
        assert picture.format_description
        assert Path(picture.filename) == path
        assert calls == []
        assert np.array_equal(np.asarray(picture), np.asarray(vqcodec.decode(coded)))
        picture.load()
        picture.getpixel((0, 0))
        assert len(calls) == 2  # ours, and the one to compare with


def test_formats_and_suffixes() -> None:
    assert Image.registered_extensions()[".vqc"] == "VQC"
    assert Image.MIME["VQC"] == "image/x-vqc"
    assert "VQC" in Image.OPEN
    assert "VQC" in Image.SAVE


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_modes_are_known_when_opened(crop: U8, mode: str) -> None:
    source = Image.fromarray(crop).convert(mode)
    if mode.endswith("A"):
        source.putalpha(Image.linear_gradient("L").resize(source.size))
    data = saved(source, quality=40)
    picture = opened(data)
    assert (picture.mode, picture.size) == (mode, source.size)
    assert np.array_equal(np.asarray(picture), np.asarray(vqcodec.decode(data)))


@pytest.mark.filterwarnings("ignore::vqcodec.VqcWarning")  # tested in test_api
@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "I;16", "PA", "La", "RGBX", "HSV"])
def test_other_modes_are_converted(crop: U8, mode: str) -> None:
    rgb = Image.fromarray(crop)
    if mode == "I;16":
        source = Image.fromarray(crop[..., 0].astype(np.uint16) * 257)
    elif mode in ("PA", "La"):
        source = rgb.convert("LA" if mode == "La" else "P").convert(mode)
    else:
        source = rgb.convert(mode)
    before = source.copy()
    back = opened(saved(source, quality=80))
    assert back.size == source.size
    assert back.mode in ("L", "LA", "RGB", "RGBA")
    assert source == before
    if mode in ("P", "CMYK", "YCbCr", "RGBX", "HSV"):
        assert psnr(np.asarray(source.convert("RGB")), np.asarray(back.convert("RGB"))) > 20


def test_transparent_palette(crop: U8) -> None:
    source = Image.fromarray(crop).quantize(16)
    source.info["transparency"] = 3
    assert opened(saved(source)).mode == "RGBA"


def test_streams_paths_and_contexts(path: Path, coded: bytes) -> None:
    stream = io.BytesIO(coded)
    with Image.open(stream) as picture:
        picture.load()
    assert not stream.closed  # it is the caller's
    with open(path, "rb") as file, Image.open(file) as picture:
        picture.load()
        assert not file.closed
    with Image.open(str(path)) as picture:
        inner = picture.fp
        picture.load()
        assert inner.closed
        assert picture.fp is None
    path.unlink()  # nothing holds it
    assert opened(coded).load() is not None


def test_pillows_parser_takes_it_in_pieces(coded: bytes) -> None:
    parser = ImageFile.Parser()
    for start in range(0, len(coded), 100):
        parser.feed(coded[start : start + 100])
    assert np.array_equal(np.asarray(parser.close()), np.asarray(vqcodec.decode(coded)))


def test_headers_of_any_length(photo: U8, monkeypatch: pytest.MonkeyPatch, plugin: Any) -> None:
    data = encode.encode(read.load(photo), 20, EncodeOptions(tile_log2=8))
    for size in (1, 16, 33):
        monkeypatch.setattr(plugin, "HEADER_BYTES", size)
        assert opened(data).size == (600, 400)


@pytest.mark.parametrize("loaded", [False, True])
def test_copies_and_pickles(path: Path, coded: bytes, loaded: bool) -> None:
    expected = np.asarray(vqcodec.decode(coded))
    for duplicate in (copy.copy, copy.deepcopy, lambda i: i.copy(), lambda i: pickle.loads(pickle.dumps(i))):
        with Image.open(path) as picture:
            if loaded:
                picture.load()
            assert np.array_equal(np.asarray(duplicate(picture)), expected)
    with Image.open(path) as picture:
        assert picture.crop((5, 6, 25, 36)).size == (20, 30)
        assert picture.rotate(90, expand=True).size == (90, 130)
        assert picture == Image.open(path)


def test_many_threads(path: Path, coded: bytes) -> None:
    expected, wrong = np.asarray(vqcodec.decode(coded)), []

    def work() -> None:
        with Image.open(path) as picture:
            if np.abs(np.asarray(picture).astype(int) - expected).max() > 1:
                wrong.append(picture)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_frame(path: Path) -> None:
    with Image.open(path) as picture:
        assert not getattr(picture, "is_animated", False)
        assert picture.tell() == 0
        with pytest.raises(EOFError):
            picture.seek(1)


# ---- smaller pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "scale"),
    [((130, 90), 1), ((66, 45), 1), ((65, 45), 2), ((30, 20), 4), ((16, 9), 8), ((1, 1), 8), ((0, 0), 8)],
)
def test_draft(coded: bytes, size: tuple[int, int], scale: int) -> None:
    picture = opened(coded)
    assert picture.draft("L", size) == ("RGB", (0, 0, 130 / scale, 90 / scale))
    expected = vqcodec.decode(coded, scale=scale)
    assert picture.size == expected.size
    assert np.array_equal(np.asarray(picture), np.asarray(expected))
    assert picture.draft("RGB", (1, 1)) is None
    assert picture.size == expected.size


def test_draft_without_a_size(coded: bytes) -> None:
    picture = opened(coded)
    assert picture.draft("RGB", None) is None
    assert picture.size == (130, 90)


def test_thumbnails_decode_less(coded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = []
    decode = decode_module.decode
    monkeypatch.setattr(decode_module, "decode", lambda *a, **k: scales.append(a[1].scale) or decode(*a, **k))
    picture = opened(coded)
    picture.thumbnail((16, 16))
    assert scales == [2]
    assert picture.size == (16, 11)
    whole = Image.fromarray(np.asarray(vqcodec.decode(coded)))
    whole.thumbnail((16, 16), reducing_gap=None)
    assert psnr(np.asarray(picture), np.asarray(whole)) > 30


# ---- damage ----------------------------------------------------------------------------------------------------------


def test_what_is_not_a_vqc_file(coded: bytes) -> None:
    newer = bytearray(coded)
    newer[4] = 9
    header = bytearray(coded)
    header[10] ^= 3
    for data in (b"", b"abc" * 99, coded[:3], coded[:16], bytes(newer), bytes(header)):
        with pytest.raises(UnidentifiedImageError):
            opened(data)


def test_a_damaged_picture_opens_and_does_not_load(path: Path, coded: bytes) -> None:
    flipped = bytearray(coded)
    flipped[len(coded) // 2] ^= 1
    for data in (coded[: len(coded) // 2], coded[:-1], coded + b"x", bytes(flipped)):
        picture = opened(data)
        assert picture.size == (130, 90)
        with pytest.raises(OSError, match=r"cut off|damaged"):
            picture.load()
        with pytest.raises(OSError, match=r"cut off|damaged"):  # nor the second time
            picture.load()
        with pytest.raises(OSError, match=r"cut off|damaged"):
            opened(data).verify()
    path.write_bytes(bytes(flipped))
    with Image.open(path) as picture, pytest.raises(OSError, match="damaged"):
        picture.convert("L")


def test_verify(path: Path, coded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "decode", None)
    with Image.open(path) as picture:
        inner = picture.fp
        picture.verify()
        assert inner.closed
        with pytest.raises(RuntimeError):
            picture.verify()
    stream = io.BytesIO(coded)
    Image.open(stream).verify()
    assert not stream.closed


def test_damaged_metadata(crop: U8) -> None:
    profile = wide_gamut_profile()
    data = bytearray(saved(Image.fromarray(crop), icc_profile=profile))
    data[60] ^= 1
    picture = opened(bytes(data))
    assert "icc_profile" not in picture.info
    with pytest.raises(OSError, match="ICC profile"):
        picture.load()


def test_a_model_that_is_not_there(coded: bytes) -> None:
    from vqcodec.bitstream import container

    contents = container.unpack(coded, max_pixels=10**6)
    header = container.Header(130, 90, 60, b"\1\2\3\4")
    picture = opened(container.pack(container.Contents(header, contents.base, contents.refinement)))
    assert picture.size == (130, 90)
    with pytest.raises(OSError, match="01020304"):
        picture.load()


def test_pillows_own_pixel_limit(coded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        opened(coded)


# ---- save ------------------------------------------------------------------------------------------------------------


def test_save_writes_what_encode_does(tmp_path: Path, crop: U8) -> None:
    source = Image.fromarray(crop)
    assert saved(source) == vqcodec.encode(crop)
    assert saved(source, quality=33, effort=2, threads=1, model="photo-1") == vqcodec.encode(crop, 33, effort=2)
    assert saved(source, bpp=0.7) == vqcodec.encode(crop, bpp=0.7)
    assert saved(source, psnr=27) == vqcodec.encode(crop, psnr=27)
    limit = len(vqcodec.encode(crop, 50))
    assert len(saved(source, max_bytes=limit)) <= limit
    source.save(tmp_path / "a.VQC", quality=33)
    assert (tmp_path / "a.VQC").read_bytes() == vqcodec.encode(crop, 33)


def test_lossless(crop: U8) -> None:
    back = Image.open(io.BytesIO(saved(Image.fromarray(crop), lossless=True)))
    assert np.array_equal(np.asarray(back), crop)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 0}, {"quality": 101}, {"quality": "high"}, {"quality": 50, "bpp": 1.0}, {"bpp": -1}, {"effort": 10},
        {"xmp": "<x/>"}, {"exif": 5},
    ],
)  # fmt: skip
def test_options_that_make_no_sense(tmp_path: Path, crop: U8, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"quality|bpp|effort|xmp must be bytes|exif must be bytes"):
        Image.fromarray(crop).save(tmp_path / "a.vqc", **options)
    assert not list(tmp_path.iterdir())


def test_pictures_that_cannot_be_saved(tmp_path: Path, crop: U8) -> None:
    with pytest.raises(ValueError, match="empty"):
        Image.new("RGB", (0, 5)).save(tmp_path / "a.vqc")
    with pytest.raises(OSError, match="bytes"):
        Image.fromarray(crop).save(tmp_path / "a.vqc", max_bytes=10)
    with pytest.raises(OSError, match="no model"):
        Image.fromarray(crop).save(tmp_path / "a.vqc", model="nothing")
    assert not list(tmp_path.iterdir())


def test_icc_profile(crop: U8) -> None:
    profile = wide_gamut_profile()
    source = Image.fromarray(crop)
    assert "icc_profile" not in opened(saved(source)).info
    assert opened(saved(source, icc_profile=profile)).info["icc_profile"] == profile
    source.info["icc_profile"] = profile
    again = opened(saved(source))
    assert again.info["icc_profile"] == profile
    again.load()
    assert again.info["icc_profile"] == profile
    assert "icc_profile" not in opened(saved(source, icc_profile=None)).info
    marked = opened(saved(source, icc_profile=metadata.srgb_profile()))
    assert marked.info["icc_profile"] == metadata.srgb_profile()


def test_xmp_is_taken_as_it_is(crop: U8) -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    source = Image.fromarray(np.dstack([crop, crop[..., 0]]))
    source.info["xmp"] = packet
    assert "xmp" not in opened(saved(source)).info
    back = opened(saved(source, xmp=packet))
    assert back.info["xmp"] == packet
    back.load()
    assert back.mode == "RGBA"


@pytest.mark.parametrize("prefix", [None, b"", b"Exif\0\0"])
def test_exif_is_taken_as_it_is(crop: U8, prefix: bytes | None) -> None:
    """As Pillow's own formats do: only what `save` is given, and the picture is not turned."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    source = Image.fromarray(crop)
    source.info["exif"] = exif.tobytes()
    assert not opened(saved(source)).getexif()
    given = exif if prefix is None else prefix + exif.tobytes().removeprefix(b"Exif\0\0")
    back = opened(saved(source, exif=given))
    assert back.size == source.size
    assert back.getexif()[0x0112] == 6
    assert back.getexif()[0x010F] == "camera"
    assert psnr(crop, np.asarray(back)) > 22
    assert ImageOps.exif_transpose(back).size == (90, 130)


def test_a_file_saved_again(path: Path, tmp_path: Path, coded: bytes) -> None:
    with Image.open(path) as picture:
        picture.save(tmp_path / "b.vqc", quality=60)
        picture.save(tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as png, Image.open(tmp_path / "b.vqc") as again:
        assert np.array_equal(np.asarray(png), np.asarray(vqcodec.decode(coded)))
        assert psnr(np.asarray(again), np.asarray(png)) > 25


# ---- others that read through Pillow ---------------------------------------------------------------------------------


def test_the_import_is_all_it_takes(path: Path) -> None:
    code = f"""if True:
        import sys
        from PIL import Image
        import vqcodec.pillow_plugin
        picture = Image.open({str(path)!r})
        assert not {{"onnxruntime", "torch"}} & set(sys.modules)
        print(picture.resize((4, 4)).size)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(4, 4)\n"


def test_imageio(path: Path, coded: bytes) -> None:
    imageio = pytest.importorskip("imageio.v3")
    assert np.array_equal(imageio.imread(path, plugin="pillow"), np.asarray(vqcodec.decode(coded)))
    assert imageio.improps(path, plugin="pillow").shape == (90, 130, 3)


def test_scikit_image(path: Path, coded: bytes) -> None:
    io_module = pytest.importorskip("skimage.io")
    assert np.array_equal(io_module.imread(path), np.asarray(vqcodec.decode(coded)))
