# SPDX-License-Identifier: MIT
"""Training end to end on a tiny model: steps, resume, finish, export, and a picture coded with the result."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr
from vqcodec.model import zoo

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from vqcodec.train.cli import main  # noqa: E402
from vqcodec.train.config import ModelConfig, TextureConfig, TrainConfig, override  # noqa: E402
from vqcodec.train.data import Pictures, linear_basis  # noqa: E402
from vqcodec.train.losses import gaussian_bits  # noqa: E402
from vqcodec.train.quantise import VectorQuantiser, nearest, scalar_quantise  # noqa: E402

TINY = [
    "latents=48", "chunks=8,40", "checkerboard=2,1", "analysis_width8=16", "analysis_width16=24", "synthesis_width8=16",
    "synthesis_width16=24", "analysis_blocks8=1", "analysis_blocks16=1", "synthesis_blocks8=1", "synthesis_blocks16=1",
    "prior_width=24", "prior_base_blocks=1", "codebook_size=64", "codebook_dim=8", "base_prior_width=16", "anchors=4",
]  # fmt: skip


def run(*arguments: object) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([str(x) for x in arguments]) == 0, said.getvalue()
    return said.getvalue()


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the pictures' statistics: 200,000 take seconds."""
    from vqcodec.train import data, loop

    monkeypatch.setattr(loop, "block_statistics", functools.partial(data.block_statistics, blocks=4000))


@pytest.mark.usefixtures("few_blocks")
def test_a_tiny_model_trains_resumes_exports_and_codes(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for k in range(3):
        Image.fromarray(photo[60 * k : 60 * k + 200, :300]).save(data / f"{k}.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    common = ["-o", out, "--threads", 2, "--set", "crop=64", "--set", "batch=2", "--set", "log_seconds=0"]
    log = run(data, *common, *shape, "--set", "steps=6", "--validation", data)
    assert "crops/s" in log
    assert "joint step 6 " in log
    assert "val level" in log
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
    for quality in (1, 50, 95):
        coded = vqcodec.encode(picture, quality, model=out / "model")
        back = np.asarray(vqcodec.decode(coded, model=out / "model"))
        assert back.shape == picture.shape
        assert psnr(picture, back) > {1: 12, 50: 20, 95: 25}[quality]
    with pytest.raises(vqcodec.ModelError):
        vqcodec.decode(coded)


@pytest.fixture
def tiny_run(photo: NDArray[np.uint8], tmp_path: Path, few_blocks: None) -> list[object]:
    """Data, output folder, shape and settings of a short run."""
    Image.fromarray(photo[:200, :300]).save(tmp_path / "a.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    settings = [x for s in ("crop=64", "batch=2", "log_seconds=0", "bf16=false") for x in ("--set", s)]
    return [tmp_path / "a.png", "-o", tmp_path / "run", "--threads", 1, "--device", "cpu", *shape, *settings]


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
    log = run(*tiny_run, *judged, "--set-model", "vector_dim=2")
    assert log.count("files are left out: they have no place for what this model codes") == 1
    monkeypatch.setitem(sys.modules, "constriction", None)
    log = run(*tiny_run, *judged)
    assert log.count("files are left out: constriction is not installed") == 1
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


def test_durations_are_told_as_clocks_tell_them() -> None:
    from vqcodec.train.progress import duration

    assert [duration(s) for s in (0.4, 59.6, 3599, 3600, 36605)] == ["0:00", "1:00", "59:59", "1:00:00", "10:10:05"]


def test_two_processes_train_one_model(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """DistributedDataParallel under torchrun with gloo; the first process writes for TensorBoard, too."""
    pytest.importorskip("tensorboard")
    Image.fromarray(photo[:200, :300]).save(tmp_path / "a.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    options = ["-o", tmp_path / "run", "--device", "cpu", "--threads", 1, "--tensorboard", tmp_path / "board"]
    settings = [x for s in ("crop=64", "batch=2", "log_seconds=0", "steps=3") for x in ("--set", s)]
    command = [*launch, "-m", "vqcodec.train", tmp_path / "a.png", *options, *settings, *shape]
    command += ["--validation", tmp_path / "a.png"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("joint step 3 ") == 1, "one process speaks"
    events = b"".join(path.read_bytes() for path in (tmp_path / "board").iterdir())
    assert b"crops/s" in events
    assert b"original, level 0.2, 0.6, base alone" in events
    assert (tmp_path / "run" / "last.pt").exists()


def test_mistakes_on_the_command_line_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    for arguments, text in (
        (["--phase", "x"], "invalid choice"),
        (["--set", "minutes"], "NAME=VALUE"),
        ([], "must end"),
    ):
        assert main([str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), *arguments]) == 2
        said = capsys.readouterr().err
        assert text in said
        assert said.count("\n") == 1


def test_the_budget_in_the_documentation_is_that_of_the_model() -> None:
    from vqcodec.train.budget import parts, table

    page = (Path(__file__).parent.parent / "docs" / "model.md").read_text(encoding="utf-8")
    assert table(ModelConfig(), TextureConfig()) in page, "python -m vqcodec.train.budget"
    decoder = [part for part in parts(ModelConfig()) if part.decoder]
    assert sum(part.kmac for part in decoder) < 30
    assert sum(part.parameters for part in parts(ModelConfig())) < 12e6


def test_tuning_the_synthesis_leaves_the_bitstream_alone(photo: NDArray[np.uint8]) -> None:
    """Only the parts that a phase names learn: names of parameters, checked against the model's own."""
    from vqcodec.train.loop import LEARNS
    from vqcodec.train.networks import Codec

    config = override(ModelConfig(), dict(setting.split("=") for setting in [*TINY, "base_learning=simvq"]))
    names = [name for name, _ in Codec(config).named_parameters()]
    for phase, parts in LEARNS.items():
        assert all(any(name.startswith(part) for name in names) for part in parts), phase
    assert not any(name.startswith(LEARNS["synthesis"]) for name in names if not name.startswith("synthesis"))


def test_exported_transforms_equal_the_trained_ones(tmp_path: Path) -> None:
    from vqcodec.model.transforms import Analysis, Synthesis
    from vqcodec.train.export import analysis_graph, synthesis_graph
    from vqcodec.train.networks import Codec

    torch.manual_seed(0)
    config = override(ModelConfig(), dict(setting.split("=") for setting in TINY))
    model = Codec(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        model.analysis.sigma.uniform_(0.5, 2)
        model.synthesis.sigma.copy_(model.analysis.sigma)
        model.synthesis.linear.weight.mul_(0.2)
    (tmp_path / "a.onnx").write_bytes(analysis_graph(model))
    (tmp_path / "s.onnx").write_bytes(synthesis_graph(model))
    assert analysis_graph(model) == analysis_graph(model)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    hat = np.array([0, 0.25, 0.75, 0])
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        y, z = model.analysis(x, torch.from_numpy(hat)[None].float())
        restored = model.synthesis(y, torch.tensor([[0, 0.25, 0.75, 0, 0]]))
    got_y, got_z = Analysis((tmp_path / "a.onnx").read_bytes())(picture, hat)
    np.testing.assert_allclose(got_y, y[0].permute(1, 2, 0), atol=0.02)
    np.testing.assert_allclose(got_z, z[0].permute(1, 2, 0), atol=0.05)
    got = Synthesis((tmp_path / "s.onnx").read_bytes())(y[0].permute(1, 2, 0).numpy(), np.append(hat, 0))
    want = (restored[0].permute(1, 2, 0).clamp(0, 1) * 255).round().numpy()
    assert np.abs(got - want).max() <= 1


def test_gaussian_bits_against_the_integral() -> None:
    from statistics import NormalDist

    for scale in (0.3, 1.0, 20.0):
        for t in (0.0, 0.4, -1.2, 3 * scale):
            normal = NormalDist(0, scale)
            p = normal.cdf(t + 0.5) - normal.cdf(t - 0.5)
            got = gaussian_bits(torch.tensor([t]), torch.tensor([np.log2(scale)]))
            assert float(got) == pytest.approx(-np.log2(p), rel=1e-3, abs=1e-4)
    far = gaussian_bits(torch.tensor([30.0, 60.0]), torch.tensor([-2.0, -2.0]))
    assert 100 < far[0] < far[1]


def test_scalar_quantiser_values_and_gradients() -> None:
    y = torch.tensor([[0.2, 0.9, -2.6]], requires_grad=True)
    mean, step = torch.tensor([[0.1, 0.1, 0.1]]), torch.tensor([[0.5]], requires_grad=True)
    value, noisy, index = scalar_quantise(y, mean, step)
    assert index.tolist() == [[0, 2, -5]]
    torch.testing.assert_close(value, mean + 0.5 * index)
    assert (noisy - (y - mean) / step).abs().max() <= 0.5
    value.sum().backward()
    assert y.grad is not None
    torch.testing.assert_close(y.grad, torch.ones_like(y))
    assert step.grad is not None
    error = (index - (y - mean) / step).sum()
    torch.testing.assert_close(step.grad, error.detach().reshape(1, 1))


def test_vector_quantiser_learns_clusters_and_restarts_dead_words() -> None:
    torch.manual_seed(0)
    centres = torch.randn(8, 4) * 3
    quantiser = VectorQuantiser(16, 4, decay=0.9)
    quantiser.start(centres[torch.randint(8, (400,))] + 0.05 * torch.randn(400, 4))
    quantiser.codebook[8:] = 100.0
    quantiser.sums.copy_(quantiser.codebook * quantiser.counts[:, None])
    for _ in range(500):
        z = (centres[torch.randint(8, (64,))] + 0.05 * torch.randn(64, 4)).view(1, 8, 8, 4).permute(0, 3, 1, 2)
        code, index, _, _ = quantiser(z)
    assert float((code - z).square().mean()) < 0.01
    assert int((quantiser.codebook.abs().max(1).values < 50).sum()) == 16, "dead codewords were not restarted"
    torch.testing.assert_close(quantiser.codebook[index[0, 0, 0]], code[0, :, 0, 0])
    assert nearest(quantiser.codebook, quantiser.codebook).tolist() == list(range(16))


def test_linear_basis_is_orthonormal_and_sorted() -> None:
    x = torch.randn(4000, 768, dtype=torch.float64).cumsum(1)
    covariance = x.T @ x / len(x)
    for frontend in ("klt", "dct"):
        basis, sigma, _ = linear_basis(frontend, 768, covariance, torch.zeros(768, dtype=torch.float64))
        torch.testing.assert_close(basis @ basis.T, torch.eye(768), atol=1e-4, rtol=0)
        assert (sigma[1:] <= sigma[:-1] + 1e-4).all()


def test_crops_are_pieces_of_the_picture() -> None:
    """On a picture whose red is the column and whose green is the row, every crop says where it was cut and how."""
    rows, columns = np.mgrid[0:240, 0:250]
    picture = np.stack([columns, rows, np.zeros_like(rows)], 2).astype(np.uint8)
    pictures = Pictures(torch.from_numpy(picture.reshape(-1)), np.array([[240, 250]]), torch.device("cpu"))
    crops = pictures.crops(np.random.default_rng(0), 64, 64) * 255
    scales, turned = [], 0
    for crop in crops:
        red, green = crop[0], crop[1]
        along_x, along_y = red[5, 6] - red[5, 5], red[6, 5] - red[5, 5]
        turned += bool(abs(along_y) > abs(along_x))
        scale = float(max(abs(along_x), abs(along_y)))
        scales.append(scale)
        for plane in (red, green):  # straight lines throughout: no seam, no clamping but at the very edge
            assert (plane.diff(dim=0).diff(dim=0)[2:-2].abs() < 0.02).all()
            assert (plane.diff(dim=1).diff(dim=1)[:, 2:-2].abs() < 0.02).all()
        if abs(scale - 1) < 1e-3:
            torch.testing.assert_close(crop, crop.round(), atol=1e-3, rtol=0)
    assert 0.99 < min(scales) < 1.001
    assert 1.5 < max(scales) < 2.01
    assert 15 < turned < 49
    with pytest.raises(vqcodec.InputError, match="smaller than the crop"):
        pictures.crops(np.random.default_rng(0), 1, 256)


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(vqcodec.UsageError, match="known are"):
        override(TrainConfig(), {"stepz": "3"})
    with pytest.raises(vqcodec.UsageError, match="int"):
        override(TrainConfig(), {"steps": "many"})
    with pytest.raises(vqcodec.UsageError, match="add up"):
        override(ModelConfig(), {"latents": "100"})


def test_the_card_names_what_it_ships() -> None:
    files = zoo.find()
    for name in zoo.FILES:
        assert len(files.verified(name)) == files.card["files"][name]["bytes"]
    assert sum(entry["bytes"] for entry in files.card["files"].values()) < 25e6


def test_tuning_takes_the_encoders_choice() -> None:
    """Of the nearest index and the next one towards zero the one that costs less; a dear error leaves the nearest."""
    generator = torch.Generator().manual_seed(5)
    t = 3 * torch.randn(4, 6, 9, 9, generator=generator)
    log2_scale = 2 * torch.rand(t.shape, generator=generator) - 1
    zero, step = torch.zeros(()), torch.ones(4, 6, 1, 1)

    def chosen(weight: float) -> torch.Tensor:
        return scalar_quantise(t, zero, step, False, weight * step, log2_scale)[2]

    nearest, index = t.round(), chosen(4.0)
    below = nearest - nearest.sign()

    def cost(k: torch.Tensor) -> torch.Tensor:
        return gaussian_bits(k, log2_scale) + 4.0 * (t - k).square()

    assert torch.equal(index, torch.where(cost(below) < cost(nearest), below, nearest))
    moved = (index != nearest).float().mean()
    assert 0.02 < moved < 0.5
    assert torch.equal(chosen(1e6), nearest)
    assert (chosen(0.5) != nearest).float().mean() > moved
