# SPDX-License-Identifier: MIT
"""What `vqcodec desktop` writes is understood by the desktop's own programs, and is gone again after --remove."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream import container
from vqcodec.cli import desktop
from vqcodec.cli import main as cli


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: NDArray[np.uint8]) -> Path:
    """A home of its own, with a .vqc file without suffix in it, a picture, and magic of somebody else's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(vqcodec.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo[:200, :300]).save(tmp_path / "photo.png")
    (tmp_path / "photo").write_bytes(vqcodec.encode(photo[:200, :300], 30))
    (tmp_path / ".magic").write_bytes(b"0\tstring\tHOHO\tsomebody's own \xe4")
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_programs_know_what_it_is(home: Path) -> None:
    assert cli.main(["desktop", "--install"]) == 0
    assert said("file", "-b", "photo") == "vqcodec image"
    assert said("file", "-b", "--mime-type", "photo") == desktop.MIME
    assert said("file", "-b", "--mime-type", "photo.png") == "image/png"
    assert said("xdg-mime", "query", "filetype", "photo") == desktop.MIME
    assert f"{desktop.MIME}:*.vqc" in (home / ".local/share/mime/globs").read_text()


def test_the_thumbnailers_command_writes_a_thumbnail(home: Path) -> None:
    assert cli.main(["desktop", "--install"]) == 0
    text = (home / ".local/share/thumbnailers/vqcodec.thumbnailer").read_text()
    assert f"MimeType={desktop.MIME};" in text
    (line,) = [line for line in text.splitlines() if line.startswith("Exec=")]
    for size, expected in ((64, (64, 43)), (1000, (300, 200))):
        words = line.removeprefix("Exec=").replace("%s", str(size)).replace("%i", "photo").replace("%o", "small.png")
        subprocess.run(shlex.split(words), check=True, timeout=120)
        with Image.open("small.png") as small, Image.open("photo.png") as photo:
            assert small.size == expected
            difference = np.asarray(small).astype(int) - np.asarray(photo.resize(expected))
            assert np.abs(difference).mean() < 12


def test_what_was_installed_is_removed(home: Path) -> None:
    before = files(home)
    for _ in range(2):
        assert cli.main(["desktop", "--install"]) == 0
    assert (home / ".magic").read_bytes().count(b"vqcodec image") == 1
    assert cli.main(["desktop", "--remove"]) == 0
    after = files(home)
    assert after.pop(".magic").rstrip(b"\n") == before.pop(".magic")
    assert {name: data for name, data in after.items() if "share/mime/" not in name} == before
    assert not [name for name, data in after.items() if "share/mime/" in name and b"vqcodec" in data]


def test_mistakes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--install", "--remove"], ["--install", "photo"], ["--thumbnail", "9", "photo"]):
        assert cli.main(["desktop", *arguments]) == 2
    assert cli.main(["desktop", "--thumbnail", "64", "photo.png", "a.png"]) == 4
    assert not (home / "a.png").exists()
    assert capsys.readouterr().err.count("\n") == 5


def test_the_type_and_magic_are_the_formats(plugin: Any) -> None:
    assert desktop.MIME == plugin.MIME
    for text in (desktop.MIME_TYPE, desktop.MAGIC):
        assert container.MAGIC in text.encode("latin-1").decode("unicode_escape").encode("latin-1")
