# SPDX-License-Identifier: MIT
"""The bake-off as a user runs it: tiny, in pieces, stopped and started again, and its report."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")

from vqcodec.train import bakeoff  # noqa: E402
from vqcodec.train.bakeoff import VARIANTS, count_indices, main, order0_bits, read_results, settings_of  # noqa: E402
from vqcodec.train.config import ModelConfig, override  # noqa: E402
from vqcodec.train.data import block_statistics, load_pictures  # noqa: E402
from vqcodec.train.loop import EVAL_LEVELS, new_model  # noqa: E402

TINY = [
    "latents=24", "chunks=8,16", "analysis_width8=8", "analysis_width16=8", "synthesis_width8=8", "synthesis_width16=8",
    "analysis_blocks8=1", "analysis_blocks16=1", "synthesis_blocks8=1", "synthesis_blocks16=1", "prior_width=8",
    "prior_base_blocks=1", "codebook_size=32", "codebook_dim=4", "base_prior_width=8", "anchors=3", "base_scalars=4",
]  # fmt: skip
LEVELS = len(EVAL_LEVELS)
FEW = 4000  # blocks for the pictures' statistics, of which 200,000 take seconds


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And one thread: tensors are small, and threads would wait for each other longer than they work."""
    monkeypatch.setattr(bakeoff, "block_statistics", functools.partial(block_statistics, blocks=FEW))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny() -> ModelConfig:
    return override(ModelConfig(), dict(setting.split("=") for setting in TINY))


@pytest.fixture
def data(photo: NDArray[np.uint8], tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(photo[60 * k : 60 * k + 100, :150]).save(folder / f"{k}.png")
    return folder


def options(data: Path, out: Path, *more: str) -> list[str]:
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    settings = [x for s in ("crop=64", "batch=2", "bf16=false") for x in ("--set", s)]
    common = ["--device", "cpu", "--validation", str(data / "0.png"), "--count-crops", "20"]
    return [str(data), "-o", str(out), *common, *shape, *settings, *more]


@pytest.fixture
def small_codebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variants with large codebooks, small: what is tested is the way, not the size."""
    for name, settings in VARIANTS.items():
        if not callable(settings) and settings.get("codebook_size", 0) > 32:
            monkeypatch.setitem(VARIANTS, name, {**settings, "codebook_size": settings["codebook_size"] // 64})


@pytest.mark.usefixtures("small_codebooks")
def test_every_variant_end_to_end(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(options(data, out, "--steps", "2")) == 0
    said = capsys.readouterr().out
    results = read_results(out)
    assert list(results) == list(VARIANTS)
    for name, line in results.items():
        assert line["steps"] == 2
        assert line["crops_per_second"] > 0
        assert [row["level"] for row in line["rows"]] == list(EVAL_LEVELS)
        for row in line["rows"]:
            assert row["bpp"] == pytest.approx(row["base_bpp"] + row["refinement_bpp"])
            assert row["base_bpp"] > 0
            assert 5 < row["psnr"] < 60
        assert line["rows"][-1]["refinement_bpp"] > line["rows"][0]["refinement_bpp"]
        stages = line["codebook"]
        assert (stages is None) == (name == "scalar-base")
        for stage in stages or []:
            assert 1 <= stage["perplexity"] <= stage["used"] <= stage["size"]
            assert math.log2(stage["perplexity"]) <= stage["bits_per_index"] + 1e-9  # what is spent, and its bound
        assert f"\n{name}" in said
    assert len(results["2x256"]["codebook"]) == 2
    for name in set(results) - {"default", "refine-z", "rotation"}:  # which differs in training alone
        other = "refine-z" if name.startswith("refine-") and name != "refine-choice" else "default"
        same = all(results[name][key] == results[other][key] for key in ("rows", "parameters"))
        assert not same, f"{name} is {other} under another name"
    for name in ("scalar-base", "no-shortcut", "no-gains", "wide-prior", "2-steps", "12-steps", "refine-vq2"):
        assert results[name]["parameters"] != results["default"]["parameters"], name
    cost = {name: sum(line["kmac"].values()) for name, line in results.items()}
    assert cost["1-step"] < cost["2-steps"] < cost["default"] < cost["12-steps"]
    assert cost["no-shortcut"] < cost["default"] < min(cost["wide-analysis"], cost["deep-synthesis"])


def test_a_stopped_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = options(data, out, "--steps", "3", "--only", "default,refine-d4")
    measured = bakeoff.measure

    def stopped(run: bakeoff.Run, name: str) -> dict[str, object]:
        if name == "refine-d4":
            raise KeyboardInterrupt
        return measured(run, name)

    monkeypatch.setattr(bakeoff, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    first = read_results(out)["default"]
    with (out / bakeoff.RESULTS).open("a") as file:
        file.write('{"name": "refine-d4", "steps": 3, "ro')  # the power went in the middle of a line
    monkeypatch.setattr(bakeoff, "measure", measured)
    capsys.readouterr()
    assert main(command) == 0
    assert "default: done already" in capsys.readouterr().out
    results = read_results(out)
    assert results["default"] == first
    assert list(results) == ["default", "refine-d4"]
    assert main(options(data, out, "--steps", "4", "--only", "default")) == 2
    assert "other settings (train)" in capsys.readouterr().err
    assert main(options(data, out, "--minutes", "1", "--only", "default")) == 0  # the folder knows its steps
    assert len((out / bakeoff.RESULTS).read_text().splitlines()) == 2


def test_a_variant_goes_on_in_its_middle(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint is taken up; one variant that fails does not stop the others."""
    out = tmp_path / "out"
    command = options(data, out, "--steps", "6", "--only", "default,k256", "--set", "save_minutes=0")
    real = bakeoff.Trainer.one_step

    def out_of_memory(self: bakeoff.Trainer, *arguments: object) -> object:
        if self.step == 4 and self.codec.config.codebook_size == 32:
            raise RuntimeError("CUDA out of memory\nmore lines")
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bakeoff.Trainer, "one_step", out_of_memory)
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.err == "vqcodec: default failed: CUDA out of memory\n"
    assert list(read_results(out)) == ["k256"]
    steps: list[int] = []

    def counted(self: bakeoff.Trainer, *arguments: object) -> object:
        steps.append(self.step)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bakeoff.Trainer, "one_step", counted)
    assert main(command) == 0
    assert steps == [4, 5]
    assert read_results(out)["default"]["steps"] == 6


def test_minutes_become_steps_for_all_alike(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(options(data, out, "--minutes", "0.01", "--only", "default,start-dct")) == 0
    steps = json.loads((out / bakeoff.SETTINGS).read_text())["train"]["steps"]
    assert steps >= 1
    assert {line["steps"] for line in read_results(out).values()} == {steps}


def test_mistakes_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for more, code, text in (
        (["--steps", "2", "--only", "k7"], 2, "unknown variant 'k7'"),
        (["--steps", "0"], 2, "more than 0"),
        ([], 2, "more than 0"),
        (["--steps", "2", "--set-model", "chunks=12,12"], 2, "vectors of 8"),
        (["--steps", "2", "--validation", str(tmp_path / "none")], 3, "no such file"),
    ):
        assert main(options(data, out, *more)) == code, more
        said = capsys.readouterr().err
        assert text in said
        assert said.count("\n") == 1
    assert not (out / bakeoff.RESULTS).exists()


def test_all_variants_start_from_the_same_networks(data: Path) -> None:
    pictures = load_pictures([data], torch.device("cpu"))
    statistics = block_statistics(pictures, np.random.default_rng(1), FEW)
    states = {
        name: dict(new_model(override(tiny(), settings_of(tiny(), name)), pictures, 1, statistics).named_parameters())
        for name in (
            "default",
            "2x256",
            "simvq",
            "scalar-base",
            "refine-e8",
            "refine-vq2",
            "mean-none",
            "no-base-context",
        )
    }
    for name, state in states.items():
        for key, value in states["default"].items():
            assert torch.equal(state[key], value), (name, key)
    bare = dict(new_model(override(tiny(), {"shortcut": False}), pictures, 1, statistics).named_parameters())
    assert all(
        torch.equal(value, states["default"][key])
        for key, value in bare.items()
        if not key.endswith(("out.weight", "out.bias"))
    )


def test_base_rates_are_code_lengths(data: Path) -> None:
    """The lengths satisfy Kraft's inequality with equality, and rare words are never free."""
    pictures = load_pictures([data], torch.device("cpu"))
    statistics = block_statistics(pictures, np.random.default_rng(1), FEW)
    model = new_model(override(tiny(), {"base_stages": 2}), pictures, 1, statistics).eval()
    counts = count_indices(model, pictures, 10, 64, 0)
    assert counts.sum(1).tolist() == [10 * 16, 10 * 16]
    assert torch.equal(counts, count_indices(model, pictures, 10, 64, 0))
    lengths = order0_bits(torch.cat([counts, torch.eye(2, 32, dtype=torch.float64)]))
    torch.testing.assert_close(torch.exp2(-lengths).sum(1), torch.ones(4, dtype=torch.float64))
    assert torch.isfinite(lengths).all()


def test_the_machine_needs_torch_numpy_and_pillow_alone(data: Path, tmp_path: Path) -> None:
    blocked = ("click", "onnx", "onnxruntime", "constriction", "matplotlib", "scipy", "threadpoolctl", "tensorboard")
    arguments = options(data, tmp_path / "out", "--steps", "1", "--only", "simvq", "--threads", "1")
    code = (
        f"import functools, sys; sys.modules.update(dict.fromkeys({blocked!r})); from vqcodec.train import bakeoff; "
        f"bakeoff.block_statistics = functools.partial(bakeoff.block_statistics, blocks={FEW}); "
        f"sys.exit(bakeoff.main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(read_results(tmp_path / "out")) == ["simvq"]
    assert len(read_results(tmp_path / "out")["simvq"]["rows"]) == LEVELS
