# SPDX-License-Identifier: MIT
"""Measures of realism: cases whose right order is known, seeds, and a run from pictures to tables and sheets."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import wasserstein_distance

import vqcodec
from bench import c2st, codecs, metrics, orders, peers, pictures, pretrained, realism, realism_report, sheets, swd
from bench.__main__ import main
from bench.errors import BenchError, MissingError

ROOT = Path(__file__).resolve().parent.parent

Rgb = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def few_patches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swd, "PATCHES", 2**13)
        yield


@pytest.fixture(scope="module")
def originals(photo: Rgb) -> list[Rgb]:
    """Nine pieces of the bundled photograph, 96 x 112."""
    height, width = photo.shape[:2]
    places = [
        (y, x) for y in np.linspace(0, height - 96, 3, dtype=int) for x in np.linspace(0, width - 112, 3, dtype=int)
    ]
    return [photo[y : y + 96, x : x + 112] for y, x in places]


@pytest.fixture(scope="module")
def reference(originals: list[Rgb]) -> swd.Reference:
    return swd.Reference(originals)


# Sliced Wasserstein distance


def test_the_pyramid_gives_the_picture_back(photo: Rgb) -> None:
    levels = swd.pyramid(photo[:101, :130], 4)
    assert [level.shape[:2] for level in levels] == [(101, 130), (51, 65), (26, 33), (13, 17)]
    plane = levels[-1]
    for level in levels[-2::-1]:
        plane = level + swd.enlarged(plane, level.shape[:2])
    assert np.abs(plane - photo[:101, :130]).max() < 1e-3
    flat = swd.pyramid(np.full((64, 64, 3), 90, np.uint8), 3)
    assert all(np.abs(level).max() < 1e-3 for level in flat[:-1])  # detail of nothing is nothing, at the edges too


def test_levels_end_at_sixteen_pixels() -> None:
    sizes = {15: 1, 16: 1, 31: 1, 32: 2, 512: 6, 767: 6, 1024: 7}
    assert {side: swd.level_count([np.zeros((side, 2000, 3), np.uint8)]) for side in sizes} == sizes


def test_distances_are_those_of_scipy(originals: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    """Projected one direction at a time, with SciPy's one-dimensional distance."""
    monkeypatch.setattr(swd, "PATCHES", 300)
    reference = swd.Reference(originals)
    noisy = orders.noisy(originals, 20.0)
    for level, (first, second) in enumerate(
        zip(reference._patches(originals, 0), reference._patches(noisy, 1), strict=True)
    ):
        mean, deviation = first.mean((0, 2, 3)), first.std((0, 2, 3))
        a, b = (((p - mean[:, None, None]) / deviation[:, None, None]).reshape(-1, 147) for p in (first, second))
        each = [wasserstein_distance(a @ d, b @ d) for d in reference.directions.T]
        assert np.mean(each) == pytest.approx(reference.distances(noisy)[2**level], rel=1e-4)
    assert np.allclose(np.linalg.norm(reference.directions, axis=0), 1)


def test_the_two_halves_share_no_patch(originals: list[Rgb], reference: swd.Reference) -> None:
    for first, second in zip(reference._patches(originals, 0), reference._patches(originals, 1), strict=True):
        assert first.shape == second.shape
        assert not np.array_equal(first, second)
    finest = [half[0].reshape(-1, 147) for half in (reference._patches(originals, 0), reference._patches(originals, 1))]
    assert not {row.tobytes() for row in finest[0]} & {row.tobytes() for row in finest[1]}


@pytest.mark.parametrize("family", orders.FAMILIES, ids=lambda family: family.name)
def test_swd_grows_with_the_damage(family: orders.Family, originals: list[Rgb], reference: swd.Reference) -> None:
    found = [swd.mean(reference.floor)]
    found += [swd.mean(reference.distances(family.damaged(originals, amount))) for amount in family.amounts]
    assert found == sorted(found)
    assert found[-1] > 2 * found[0]


def test_swd_says_at_which_scale(originals: list[Rgb], reference: swd.Reference) -> None:
    found = reference.distances(orders.blurred(originals, 0.6))
    assert list(found) == [1, 2, 4]
    excess = [found[level] - reference.floor[level] for level in found]
    assert excess[0] > 3 * excess[1] > 0
    assert found[4] < 1.5 * reference.floor[4]


def test_swd_is_the_same_again_and_seeds_matter_little(originals: list[Rgb], reference: swd.Reference) -> None:
    blurred = orders.blurred(originals, 1.0)
    assert swd.Reference(originals).distances(blurred) == reference.distances(blurred)
    other = swd.Reference(originals, seed=1).distances(blurred)
    assert other != reference.distances(blurred)
    assert swd.mean(other) == pytest.approx(swd.mean(reference.distances(blurred)), rel=0.2)
    with pytest.raises(ValueError, match="of the same sizes"):
        reference.distances(blurred[:-1])
    with pytest.raises(ValueError, match="more than 7"):
        swd.Reference([np.zeros((7, 30, 3), np.uint8)])


# Classifier two-sample test


@pytest.fixture(scope="module")
def torch_is_here() -> None:
    pytest.importorskip("torch", reason="torch comes with the train extra")


@pytest.mark.usefixtures("torch_is_here")
def test_c2st_is_chance_for_the_same_and_grows_with_the_damage(
    originals: list[Rgb], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c2st, "PAIRS", 8)
    monkeypatch.setattr(c2st, "HELD_CROPS", 24)
    same, little, much = (
        c2st.c2st(originals, restored, steps=40)
        for restored in (originals, orders.blurred(originals, 0.7), orders.blurred(originals, 3.0))
    )
    assert abs(same.accuracy - 0.5) < 0.06
    assert abs(same.auc - 0.5) < 0.06
    assert abs(same.patch_auc - 0.5) < 0.06
    assert same.auc < little.auc < much.auc
    assert same.patch_auc < little.patch_auc < much.patch_auc
    assert much.auc > 0.9


@pytest.mark.usefixtures("torch_is_here")
def test_c2st_is_the_same_again(originals: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(c2st, "HELD_CROPS", 8)
    monkeypatch.setattr(c2st, "PAIRS", 8)
    noisy = orders.noisy(originals, 10.0)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = c2st.c2st(originals, noisy, steps=5)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert c2st.c2st(originals, noisy, steps=5) == first
    assert c2st.c2st(originals, noisy, steps=5, seed=1) != first
    with pytest.raises(ValueError, match="of the same sizes"):
        c2st.c2st(originals, noisy[:-1])
    with pytest.raises(ValueError, match="at least 3 pictures"):
        c2st.c2st(originals[:2], noisy[:2])


@pytest.mark.usefixtures("torch_is_here")
def test_c2st_is_judged_on_pictures_it_has_not_seen(originals: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    judged: list[set[int]] = []
    places = c2st._places

    def noted(planes: object, pictures: NDArray[np.int64], random: np.random.Generator) -> list[c2st.Place]:
        (judged if len(pictures) > c2st.PAIRS else seen).append(set(pictures.tolist()))
        return places(planes, pictures, random)  # type: ignore[arg-type]

    monkeypatch.setattr(c2st, "_places", noted)
    monkeypatch.setattr(c2st, "PAIRS", 8)
    monkeypatch.setattr(c2st, "HELD_CROPS", 8)
    c2st.c2st(originals, originals, steps=10)
    folds = [set().union(*seen[start : start + 10]) for start in range(0, len(seen), 10)]
    assert len(folds) == c2st.FOLDS
    for fold, held in zip(folds, judged[::2], strict=True):
        assert not fold & held
    assert set().union(*judged) == set(range(len(originals)))


def test_auc_of_known_order() -> None:
    high, low = np.array([3.0, 4.0]), np.array([1.0, 2.0])
    assert c2st._auc(high, low) == 1
    assert c2st._auc(low, high) == 0
    assert c2st._auc(high, high) == 0.5
    assert c2st._auc(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == 0.5


def test_without_torch_c2st_says_so(originals: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else find(name, *more))
    with pytest.raises(MissingError, match="torch is not installed"):
        c2st.c2st(originals, originals)


# LPIPS and FID


@pytest.mark.usefixtures("torch_is_here")
def test_lpips_and_fid_are_taken_when_packages_and_weights_are_here(
    originals: list[Rgb], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for the packages: mean differences, and a count of what came."""
    import torch

    class Lpips:
        def __init__(self, net_type: str, normalize: bool) -> None:
            assert (net_type, normalize) == ("alex", True)

        def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.shape == b.shape == (1, 3, 96, 112)
            assert 0 <= a.min() < a.max() <= 1
            return (a - b).abs().mean()

    class Fid:
        def __init__(self, feature: int) -> None:
            self.sums = {True: 0.0, False: 0.0}

        def update(self, crops: torch.Tensor, real: bool) -> None:
            assert crops.dtype == torch.uint8
            self.sums[real] += float(crops.double().sum())

        def compute(self) -> torch.Tensor:
            return torch.tensor(self.sums[True] - self.sums[False])

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in ("torchmetrics", "torchvision", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, name, None)
    assert pretrained.available() == {}
    for name in ("torchmetrics", "torchvision", "torch_fidelity", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, member, what in (
        ("torchmetrics.image.lpip", "LearnedPerceptualImagePatchSimilarity", Lpips),
        ("torchmetrics.image.fid", "FrechetInceptionDistance", Fid),
    ):
        module = types.ModuleType(name)
        setattr(module, member, what)
        monkeypatch.setitem(sys.modules, name, module)
    assert pretrained.available() == {}  # the packages are here, their weights are not
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / pretrained.NEEDS["LPIPS"][1]).touch()
    assert list(pretrained.available()) == ["LPIPS"]
    (tmp_path / "checkpoints" / pretrained.NEEDS["FID"][1]).touch()
    assert list(pretrained.available()) == ["LPIPS", "FID"]
    darker = [rgb // 2 for rgb in originals]
    expected = np.mean([np.abs(a / 255 - b / 255).mean() for a, b in zip(originals, darker, strict=True)])
    assert pretrained.lpips(originals, darker) == pytest.approx(expected, rel=1e-5)
    assert pretrained.lpips(originals, originals) == 0
    total = sum(int(a[:, :96].sum()) - int(b[:, :96].sum()) for a, b in zip(originals, darker, strict=True))
    assert pretrained.fid(originals, darker) == pytest.approx(total, rel=1e-6)
    assert len(pretrained._crops(np.zeros((384, 640, 3), np.uint8))) == 2 * 4


# Rates


@pytest.mark.parametrize(("name", "bpp"), [("jpeg", 0.8), ("webp", 0.5), ("avif-iq", 0.5)])
def test_files_reach_the_rate(name: str, bpp: float, photo: Rgb) -> None:
    peer, image = peers.PEERS[name], Image.fromarray(photo[:120, :130])
    wanted = bpp * 120 * 130 / 8
    settings = range(peer.span[0], peer.span[1] + 1, 1 if name == "jpeg" else 5)
    sizes = [len(peer.encode(image, setting)) for setting in settings]
    best = min(abs(size - wanted) for size in sizes if size <= wanted * (1 + codecs.EXCESS))
    found = len(peer.reach(image, bpp))
    assert found <= wanted * (1 + codecs.EXCESS)
    assert abs(found - wanted) <= best + 0.01 * wanted


def test_a_rate_that_is_out_of_reach_gives_the_smallest_file(photo: Rgb) -> None:
    image = Image.fromarray(photo[:120, :130])
    jpeg = peers.PEERS["jpeg"]
    assert len(jpeg.reach(image, 0.01)) == min(len(jpeg.encode(image, setting)) for setting in range(1, 101))


def test_vqcodec_reaches_the_rate_by_its_own_search(photo: Rgb) -> None:
    data = peers.PEERS["vqcodec"].reach(Image.fromarray(photo[:240, :320]), 0.4)
    assert 8 * len(data) / (240 * 320) == pytest.approx(0.4, rel=0.03)


# The command


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures that are no good, but soon done."""
    monkeypatch.setattr(c2st, "STEPS", 2)
    monkeypatch.setattr(c2st, "HELD_CROPS", 4)
    monkeypatch.setattr(swd, "PATCHES", 400)


@pytest.fixture
def grainy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the realistic decoder: the faithful picture with grain."""
    faithful = vqcodec.decode

    def decode(data: bytes, *, threads: int = 0, decoder: str = "faithful", realism: float = 1.0) -> Image.Image:
        picture = faithful(data, threads=threads)
        if decoder == "faithful":
            return picture
        grain = np.random.default_rng(0).normal(0, 12 * realism, (picture.height, picture.width, 3))
        return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))

    monkeypatch.setattr(vqcodec, "decode", decode)


@pytest.fixture(scope="module")
def folder(photo: Rgb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pieces of the bundled photograph."""
    path = tmp_path_factory.mktemp("pieces")
    for name, (y, x) in {"a": (0, 0), "b": (60, 150), "c": (120, 40)}.items():
        Image.fromarray(photo[y : y + 196, x : x + 208]).save(path / f"{name}.png")
    return path


QUICK = ["--metrics", "psnr", "--bpp", "0.1,0.4", "--peers", "jpeg,vqcodec"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("quick", "grainy", "torch_is_here")
def test_a_run_from_pictures_to_page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "available", lambda: {"LPIPS": lambda originals, restored: len(restored) / 8})
    done = bench("realism", "--images", folder, "--out", tmp_path, *QUICK)
    assert done.exit_code == 0, done.output
    assert "LPIPS" in done.output
    found = {(one["codec"], one["target_bpp"], one["picture"]): one for one in lines(tmp_path / realism.PICTURES)}
    names = ["jpeg", "vqcodec", "vqcodec-realistic-0.5", "vqcodec-realistic"]
    assert set(found) == {(name, bpp, f"{p}.png") for name in names for bpp in (0.1, 0.4) for p in "abc"}
    pixels = 196 * 208
    for (name, bpp, picture), line in found.items():
        if line["missed"]:  # the tables of a JPEG file are too much for 0.1 bpp of so small a picture
            assert (name, bpp) == ("jpeg", 0.1)
        else:
            assert 0.9 * bpp < 8 * line["bytes"] / pixels < 1.03 * bpp
        if name == "vqcodec":
            half, full = (found[other, bpp, picture] for other in names[2:])
            assert line["bytes"] == half["bytes"] == full["bytes"]
            assert line["psnr"] > half["psnr"] > full["psnr"]
    assert all(found["jpeg", 0.1, f"{p}.png"]["missed"] for p in "abc")
    assert "JPEG cannot get to 0.1 bpp on 3 of 3 pictures" in done.output

    (data,) = (tmp_path / "files" / "vqcodec-0.4").glob("a.png*")
    restored = np.asarray(vqcodec.decode(data.read_bytes()))
    original = np.asarray(Image.open(folder / "a.png"))
    assert found["vqcodec", 0.4, "a.png"]["psnr"] == pytest.approx(metrics.psnr(original, restored), abs=1e-4)

    sets = {(one["codec"], one["target_bpp"]): one for one in lines(tmp_path / realism.SETS)}
    assert set(sets) == {(realism.ORIGINALS, 0.0), *((name, bpp) for name in names for bpp in (0.1, 0.4))}
    assert all({"swd", "c2st", "LPIPS"} <= set(one) for one in sets.values())
    assert list(sets["jpeg", 0.4]["swd"]) == ["1", "2", "4", "8"]

    text = (tmp_path / realism_report.MARKDOWN).read_text(encoding="utf-8")
    assert text.count("| vqcodec realistic 0.5 ") == 2
    assert f"{1000 * sets['jpeg', 0.4]['swd']['1']:.0f} |" in text
    page = (tmp_path / realism_report.HTML).read_text(encoding="utf-8")
    assert "@@" not in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert page.count('src="data:image/jpeg') == 2
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert str(folder.parent).encode() not in path.read_bytes()

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(c2st, "c2st", forbidden)
    monkeypatch.setattr(codecs.PillowPeer, "reach", forbidden)
    before = (tmp_path / realism.SETS).read_text(encoding="utf-8")
    assert bench("realism", "--images", folder, "--out", tmp_path, *QUICK).exit_code == 0
    assert (tmp_path / realism.SETS).read_text(encoding="utf-8") == before
    monkeypatch.undo()


@pytest.mark.usefixtures("quick", "torch_is_here")
def test_a_run_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["realism", "--images", folder, "--out", tmp_path, "--metrics", "psnr", "--bpp", "0.4"]
    command += ["--peers", "jpeg,webp", "--realism", ""]
    whole = realism.c2st.c2st

    def stopped(originals: list[Rgb], restored: list[Rgb]) -> c2st.Verdict:
        if (tmp_path / realism.SETS).read_text(encoding="utf-8").count("\n") == 2:
            raise KeyboardInterrupt
        return whole(originals, restored)

    monkeypatch.setattr(c2st, "c2st", stopped)
    first = bench(*command)
    assert first.exit_code == 130
    assert "the same command goes on from there" in first.output
    before = (tmp_path / realism.SETS).read_text(encoding="utf-8")
    assert [one["codec"] for one in lines(tmp_path / realism.SETS)] == [realism.ORIGINALS, "jpeg"]
    with (tmp_path / realism.SETS).open("a", encoding="utf-8") as stream:
        stream.write('{"codec": "we')
    monkeypatch.setattr(c2st, "c2st", whole)
    assert bench(*command).exit_code == 0
    after = (tmp_path / realism.SETS).read_text(encoding="utf-8")
    assert after.startswith(before)
    assert [one["codec"] for one in lines(tmp_path / realism.SETS)] == [realism.ORIGINALS, "jpeg", "webp"]

    monkeypatch.setattr(codecs.PillowPeer, "version", lambda self: "another library")
    changed = bench(*command)
    assert "jpeg has changed since; it is measured again" in changed.output
    assert len(lines(tmp_path / realism.PICTURES)) == 6
    other = bench(*[folder / "a.png" if part == folder else part for part in command])
    assert other.exit_code == 1
    assert "results of other pictures" in other.output


def test_a_decoder_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(data: bytes, *, threads: int = 0, decoder: str = "faithful", realism: float = 1.0) -> Image.Image:
        raise vqcodec.UsageError("the model photo-1 has no realistic decoder")

    monkeypatch.setattr(vqcodec, "decode", refusing)
    with pytest.raises(MissingError, match="photo-1 has no realistic decoder"):
        peers.realistic(0.5).version()
    monkeypatch.setattr(vqcodec, "decode", lambda data, *, threads=0: None)
    with pytest.raises(MissingError, match="this vqcodec has no realistic decoder"):
        peers.realistic(0.5).version()


@pytest.mark.usefixtures("grainy")
def test_a_decoder_that_is_there_gets_its_realism() -> None:
    assert peers.realistic(0.5).version() == peers.PEERS["vqcodec-realistic"].version()
    command = peers.realistic(0.5).command("decode", 30, Path("a.vqc"), Path("a.png"), 1)
    assert command[command.index("--decoder") :][:4] == ["--decoder", "realistic", "--realism", "0.5"]
    faithful = peers.PEERS["vqcodec"].command("decode", 30, Path("a.vqc"), Path("a.png"), 1)
    assert "--realism" not in faithful
    assert "--decoder" not in faithful


@pytest.mark.usefixtures("quick")
def test_a_failing_decoder_stands_in_the_table(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: codecs.PillowPeer, data: bytes, threads: int = 0) -> Image.Image:
        raise OSError("not today")

    monkeypatch.setattr(codecs.Peer, "decode", failing)
    monkeypatch.setattr(c2st, "version", lambda: (_ for _ in ()).throw(MissingError("torch is not installed")))
    options = ["--metrics", "psnr", "--bpp", "0.4", "--peers", "jpeg", "--realism", ""]
    done = bench("realism", "--images", folder, "--out", tmp_path, *options)
    assert done.exit_code == 0, done.output
    assert "JPEG at 0.4 bpp failed on a.png: OSError: not today" in done.output
    assert "C2ST is left out: torch is not installed" in done.output
    assert [one["codec"] for one in lines(tmp_path / realism.SETS)] == [realism.ORIGINALS]


def test_mistakes_are_told(folder: Path, tmp_path: Path) -> None:
    assert "write numbers from 0.001 to 24" in bench("realism", "--bpp", "0.1,much").output
    assert "write numbers from 0 to 1" in bench("realism", "--realism", "2").output
    assert "name at least one rate" in bench("realism", "--bpp", "").output
    few = bench("realism", "--images", folder / "a.png", "--peers", "jpeg", "--bpp", "0.5", "--out", tmp_path / "few")
    assert few.exit_code == 1
    assert few.output.strip().endswith("at least 3 pictures of at least 64 pixels a side")
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text('{"format": 1, "pictures": {}}', encoding="utf-8")
    told = bench("realism", "--images", folder, "--peers", "jpeg", "--out", other)
    assert told.exit_code == 1
    assert "holds no results of python -m bench realism" in told.output


# Sheets


def test_crops_are_chosen_by_texture(tmp_path: Path, photo: Rgb) -> None:
    random = np.random.default_rng(0)
    for name, strength in (("calm", 2), ("loud", 60), ("some", 20)):
        rgb = np.full((300, 420, 3), 120, np.uint8)
        rgb[96:288, 192:384] = random.integers(120 - strength, 120 + strength, (192, 192, 3))
        Image.fromarray(rgb).save(tmp_path / f"{name}.png")
    found = sheets.chosen(pictures.find(str(tmp_path)).files, 2)
    assert found[0] == sheets.Crop("loud.png", 192, 96)
    assert found[1].picture != "loud.png"


def test_crops_from_a_file(folder: Path, tmp_path: Path) -> None:
    files, path = pictures.find(str(folder)).files, tmp_path / "crops.json"
    path.write_text('[{"picture": "b.png", "x": 8, "y": 3, "side": 100}]', encoding="utf-8")
    assert sheets.read_crops(path, files) == [sheets.Crop("b.png", 8, 3, 100)]
    for text, told in (
        ('[{"picture": "b.png", "x": 150, "y": 3, "side": 100}]', "is not inside its picture of 208 x 196"),
        ('[{"picture": "z.png", "x": 0, "y": 0}]', "there is no picture 'z.png'"),
        ("[]", "names no crop"),
        ("{", "holds no crops"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(BenchError, match=told):
            sheets.read_crops(path, files)


def test_a_sheet_shows_the_crops_themselves(folder: Path, tmp_path: Path) -> None:
    files = pictures.find(str(folder)).files
    results = realism.Results(tmp_path, {})  # type: ignore[typeddict-item]
    jpeg, crop = peers.PEERS["jpeg"], sheets.Crop("b.png", 5, 2, 192)
    drawn = np.asarray(sheets.sheet(results, files, [jpeg], 0.6, [crop]))
    left, top = sheets.GAP, sheets.HEAD
    assert np.array_equal(drawn[top : top + 192, left : left + 192], crop.of(files[1].pixels()))
    data = results.file("jpeg", 0.6, "b.png").read_bytes()
    left += sheets.SIDE + sheets.GAP
    assert np.array_equal(drawn[top : top + 192, left : left + 192], crop.of(np.asarray(jpeg.decode(data))))


# Orders


@pytest.mark.usefixtures("quick", "torch_is_here")
def test_orders_are_measured_once_and_shown(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "FAMILIES", (orders.Family("noise, sigma", orders.noisy, (2.0, 30.0)),))
    page = tmp_path / "page.md"
    page.write_text(f"{orders.BEGIN}\n{orders.END}\n", encoding="utf-8")
    done = bench("orders", "--images", folder, "--out", tmp_path / "o", "--page", page)
    assert done.exit_code == 0, done.output
    assert "| noise, sigma 30 |" in page.read_text(encoding="utf-8")
    cases = orders.read(tmp_path / "o")["cases"]
    assert [(case["family"], case["amount"]) for case in cases] == [
        (orders.ORIGINALS, 0.0), ("noise, sigma", 2.0), ("noise, sigma", 30.0),
    ]  # fmt: skip
    monkeypatch.setattr(orders, "_judged", None)
    assert (
        "had these numbers already"
        in bench("orders", "--images", folder, "--out", tmp_path / "o", "--page", page).output
    )


def test_a_wrong_order_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "FAMILIES", (orders.Family("blur", orders.blurred, (1.0, 2.0)),))
    cases = [
        {"family": name, "amount": amount, "swd": {"1": distance}, "auc": auc}
        for name, amount, distance, auc in (
            ("originals", 0.0, 0.1, 0.5),
            ("blur", 1.0, 0.2, 0.9),
            ("blur", 2.0, 0.3, 0.8),
        )
    ]
    (tmp_path / orders.FILE).write_text(json.dumps({"cases": cases}), encoding="utf-8")
    assert orders.wrong(tmp_path) == ["C2ST auc puts blur 2 (0.800) before blur 1 (0.900)"]


def test_the_documentation_shows_the_measured_orders() -> None:
    found = sorted((ROOT / "bench" / "results").glob(f"*/{orders.FILE}"))
    assert found, "python -m bench orders --out bench/results/VERSION --page docs/benchmark.md"
    assert orders.section(found[-1].parent) in (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
