# SPDX-License-Identifier: MIT
"""Training end to end on a tiny model: steps, resume, finish, export, and a picture coded with the result."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr
from tests.train.conftest import TINY, run
from vqcodec.model import zoo
from vqcodec.train.cli import main


@pytest.mark.usefixtures("quick_start")
def test_a_tiny_model_trains_resumes_exports_and_codes(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for k in range(3):
        Image.fromarray(photo[60 * k : 60 * k + 128, :192]).save(data / f"{k}.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    common = [
        "-o",
        out,
        "--no-finish",
        "--threads",
        1,
        "--set",
        "crop=64",
        "--set",
        "batch=2",
        "--set",
        "log_seconds=0",
    ]
    log = run(data, *common, *shape, "--set", "steps=6", "--validation", data)
    assert "crops/s" in log
    assert "joint step 6 " in log
    assert "val psnr level" in log
    log = run(data, *common, "--resume", out / "last.pt", "--set", "steps=9")
    assert "joint step 7 " in log
    assert "joint step 6 " not in log
    for phase in ("decoder", "analysis", "synthesis"):
        log = run(data, *common, "--resume", out / "last.pt", "--phase", phase, "--set", "steps=2")
        assert f"{phase} step 2 " in log
        assert "of the machine" in log
    finish = ["--phase", "finish", "--base-minutes", "0.02", "--base-crops", 64, "--samples", 30, "--validation", data]
    log = run(data, *common, "--resume", out / "last.pt", *finish, "--set", "eval_pictures=1")
    rows = json.loads((out / "model" / "rd.json").read_text(encoding="utf-8"))
    assert [row["quality"] for row in rows] == sorted(row["quality"] for row in rows)
    assert rows[-1]["bpp"] > rows[0]["bpp"]
    assert "files, quality 100: {bpp:.4f} bpp {psnr:.3f} dB".format(**rows[-1]) in log
    picture = photo[:120, :150]
    for quality, tune in ((1, "eye"), (50, "eye"), (95, "eye"), (50, "psnr"), (95, "psnr")):
        coded = vqcodec.encode(picture, quality, tune=tune, model=out / "model")
        assert vqcodec.info(coded)["tune"] == tune
        back = np.asarray(vqcodec.decode(coded, model=out / "model"))
        assert back.shape == picture.shape
        assert psnr(picture, back) > {1: 12, 50: 20, 95: 25}[quality]
    assert vqcodec.encode(picture, 50, model=out / "model") == vqcodec.encode(
        picture, 50, tune="eye", model=out / "model"
    )
    with pytest.raises(vqcodec.ModelError):
        vqcodec.decode(coded)


def test_real_files_are_judged_during_training(
    tiny_run: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between and at the end; what is learned is what is learned without."""
    from vqcodec.train import files

    monkeypatch.setattr(files, "QUICK_SAMPLES", 20)
    monkeypatch.setattr(files, "QUICK_QUALITIES", (30, 90))
    judged = ["--validation", tmp_path / "a.png", "--set", "files_minutes=0.0001", "--set", "steps=2"]
    log = run(*tiny_run, *judged)
    rows = [line.split() for line in log.splitlines() if line.startswith("files, quality")]
    assert [row[2] for row in rows] == ["30:", "90:"] * 3, "after both steps, and at the end"
    assert log.count("base indices without context") == 3
    assert all(float(low[3]) < float(high[3]) for low, high in zip(rows[::2], rows[1::2], strict=True))
    assert all(float(low[5]) < float(high[5]) for low, high in zip(rows[::2], rows[1::2], strict=True))
    assert "files, quality 30:" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    weights = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert "files" not in run(*tiny_run, "--set", "steps=2")
    alone = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(alone[name], value) for name, value in weights.items())


def test_files_are_left_out_where_they_cannot_be_written(
    tiny_run: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = ["--validation", tmp_path / "a.png", "--set", "files_minutes=0.0001", "--set", "steps=3"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    log = run(*tiny_run, *judged)
    assert log.count("files are left out: onnxruntime is not installed") == 1
    assert "joint step 3 " in log
    assert main([str(x) for x in [*tiny_run, *judged[2:]]]) == 2
    assert "give --validation" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_progress_line_and_nothing_else_does(
    tiny_run: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqcodec.train import progress

    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(sys, "stderr", plain := io.StringIO())
    run(*tiny_run, "--set", "steps=3")
    assert "joint" not in plain.getvalue()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    log = run(*tiny_run, "--set", "steps=3")
    drawn = [line for line in terminal.getvalue().split("\r") if line.startswith("joint step")]
    assert len(drawn) == 3
    assert re.search(r"joint step 3 \[#{16}-{8}\]  67% [0-9.]+ crops/s, 0:0\d left", drawn[-1])
    assert terminal.getvalue().endswith("\r\x1b[K"), "the line is taken away"
    assert "\r" not in log


def test_what_finishing_does_is_shown(tiny_run: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line as each stage begins and ends; on a terminal how far the stage is."""
    from vqcodec.train import progress

    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    tiny_run.remove("--no-finish")
    log = run(*tiny_run, "--set", "steps=2", "--base-crops", 16, "--samples", 10)
    lines = [line for line in log.splitlines() if line.startswith("finish")]
    for number, what in enumerate(
        ("analysing 10 crops", "base indices", "base prior", "rounding", "counting", "writing"), 1
    ):
        assert lines[2 * number - 2].startswith(f"finish {number}/6: ")
        assert what in lines[2 * number - 2]
        assert re.fullmatch(rf"finish {number}/6 took \d:\d\d", lines[2 * number - 1])
    assert re.fullmatch(r"finish took \d:\d\d", lines[12])
    assert len(lines) == 13
    assert re.search(r"finish 5/6 \[#{18}-{6}\]  75% 0:\d\d left", terminal.getvalue())
    assert terminal.getvalue().endswith("\r\x1b[K"), "the line is taken away"


def test_a_model_is_finished_unless_a_phase_is_named(tiny_run: list[object], tmp_path: Path) -> None:
    tiny_run.remove("--no-finish")
    run(*tiny_run, "--set", "steps=2", "--phase", "joint")
    assert not (tmp_path / "run" / "model").exists()
    run(*tiny_run, "--set", "steps=2", "--no-finish")
    assert not (tmp_path / "run" / "model").exists()
    torch.save({"model": {"other": torch.zeros(2)}}, tmp_path / "run" / "base_prior.pt")  # of an earlier run
    log = run(*tiny_run, "--set", "steps=2", "--base-crops", 16, "--samples", 10, "--name", "mine")
    assert zoo.find(tmp_path / "run" / "model").id == "mine"
    assert f"model written to {tmp_path / 'run' / 'model'}" in log


def test_what_finishing_needs_is_looked_for_before_training(
    tiny_run: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run.remove("--no-finish")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main([str(x) for x in [*tiny_run, "--set", "steps=2"]]) == 2
    assert "training needs onnx: pip install 'vqcodec[train]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_durations_are_told_as_clocks_tell_them() -> None:
    from vqcodec.train.progress import duration

    assert [duration(s) for s in (0.4, 59.6, 3599, 3600, 36605)] == ["0:00", "1:00", "59:59", "1:00:00", "10:10:05"]


def test_two_processes_train_one_model(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """DistributedDataParallel under torchrun with gloo; the first process writes for TensorBoard, too."""
    pytest.importorskip("tensorboard")
    Image.fromarray(photo[:96, :144]).save(tmp_path / "a.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    options = ["-o", tmp_path / "run", "--device", "cpu", "--threads", 1, "--tensorboard", tmp_path / "board"]
    settings = [x for s in ("crop=64", "batch=2", "log_seconds=0", "steps=3") for x in ("--set", s)]
    command = [*launch, "-m", "vqcodec.train", tmp_path / "a.png", *options, *settings, *shape]
    command += ["--validation", tmp_path / "a.png", "--set", "eval_pictures=1"]
    command += ["--base-crops", 16, "--samples", 10, "--name", "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("joint step 3 ") == 1, "one process speaks"
    events = b"".join(path.read_bytes() for path in (tmp_path / "board").iterdir())
    assert b"crops/s" in events
    assert b"original, level 0.2, 0.6, base alone" in events
    assert (tmp_path / "run" / "last.pt").exists()
    assert done.stdout.count("finish 6/6: ") == 1, "one process finishes the model"
    assert zoo.find(tmp_path / "run" / "model").id == "two"


def test_mistakes_on_the_command_line_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    for arguments, text in (
        (["--phase", "x"], "invalid choice"),
        (["--set", "minutes"], "NAME=VALUE"),
        ([], "must end"),
        (["--unknown"], "--unknown"),
    ):
        assert main([str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), *arguments]) == 2
        said = capsys.readouterr().err
        assert text in said
        assert said.count("\n") == 1
