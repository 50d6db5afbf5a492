# SPDX-License-Identifier: MIT
"""`vqcodec compare`: the page holds what it says, asks nobody for anything, and a browser shows it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr, wide_gamut_profile
from vqcodec.cli import compare
from vqcodec.cli import main as cli
from vqcodec.pictures import picture, read

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A current folder with a piece of the photograph in it."""
    monkeypatch.chdir(tmp_path)
    piece = np.ascontiguousarray(photo[100:220, 300:460])
    Image.fromarray(piece).save("photo.png")
    return piece


def facts_of(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def unpacked(uri: str) -> tuple[str, bytes]:
    head, body = uri.split(",", 1)
    return head, base64.b64decode(body)


def pixels(uri: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(unpacked(uri)[1])) as found:
        return np.asarray(found.convert("RGB"))


def test_the_page_holds_what_it_says(here: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "photo.png", "-q", "80", "-q", "50"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("photo-compare.html: ")
    assert err == ""
    text = Path("photo-compare.html").read_text(encoding="utf-8")
    assert "@@" not in text
    assert not re.search(r"https?:|<link|src=\"[^\"]", text)
    facts = facts_of(text)
    assert np.array_equal(pixels(facts["original"]), here)
    assert [level["quality"] for level in facts["levels"]] == [50, 80]
    for level in facts["levels"]:
        own, *others = level["shown"]
        data = vqcodec.encode("photo.png", level["quality"], strip=True)
        assert own["bytes"] == len(data)
        assert np.array_equal(pixels(own["src"]), np.asarray(vqcodec.decode(data)))
        assert {other["label"] for other in others} <= {"JPEG", "AVIF"}
        for other in others:
            head, file = unpacked(other["src"])
            assert head == f"data:image/{other['label'].lower()};base64"
            assert len(file) == other["bytes"]
            setting = int(other["setting"].split()[1])
            assert len(file) <= len(data) or setting <= 1
        for entry in level["shown"]:
            assert entry["bpp"] == pytest.approx(8 * entry["bytes"] / (120 * 160))
            assert entry["psnr"] == pytest.approx(psnr(here, pixels(entry["src"])), abs=0.01)


def test_the_highest_quality_that_is_no_larger() -> None:
    peer = compare.Peer("x", "x", range(1, 11), lambda setting: bytes(10 * setting))
    assert [peer.at_most(limit)[0] for limit in (5, 10, 11, 59, 60, 99, 100, 1000)] == [1, 1, 1, 5, 6, 9, 10, 10]


def test_gray_transparent_and_wide_gamut_pictures(here: NDArray[np.uint8]) -> None:
    clear = np.dstack([here, np.zeros(here.shape[:2], np.uint8)])
    facts = facts_of(compare.page(read.load(clear), "x", qualities=[30]))
    assert (pixels(facts["original"]) == 255).all()
    facts = facts_of(compare.page(read.load(here[..., 0]), "x", qualities=[30]))
    assert facts["raw_bytes"] == 120 * 160
    with Image.open(io.BytesIO(unpacked(facts["levels"][0]["shown"][1]["src"])[1])) as jpeg:
        assert jpeg.mode == "L"
    facts = facts_of(compare.page(picture.Picture(here, icc=wide_gamut_profile()), "x", qualities=[30]))
    for uri in (facts["original"], *(entry["src"] for entry in facts["levels"][0]["shown"])):
        with Image.open(io.BytesIO(unpacked(uri)[1])) as found:
            assert found.info["icc_profile"] == wide_gamut_profile()


def test_a_name_cannot_break_the_page(here: NDArray[np.uint8]) -> None:
    text = compare.page(read.load(here[:16, :16]), "</script><script>alert(1)</script>.png", qualities=[1])
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_mistakes(here: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]) -> None:
    Path("photo-compare.html").write_text("mine")
    for arguments, code in (
        (["photo.png"], 6),
        (["nowhere.png"], 3),
        (["photo.png", "nowhere/page.html"], 3),
        (["photo.png", "photo.png", "-f"], 2),
        (["photo.png", "x.html", "-q", "0"], 2),
        (["photo.png", "x.html", "--max-pixels", "9"], 7),
    ):
        assert cli.main(["compare", *arguments]) == code, arguments
        assert capsys.readouterr().err.count("\n") == 1
    assert Path("photo-compare.html").read_text() == "mine"
    assert not Path("x.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_it(here: NDArray[np.uint8], tmp_path: Path) -> None:
    Path("page.html").write_text(compare.page(read.load(here), "photo.png", qualities=[50]), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1600,1200", "--force-device-scale-factor=2"]  # a screen of fine pixels, as phones have
    command += ["--virtual-time-budget=3000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    facts = facts_of(found)
    for entry in facts["levels"][0]["shown"]:
        assert f"<td>{entry['bytes']:,}" in found
        assert f"<td>{entry['psnr']:.2f}</td>" in found
    assert re.search(r'<img id="imageLeft" alt="JPEG"[^>]*src="data:image/jpeg', found)
    assert re.search(r'<img id="imageRight" alt="vqcodec"[^>]*src="data:image/webp', found)
    assert 'style="width: 160px; height: 120px;"' in found
