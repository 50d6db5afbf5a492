# SPDX-License-Identifier: MIT
"""`vqcodec demo`: its table is true, its picture is there, and it runs twice but never over somebody else's file."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.cli import demo
from vqcodec.cli import main as cli
from vqcodec.pictures import read


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small piece of the photograph in its place; the current folder is an empty one."""
    piece = np.ascontiguousarray(photo[100:190, 300:420])
    Image.fromarray(piece).save(tmp_path / "piece.png")
    monkeypatch.setattr(demo, "PHOTOGRAPH", tmp_path / "piece.png")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return piece


def test_demo(capsys: Any, quick: NDArray[np.uint8]) -> None:
    assert cli.main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "vqcodec-demo.png" in out
    rows = re.findall(r"^vqcodec -q (\d+) +([\d,]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", out, re.MULTILINE)
    assert tuple(int(row[0]) for row in rows) == demo.QUALITIES
    for quality, size_bytes, rate_bpp, psnr_db, *_ in rows:
        data = vqcodec.encode(quick, int(quality))
        assert int(size_bytes.replace(",", "")) == len(data)
        assert float(rate_bpp) == pytest.approx(8 * len(data) / (90 * 120), abs=6e-4)
        assert float(psnr_db) == pytest.approx(demo.psnr(quick, np.asarray(vqcodec.decode(data))), abs=6e-3)
    assert len(re.findall(r"^JPEG -q \d+ ", out, re.MULTILINE)) == len(demo.QUALITIES)
    with Image.open("vqcodec-demo.png") as sheet:
        assert sheet.width > 3 * 120
        left, top = demo.MARGIN, demo.MARGIN
        assert np.array_equal(np.asarray(sheet)[top : top + 90, left : left + 120], quick)
    assert os.listdir(".") == ["vqcodec-demo.png"]


def test_nothing_is_written_into_a_checkout(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for mark in ("folder", "file"):  # a file in a work tree of its own
        inside = tmp_path / mark / "docs"
        inside.mkdir(parents=True)
        (tmp_path / mark / ".git").mkdir() if mark == "folder" else (tmp_path / mark / ".git").touch()
        monkeypatch.chdir(inside)
        assert cli.main(["demo"]) == 0
        said = re.search(r"^Side by side at .*: (.*)$", capsys.readouterr().out, re.MULTILINE)
        assert said is not None
        assert Path(said[1]).is_relative_to(tmp_path / "temporary"), "it says where"
        assert Path(said[1]).is_file()
        assert os.listdir(".") == []
    assert len(os.listdir(tmp_path / "temporary")) == 2
    assert cli.main(["demo", "-o", "."]) == 0
    assert os.listdir(".") == ["vqcodec-demo.png"], "asked for, it is done"


def test_a_second_run_replaces_its_own_file_and_no_other(capsys: Any) -> None:
    assert cli.main(["demo", "-o", "new"]) == cli.main(["demo", "-o", "new"]) == 0
    mine = Path("new/vqcodec-demo.png")
    for foreign in (b"a letter", b""):
        mine.write_bytes(foreign)
        assert cli.main(["demo", "-o", "new"]) == 6
        assert mine.read_bytes() == foreign
    Image.new("RGB", (9, 9)).save(mine)
    assert cli.main(["demo", "-o", "new"]) == 6
    assert cli.main(["demo", "-o", "new", "-f"]) == 0
    assert demo._is_ours(str(mine))


def test_a_folder_that_cannot_be_written(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # a test that runs as root may write anywhere
    assert cli.main(["demo"]) == 3
    assert capsys.readouterr().err == "vqcodec: cannot write ./vqcodec-demo.png: no permission to write there\n"
    assert os.listdir(".") == []


def test_jpeg_at_the_same_size_or_the_nearest_below(photo: NDArray[np.uint8]) -> None:
    jpeg = demo.peers_of(Image.fromarray(photo), None)[0]
    sizes = [len(jpeg.file(quality)) for quality in (29, 30, 31)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert demo._jpeg(photo, sizes[1]).size_bytes == sizes[1]
    assert demo._jpeg(photo, sizes[2] - 1).size_bytes == sizes[1]
    assert demo._jpeg(photo, 10).label == "JPEG -q 1"
    assert demo._jpeg(photo, 10**7).label == "JPEG -q 95"


def test_psnr() -> None:
    black, gray = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert demo.psnr(black, gray) == demo.psnr(gray, black) == pytest.approx(13.9794, abs=1e-4)
    assert demo.psnr(gray, gray) == float("inf")


def test_the_bundled_photograph_is_the_one_whose_licence_is_stated() -> None:
    folder = Path(vqcodec.__file__).with_name("photographs")
    (path,) = folder.glob("*.png")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert path.stat().st_size < 700_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() in readme
    assert "CC0" in readme
    assert read.load(path).notes == ()
