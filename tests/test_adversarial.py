# SPDX-License-Identifier: MIT
"""Training of the realistic decoder: what its losses see, its export, and the whole way on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.train.conftest import TINY, quicken, run

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch.nn.functional as F  # noqa: E402

from vqcodec.bitstream.tiles import Rect  # noqa: E402
from vqcodec.model.noise import noise  # noqa: E402
from vqcodec.model.transforms import RealisticSynthesis, Synthesis  # noqa: E402
from vqcodec.train.attach import texture_graph  # noqa: E402
from vqcodec.train.cli import main  # noqa: E402
from vqcodec.train.codec import Codec  # noqa: E402
from vqcodec.train.config import ModelConfig, RealismConfig, TextureConfig, override  # noqa: E402
from vqcodec.train.discriminator import Discriminator, judge_loss  # noqa: E402
from vqcodec.train.export import synthesis_graph  # noqa: E402
from vqcodec.train.perception import ms_ssim, wasserstein_distortion  # noqa: E402
from vqcodec.train.texture import Texture, halo  # noqa: E402

SMALL = ["width16=16", "width8=16", "width4=16", "blocks16=1", "blocks8=1", "blocks4=1", "noise_filters=4"]


@pytest.fixture(scope="module")
def x(photo: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(photo[64:192, 64:192].copy()).permute(2, 0, 1)[None].float() / 255


def blurred(x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)
    return x


def test_wasserstein_distortion_forgives_other_texture_and_not_its_loss(x: torch.Tensor) -> None:
    torch.manual_seed(1)
    grainy = x + 0.05 * torch.randn_like(x)
    again = x + 0.05 * torch.randn_like(x)  # the same look, other details
    assert float(wasserstein_distortion(x, x)) == 0
    distances = [float(wasserstein_distortion(p, grainy)) for p in (again, x, blurred(x, 1), blurred(x, 4))]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[1]
    assert float((again - grainy).square().mean()) > float((x - grainy).square().mean()), "squared error says otherwise"


def test_structural_similarity_falls_with_blur(x: torch.Tensor) -> None:
    values = [float(ms_ssim(blurred(x, times), x)) for times in (0, 1, 3)]
    assert values[0] == pytest.approx(1, abs=1e-5)
    assert values[0] > values[1] > values[2]


def tiny_parts() -> tuple[Codec, Texture]:
    torch.manual_seed(2)
    codec = Codec(override(ModelConfig(), dict(s.split("=") for s in TINY)))
    texture = Texture(codec.config, override(TextureConfig(), dict(s.split("=") for s in SMALL)))
    for name, parameter in texture.named_parameters():
        if "strength" in name or "table" in name:  # which start at zero
            torch.nn.init.normal_(parameter, std=0.3)
    return codec.eval(), texture.eval()


def test_the_exported_graph_is_the_network() -> None:
    codec, texture = tiny_parts()
    rng = np.random.default_rng(3)
    latents, hat = rng.normal(size=(4, 6, 48)).astype(np.float32), np.array([0, 0, 0, 0, 0, 0.3, 0.7, 0, 0.0])
    window, realism = Rect(160, 32, 160 + 96, 32 + 64), 0.7
    graphs = texture_graph(codec, texture), synthesis_graph(codec)
    got = RealisticSynthesis(graphs[0], Synthesis(graphs[1]))(latents, hat, realism, window)
    with torch.no_grad():
        y, h = torch.from_numpy(latents).permute(2, 0, 1)[None], torch.from_numpy(hat).float()[None]
        grain = torch.from_numpy(noise(window))[None, None]
        want = texture(y, codec.synthesis(y, h), h, torch.tensor([[realism]]), grain)[0].permute(1, 2, 0)
    want = (want * 255).round().clamp(0, 255).numpy()
    assert np.abs(want - got).max() <= 2  # weights are float16 on disk
    scaled = RealisticSynthesis(texture_graph(codec, texture, 0.5), Synthesis(graphs[1]))
    assert np.abs(scaled(latents, hat, realism, window).astype(int) - got).max() > 2
    assert np.abs(scaled(latents, hat, 1.4, window).astype(int) - got).max() <= 1  # 0.5 of 1.4 is 0.7 again
    faithful = Synthesis(graphs[1])(latents, hat, window)
    assert np.abs(faithful - want).mean() > 1, "or there was nothing to compare"


def test_the_halo_is_wide_enough_for_what_the_network_sees() -> None:
    codec, texture = tiny_parts()
    reach = halo(texture.config, 2)
    rng = np.random.default_rng(4)
    n = 2 * reach + 1
    y = torch.from_numpy(rng.normal(size=(1, 48, n + 4, n + 4)).astype(np.float32))
    hat = torch.tensor([[0.0, 1, 0, 0, 0, 0, 0, 0, 0]])
    grain = torch.from_numpy(noise(Rect(0, 0, 16 * (n + 4), 16 * (n + 4))))
    grain, one = grain[None, None], torch.ones(1, 1)
    with torch.no_grad():
        whole = texture(y, codec.synthesis(y, hat), hat, one, grain)
        part, side = y[:, :, 2 : 2 + n, 2 : 2 + n], slice(32, 32 + 16 * n)
        cut = texture(part, codec.synthesis(part, hat), hat, one, grain[:, :, side, side])
    middle = slice(16 * reach, 16 * reach + 16)
    inside = whole[:, :, side, side][:, :, middle, middle]
    assert float((cut[:, :, middle, middle] - inside).abs().max()) < 1e-5


def test_the_discriminator_learns_to_tell() -> None:
    torch.manual_seed(5)
    codec, _ = tiny_parts()
    judge = Discriminator(codec.config, 8)
    optimiser = torch.optim.Adam(judge.parameters(), lr=5e-3, betas=(0.5, 0.9))
    y = torch.randn(4, 48, 4, 4)
    for _ in range(60):
        real, fake = torch.rand(4, 3, 64, 64), blurred(torch.rand(4, 3, 64, 64), 1)
        loss = judge_loss(judge(real, y)[0], judge(fake, y)[0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1
    assert judge(real, y)[0].shape == (4, 1, 8, 8)


def test_a_tiny_model_gets_a_realistic_decoder(
    photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(monkeypatch)
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for k in range(2):
        Image.fromarray(photo[60 * k : 60 * k + 96, :144]).save(data / f"{k}.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    common = ["--no-finish", "--threads", 1, "--set", "crop=64", "--set", "batch=2", "--set", "log_seconds=0"]
    run(data, "-o", out, *common, *shape, "--set", "steps=3")
    finish = ["--phase", "finish", "--base-minutes", "0.01", "--base-crops", 32, "--samples", 10]
    run(data, "-o", out, *common, "--resume", out / "last.pt", *finish)
    coded = vqcodec.encode(photo[:120, :150], 30, model=out / "model")
    before = {path.name: path.read_bytes() for path in (out / "model").iterdir()}

    realistic = [data, "-o", out, *common, "--resume", out / "last.pt", "--phase", "realistic"]
    realistic += [x for setting in SMALL for x in ("--set-model", setting)]
    log = run(*realistic, "--set", "steps=6", "--set", "alone=0.5", "--validation", data / "0.png")
    assert "realistic step 6 " in log
    assert "judge" in log
    assert "val level -1.00 realism 1.0" in log
    log = run(*realistic, "--set", "steps=8", "--set", "alone=0.5", "--into", out / "model")
    assert "realistic step 7 " in log
    assert "realistic step 6 " not in log
    after = {path.name: path.read_bytes() for path in (out / "model").iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"realistic.onnx", "model.json"}
    faithful, made = (np.asarray(vqcodec.decode(coded, realism=r, model=out / "model")) for r in (0.0, 1.0))
    assert made.shape == faithful.shape
    assert not np.array_equal(made, faithful)

    run(data, "-o", tmp_path / "other", *common, *shape, "--set", "steps=1", "--set", "seed=7")
    other = [str(x) for x in [*realistic, "--set", "steps=9"]]
    other[other.index("--resume") + 1] = str(tmp_path / "other" / "last.pt")
    assert main(other) == 3
    assert "another codec" in capsys.readouterr().err
    assert main([*(str(x) for x in realistic), "--set-model", "width16=24", "--set", "steps=9"]) == 3
    assert "another shape" in capsys.readouterr().err
    (out / "realistic.pt").write_bytes(b"garbage")
    assert main([*(str(x) for x in realistic), "--set", "steps=9"]) == 3
    assert "not a checkpoint" in capsys.readouterr().err
    (out / "realistic.pt").unlink()
    assert main([*other, "--into", str(out / "model")]) == 3
    assert "not made from this checkpoint" in capsys.readouterr().err


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--phase", "realistic"]
    assert main(arguments) == 2
    assert "needs --resume" in capsys.readouterr().err
    assert main([*arguments, "--set", "perceptual=vgg"]) == 2
    assert "perceptual" in capsys.readouterr().err
    with pytest.raises(vqcodec.UsageError):
        RealismConfig(perceptual="inception")
