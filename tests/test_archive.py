# SPDX-License-Identifier: MIT
"""`vqcodec archive`: what one process does with any store that fsspec knows, and a whole run on a local Ray cluster."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.cli import main as cli
from vqcodec.cli.ray_archive import Coder, Settings, plan
from vqcodec.errors import InputError

fsspec = pytest.importorskip("fsspec")
LOW = Settings(quality=30, effort=1)


@pytest.fixture
def store(photo: NDArray[np.uint8]) -> Iterator[dict[str, bytes]]:
    """Pictures (and what is none) below memory://in; what was put there, by name."""
    memory = fsspec.filesystem("memory")
    made = {}
    for number, name in enumerate(["a.png", "deep/b.png", "deep/er/c.bmp"]):
        out = io.BytesIO()
        Image.fromarray(photo[100:130, 60 * number : 60 * number + 40]).save(out, Path(name).suffix[1:])
        made[name] = out.getvalue()
    for name, data in {**made, "deep/readme.txt": b"text", ".hidden/d.png": made["a.png"]}.items():
        memory.pipe_file(f"/in/{name}", data)
    yield made
    memory.store.clear()  # in memory only


def test_the_tree_is_kept_and_what_is_there_is_skipped(store: dict[str, bytes]) -> None:
    rows, report = plan("memory://in/", "memory://out", LOW, False)
    assert [(row["source"], row["target"]) for row in rows] == [
        ("memory://in/a.png", "memory://out/a.vqc"),
        ("memory://in/deep/b.png", "memory://out/deep/b.vqc"),
        ("memory://in/deep/er/c.bmp", "memory://out/deep/er/c.vqc"),
    ]
    assert report.skipped == 0
    code = Coder(LOW)
    for row in rows[:2]:
        done = code(row)
        name = row["source"].removeprefix("memory://in/")
        written = fsspec.filesystem("memory").cat_file(row["target"])
        assert written == vqcodec.encode(store[name], 30, effort=1)
        assert (done["code"], done["bytes_in"], done["bytes_out"]) == (0, len(store[name]), len(written))
    rows, report = plan("memory://in", "memory://out", LOW, True)
    assert ([row["source"] for row in rows], report.skipped) == (["memory://in/deep/er/c.bmp"], 2)
    back = Settings(decompress=True, suffix=".png")
    rows, _ = plan("memory://out", "memory://back", back, False)
    assert [Coder(back)(row)["code"] for row in rows] == [0, 0]
    restored = Image.open(io.BytesIO(fsspec.filesystem("memory").cat_file("/back/deep/b.png")))
    assert restored.size == (40, 30)


def test_failures_are_told_and_nothing_is_overwritten(store: dict[str, bytes]) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/in/bad.png", b"this is not a picture")
    memory.pipe_file("/in/a.bmp", store["a.png"])
    memory.pipe_file("/out/a.vqc", b"old")
    rows, report = plan("memory://in", "memory://out", LOW, False)
    assert report.failures == [("a.png", 6, "a.png: left out, because a.vqc is written from a.bmp")]
    found = {row["source"].split("/")[-1]: Coder(LOW)(row) for row in [*rows, {**rows[0], "source": "memory://in/no"}]}
    assert {name: row["code"] for name, row in found.items()} == {
        "a.bmp": 6,
        "bad.png": 3,
        "b.png": 0,
        "c.bmp": 0,
        "no": 3,
    }
    assert "bad.png" in found["bad.png"]["message"]
    assert memory.cat_file("/out/a.vqc") == b"old"
    assert Coder(Settings(quality=30, force=True))(rows[0])["code"] == 0
    assert memory.cat_file("/out/a.vqc") != b"old"
    with pytest.raises(InputError, match="no such folder"):
        plan("memory://nowhere", "memory://out", LOW, False)
    with pytest.raises(InputError, match="nothing to do"):
        plan("memory://in/deep/er", "memory://out", Settings(decompress=True), False)


def test_a_store_that_is_not_atomic_gets_a_finished_file(
    store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqcodec.cli import ray_archive

    monkeypatch.setattr(ray_archive, "ATOMIC_STORES", frozenset())
    (row, *_), _ = plan("memory://in", "memory://out/new", LOW, False)
    assert Coder(LOW)(row)["code"] == 0
    assert fsspec.filesystem("memory").find("/out") == ["/out/new/a.vqc"]


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["archive", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "pip install 'vqcodec[ray]'" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_cluster_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").touch()
    assert cli.main(["archive", str(tmp_path), str(tmp_path / "out"), "--cluster", "nonsense"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("vqcodec: cannot use the Ray cluster nonsense: ")
    assert err.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_a_local_cluster(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    names = ["a.png", "b/c.png", "b/d.png", "e.png"]
    for number, name in enumerate(names):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[100:130, 60 * number : 60 * number + 40]).save(path)
    (tmp_path / "in/bad.png").write_text("this is not a picture")
    root = str(Path(vqcodec.__file__).parents[1])
    command = [sys.executable, "-m", "vqcodec", "archive", "in", "out", "-q", "30", "-e", "1", "-j", "2"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("4 done, 0 skipped, 1 failed; ")
    assert [line for line in done.stderr.splitlines() if line.startswith("vqcodec:")] == [
        "vqcodec: in/bad.png: cannot read the given bytes: not a picture, or its header is damaged"
    ]
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written == {str(Path(name).with_suffix(".vqc")) for name in names}
    for name in names:
        expected = vqcodec.encode(tmp_path / "in" / name, 30, effort=1)
        assert (tmp_path / "out" / name).with_suffix(".vqc").read_bytes() == expected
