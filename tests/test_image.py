# SPDX-License-Identifier: MIT
"""`vqcodec.pictures.read`: every kind of picture in and out, and every kind of nonsense refused with one line."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile

from vqcodec.errors import DamagedError, InputError, LimitError, UsageError
from vqcodec.options import DEFAULT_MAX_PIXELS
from vqcodec.pictures import read
from vqcodec.pictures.picture import Picture
from vqcodec.pictures.png import decode_alpha, encode_alpha
from vqcodec.pictures.read import load
from vqcodec.pictures.write import to_pil, write_picture

pytestmark = pytest.mark.filterwarnings("error")


def samples(height: int = 5, width: int = 7, bands: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, bands) if bands > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def saved(image: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, name, **options)
    return out.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG made by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(space: str) -> bytes:
    """A real sRGB profile, or one that only says that it is for another colour space."""
    data = _SRGB
    return data if space == "RGB " else data[:16] + space.encode() + data[20:]


# ---- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (16, 17), (255, 257)])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_every_size_and_band_count_goes_through_png_unchanged(size: tuple[int, int], bands: int) -> None:
    array = samples(*size, bands)
    picture = load(saved(Image.fromarray(array)))
    assert picture.gray == (bands < 3)
    assert picture.rgb.shape == (*size, 3)
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.flags.c_contiguous
    colour = {1: array, 2: array[..., 0]}.get(bands) if bands < 3 else array[..., :3]
    assert np.array_equal(picture.rgb, np.dstack([colour] * 3) if bands < 3 else colour)
    if bands in (2, 4):
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, array[..., -1])
    else:
        assert picture.alpha is None
    assert picture.notes == ()
    assert np.array_equal(np.asarray(to_pil(picture)), array)


def test_strips_of_a_tall_picture_are_joined_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    array = samples(1025, 4097, 4)
    assert array.shape[0] * array.shape[1] > 1 << 22
    picture = load(Image.fromarray(array))
    assert np.array_equal(picture.rgb, array[..., :3])
    assert np.array_equal(picture.alpha, array[..., 3])


def test_opaque_alpha_is_kept() -> None:
    image = Image.fromarray(np.dstack([samples(), np.full((5, 7), 255, np.uint8)]))
    picture = load(saved(image))
    assert picture.alpha is not None
    assert to_pil(picture).mode == "RGBA"


def test_bilevel() -> None:
    bits = samples(bands=1) > 127
    picture = load(saved(Image.fromarray(bits)))
    assert picture.gray
    assert np.array_equal(picture.rgb[..., 1], bits * np.uint8(255))


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palette(transparency: int | bytes | None) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    options = {} if transparency is None else {"transparency": transparency}
    picture = load(saved(image, **options))
    assert not picture.gray
    assert picture.rgb.tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    expected = {None: None, 1: [[255, 0, 255]], b"\x00\x80\xff": [[0, 128, 255]]}[transparency]
    assert (None if picture.alpha is None else picture.alpha.tolist()) == expected


def test_palette_with_alpha_and_premultiplied_modes() -> None:
    rgba = Image.fromarray(np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]], np.uint8))
    palette = Image.fromarray(np.zeros((1, 2), np.uint8))
    palette.putpalette([200, 100, 50])
    palette.putalpha(rgba.getchannel("A"))
    assert palette.mode == "PA"
    for image in (palette, rgba.convert("RGBa")):
        picture = load(image)
        assert not picture.gray
        assert picture.alpha is not None
        assert picture.alpha.tolist() == [[255, 0]]
        assert picture.rgb[0, 0].tolist() == [200, 100, 50]
    la = Image.fromarray(np.array([[[200, 255], [200, 0]]], np.uint8)).convert("La")
    picture = load(la)
    assert picture.gray
    assert picture.alpha is not None
    assert (picture.rgb[0, 0].tolist(), picture.alpha.tolist()) == ([200, 200, 200], [[255, 0]])


def test_colour_key_of_rgb_and_gray() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8))
    picture = load(saved(rgb, transparency=(1, 2, 3)))
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255]]
    gray = load(saved(Image.fromarray(np.array([[9, 8]], np.uint8)), transparency=8))
    assert gray.gray
    assert gray.alpha is not None
    assert gray.alpha.tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("depth", "row", "key", "gray"),
    [(1, b"\x80", 1, [255, 0]), (2, b"\xb0", 2, [170, 255]), (4, b"\x7f", 7, [119, 255])],
)
def test_colour_key_of_gray_below_8_bits(depth: int, row: bytes, key: int, gray: list[int]) -> None:
    picture = load(png(2, 1, depth, 0, b"\0" + row, (b"tRNS", struct.pack(">H", key))))
    assert picture.rgb[0, :, 0].tolist() == gray
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255]]


def test_16_bit_colour_and_its_key() -> None:
    row = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0x8000)
    picture = load(png(2, 1, 16, 2, row, (b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))))
    assert picture.rgb.tolist() == [[[0x12, 0x56, 0x9A], [0xFF, 0, 0x80]]]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255]]
    assert picture.notes == ("16-bit samples reduced to 8 bits",)


def test_16_bit_gray_is_rounded_and_16_bit_gray_with_alpha_stays_gray() -> None:
    row = b"\0" + struct.pack(">3H", 0, 32767, 65535)
    picture = load(png(3, 1, 16, 0, row, (b"tRNS", struct.pack(">H", 32767))))
    assert picture.gray
    assert picture.rgb[0, :, 0].tolist() == [0, 127, 255]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[255, 0, 255]]
    assert picture.notes == ("16-bit samples reduced to 8 bits",)
    with_alpha = load(png(1, 1, 16, 4, b"\0" + struct.pack(">2H", 0x8000, 0x4000)))
    assert with_alpha.gray
    assert with_alpha.alpha is not None
    assert (with_alpha.rgb.tolist(), with_alpha.alpha.tolist()) == ([[[128] * 3]], [[64]])


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_modes(mode: str) -> None:
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (3, 1), np.array([0, 257 * 77, 65535], kind).tobytes())
    picture = load(image)
    assert picture.gray
    assert picture.rgb[0, :, 2].tolist() == [0, 77, 255]
    assert picture.notes == ("16-bit samples reduced to 8 bits",)


@pytest.mark.parametrize(
    ("values", "expected", "white"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255], "1"),
        ([-3.0, 100.0, 255.0], [0, 100, 255], "255"),
        ([0.0, float("nan"), 1e6], [0, 0, 255], "1e+06"),
        ([0.0, 500.0, 1000.0], [0, 2, 4], None),
    ],
)
def test_float_gray(values: list[float], expected: list[int], white: str | None) -> None:
    picture = load(Image.fromarray(np.array([values], np.float32)))
    assert picture.rgb[0, :, 0].tolist() == expected
    assert picture.gray
    assert picture.notes[0].endswith("to 8 bits" if white is None else f"with {white} as white")


def test_cmyk_without_profile_and_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    picture = load(saved(cmyk, "JPEG", quality=100))  # Pillow writes and reads Adobe's inverted samples
    assert np.abs(picture.rgb[8, 8].astype(int) - [0, 255, 255]).max() <= 3
    assert picture.notes == ("CMYK converted to RGB without a profile: its colours are approximate",)
    assert picture.icc is None

    def through_profile(source: Image.Image, *_: object, **options: object) -> Image.Image:
        assert options["outputMode"] == "RGB"
        return Image.new("RGB", source.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "profileToProfile", through_profile)
    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda stream: stream)
    picture = load(saved(cmyk, "JPEG", icc_profile=profile("CMYK")))
    assert picture.rgb[0, 0].tolist() == [1, 2, 3]
    assert picture.notes == ("CMYK converted to RGB through its embedded profile",)
    assert picture.icc is None


def test_cmyk_with_a_broken_profile_falls_back() -> None:
    picture = load(saved(Image.new("CMYK", (8, 8)), "TIFF", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200))
    assert picture.rgb.min() == 255
    assert "without a profile" in picture.notes[0]


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB", "RGBX"])
def test_other_colour_spaces(mode: str) -> None:
    red = Image.new("RGB", (4, 4), (250, 10, 20))
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(red, srgb, lab, outputMode="LAB")
    else:
        image = red.convert(mode)
    assert image is not None
    picture = load(image)
    assert np.abs(picture.rgb[2, 2].astype(int) - [250, 10, 20]).max() <= 4
    assert not picture.gray


# ---- what comes along ------------------------------------------------------------------------------------------------


def exif_block(orientation: int, order: str = "<") -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[ExifTags.Base.Make] = "Camera"
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.GPSInfo] = {1: "N"}
    return exif.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied_and_reset_and_other_tags_stay(orientation: int, order: str) -> None:
    upright = samples(3, 4)
    turn = {  # what a camera stores so that Orientation brings it upright (EXIF 2.32, Orientation)
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }.get(orientation, lambda a: a)
    stored = Image.fromarray(np.ascontiguousarray(turn(upright)))
    block = exif_block(orientation, order)
    for data in (saved(stored, exif=block), saved(stored, "WEBP", lossless=True, exif=block)):
        picture = load(data)
        assert np.array_equal(picture.rgb, upright)
        assert picture.rgb.flags.c_contiguous
        assert picture.exif is not None
        assert picture.exif[:2] == {"<": b"II", ">": b"MM"}[order]
        kept = Image.Exif()
        kept.load(picture.exif)
        assert kept[ExifTags.Base.Orientation] == 1
        assert kept[ExifTags.Base.Make] == "Camera"
        assert kept.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N"}
        assert np.array_equal(load(write_picture(picture, ".png")[0]).rgb, upright)


def test_alpha_is_turned_too() -> None:
    array = samples(3, 4, 4)
    picture = load(saved(Image.fromarray(array), exif=exif_block(6)))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, np.rot90(array[..., 3], -1))


def test_exif_is_kept_byte_for_byte_but_for_the_orientation() -> None:
    block = exif_block(1)[6:] + b"a maker note with its own offsets"
    assert load(saved(Image.new("RGB", (2, 2)), "JPEG", exif=b"Exif\0\0" + block)).exif == block


def test_the_thumbnail_is_unlinked() -> None:
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HHHIHxxI", 1, 0x0112, 3, 1, 6, 26) + struct.pack("<HI", 0, 0)
    turned = load(saved(Image.new("RGB", (3, 2)), exif=head))
    assert turned.exif == head[:18] + b"\1\0\0\0" + bytes(4) + head[26:]
    upright = head[:18] + b"\1" + head[19:]
    assert load(saved(Image.new("RGB", (3, 2)), exif=upright)).exif == upright[:22] + bytes(4) + upright[26:]


def test_exif_of_tiff_leaves_the_layout_tags_out() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Somebody"
    exif[ExifTags.Base.Orientation] = 6
    picture = load(saved(Image.fromarray(samples(3, 4)), "TIFF", exif=exif))
    assert picture.rgb.shape == (4, 3, 3)
    kept = Image.Exif()
    kept.load(picture.exif or b"")
    assert dict(kept) == {ExifTags.Base.Artist: "Somebody"}


def test_damaged_exif_is_dropped_and_the_picture_kept() -> None:
    picture = load(saved(Image.new("RGB", (2, 2)), "JPEG", exif=b"Exif\0\0nonsense"))
    assert picture.exif is None
    assert picture.notes == ("damaged EXIF data dropped",)


@pytest.mark.parametrize(
    ("mode", "space", "kept"),
    [("RGB", "RGB ", True), ("L", "GRAY", True), ("L", "RGB ", False), ("RGB", "GRAY", False), ("RGBA", "CMYK", False)],
)
def test_profiles_are_kept_where_they_fit(mode: str, space: str, kept: bool) -> None:
    icc = profile(space)
    picture = load(saved(Image.new(mode, (2, 2)), icc_profile=icc))
    assert picture.icc == (icc if kept else None)
    assert len(picture.notes) == (0 if kept else 1)
    assert to_pil(picture).info.get("icc_profile") == picture.icc


def test_a_damaged_profile_is_dropped() -> None:
    picture = load(saved(Image.new("RGB", (2, 2)), icc_profile=b"not a profile"))
    assert (picture.icc, picture.notes) == (None, ("damaged colour profile dropped",))


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("GIF", "animated: only the first of 3 frames is kept"),
        ("PNG", "animated: only the first of 3 frames is kept"),
        ("TIFF", "several pictures in one file: only the first of 3 is kept"),
    ],
)
def test_the_first_of_several_frames(name: str, note: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    picture = load(saved(frames[0], name, save_all=True, append_images=frames[1:]))
    assert picture.rgb[0, 0].tolist() == [255, 0, 0]
    assert picture.notes == (note,)


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    array = samples()
    data = saved(Image.fromarray(array))
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    with open(path, "rb") as stream, Image.open(path) as lazy:
        for source in (path, str(path), data, io.BytesIO(data), stream, lazy, array):
            assert np.array_equal(load(source).rgb, array)


def test_a_pipe_is_read_up_to_a_limit(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def feed() -> None:
        with suppress(BrokenPipeError), open(pipe, "wb") as out:
            for _ in range(100):
                out.write(bytes(1 << 20))

    feeder = threading.Thread(target=feed)
    feeder.start()
    with pytest.raises(LimitError, match="is larger than 67,108,880 bytes"):
        load(pipe, max_pixels=1)
    feeder.join()


def test_the_name_of_a_stream_does_not_steer_a_terminal() -> None:
    stream = io.BytesIO(b"no picture")
    stream.name = "a\x1b[2Jb\nc"  # type: ignore[attr-defined]
    with pytest.raises(InputError) as caught:
        load(stream)
    assert "cannot read a?[2Jb c: " in str(caught.value)
    assert str(caught.value).isprintable()
    image = Image.new("RGB", (3, 3))
    image.filename = "a\x1b[2J"  # type: ignore[attr-defined]
    with pytest.raises(LimitError) as limit:
        load(image, max_pixels=1)
    assert str(limit.value).isprintable()


def test_a_stream_is_read_from_where_it_stands() -> None:
    stream = io.BytesIO(b"before" + saved(Image.fromarray(samples())))
    stream.seek(6)
    assert load(stream).rgb.shape == (5, 7, 3)


def test_a_given_image_is_not_changed_and_its_frame_is_used() -> None:
    image = Image.fromarray(samples(3, 4))
    image.info["exif"] = exif_block(6)
    assert load(image).rgb.shape == (4, 3, 3)
    assert image.size == (4, 3)
    assert image.getexif()[ExifTags.Base.Orientation] == 6


@pytest.mark.parametrize(
    ("array", "gray", "alpha", "note"),
    [
        (samples(bands=1), True, False, None),
        (samples(bands=1)[..., None], True, False, None),
        (samples(bands=2), True, True, None),
        (samples(bands=3), False, False, None),
        (samples(bands=4)[::-1, ::-1], False, True, None),
        (samples(bands=1) > 99, True, False, None),
        (samples().astype(np.uint16) * np.uint16(257), False, False, "16-bit samples reduced to 8 bits"),
        (samples() / 255.0, False, False, "floating-point samples reduced to 8 bits"),
        ((samples() / 255.0).astype(np.float32), False, False, "floating-point samples reduced to 8 bits"),
    ],
)
def test_arrays(array: np.ndarray, gray: bool, alpha: bool, note: str | None) -> None:
    picture = load(array)
    assert (picture.gray, picture.alpha is not None) == (gray, alpha)
    assert picture.notes == (() if note is None else (note,))
    factor = {"b": 255, "u": 1, "f": 255}[array.dtype.kind] / (257 if array.dtype == np.uint16 else 1)
    expected = np.rint(array.reshape(5, 7, -1) * factor)
    colour = expected[..., :1] if gray else expected[..., :3]
    assert np.array_equal(picture.rgb, np.broadcast_to(colour, (5, 7, 3)))
    assert picture.rgb.flags.c_contiguous
    if picture.alpha is not None:
        assert np.array_equal(picture.alpha, expected[..., -1])


def test_an_array_is_copied() -> None:
    array = samples()
    picture = load(array)
    array[:] = 0
    assert picture.rgb.any()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 5), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((3, 2, 2, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 2, 3), np.int64),
        np.full((2, 2), 1.5),
        np.full((2, 2), np.nan),
        np.zeros((2, 2), complex),
        np.array([["a", "b"]]),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="array"):
        load(array)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_missing_file_folder_and_other_objects(tmp_path: Path) -> None:
    for source in (tmp_path / "none.png", tmp_path, "", "a\0b", 3, None, io.StringIO("text")):
        with pytest.raises(InputError) as caught:
            load(source)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"none\.png: there is no such file"):
        load(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", b"hello " * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"])
def test_what_is_no_picture(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "strange.jpg"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"strange\.jpg"):
        load(path)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF"])
def test_every_truncation_is_refused_and_every_corruption_survived(name: str, capfd: pytest.CaptureFixture) -> None:
    data = saved(Image.fromarray(samples(24, 31)), name)
    for length in sorted({*range(0, len(data) - 32, max(1, len(data) // 60))}):
        with pytest.raises(InputError):
            load(data[:length])
    rng = np.random.default_rng(1)
    for _ in range(150):
        broken = bytearray(data)
        for position in rng.integers(0, min(len(data), 400), 3):
            broken[position] = rng.integers(256)
        try:
            picture = load(bytes(broken), max_pixels=1 << 20)
        except (InputError, LimitError):
            continue
        assert picture.rgb.size
    assert capfd.readouterr().out == ""


def test_png_pixels_with_a_wrong_checksum_or_without_an_end_are_refused() -> None:
    data = saved(Image.fromarray(samples()))
    position = data.index(b"IDAT") - 4
    length = int.from_bytes(data[position : position + 4], "big")
    broken = bytearray(data)
    broken[position + 8 + length] ^= 1
    for bad in (bytes(broken), data[:-12]):
        with Image.open(io.BytesIO(bad)) as image:
            image.load()  # Pillow accepts it
        with pytest.raises(InputError, match=r"checksum|truncated"):
            load(bad)


@pytest.mark.parametrize(
    "error", [OSError, SyntaxError, ValueError, struct.error, zlib.error, KeyError, RecursionError]
)
def test_whatever_pillow_raises_is_an_input_error(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("line one\nline two")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(InputError) as caught:
        load(saved(Image.new("RGB", (2, 2)), "BMP"))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(InputError):
        load(b"anything")


def test_postscript_is_not_run() -> None:
    with pytest.raises(InputError, match="PostScript"):
        load(saved(Image.new("RGB", (2, 2)), "EPS"))


def test_the_pixel_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = png(30_000, 30_000, 8, 2, b"")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for data in (huge, png(DEFAULT_MAX_PIXELS // 4 + 1, 4, 1, 0, b""), png(2**31 - 1, 2**31 - 1, 8, 0, b"")):
        with pytest.raises(LimitError) as caught:
            load(data)
        assert f"{DEFAULT_MAX_PIXELS:,}" in str(caught.value)
    for source in (saved(Image.new("L", (11, 10))), Image.new("L", (11, 10)), np.zeros((10, 11), np.uint8)):
        with pytest.raises(LimitError, match="limit of 109"):
            load(source, max_pixels=109)


def test_exactly_the_limit_is_accepted_even_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert load(saved(Image.new("L", (11, 10))), max_pixels=110).rgb.shape == (10, 11, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pillows_settings_are_restored_also_after_concurrent_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    data = saved(Image.fromarray(samples(64, 64)), "JPEG")
    with pytest.raises(InputError):
        load(data[: len(data) // 2])
    threads = [threading.Thread(target=lambda: [load(data) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_files_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(Image.fromarray(samples())))
    opened = []

    def spy(*arguments: Any) -> Any:
        opened.append(open(*arguments))  # noqa: SIM115
        return opened[-1]

    monkeypatch.setattr(read, "open", spy, raising=False)
    load(path)
    path.write_bytes(b"broken")
    with pytest.raises(InputError):
        load(path)
    assert [stream.closed for stream in opened] == [True, True]


# ---- out -------------------------------------------------------------------------------------------------------------


def picture_of(bands: int, **more: Any) -> Picture:
    picture = load(samples(9, 8, bands))
    return Picture(picture.rgb, picture.alpha, picture.gray, **more)


@pytest.mark.parametrize("suffix", [".png", "PNG", ".tiff", ".webp", ".bmp", ".ppm", ".tga", ".jp2"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_lossless_formats_give_back_what_they_hold(suffix: str, bands: int) -> None:
    picture = picture_of(bands)
    data, notes = write_picture(picture, suffix)
    again = load(data)
    holds_alpha = suffix not in (".bmp", ".ppm")
    if bands in (1, 3) or holds_alpha:
        assert np.array_equal(again.rgb, picture.rgb)
        assert notes == ()
    if bands in (2, 4) and holds_alpha:
        assert np.array_equal(again.alpha, picture.alpha)
    elif bands in (2, 4):
        assert "laid over white" in notes[0]


@pytest.mark.parametrize(("suffix", "tolerance"), [(".jpg", 12), (".JPEG", 12), (".avif", 24)])
def test_lossy_formats_come_close(suffix: str, tolerance: int) -> None:
    y, x = np.mgrid[0:32, 0:32]
    picture = load(np.dstack([x * 8, y * 8, (x + y) * 4]).astype(np.uint8))
    data, notes = write_picture(picture, suffix)
    assert notes == ()
    assert np.abs(load(data).rgb.astype(int) - picture.rgb).max() <= tolerance


def test_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [100, 0, 0, 128]]], np.uint8)
    data, notes = write_picture(load(rgba), ".ppm")
    flat = load(data).rgb[0].tolist()
    assert flat[:2] == [[200, 0, 0], [255, 255, 255]]
    assert np.abs(np.array(flat[2]) - [177, 127, 127]).max() <= 1
    assert notes == ("PPM does not hold transparency: laid over white",)
    rgba[..., 3] = 255
    assert write_picture(load(rgba), ".ppm")[1] == ()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_metadata_goes_out_and_comes_back(suffix: str) -> None:
    icc = profile("RGB ")
    picture = picture_of(3, icc=icc, exif=exif_block(1)[6:])
    data, notes = write_picture(picture, suffix)
    again = load(data)
    assert notes == ()
    assert again.icc == icc
    kept = Image.Exif()
    kept.load(again.exif or b"")
    assert kept[ExifTags.Base.Make] == "Camera"
    assert again.rgb.shape == picture.rgb.shape


def test_metadata_that_does_not_fit_is_dropped_with_a_note() -> None:
    _, notes = write_picture(picture_of(3, icc=profile("RGB "), exif=exif_block(1)[6:]), ".bmp")
    assert len(notes) == 2
    data, notes = write_picture(picture_of(1, icc=profile("GRAY")), ".webp")  # WebP has no gray mode
    assert (load(data).icc, len(notes)) == (None, 1)
    data, notes = write_picture(picture_of(3, exif=exif_block(1)[6:] + bytes(70_000)), ".jpg")
    assert (load(data).exif, len(notes)) == (None, 1)


def test_other_suffixes_and_formats_that_cannot() -> None:
    for suffix in ("", ".", ".xyz", "png.gz", ".psd"):  # .psd is read, not written
        with pytest.raises(UsageError, match=r"\.png"):
            write_picture(picture_of(3), suffix)
    assert write_picture(picture_of(1), ".gif")[1] == ()
    assert "256" in write_picture(picture_of(3), ".gif")[1][0]
    assert write_picture(picture_of(4), ".sgi")[0]  # not in our table: Pillow's
    with pytest.raises(InputError, match="WEBP"):
        write_picture(load(np.zeros((1, 20_000, 3), np.uint8)), ".webp")


@pytest.mark.parametrize(
    ("suffix", "size", "reason"),
    [
        (".ico", (100, 80), None),
        (".ico", (256, 1), None),
        (".ico", (257, 80), "it ends at 256 pixels a side"),
        (".icns", (100, 80), "it would come out with 1024x1024 pixels"),
        (".icns", (2000, 2000), "it would come out with 1024x1024 pixels"),
        (".icns", (1024, 1024), None),
    ],
)
def test_icons_have_the_pictures_size_or_are_refused(suffix: str, size: tuple[int, int], reason: str | None) -> None:
    picture = Picture(samples(size[1], size[0]))
    if reason is None:
        with Image.open(io.BytesIO(write_picture(picture, suffix)[0])) as back:
            assert back.size == size
    else:
        with pytest.raises(InputError, match=reason):
            write_picture(picture, suffix)


def test_to_pil_hands_metadata_to_save() -> None:
    picture = picture_of(4, icc=profile("RGB "), exif=exif_block(1)[6:])
    image = to_pil(picture)
    assert image.mode == "RGBA"
    again = load(saved(image, exif=image.info["exif"]))
    assert (again.icc, again.exif) == (picture.icc, picture.exif)


# ---- alpha -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (33, 70)])
def test_alpha_there_and_back(size: tuple[int, int]) -> None:
    for alpha in (samples(*size, 1), np.full(size, 255, np.uint8), samples(*size, 2)[..., 1]):
        alpha = alpha.reshape(size)
        data = encode_alpha(alpha)
        assert data == encode_alpha(alpha.copy())
        again = decode_alpha(data, size[1], size[0])
        assert again.dtype == np.uint8
        assert np.array_equal(again, alpha)


def test_alpha_is_smaller_than_pillows_png() -> None:
    y, x = np.mgrid[0:200, 0:300]
    disc = np.clip(90.0 - np.hypot(y - 100, x - 150), 0, 1)
    soft = np.clip(110.0 - np.hypot(y - 100, x - 150), 0, 20) / 20
    for alpha in ((disc * 255).astype(np.uint8), (soft * 255).astype(np.uint8), (x % 256).astype(np.uint8)):
        assert len(encode_alpha(alpha)) < len(saved(Image.fromarray(alpha), optimize=True))
    assert len(encode_alpha(np.full((512, 768), 255, np.uint8))) < 1100


@pytest.mark.parametrize("size", [(8, 9), (9, 8 + 1), (1, 72), (0, 0), (2**31, 2**31)])
def test_alpha_of_another_size_is_refused_before_decompression(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode_alpha(samples(8, 9, 1))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(DamagedError, match="gray of"):
        decode_alpha(data, *size)


def test_every_truncation_and_every_flipped_bit_of_alpha_is_found() -> None:
    data = encode_alpha(samples(8, 9, 1))
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            decode_alpha(data[:length], 9, 8)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        with pytest.raises(DamagedError):
            decode_alpha(bytes(broken), 9, 8)
    with pytest.raises(DamagedError):
        decode_alpha(data + b"\0", 9, 8)


def test_alpha_with_good_checksums_but_bad_contents() -> None:
    good_rows = b"\0\1\2" * 2
    assert decode_alpha(png(2, 2, 8, 0, good_rows), 2, 2).tolist() == [[1, 2], [1, 2]]
    for bad in (
        png(2, 2, 8, 0, b""),  # too few rows
        png(2, 2, 8, 0, good_rows[:-1]),
        png(2, 2, 8, 0, b"\7\1\2" * 2),  # no such filter
        png(2, 2, 16, 0, b"\0\1\2\3\4" * 2),  # not 8 bits
        png(2, 2, 8, 3, good_rows, (b"PLTE", b"abcdef")),
        png(2, 2, 8, 0, good_rows, (b"tEXt", b"a\0b")),  # a chunk that we never write
        b"",
        b"GIF89a",
        saved(Image.new("L", (2, 2)), "JPEG"),
    ):
        with pytest.raises(DamagedError):
            decode_alpha(bad, 2, 2)
