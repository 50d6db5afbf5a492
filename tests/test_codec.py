# SPDX-License-Identifier: MIT
"""The whole way as a user of the Python interface sees it: any size and mode, tiles, rates, bytes."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr, wide_gamut_profile
from vqcodec.bitstream import container, tiles
from vqcodec.bitstream.codebook import Ints
from vqcodec.bitstream.entropy import Encoder
from vqcodec.codec import decode, encode
from vqcodec.model import zoo
from vqcodec.model.walk import Base, given
from vqcodec.options import DecodeOptions, EncodeOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (15, 16), (16, 16), (17, 33), (250, 3), (129, 300)])
def test_any_size_comes_back(photo: U8, size: tuple[int, int]) -> None:
    picture = photo[40 : 40 + size[0], 60 : 60 + size[1]]
    for quality in (1, 40, 95):
        back = np.asarray(vqcodec.decode(vqcodec.encode(picture, quality)))
        assert back.shape == picture.shape
        if quality == 95:
            assert psnr(picture, back) > 31


def test_more_quality_means_more_bits_and_a_better_picture(photo: U8) -> None:
    crop = photo[:256, :384]
    sizes, dbs = [], []
    for quality in (1, 2, 12, 25, 40, 55, 65, 75, 85, 93, 100):
        data = vqcodec.encode(crop, quality)
        sizes.append(len(data))
        dbs.append(psnr(crop, np.asarray(vqcodec.decode(data))))
    assert sizes == sorted(set(sizes)), sizes
    assert dbs == sorted(dbs), dbs
    assert dbs[-1] > 37
    assert dbs[0] > 15


def test_two_encodes_give_the_same_bytes(photo: U8) -> None:
    crop = photo[:200, :210]
    assert vqcodec.encode(crop, 60) == vqcodec.encode(crop.copy(), 60)


def test_ahead_of_jpeg_on_the_bundled_photograph(photo: U8) -> None:
    """At the size of a JPEG file the picture is better by at least a decibel."""
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, "JPEG", quality=40, optimize=True)
    jpeg = psnr(photo, np.asarray(Image.open(stream)))
    data = vqcodec.encode(photo, max_bytes=stream.tell())
    assert len(data) <= stream.tell()
    assert psnr(photo, np.asarray(vqcodec.decode(data))) > jpeg + 1


def test_tiles_leave_no_seam(photo: U8) -> None:
    """The same indices restored in tiles with halos and in one piece: equal within one level.

    The prior's steps see no further than their tile, so the files differ; what must agree is the synthesis. Latents of
    a tiled file are put together and restored at once. Near other tiles the encoder aims by the analysis alone, which
    in tiles of 256 pixels is nearly everywhere.
    """
    picture = read.load(photo[:400, :560])
    data = encode.encode(picture, 60, EncodeOptions(tile_log2=8))
    tiled = decode.decode(data).rgb
    contents, model, grid, _ = decode.open_file(data, DecodeOptions())
    assert len(contents.base) == 6
    reader = decode.TileReader(model, grid, contents, False)
    rows = []
    for row in range(grid.rows):
        numbers = range(row * grid.columns, (row + 1) * grid.columns)
        rows.append(np.concatenate([reader.latents(grid.tile(number)) for number in numbers], 1))
    weights = model.synthesis_weights(model.setting(60), base_only=False)
    whole = model.synthesis(np.concatenate(rows, 0), weights, tiles.Rect(0, 0, 560, 400), reader.layer)[:400, :560]
    assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1
    untiled = decode.decode(encode.encode(picture, 60)).rgb
    assert abs(psnr(picture.rgb, tiled) - psnr(picture.rgb, untiled)) < 0.45


def test_the_flag_and_not_the_quality_says_whether_there_is_a_refinement(photo: U8) -> None:
    """No encoder writes such files; the format says how they are read."""
    whole = container.unpack(vqcodec.encode(photo[:96, :128], 60), max_pixels=2**20)
    alone = container.pack(dataclasses.replace(whole, refinement=None, colour=None))
    low = dataclasses.replace(whole, header=dataclasses.replace(whole.header, quality=1), refinement=None, colour=None)
    np.testing.assert_array_equal(vqcodec.decode(alone), vqcodec.decode(container.pack(low)))
    model = zoo.load(zoo.find())
    base = vqcodec.indices(alone).base.astype(np.int64)
    wanted = np.random.default_rng(0).integers(-1, 2, (*base.shape, model.prior.latents))
    payload, coded, _ = encode.encode_indices(model, Base.alone(base), model.setting(1), given(wanted))
    finest = container.pack(dataclasses.replace(low, refinement=(payload,)))
    np.testing.assert_array_equal(vqcodec.indices(finest).refinement, coded)
    assert vqcodec.decode(finest).size == (128, 96)


def test_a_gray_picture_is_the_mean_of_the_three_samples(photo: U8) -> None:
    data = vqcodec.encode(photo[:64, :96, 1], 40)
    contents = container.unpack(data, max_pixels=2**20)
    coloured = container.pack(dataclasses.replace(contents, header=dataclasses.replace(contents.header, gray=False)))
    rgb = np.asarray(vqcodec.decode(coloured)).astype(int)
    np.testing.assert_array_equal(np.asarray(vqcodec.decode(data)), (2 * rgb.sum(2) + 3) // 6)


def test_indices_are_those_that_the_encoder_chose(photo: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = encode.encode_tile

    def spy(*arguments: Any) -> Any:
        result = original(*arguments)
        seen.append(result)
        return result

    monkeypatch.setattr(encode, "encode_tile", spy)
    found = vqcodec.indices(vqcodec.encode(photo[:150, :170], 70))
    (coded,) = seen
    np.testing.assert_array_equal(found.base, coded.base_indices)
    assert found.refinement is not None
    np.testing.assert_array_equal(found.refinement, coded.indices)
    assert found.base.dtype == np.int32
    assert found.base.shape == (10, 11)
    assert np.count_nonzero(found.refinement) > 1000


def test_base_only_file(photo: U8) -> None:
    data = vqcodec.encode(photo, 1)
    found = vqcodec.indices(data)
    assert found.refinement is None
    assert len(np.unique(found.base)) > 100
    assert 8 * len(data) / (photo.shape[0] * photo.shape[1]) < 0.06
    assert psnr(photo, np.asarray(vqcodec.decode(data))) > 18


@pytest.mark.parametrize("quality", [5, 40, 75, 100])
def test_size_is_close_to_the_ideal_code_length(photo: U8, quality: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """File size within 0.5 % plus 32 bytes (and the header's own) of what the prior's probabilities say."""
    ideal_bits = 0.0
    put_base, put_refinement = Encoder.put_base, Encoder.put_refinement

    def base(self: Encoder, indices: Ints, frequencies: Ints) -> None:
        nonlocal ideal_bits
        p = (frequencies[np.arange(len(indices)), indices] + 1) / 2**24
        ideal_bits -= float(np.log2(p).sum())
        put_base(self, indices, frequencies)

    def refinement(self: Encoder, indices: Ints, classes: Ints, tables: Any) -> None:
        nonlocal ideal_bits
        inside = np.clip(indices, -256, 255)
        ideal_bits += float(tables.costs[classes, inside + 256].sum())
        put_refinement(self, indices, classes, tables)

    monkeypatch.setattr(Encoder, "put_base", base)
    monkeypatch.setattr(Encoder, "put_refinement", refinement)
    size = len(vqcodec.encode(photo, quality, effort=2))  # no colour layer, which is tried and may be left out
    ideal = ideal_bits / 8
    assert ideal - 1 <= size <= ideal * 1.005 + 32 + 24, (size, ideal)


@pytest.mark.filterwarnings("ignore::vqcodec.VqcWarning")  # tested in test_api
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "CMYK", "I;16"])
def test_modes(photo: U8, mode: str) -> None:
    rgb = Image.fromarray(photo[:90, :100])
    alpha = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8) * 2, (90, 1)))
    if mode in ("LA", "RGBA"):
        source = rgb.convert(mode)
        source.putalpha(alpha)
    elif mode == "I;16":
        source = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    else:
        source = rgb.convert(mode)
    back = vqcodec.decode(vqcodec.encode(source, 90))
    expected = {"1": "L", "I;16": "L", "P": "RGB", "CMYK": "RGB"}.get(mode, mode)
    assert back.mode == expected
    assert back.size == source.size
    if "A" in expected:
        assert np.array_equal(np.asarray(back.getchannel("A")), np.asarray(alpha))
    if mode in ("L", "LA", "I;16"):
        want = np.asarray(rgb.convert("L"))
        assert psnr(want, np.asarray(back.convert("L") if mode != "LA" else back.getchannel(0))) > 30


def test_metadata_and_orientation(photo: U8) -> None:
    source = Image.fromarray(photo[:60, :100])
    exif = source.getexif()
    exif[0x0112] = 6  # turned: stored rows are columns of the picture as it should be seen
    exif[0x010F] = "camera"
    stream = io.BytesIO()
    source.save(stream, "PNG", exif=exif, icc_profile=wide_gamut_profile())
    data = vqcodec.encode(stream.getvalue(), 80)
    back = vqcodec.decode(data)
    assert back.size == (60, 100)
    assert back.getexif()[0x010F] == "camera"
    assert back.getexif().get(0x0112, 1) == 1
    assert back.info["icc_profile"] == wide_gamut_profile()
    bare = vqcodec.encode(stream.getvalue(), 80, strip=True)
    assert len(bare) < len(data)
    assert "exif" not in vqcodec.decode(bare).info
    assert vqcodec.decode(bare).info["icc_profile"] == wide_gamut_profile()


def test_options_out_of_range(photo: U8) -> None:
    for quality in (0, 101, -3, 7.5):
        with pytest.raises(vqcodec.UsageError, match="quality"):
            vqcodec.encode(photo[:16, :16], quality)  # type: ignore[arg-type]
    with pytest.raises(vqcodec.UsageError, match="effort"):
        vqcodec.encode(photo[:16, :16], effort=10)
    with pytest.raises(vqcodec.ModelError, match="no model"):
        vqcodec.encode(photo[:16, :16], model="nothing")
    with pytest.raises(vqcodec.LimitError):
        vqcodec.encode(photo, max_pixels=100)


def test_effort_saves_bits(photo: U8) -> None:
    """At the same quality number, and the picture is no worse."""
    files = [vqcodec.encode(photo, 50, effort=effort, tune="psnr") for effort in (1, 3, 5)]
    assert len(files[2]) < 0.97 * len(files[1]) < 0.97 * 0.95 * len(files[0])
    decibels = [psnr(photo, np.asarray(vqcodec.decode(data))) for data in files]
    assert decibels[2] > max(decibels) - 0.15
    assert decibels[2] > decibels[1]


def test_info(photo: U8) -> None:
    found = vqcodec.info(vqcodec.encode(photo[:40, :60], 75))
    assert (found["width"], found["height"], found["quality"]) == (60, 40, 75)
    assert found["model_id"] == zoo.DEFAULT_MODEL


def test_a_file_of_an_unknown_model_is_refused(photo: U8) -> None:
    contents = container.unpack(vqcodec.encode(photo[:32, :32], 30), max_pixels=10**6)
    from dataclasses import replace

    other = container.pack(replace(contents, header=replace(contents.header, model=b"\1\2\3\4")))
    with pytest.raises(vqcodec.ModelError, match="01020304"):
        vqcodec.decode(other)


def test_payloads_that_do_not_belong_are_refused(photo: U8) -> None:
    """Intact checksums around data that the prior cannot have written."""
    from dataclasses import replace

    contents = container.unpack(vqcodec.encode(photo[:64, :64], 60), max_pixels=10**6)
    assert contents.refinement is not None
    long = replace(contents, refinement=(contents.refinement[0] + b"abcdefgh",))
    with pytest.raises(vqcodec.DamagedError, match="tile 0"):
        vqcodec.decode(container.pack(long))
