# SPDX-License-Identifier: MIT
"""No file is ever lost: processes of the command line that are stopped, that run against each other, or are told to
write where they read. What a single write does when it fails is tested in `test_output.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.cli import main as cli

ROOT = Path(vqcodec.__file__).parents[1]
OLD = b"an old file that somebody needs"


def files(folder: Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def started(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The command line in a process of its own, at work in a folder."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "vqcodec", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, photo: NDArray[np.uint8]) -> Path:
    """A folder with a picture of three tiles, one below the other, and its .vqc file."""
    folder = tmp_path_factory.mktemp("large")
    Image.fromarray(np.tile(photo[:400, :400], (6, 1, 1))).save(folder / "in.ppm")
    assert cli.main(["compress", "-q", "30", "-e", "1", str(folder / "in.ppm"), str(folder / "in.vqc")]) == 0
    return folder


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_of_a_picture(large: Path, tmp_path: Path, number: signal.Signals) -> None:
    """It is stopped when its temporary file has begun to grow: the old file stays, and that one goes."""
    (tmp_path / "out.png").write_bytes(OLD)
    child = started(tmp_path, "decompress", "-f", "--threads", "1", str(large / "in.vqc"), "out.png")
    deadline = time.monotonic() + 60
    while sum(map(len, files(tmp_path).values())) <= len(OLD) + 1000:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    left = files(tmp_path)
    assert left.pop("out.png") == OLD
    if number != signal.SIGKILL:  # which nobody can answer
        assert left == {}
        assert b"Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_stopped_at_any_time(large: Path, tmp_path: Path) -> None:
    """Whenever it comes, the output is the old file or the whole new one."""
    codes = set()
    for number, delay in ((signal.SIGTERM, 0.3), (signal.SIGINT, 0.8), (signal.SIGTERM, None)):
        (tmp_path / "out.vqc").write_bytes(OLD)
        child = started(tmp_path, "compress", "-f", "-q", "30", "-e", "1", str(large / "in.ppm"), "out.vqc")
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            child.send_signal(number)
        child.communicate(timeout=150)
        codes.add(child.returncode)
        new = (large / "in.vqc").read_bytes()
        allowed = [new] if child.returncode == 0 else [OLD, new]  # the signal may come when the file is in its place
        assert files(tmp_path) in [{"out.vqc": content} for content in allowed]
    assert 0 in codes
    assert len(codes) > 1


def test_two_runs_into_one_folder(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    """Without -f each file is written by one of them; both leave whole files, and nothing else."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(6):
        Image.fromarray(photo[10 * number : 10 * number + 150, :150]).save(source / f"{number}.png")
    children = [started(tmp_path, "compress", "-e", "1", "-q", "30", "in", "-o", "out") for _ in range(2)]
    errors = [child.communicate(timeout=120)[1].decode().splitlines() for child in children]
    refused = sum("exists" in line for lines in errors for line in lines)
    assert refused == sum(map(len, errors)) == 6, errors
    assert all(child.returncode in (0, 6) for child in children)
    assert files(target) == {
        f"{number}.vqc": vqcodec.encode(source / f"{number}.png", 30, effort=1) for number in range(6)
    }


@pytest.mark.parametrize("link", ["the same name", "another path", "symbolic", "hard"])
@pytest.mark.parametrize("direction", ["compress", "decompress"])
def test_output_that_is_the_input(
    tmp_path: Path, photo: NDArray[np.uint8], capsys: pytest.CaptureFixture[str], direction: str, link: str
) -> None:
    """With -f, too: what was compressed would be gone for good."""
    source = tmp_path / ("photo" if direction == "compress" else "photo.png")  # names that do not give it away
    target = tmp_path / ("a.vqc" if direction == "compress" else "a.png")
    Image.fromarray(photo[:16, :16]).save(source, "PNG")
    if direction == "decompress":
        source.write_bytes(vqcodec.encode(photo[:16, :16], 50))
    if link == "symbolic":
        target.symlink_to(source)
    elif link == "hard":
        target.hardlink_to(source)
    elif link == "another path":
        target = tmp_path / ".." / tmp_path.name / source.name
    else:
        target = source
    before = files(tmp_path)
    assert cli.main([direction, "-f", str(source), str(target)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is both input and output" in line
    assert files(tmp_path) == before
