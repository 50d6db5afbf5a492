# SPDX-License-Identifier: MIT
"""The diffusion decoder as a reader of files meets it, lost tiles that are made up, and files of denoised pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream import container
from vqcodec.bitstream.tiles import Rect
from vqcodec.cli.main import main
from vqcodec.codec import denoise, diffusion, encode
from vqcodec.codec.synthesis import MISSING_GRAY
from vqcodec.model import denoiser, zoo
from vqcodec.options import EncodeOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]
LOW = 25


def restored(data: bytes, model: Path, **options: object) -> NDArray[np.int64]:
    return np.asarray(vqcodec.decode(data, model=model, **options)).astype(np.int64)  # type: ignore[arg-type]


@pytest.fixture
def tiled(photo: U8) -> bytes:
    """A picture of 2 x 2 tiles, 300 x 280 pixels."""
    return encode.encode(read.load(photo[:280, :300]), LOW, EncodeOptions(tile_log2=8))


def test_it_is_the_sampler_on_the_faithful_picture(photo: U8, model: Path) -> None:
    """Noise of the start's level, the faithful picture as the condition, so many steps."""
    data = vqcodec.encode(photo[:80, :96], LOW)
    network, faithful = zoo.load(zoo.find(model)).denoiser, np.asarray(vqcodec.decode(data)) * np.float32(1 / 255)
    for steps, seed in ((1, 0), (3, 7)):
        start = diffusion.start_of(LOW)
        sigmas, noise = denoiser.levels(steps, start), denoiser.gaussian(Rect(0, 0, 96, 80), seed)
        x = denoiser.noised(faithful, start, noise)
        x = denoiser.sample(lambda x, s: network(x, s, faithful), x, sigmas, np.ones((80, 96), np.float32))
        found = restored(data, model, decoder="diffusion", steps=steps, seed=seed)
        assert np.abs(found - np.clip(np.rint(x * 255), 0, 255)).max() <= 1


def test_the_same_picture_whatever_way_it_is_asked_for(
    tiled: bytes, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"decoder": "diffusion", "steps": 2, "seed": 5}
    whole = restored(tiled, model, threads=1, **options)
    assert np.array_equal(restored(tiled, model, threads=1, **options), whole)
    assert np.abs(restored(tiled, model, decoder="diffusion", steps=2, seed=6) - whole).max() > 3
    x, y, w, h = 97, 101, 141, 155
    part = restored(tiled, model, region=(x, y, w, h), **options)
    assert np.abs(part - whole[y : y + h, x : x + w]).max() <= 1
    monkeypatch.setattr(diffusion, "SQUARE", 64)
    for threads in (1, 2):
        assert np.abs(restored(tiled, model, threads=threads, **options) - whole).max() <= 1
    half = restored(tiled, model, scale=2, **options)
    means = whole.reshape(140, 2, 150, 2, 3).mean((1, 3))
    assert np.abs(half - means).max() <= 1.5


def test_what_is_kept_without_loss_stays(photo: U8, model: Path) -> None:
    mixed = photo[:160, :192].copy()
    mixed[32:96, 64:128] = np.random.default_rng(1).choice([0, 255], (64, 64, 1))
    data = vqcodec.encode(mixed, 60)
    blocks = vqcodec.info(data)["patched_blocks"]
    assert 0 < blocks < 30
    faithful, found = restored(data, model), restored(data, model, decoder="diffusion", steps=1)
    assert np.array_equal(found[32:96, 64:128], mixed[32:96, 64:128])
    assert not np.array_equal(found, faithful)


def test_gray_and_alpha(photo: U8, model: Path) -> None:
    gray = vqcodec.decode(
        vqcodec.encode(Image.fromarray(photo[:80, :90]).convert("LA"), LOW), decoder="diffusion", model=model
    )
    assert (gray.mode, gray.size) == ("LA", (90, 80))


def test_the_command_line(photo: U8, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = vqcodec.encode(photo[:80, :96], LOW)
    (tmp_path / "a.vqc").write_bytes(data)

    def decompress(name: str, *options: str) -> int:
        return main(["decompress", str(tmp_path / "a.vqc"), str(tmp_path / name), *options])

    chosen = ["--decoder", "diffusion", "--steps", "2", "--seed", "3"]
    assert decompress("1.png", *chosen, "--model", str(model)) == 0
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "1.png")), restored(data, model, decoder="diffusion", steps=2, seed=3)
    )
    mistakes: list[tuple[int, str, list[str]]] = [
        (2, "steps", ["--steps", "2"]),
        (2, "seed", ["--decoder", "realistic", "--seed", "2"]),
        (2, "steps", [*chosen[:2], "--steps", "9"]),
        (2, "realism", [*chosen, "--realism", "0.5"]),
    ]
    if not zoo.load(zoo.find()).has_denoiser:
        mistakes.append((5, "no denoiser", chosen))
    for code, words, options in mistakes:
        capsys.readouterr()
        assert decompress("x.png", *options) == code
        line = capsys.readouterr().err
        assert words in line
        assert line.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_samples_and_lists(photo: U8, model: Path) -> None:
    data = vqcodec.encode(photo[:40, :60], LOW)
    (found,) = vqcodec.decode_batch([data], decoder="diffusion", steps=1, seed=9, model=model)
    np.testing.assert_array_equal(np.asarray(found), restored(data, model, decoder="diffusion", steps=1, seed=9))
    drawn = [np.asarray(vqcodec.sample((48, 32), model=model, decoder=way)) for way in ("faithful", "diffusion")]
    assert not np.array_equal(*drawn)


# ---- lost tiles ------------------------------------------------------------------------------------------------------


def without(data: bytes, *tiles: int) -> bytes:
    """The file with a bit flipped in the base layer of some tiles."""
    out = bytearray(data)
    for section in container.read_header(data).sections():
        if section.kind == container.BASE and section.tile in tiles:
            out[section.offset] ^= 16
    return bytes(out)


def test_a_lost_tile_is_made_up(tiled: bytes, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = without(tiled, 3)
    picture = vqcodec.decode(broken, allow_partial=True, model=model)
    assert [line for line in picture.info["damage"] if "made up from what is around: tile 3" in line]
    assert not [line for line in picture.info["damage"] if "gray" in line]
    found = np.asarray(picture).astype(int)
    assert np.ptp(found[256:, 256:]) > 0
    assert not (found[256:, 256:] == MISSING_GRAY).all(2).any(1).all()
    bare = {"allow_partial": True, "model": model}
    monkeypatch.setattr(zoo.Model, "has_denoiser", False)
    plain = vqcodec.decode(broken, **bare)  # type: ignore[arg-type]
    assert [line for line in plain.info["damage"] if "shown gray: tile 3" in line]
    gray = np.asarray(plain).astype(int)
    assert (gray[256:, 256:] == MISSING_GRAY).all()
    gray[256:, 256:] = found[256:, 256:]
    np.testing.assert_array_equal(gray, found)  # nothing else is touched


def test_where_nothing_is_around_it_stays_gray(tiled: bytes, model: Path) -> None:
    picture = vqcodec.decode(without(tiled, 0, 1, 2, 3), allow_partial=True, model=model)
    assert (np.asarray(picture) == MISSING_GRAY).all()
    assert not [line for line in picture.info["damage"] if "made up" in line]
    region = vqcodec.decode(without(tiled, 3), allow_partial=True, model=model, region=(200, 200, 90, 70))
    whole = vqcodec.decode(without(tiled, 3), allow_partial=True, model=model)
    there = np.asarray(whole)[200:270, 200:290].astype(int)
    assert np.abs(np.asarray(region).astype(int) - there).max() <= 1


def test_a_large_lost_tile_stays_gray(photo: U8, model: Path) -> None:
    wide = np.concatenate([photo[:340, :600]] * 2, 1)
    data = encode.encode(read.load(wide), 1, EncodeOptions(tile_log2=9, effort=1))
    picture = vqcodec.decode(without(data, 0), allow_partial=True, model=model)
    assert (np.asarray(picture)[:340, :512] == MISSING_GRAY).all()


def test_made_up_is_told_with_code_8(
    tiled: bytes, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.vqc").write_bytes(without(tiled, 3))
    arguments = ["decompress", str(tmp_path / "a.vqc"), str(tmp_path / "a.png"), "--allow-partial"]
    assert main([*arguments, "--model", str(model), "--decoder", "diffusion", "--steps", "1"]) == 8
    assert "made up from what is around" in capsys.readouterr().err


# ---- denoised before coding ------------------------------------------------------------------------------------------


@pytest.fixture
def noisy(photo: U8) -> U8:
    noise = 20 * np.random.default_rng(1).normal(size=(96, 112, 3))
    return np.clip(np.rint(photo[:96, :112] + noise), 0, 255).astype(np.uint8)


def test_the_file_is_that_of_the_denoised_picture_and_says_so(noisy: U8, model: Path) -> None:
    clean = denoise.denoise(read.load(noisy), 20, model=model)
    plain = vqcodec.encode(clean.rgb, 60, effort=1, model=model)
    data = vqcodec.encode(noisy, 60, effort=1, model=model, denoise=20)
    assert len(plain) < len(data) <= len(plain) + 10
    assert np.array_equal(restored(data, model), restored(plain, model))
    assert (vqcodec.info(data)["denoised"], vqcodec.info(data)["noise_bytes"]) == (20, 1)
    assert (vqcodec.info(plain)["denoised"], vqcodec.info(plain)["noise_bytes"]) == (0, None)
    for none in (None, 0):
        assert vqcodec.encode(noisy, 60, effort=1, model=model, denoise=none) == vqcodec.encode(noisy, 60, effort=1)
    found = vqcodec.encode(noisy, 60, effort=1, model=model, denoise="auto")
    assert vqcodec.info(found)["denoised"] == pytest.approx(20, rel=0.15)
    (listed,) = vqcodec.encode_batch([noisy], 60, effort=1, model=model, denoise=20)
    assert listed == data


def test_the_level_in_the_file() -> None:
    for level, said in ((0.1, 0.5), (12.3, 12.5), (99.9, 100), (1000, 127.5)):
        assert container.noise_level(container.noise_section(level)) == said
    for body in (b"", b"\0", b"\1\2"):
        with pytest.raises(vqcodec.DamagedError):
            container.noise_level(body)


def test_compress_denoise(noisy: U8, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noisy).save(tmp_path / "a.png")
    arguments = ["compress", "-e", "1", str(tmp_path / "a.png"), str(tmp_path / "a.vqc"), "--denoise"]
    assert main([*arguments, "12.5", "--model", str(model)]) == 0
    assert "noise of 12.5 levels removed" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "a.vqc")]) == 0
    assert "noise of 12.5 levels removed before coding" in capsys.readouterr().out
    mistakes: list[tuple[int, str, list[str]]] = [
        (2, "0 to 100", ["101", "--model", str(model)]),
        (2, "neither auto", ["much", "--model", str(model)]),
    ]
    if not zoo.load(zoo.find()).has_denoiser:
        mistakes.append((5, "no denoiser", ["auto"]))
    for code, words, options in mistakes:
        assert main([*arguments, *options, "-f"]) == code
        line = capsys.readouterr().err
        assert words in line
        assert line.count("\n") == 1
