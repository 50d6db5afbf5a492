# SPDX-License-Identifier: MIT
"""A damaged file says where, and with `allow_partial` shows what is left: the rest as it was, coarse before gray."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr
from vqcodec.bitstream import container
from vqcodec.cli import main as cli
from vqcodec.codec import encode
from vqcodec.codec.synthesis import MISSING_GRAY
from vqcodec.options import EncodeOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def nothing_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost tiles are shown gray whatever their size; tests/train/test_diffusion.py has those that are made up."""
    monkeypatch.setattr("vqcodec.codec.decode.MADE_UP_SIDE", 0)


@pytest.fixture(scope="module")
def tiled(photo: U8) -> bytes:
    """A picture of 3 x 2 tiles, 600 x 400 pixels."""
    return encode.encode(read.load(photo), 60, EncodeOptions(tile_log2=8))


@pytest.fixture(scope="module")
def whole(tiled: bytes) -> U8:
    return np.asarray(vqcodec.decode(tiled))


def hit(data: bytes, kind: str, tile: int | None, byte: int = 0) -> bytes:
    """The file with one bit flipped in a section."""
    (section,) = (s for s in container.read_header(data).sections() if (s.kind, s.tile) == (kind, tile))
    out = bytearray(data)
    out[section.offset + byte % section.size_bytes] ^= 16
    return bytes(out)


def tile_of(array: U8, number: int) -> U8:
    row, column = divmod(number, 3)
    return array[256 * row : 256 * row + 256, 256 * column : 256 * column + 256]


def restored(data: bytes) -> tuple[U8, list[str]]:
    picture = vqcodec.decode(data, allow_partial=True)
    return np.asarray(picture), picture.info["damage"]


@pytest.mark.parametrize("tile", range(6))
def test_a_flipped_bit_costs_one_tile(tiled: bytes, whole: U8, photo: U8, tile: int) -> None:
    for kind, fate in ((container.BASE, "lost, and shown gray"), (container.REFINEMENT, "restored coarsely")):
        data = hit(tiled, kind, tile, Random(tile).randrange(10_000))
        place = f"tile {tile} (x {256 * (tile % 3)}.."
        with pytest.raises(vqcodec.DamagedError) as caught:
            vqcodec.decode(data)
        assert str(caught.value).startswith(place)
        picture, damage = restored(data)
        lost = kind == container.BASE
        near = {n for n in range(6) if lost and n != tile and abs(n % 3 - tile % 3) < 2}  # their refinement hangs on it
        assert len(damage) == 2 + lost
        assert damage[0].startswith(place)
        (said,) = (line for line in damage[1:] if line.startswith(f"1 of 6 tiles {fate}"))
        assert place in said
        assert any(line.startswith(f"{len(near)} of 6 tiles restored coarsely") for line in damage) == lost
        for other in range(6):
            a, b = tile_of(picture, other), tile_of(whole, other)
            if other in near:
                assert 15 < psnr(a, tile_of(photo, other)) < psnr(b, tile_of(photo, other))
            elif other != tile:  # beyond the halo of four latents not one level differs, within it few do
                assert psnr(a, b) > 36
                far = np.ones(a.shape[:2], bool)
                far[: 64 * (other // 3 == 1)] = far[192 + 64 * (other // 3) :] = False
                far[:, : 64 * (other % 3 > 0)] = far[:, 192 + 64 * (other % 3 == 2) :] = False
                assert np.array_equal(a[far], b[far])
        found = tile_of(picture, tile)
        if kind == container.BASE:
            assert (found == MISSING_GRAY).all()
        else:
            assert 15 < psnr(found, tile_of(photo, tile)) < psnr(tile_of(whole, tile), tile_of(photo, tile))
            assert psnr(found, tile_of(whole, tile)) > 17


def test_a_whole_file_has_no_damage(tiled: bytes, whole: U8) -> None:
    picture, damage = restored(tiled)
    assert damage == []
    assert np.array_equal(picture, whole)
    assert "damage" not in vqcodec.decode(tiled).info


def test_a_file_that_was_cut_off_is_shown_as_far_as_it_goes(tiled: bytes, whole: U8, photo: U8) -> None:
    """More bytes, more picture; from the end of the base layer on all of it can be seen."""
    sections = [s for s in container.read_header(tiled).sections() if s.tile is not None]
    ends = [s.offset + s.size_bytes + 4 for s in sections]
    quality = []
    for count, end in enumerate(ends, start=1):
        picture, damage = restored(tiled[: end if count == len(ends) else end + 3])
        assert np.array_equal(picture, whole) == (count == len(ends))
        assert sum((tile_of(picture, t) == MISSING_GRAY).all() for t in range(6)) == max(0, 6 - count)
        quality.append(psnr(picture, photo))
        if count < len(ends):
            assert damage[0].startswith("The file is cut off")
            assert any("lost" in d for d in damage) == (count < 6)
    assert quality == sorted(quality)
    assert quality[5] > 17
    assert damage == []


@pytest.mark.parametrize("quality", [10, 60, 100])
def test_the_picture_gets_better_with_the_bytes_that_arrived(photo: U8, quality: int) -> None:
    """In one tile, too: pass after pass of the base layer, then step after step of the refinement."""
    piece = photo[:160, :200]
    data = vqcodec.encode(piece, quality)
    layout = container.read_header(data)
    steps = 24
    found = []
    for share in range(steps + 1):
        size = layout.header_size_bytes + (len(data) - layout.header_size_bytes) * share // steps
        picture, damage = restored(data[:size])
        found.append(psnr(picture, piece))
        assert bool(damage) == (share < steps)
    assert found == sorted(found)
    assert len(set(found)) >= 4 + (quality > 10) + 2 * (quality > 40)
    if quality >= 75:  # half of the file shows far more than its base layer
        end = next(s.offset for s in layout.sections() if s.kind == container.REFINEMENT)
        assert found[steps // 2] > psnr(restored(data[:end])[0], piece) + 3


def test_a_cut_off_tile_says_how_far_it_goes(photo: U8) -> None:
    data = vqcodec.encode(photo[:300, :400], 75)
    base, fine = (s for s in container.read_header(data).sections() if s.tile == 0)
    words = {
        base.offset + base.size_bytes // 2: "1 of 1 tiles restored coarsely, from 1 of 4 passes of the base layer",
        fine.offset + 3: "1 of 1 tiles restored coarsely, from the base layer alone",
        fine.offset + fine.size_bytes // 2: "1 of 1 tiles restored from 5 of 8 steps of the refinement layer",
        fine.offset + fine.size_bytes + 3: "1 of 1 tiles restored from 8 of 8 steps of the refinement layer",
    }
    for size, sentence in words.items():
        _, damage = restored(data[:size])
        assert damage[0].startswith(f"The file is cut off, {size} of {len(data)} bytes are there")
        assert damage[1].startswith(sentence)
        assert len(damage) == 2


def test_a_header_needs_an_intact_checksum_even_for_a_part(tiled: bytes) -> None:
    sections = list(container.read_header(tiled).sections())
    with pytest.raises(vqcodec.DamagedError):
        vqcodec.decode(tiled[: sections[0].offset - 1], allow_partial=True)


def test_the_base_layer_is_restored_as_in_a_base_only_file(photo: U8) -> None:
    """A lost refinement leaves what quality 1 would have given."""
    fine, coarse = vqcodec.encode(photo[:96, :96], 60), vqcodec.encode(photo[:96, :96], 1)
    a, b = restored(hit(fine, container.REFINEMENT, 0))[0], np.asarray(vqcodec.decode(coarse))
    assert psnr(a, photo[:96, :96]) > psnr(b, photo[:96, :96]) - 1.5


def test_lost_alpha_and_metadata_do_not_cost_the_picture(photo: U8) -> None:
    alpha = np.tile(np.arange(120, dtype=np.uint8), (80, 1))
    source = Image.fromarray(np.dstack([photo[:80, :120], alpha]))
    profile = bytes(16) + b"RGB " + bytes(16) + b"acsp" + bytes(200)
    source.info["icc_profile"] = profile
    data = vqcodec.encode(source, 50)
    before = vqcodec.decode(data)
    assert before.info["icc_profile"] == profile
    for kind, sentence in ((container.ALPHA, container.ALPHA), (container.ICC, container.ICC)):
        after = vqcodec.decode(hit(data, kind, None, 30), allow_partial=True)
        assert after.info["damage"][0].startswith(sentence)
        assert len(after.info["damage"]) == 1
        assert after.mode == "RGBA"
        assert np.array_equal(np.asarray(after)[..., :3], np.asarray(before)[..., :3])
        opaque = kind == container.ALPHA
        assert np.array_equal(np.asarray(after)[..., 3], np.full_like(alpha, 255) if opaque else alpha)
        assert ("icc_profile" in after.info) == opaque


def test_what_is_left_is_written_and_said_with_an_exit_code_of_its_own(
    tiled: bytes, whole: U8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.vqc").write_bytes(hit(hit(tiled, container.BASE, 5), container.REFINEMENT, 1))
    assert cli.main(["decompress", "a.vqc", "a.png"]) == 4
    assert capsys.readouterr().err.startswith("vqcodec: a.vqc: tile 5 (x 512..599, y 256..399), base layer: ")
    assert not Path("a.png").exists()
    assert cli.main(["decompress", "a.vqc", "a.png", "--allow-partial"]) == 8
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("vqcodec: ") for line in lines)
    assert [word in "\n".join(lines) for word in ("1 of 6 tiles lost", "3 of 6 tiles restored coarsely")] == [
        True,
        True,
    ]
    assert lines[-1] == "vqcodec: a.vqc: damaged; a.png shows what is left of it"
    with Image.open("a.png") as picture:
        found = np.asarray(picture)
    assert (tile_of(found, 5) == MISSING_GRAY).all()
    assert psnr(tile_of(found, 3), tile_of(whole, 3)) > 36
    Path("b.vqc").write_bytes(tiled[:10])
    assert cli.main(["decompress", "b.vqc", "b.png", "--allow-partial"]) == 4
    assert not Path("b.png").exists()
    Path("c.vqc").write_bytes(tiled)
    assert cli.main(["decompress", "c.vqc", "c.png", "--allow-partial"]) == 0
    with Image.open("c.png") as picture:
        assert np.array_equal(np.asarray(picture), whole)


def test_many_damaged_tiles_are_counted_not_listed(photo: U8, tmp_path: Path, capsys: Any) -> None:
    wide = np.tile(photo[:8, :512], (1, 20, 1))
    data = encode.encode(read.load(wide), 1, EncodeOptions(tile_log2=8))
    first = next(iter(container.read_header(data).sections()))
    (tmp_path / "a.vqc").write_bytes(data[: first.offset])
    assert cli.main(["decompress", str(tmp_path / "a.vqc"), str(tmp_path / "a.png"), "--allow-partial"]) == 8
    lines = capsys.readouterr().err.splitlines()
    assert "40 of 40 tiles lost" in lines[1]
    assert lines[1].endswith("and 28 more")
    assert len(lines) == 3
