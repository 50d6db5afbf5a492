# SPDX-License-Identifier: MIT
"""The denoiser in torch and at run time: the same function, exact without noise, and tiles without seams."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr
from tests.train.conftest import SMALL, TINY, run
from vqcodec.cli.main import _terminate, main
from vqcodec.codec import denoise as work
from vqcodec.codec.repair import repair
from vqcodec.model.denoiser import Denoiser as RunTime
from vqcodec.pictures import read
from vqcodec.train import denoiser, denoising
from vqcodec.train.config import DenoiserConfig, NoiseConfig
from vqcodec.train.denoiser import Denoiser, conditions, factors, objective

U8 = NDArray[np.uint8]


def batch(side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, side, side, generator=generator), torch.randn(2, 3, side, side, generator=generator)


# ---- the function ----------------------------------------------------------------------------------------------------


def test_the_budget() -> None:
    assert denoiser.operations(DenoiserConfig()) <= 40_000


def test_variance_is_1_at_every_noise_level() -> None:
    """Of the network's input and of its target, for pictures of the deviation that is assumed."""
    clean, noise = torch.randn(2, 1, 200_000, generator=torch.Generator().manual_seed(2))
    clean = denoiser.SIGMA_DATA * clean
    for level in (0.004, 0.03, 0.2, 1.0):
        f = factors(torch.tensor(level))
        noisy = clean + level * noise
        assert float((f.enter * noisy).var()) == pytest.approx(1, abs=0.02)
        assert float(((clean - f.skip * noisy) / f.out).var()) == pytest.approx(1, abs=0.02)


def test_without_noise_nothing_changes(network: Denoiser) -> None:
    x, noise = batch()
    sigma = torch.zeros(2, 1, 48, 48)
    torch.testing.assert_close(network(x, sigma, conditions(None, x)), x, atol=1e-6, rtol=0)
    sigma[:, :, 10:20] = 0.3
    out = network(x + sigma * noise, sigma, conditions(None, x))
    torch.testing.assert_close(out[:, :, :10], x[:, :, :10], atol=1e-6, rtol=0)
    assert float((out.detach()[:, :, 10:20] - x[:, :, 10:20]).abs().mean()) > 0.01


def test_the_objective() -> None:
    """1 for a network that knows nothing; the squared error of its pictures over c_out squared; holes alone count."""
    network = Denoiser(SMALL)
    x, noise = batch()
    clean = 0.5 + denoiser.SIGMA_DATA * noise
    sigma = torch.full((2, 1, 48, 48), 0.2)
    more = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    noisy = clean + sigma * more
    assert float(objective(network, clean, noisy, sigma, conditions(None, x)).mean().detach()) == pytest.approx(
        1, abs=0.05
    )
    error = (network(noisy, sigma, conditions(None, x)) - clean).square().mean((1, 2, 3))
    scaled = error / factors(torch.tensor(0.2)).out.square()
    torch.testing.assert_close(objective(network, clean, noisy, sigma, conditions(None, x)), scaled)
    holes = sigma.clone()
    holes[:, :, :, 24:] = 0
    before = objective(network, clean, clean + holes * more, holes, conditions(None, x))
    other = clean.clone()
    assert torch.isfinite(before).all()
    assert not torch.allclose(before, scaled)
    assert torch.isfinite(objective(network, other, other, torch.zeros_like(sigma), conditions(None, x))).all()


@pytest.mark.parametrize("given", [True, False])
def test_the_graph_is_the_network(network: Denoiser, given: bool) -> None:
    x, noise = batch(40)
    sigma = 0.3 * torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(5))
    sigma[:, :, :7] = 0
    picture = x.clamp(0.1, 0.9) if given else None
    with torch.no_grad():
        expected = network(x + sigma * noise, sigma, conditions(picture, x))
    run_time = RunTime(denoiser.denoiser_graph(network), 1)
    noisy = (x + sigma * noise)[0].permute(1, 2, 0).numpy()
    condition = None if picture is None else picture[0].permute(1, 2, 0).numpy()
    found = run_time(noisy, sigma[0, 0].numpy(), condition)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=2e-4)
    np.testing.assert_allclose(found[:7], noisy[:7], atol=1e-6)


def test_the_halo_is_as_far_as_the_network_looks(network: Denoiser) -> None:
    """A change outside of it changes nothing; one just inside the network's reach does."""
    side, halo = 160, denoiser.halo(SMALL)
    x, _ = batch(side)
    sigma = torch.full((2, 1, side, side), 0.2)
    middle = side // 2
    with torch.no_grad():
        before = network(x, sigma, conditions(None, x))[:, :, middle, middle]
        far = x.clone()
        far[:, :, :, : middle - halo + 1] = 1 - far[:, :, :, : middle - halo + 1]
        near = x.clone()
        near[:, :, :, : middle - 3] = 1 - near[:, :, :, : middle - 3]
        assert torch.equal(network(far, sigma, conditions(None, x))[:, :, middle, middle], before)
        assert not torch.equal(network(near, sigma, conditions(None, x))[:, :, middle, middle], before)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_tiles_have_no_seams(model: Path, photo: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = read.load(photo[:203, :301])
    whole = work.denoise(picture, 20, model=model, threads=1).rgb
    monkeypatch.setattr(work, "TILE_SIDE", 64)
    for threads in (1, 2):
        tiled = work.denoise(picture, 20, model=model, threads=threads).rgb
        assert np.abs(tiled.astype(int) - whole).max() <= 1
        assert (tiled != whole).mean() < 1e-3


def test_repair_changes_the_mask_alone(model: Path, photo: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = read.load(photo[:150, :170])
    mask = np.zeros((150, 170), bool)
    mask[40:44, 20:150] = True
    found = [repair(picture, mask, steps=3, seed=seed, model=model).rgb for seed in (1, 1, 2)]
    assert np.array_equal(found[0][~mask], picture.rgb[~mask])
    assert (found[0][mask] != picture.rgb[mask]).mean() > 0.5
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    monkeypatch.setattr(work, "TILE_SIDE", 64)
    tiled = repair(picture, mask, steps=3, seed=1, model=model, threads=2).rgb
    assert np.abs(tiled.astype(int) - found[0]).max() <= 1
    assert np.array_equal(repair(picture, mask & False, model=model).rgb, picture.rgb)
    with pytest.raises(vqcodec.UsageError, match="one size"):
        repair(picture, mask[:-1], model=model)
    with pytest.raises(vqcodec.UsageError, match="steps"):
        repair(picture, mask, steps=9, model=model)


# ---- training --------------------------------------------------------------------------------------------------------


def test_holes() -> None:
    found = denoising.holes(np.random.default_rng(1), 40, 64)
    assert set(np.unique(found)) == {0.0, 1.0}
    part = found.mean((1, 2))
    assert (part > 0).all()
    assert 0.01 < part.mean() < 0.4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_loses_no_step(
    photo: U8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, number: int, code: int
) -> None:
    Image.fromarray(photo[:96, :96]).save(tmp_path / "a.png")
    settings = ["batch=1", "crop=16", "log_seconds=0", "decode=0", "minutes=9"]
    shape = ["width2=8", "width4=8", "width8=8", "blocks2=1", "blocks4=1", "blocks8=1"]
    command = ["train", str(tmp_path / "a.png"), "-o", str(tmp_path / "run"), "--phase", "denoiser", "--threads", "1"]
    command += [x for s in shape for x in ("--set-model", s)] + [x for s in settings for x in ("--set", s)]
    update = denoising.DenoiserTrainer.one_step

    def stopped(self: denoising.DenoiserTrainer, *arguments: Any) -> Any:
        if self.step == 2:
            signal.raise_signal(number)
        return update(self, *arguments)

    before = signal.signal(signal.SIGTERM, _terminate)  # as in a process of its own
    monkeypatch.setattr(denoising.DenoiserTrainer, "one_step", stopped)
    try:
        with pytest.raises(SystemExit) as ended:
            sys.exit(main(command))
        assert ended.value.code == code
        assert "stopped at step 3: " in capsys.readouterr().out
        monkeypatch.undo()
        assert main([*command, "--set", "steps=5"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().out
    assert "step 4 " in said
    assert "step 3 " not in said


def test_training_resumes_and_joins_a_model(photo: U8, tmp_path: Path, model: Path) -> None:
    """Noise alone needs no codec. The loss falls, and a phase that is over goes on where it ended."""
    Image.fromarray(photo[:200, :300]).save(tmp_path / "a.png")
    shape = ["width2=8", "width4=12", "width8=16", "blocks2=1", "blocks4=1", "blocks8=1"]
    settings = [
        "batch=4",
        "crop=48",
        "log_seconds=0",
        "warmup=5",
        "decode=0",
        "repair=0",
        "gray=0",
        "sigma_high=0.2",
        "bf16=false",
        "ema=0.9",
        "eval_pictures=1",
        "sigma_low=0.1",
        "learning_rate=1e-2",
    ]
    common = [tmp_path / "a.png", "-o", tmp_path / "run", "--phase", "denoiser", "--threads", 1, "--device", "cpu"]
    common += [x for s in shape for x in ("--set-model", s)] + [x for s in settings for x in ("--set", s)]
    log = run(*common, "--set", "steps=60", "--validation", tmp_path / "a.png")
    losses = [float(line.split(" loss ")[1].split()[0]) for line in log.splitlines() if " loss " in line]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:3])
    judged = [line.split() for line in log.splitlines() if "val sigma" in line]
    assert [line[3] for line in judged] == ["15:", "25:", "50:"]
    assert all(float(line[6]) > float(line[4]) + gain for line, gain in zip(judged, (-0.5, 0.7, 2), strict=True))
    log = run(*common, "--set", "steps=63", "--into", model)
    assert "denoiser step 61 " in log
    assert "denoiser step 60 " not in log
    assert f"the denoiser joined the model in {model}" in log
    noisy = photo[:128, :128] + 40 * np.random.default_rng(1).normal(size=(128, 128, 3))
    noisy = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    clean = work.denoise(read.load(noisy), 40, model=model).rgb
    assert psnr(clean, photo[:128, :128]) > psnr(noisy, photo[:128, :128]) + 1
    assert main(["train", *map(str, common), "--set", "steps=64", "--set-model", "width2=9"]) == 3


@pytest.mark.usefixtures("quick_start")
def test_decoded_pictures_are_a_condition(photo: U8, tmp_path: Path) -> None:
    Image.fromarray(photo[:200, :300]).save(tmp_path / "a.png")
    data = [tmp_path / "a.png", "-o", tmp_path / "run", "--threads", 1, "--device", "cpu"]
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    run(*data, "--no-finish", *shape, "--set", "steps=2", "--set", "batch=2", "--set", "crop=64")
    small = ["--set-model", "width2=8", "--set-model", "width8=16", "--set", "steps=2", "--set", "crop=48"]
    log = run(*data, "--phase", "denoiser", "--resume", tmp_path / "run/last.pt", *small, "--set", "log_seconds=0")
    assert "denoiser step 2 " in log


def test_batches(photo: U8) -> None:
    from vqcodec.train.data import Pictures

    flat = torch.from_numpy(photo[:100, :120].copy().reshape(-1))
    pictures = Pictures(flat, np.array([[100, 120]]), torch.device("cpu"))
    config = NoiseConfig(steps=1, batch=400, crop=16, decode=0, repair=0.5)
    trainer = denoising.DenoiserTrainer(None, pictures, None, SMALL, config, Path(), torch.device("cpu"))
    clean, noisy, sigma, condition = trainer.batch(np.random.default_rng(2))
    assert not condition.any()
    with_holes = sigma.amin((1, 2, 3)) == 0
    assert 0.4 < with_holes.float().mean() < 0.6
    stored = 255 * noisy[~with_holes]  # as a file of 8 bits has it
    assert torch.equal(stored.round().clamp(0, 255), stored.round())
    assert (stored - stored.round()).abs().max() < 1e-3
    assert float(sigma[~with_holes].max()) <= config.sigma_high
    gray = (noisy[~with_holes, :1] == noisy[~with_holes]).all((1, 2, 3))
    assert 0.08 < gray.float().mean() < 0.25
    assert torch.equal(clean[~with_holes][gray, :1].expand(-1, 3, -1, -1), clean[~with_holes][gray])
    calm = (sigma[~with_holes] < 0.02).all(3).all(2).all(1) & (clean[~with_holes] > 0.1).all(3).all(2).all(1)
    scaled = ((noisy - clean) / sigma.clamp(min=1e-9))[~with_holes][calm]
    assert float(scaled.var()) == pytest.approx(1, abs=0.1)
    holes = sigma.expand_as(noisy) > 0
    assert torch.equal(noisy[with_holes][~holes[with_holes]], clean[with_holes][~holes[with_holes]])
    blank = with_holes & (sigma.amax((1, 2, 3)) == 1)
    assert 0.3 < float(blank.sum() / with_holes.sum()) < 0.7
    nothing = noisy[blank][holes[blank]] - 0.5
    assert float(nothing.mean()) == pytest.approx(0, abs=0.03), "nothing of the picture"
    assert float(nothing.var()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--set", "decode=0"], "must end"),
        (["--set", "steps=1"], "--resume"),
        (["--set", "steps=1", "--set", "decode=0.9", "--set", "repair=0.3"], "parts of the samples"),
        (["--set", "steps=1", "--set", "sigma_low=0.5"], "sigma_low"),
        (["--set", "steps=1", "--set", "crop=50"], "multiple of 16"),
    ],
)
def test_mistakes_in_training(
    photo: U8, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: str
) -> None:
    Image.fromarray(photo[:100, :100]).save(tmp_path / "a.png")
    arguments = ["train", str(tmp_path / "a.png"), "-o", str(tmp_path / "run"), "--phase", "denoiser", *settings]
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: U8) -> Path:
    monkeypatch.chdir(tmp_path)
    noisy = photo[:100, :120] + 15 * np.random.default_rng(1).normal(size=(100, 120, 3))
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save("a.png")
    mask = np.zeros((100, 120), np.uint8)
    mask[50:53] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(photo[:100, :120, 0]).save("gray.png")
    return tmp_path


@pytest.mark.usefixtures("model")
def test_the_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["denoise", "a.png", "b.png", "--model", "model"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("vqcodec: note: a.png: noise of 1")
    assert told.count("\n") == 1
    assert main(["denoise", "gray.png", "g.webp", "--sigma", "25", "--model", "model"]) == 0
    assert "noise of 25.0 levels" in capsys.readouterr().err
    assert main(["denoise", "a.png", "same.png", "--sigma", "0", "--model", "model"]) == 0
    assert "left as it was" in capsys.readouterr().err
    assert np.array_equal(np.asarray(Image.open("same.png")), np.asarray(Image.open("a.png")))
    assert main(["repair", "a.png", "r.png", "--mask", "mask.png", "--model", "model"]) == 0
    before, after = (np.asarray(Image.open(name)).astype(int) for name in ("a.png", "r.png"))
    changed = np.abs(after - before).any(2)
    assert changed[50:53].mean() > 0.5
    assert not changed[:50].any()
    assert not changed[53:].any()


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (5, "no denoiser", ["denoise", "a.png", "x.png", "--model", "bare"]),
        (5, "no denoiser", ["repair", "a.png", "x.png", "--mask", "mask.png", "--model", "bare"]),
        (2, "--sigma", ["denoise", "a.png", "x.png", "--sigma", "much", "--model", "model"]),
        (2, "0 to 100", ["denoise", "a.png", "x.png", "--sigma", "101", "--model", "model"]),
        (2, "0 to 100", ["denoise", "a.png", "x.png", "--sigma", "nan", "--model", "model"]),
        (2, "suffix", ["denoise", "a.png", "x", "--model", "model"]),
        (2, "both", ["repair", "-", "x.png", "--mask", "-", "--model", "model"]),
        (2, "--mask", ["repair", "a.png", "x.png", "--model", "model"]),
        (2, "one size", ["repair", "a.png", "x.png", "--mask", "tiny.png", "--model", "model"]),
        (3, "nowhere", ["denoise", "nowhere.png", "x.png", "--model", "model"]),
        (6, "gray.png", ["denoise", "a.png", "gray.png", "--model", "model"]),
    ],
)
def test_mistakes(here: Path, capsys: pytest.CaptureFixture[str], code: int, words: str, arguments: list[str]) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("tiny.png")
    shutil.copytree("model", "bare")
    card = json.loads(Path("bare/model.json").read_text())
    del card["files"]["denoiser.onnx"], card["denoiser_halo"]
    Path("bare/model.json").write_text(json.dumps(card))
    assert main(arguments) == code
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1
    assert not Path("x.png").exists()
