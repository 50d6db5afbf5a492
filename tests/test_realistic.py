# SPDX-License-Identifier: MIT
"""The realistic decoder as a reader of files meets it: the same file, another picture, and nothing left to chance."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr
from vqcodec.bitstream.tiles import Rect
from vqcodec.cli.main import main
from vqcodec.model import zoo
from vqcodec.model.noise import noise
from vqcodec.options import EncodeOptions

LOW = 25


def detail(rgb: NDArray[np.uint8]) -> float:
    """Mean absolute difference between neighbouring pixels of the luma."""
    luma = rgb.astype(np.float64).mean(2)
    return float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())


def restored(data: bytes, **options: object) -> NDArray[np.uint8]:
    return np.asarray(vqcodec.decode(data, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def coded(photo: NDArray[np.uint8]) -> bytes:
    return vqcodec.encode(photo, LOW)


def test_noise_belongs_to_places() -> None:
    whole = noise(Rect(0, 0, 300, 200))
    assert whole.dtype == np.float32
    assert abs(float(whole.mean())) < 0.02
    assert abs(float(whole.var()) - 1) < 0.02
    np.testing.assert_array_equal(noise(Rect(37, 90, 161, 200)), whole[90:200, 37:161])
    neighbours = (whole[:, 1:] * whole[:, :-1]).mean(), (whole[1:] * whole[:-1]).mean()
    assert np.abs(neighbours).max() < 0.02


def philox(key: int, counter: int) -> list[int]:
    """Four words of Philox4x64-10, from its paper (Salmon et al., 2011) and in plain Python."""
    mask = 2**64 - 1
    c, k = [counter >> 64 * i & mask for i in range(4)], [key & mask, key >> 64]
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
        k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
    return c


def test_noise_is_the_same_everywhere() -> None:
    """32 bytes at a time from the counter (column // 32 + 1, row, 0, 0), lowest byte of the first word first."""
    for column, row in ((0, 0), (96, 5), (32, 70_000)):
        words = philox(int.from_bytes(b"vqcodec", "big"), (column // 32 + 1) | row << 64)
        expected = np.frombuffer(b"".join(word.to_bytes(8, "little") for word in words), np.uint8)
        found = noise(Rect(column, row, column + 32, row + 1))[0].astype(np.float64)
        np.testing.assert_allclose(found, (expected - 127.5) / np.sqrt((256**2 - 1) / 12), atol=1e-6)


def test_realism_nought_is_the_faithful_picture(coded: bytes) -> None:
    faithful = restored(coded)
    np.testing.assert_array_equal(restored(coded, decoder="realistic", realism=0), faithful)
    np.testing.assert_array_equal(restored(coded, decoder="faithful"), faithful)
    np.testing.assert_array_equal(restored(coded, realism=1.0), restored(coded, decoder="realistic"))


def test_it_brings_back_detail_for_little_psnr(photo: NDArray[np.uint8]) -> None:
    for quality in (1, LOW, 50):
        data = vqcodec.encode(photo, quality)
        pictures = [restored(data, realism=weight) for weight in (0.0, 0.5, 1.0)]
        details, decibels = [detail(p) for p in pictures], [psnr(photo, p) for p in pictures]
        assert all(a < b for a, b in itertools.pairwise(details)), "realism moves in one direction"
        assert details[0] < 0.8 * detail(photo)
        assert abs(details[-1] - detail(photo)) < 0.8 * (detail(photo) - details[0])
        assert decibels[-1] > decibels[0] - 2.4
        steps = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(pictures)]
        assert max(steps) < 4 * min(steps), "and smoothly"


def test_the_same_picture_whatever_way_it_is_asked_for(photo: NDArray[np.uint8]) -> None:
    from vqcodec.codec import encode
    from vqcodec.pictures import read

    picture = read.load(photo)
    data = encode.encode(picture, LOW, EncodeOptions(tile_log2=8))  # several tiles
    whole = restored(data, decoder="realistic", threads=1).astype(int)
    assert np.abs(restored(data, decoder="realistic", threads=2) - whole).max() <= 1
    x, y, w, h = 97, 130, 141, 155
    part = restored(data, decoder="realistic", region=(x, y, w, h))
    assert np.abs(part - whole[y : y + h, x : x + w]).max() <= 1
    small = restored(data, decoder="realistic", scale=4)
    assert abs(float(small.mean()) - float(whole.mean())) < 1
    assert restored(data[:-40], decoder="realistic", allow_partial=True).shape == photo.shape


def test_gray_stays_gray(photo: NDArray[np.uint8]) -> None:
    data = vqcodec.encode(Image.fromarray(photo[:160, :200]).convert("L"), LOW)
    picture = vqcodec.decode(data, decoder="realistic")
    assert picture.mode == "L"
    assert not np.array_equal(np.asarray(picture), np.asarray(vqcodec.decode(data)))


def test_the_command_line(coded: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.vqc").write_bytes(coded)

    def decompress(name: str, *options: str) -> NDArray[np.uint8]:
        assert main(["decompress", str(tmp_path / "a.vqc"), str(tmp_path / name), *options]) == 0
        return np.asarray(Image.open(tmp_path / name))

    np.testing.assert_array_equal(decompress("1.png", "--decoder", "faithful"), restored(coded))
    np.testing.assert_array_equal(decompress("2.png", "--decoder", "realistic"), restored(coded, realism=1.0))
    half = decompress("3.png", "--decoder", "realistic", "--realism", "0.5")
    np.testing.assert_array_equal(half, restored(coded, realism=0.5))
    np.testing.assert_array_equal(decompress("4.png", "--realism", "0.5"), half)


@pytest.mark.parametrize(
    "options", [["--realism", "1.5"], ["--realism", "nan"], ["--decoder", "pretty"],
                ["--decoder", "faithful", "--realism", "1"]],
)  # fmt: skip
def test_mistakes_are_told(
    coded: bytes, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.vqc").write_bytes(coded)
    out = tmp_path / "a.png"
    assert main(["decompress", str(tmp_path / "a.vqc"), str(out), *options]) == 2
    assert not out.exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_without_it_says_so(coded: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(zoo.find().folder, folder)
    (folder / zoo.REALISTIC).unlink()
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del card["files"][zoo.REALISTIC], card[zoo.REALISTIC_HALO]
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(vqcodec.ModelError, match="no realistic decoder"):
        vqcodec.decode(coded, decoder="realistic", model=folder)
    np.testing.assert_array_equal(restored(coded, model=folder), restored(coded))


def test_a_card_must_say_how_far_it_sees(coded: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(zoo.find().folder, folder)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for halo in (None, "6", 1000):
        card[zoo.REALISTIC_HALO] = halo
        (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
        with pytest.raises(vqcodec.ModelError, match="not a model card"):
            vqcodec.decode(coded, decoder="realistic", model=folder)


def test_mistakes_in_python(coded: bytes) -> None:
    for options in ({"decoder": "pretty"}, {"realism": -0.1}, {"realism": float("nan")},
                    {"decoder": "faithful", "realism": 0.5}):  # fmt: skip
        with pytest.raises(vqcodec.UsageError):
            restored(coded, **options)
