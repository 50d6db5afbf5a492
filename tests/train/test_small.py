# SPDX-License-Identifier: MIT
"""Pictures of 28 x 28 and 32 x 32: what training makes of them, and the recipe from pictures to samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.train.conftest import run
from vqcodec.train.config import TrainConfig
from vqcodec.train.data import Pictures, load_pictures

CPU = torch.device("cpu")
RECIPES = Path(vqcodec.__file__).parents[1] / "docs" / "recipes"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of 40 gray pictures of 28 x 28: a bright bar each, no two alike."""
    folder = tmp_path / "small"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(40):
        picture = np.full((28, 28), 20, np.uint8)
        x, width = rng.integers(2, 18, 2)
        picture[4:24, x : x + width // 2 + 2] = rng.integers(120, 256)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


def original(folder: Path, number: int) -> NDArray[np.uint8]:
    return np.asarray(Image.open(sorted(folder.iterdir())[number]).convert("RGB"))


def test_small_pictures_are_taken_where_that_is_asked_for(small: Path, tmp_path: Path) -> None:
    with pytest.raises(vqcodec.InputError, match=r"no pictures of 64x64 or more to train on: --set smallest=N"):
        load_pictures([small], CPU)
    with pytest.raises(vqcodec.InputError, match="29x29"):
        load_pictures([small], CPU, smallest=29)
    cache = tmp_path / "cache"
    for _ in range(2):  # decoded, then from the cache
        pictures = load_pictures([small], CPU, cache, smallest=28)
        assert pictures.shapes.tolist() == [[32, 32]] * 40
        assert np.array_equal(pictures.picture(3), np.pad(original(small, 3), ((0, 4), (0, 4), (0, 0)), "edge"))
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(small / "large.png")
    pictures = load_pictures([small], CPU, cache)  # not what the cache has for small ones
    assert pictures.shapes.tolist() == [[70, 90]]
    with pytest.raises(vqcodec.UsageError, match="smallest"):
        TrainConfig(smallest=0)


def test_crops_without_augmentation_are_upright(small: Path) -> None:
    pictures = load_pictures([small], CPU, smallest=28, augment=False)
    crops = (pictures.crops(np.random.default_rng(0), 30, 32) * 255).round()
    known = {pictures.picture(number).permute(2, 0, 1).numpy().tobytes() for number in range(40)}
    assert all(crop.to(torch.uint8).numpy().tobytes() in known for crop in crops)
    turned = Pictures(pictures.flat, pictures.shapes, CPU)
    crops = (turned.crops(np.random.default_rng(0), 30, 32) * 255).round()
    assert not all(crop.to(torch.uint8).numpy().tobytes() in known for crop in crops)


@pytest.mark.usefixtures("quick_start")
def test_the_recipe_from_pictures_to_samples(small: Path, tmp_path: Path) -> None:
    """The networks of the recipe, a few steps: it trains, finishes, codes a picture and draws some."""
    if not RECIPES.is_dir():
        pytest.skip("the documentation is not here")
    out = tmp_path / "run"
    log = run(
        small, "-o", out, "--config", RECIPES / "digits.toml", "--set", "steps=12", "--set", "batch=8", "--threads", 1,
        "--set", "log_seconds=0", "--validation", small, "--set", "eval_pictures=2", "--base-minutes", 0.02,
        "--base-crops", 64, "--samples", 40, "--tensorboard", tmp_path / "board", "--device", "cpu",
    )  # fmt: skip
    losses = [float(line.split(" loss ")[1].split()[0]) for line in log.splitlines() if " loss " in line]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert list((tmp_path / "board").iterdir())
    data = vqcodec.encode(small / "07.png", 60, model=out / "model")
    assert vqcodec.indices(data, model=out / "model").base.shape == (2, 2)
    restored = np.asarray(vqcodec.decode(data, model=out / "model"))
    assert restored.shape == (28, 28)
    assert np.abs(restored.astype(int) - original(small, 7)[..., 0]).mean() < 40
    drawn = vqcodec.sample((28, 28), quality=1, model=out / "model")
    assert drawn.size == (28, 28)


def test_the_sets_of_pictures(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    if not RECIPES.is_dir():
        pytest.skip("the documentation is not here")
    import runpy

    main = runpy.run_path(str(RECIPES / "pictures.py"))["main"]
    for kind, count, side, mode in (("digits", 1797, 28, "L"), ("pieces", 520, 32, "RGB")):
        main(kind, str(tmp_path / kind))
        train, judged = ([*(tmp_path / kind / part).iterdir()] for part in ("train", "judged"))
        assert len(train) + len(judged) == count
        assert len(judged) == -(-count // 10)
        with Image.open(train[0]) as first:
            assert (first.size, first.mode) == ((side, side), mode)
