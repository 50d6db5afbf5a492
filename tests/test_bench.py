# SPDX-License-Identifier: MIT
"""The benchmark: metrics whose answer is known, runs that are killed and go on, libraries that are missing, reports."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from bench import (
    bd,
    codecs,
    curves,
    metrics,
    peers,
    perceptual,
    pictures,
    process,
    progress,
    session,
    speed,
    tools,
)
from bench.__main__ import main
from bench.errors import BenchError, MissingError, NoOverlapError
from bench.store import Store

ROOT = Path(__file__).resolve().parent.parent
JPEG_CURVE = [(0.1, 24.0), (0.2, 27.0), (0.4, 30.0), (0.8, 33.5), (1.6, 37.0), (3.2, 41.0)]
QUICK = ["--slides", "0", "--repeats", "1", "--metrics", "psnr,ms_ssim"]


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# Metrics


def test_psnr_of_known_differences() -> None:
    a = np.full((20, 30, 3), 100, np.uint8)
    assert metrics.psnr(a, a) == metrics.IDENTICAL_DB
    assert metrics.psnr(a, a + np.uint8(1)) == pytest.approx(20 * np.log10(255))
    one = a.copy()
    one[0, 0, 0] = 200
    assert metrics.psnr(one, a) == metrics.psnr(a, one) == pytest.approx(10 * np.log10(255**2 * a.size / 100**2))


def test_psnr_without_offset_and_of_single_planes() -> None:
    """A constant offset is all of the error for PSNR, and nothing for PSNR without offset."""
    a = np.random.default_rng(1).integers(40, 200, (32, 40, 3), np.uint8)
    shifted = a + np.array([2, 0, 1], np.uint8)
    assert metrics.psnr(a, shifted) == pytest.approx(10 * np.log10(255**2 / (5 / 3)))
    assert metrics.psnr_centred(a, shifted) == metrics.IDENTICAL_DB
    grey = a + np.uint8(3)  # luma alone
    assert metrics.psnr_luma(a, grey) == pytest.approx(20 * np.log10(255 / 3), abs=1e-3)
    assert metrics.psnr_chroma(a, grey) > 80
    noisy = (a + np.random.default_rng(2).integers(-3, 4, a.shape)).astype(np.uint8)
    assert metrics.psnr_centred(a, noisy) == pytest.approx(metrics.psnr(a, noisy), abs=0.05)


def pattern(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture made by arithmetic, and a coarse version of it."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    a = (x * x // 7 + y * (3 + c) + x * y // (11 + c)) % 256
    a = (a + np.roll(a, 1, 0) + np.roll(a, 1, 1)) // 3
    return a.astype(np.uint8), np.clip(a // 16 * 16 + (x + y) % 5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"), [((176, 192), 0.9978213035855878), ((211, 163), 0.9985768989890057)], ids=str
)
def test_ms_ssim_is_that_of_pytorch_msssim(size: tuple[int, int], expected: float) -> None:
    """The figures are pytorch-msssim 1.0.0's, in double precision; the second size is odd on every scale but one."""
    assert metrics.ms_ssim(*pattern(*size)) == pytest.approx(expected, abs=2e-6)


def test_ms_ssim_of_identical_and_of_small_pictures() -> None:
    a, _ = pattern(170, 170)
    assert metrics.ms_ssim(a, a) == pytest.approx(1)
    assert metrics.METRICS["ms_ssim"].of(a[:160], a[:160]) is None
    assert metrics.ms_ssim(a[:161, :161], a[:161, :161]) == pytest.approx(1)
    assert metrics.in_db(0.99) == pytest.approx(20)
    assert metrics.in_db(1.0) < 101


def test_ssimulacra2_orders_pictures(photo: NDArray[np.uint8]) -> None:
    pytest.importorskip("ssimulacra2", reason="SSIMULACRA2 comes with the bench extra")
    original = Image.fromarray(photo[:128, :128])
    jpeg = peers.PEERS["jpeg"]
    good, bad = (np.asarray(jpeg.decode(jpeg.encode(original, quality))) for quality in (95, 10))
    scores = [perceptual.ssimulacra2(np.asarray(original), other) for other in (np.asarray(original), good, bad)]
    assert scores[0] == pytest.approx(100)
    assert scores[0] > scores[1] > 60 > scores[2]


@pytest.mark.parametrize("name", ["cvvdp", "gmsd", "haarpsi"])
def test_metrics_that_need_torch_order_pictures(name: str, photo: NDArray[np.uint8]) -> None:
    metric = metrics.METRICS[name]
    try:
        metric.version()
    except MissingError as error:
        pytest.skip(error.message)
    original = Image.fromarray(photo[:96, :128])
    jpeg = peers.PEERS["jpeg"]
    good, bad = (np.asarray(jpeg.decode(jpeg.encode(original, quality))) for quality in (90, 10))
    shown = []
    for other in (np.asarray(original), good, bad):
        value = metric.of(np.asarray(original), other)
        assert value is not None
        shown.append(metric.shown(value))
    assert shown[0] > shown[1] > shown[2] + metric.min_shared
    assert metric.of(photo[:20, :200], photo[:20, :200]) is None


def test_a_metric_that_is_missing_is_told_in_one_line(crops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.METRICS, "gmsd", replace(metrics.METRICS["gmsd"], package="no-such-package"))
    found, missing = session.metrics_here("gmsd,psnr")
    assert found == {"psnr": "bench.metrics"}
    assert missing == {"gmsd": "no-such-package is not installed: pip install '.[bench]'"}


# BD-rate


def test_bd_rate_is_that_of_the_package_bjontegaard() -> None:
    bjontegaard = pytest.importorskip("bjontegaard", reason="bjontegaard comes with the test extra")
    test = [(0.15, 26.0), (0.3, 29.5), (0.55, 32.0), (1.2, 36.5), (2.0, 39.0)]
    rates = [[rate for rate, _ in curve] for curve in (JPEG_CURVE, test)]
    qualities = [[quality for _, quality in curve] for curve in (JPEG_CURVE, test)]
    theirs = bjontegaard.bd_rate(rates[0], qualities[0], rates[1], qualities[1], method="pchip",
                                 require_matching_points=False, min_overlap=0)  # fmt: skip
    assert bd.bd_rate(JPEG_CURVE, test).percent == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.25])
def test_bd_rate_of_a_constant_factor(factor: float) -> None:
    shifted = [(rate * factor, quality) for rate, quality in JPEG_CURVE]
    for window in (None, (28.0, 36.0), (0.0, 99.0)):
        found = bd.bd_rate(JPEG_CURVE, shifted, window)
        assert found.percent == pytest.approx((factor - 1) * 100, abs=1e-9)
    assert bd.bd_rate(JPEG_CURVE, shifted[::-1]).percent == pytest.approx((factor - 1) * 100, abs=1e-9)


def test_bd_rate_says_over_which_range() -> None:
    test = [(0.3, 29.0), (0.6, 32.0), (1.2, 35.0)]
    assert bd.bd_rate(JPEG_CURVE, test).low == 29
    assert bd.bd_rate(JPEG_CURVE, test).high == 35
    found = bd.bd_rate(JPEG_CURVE, JPEG_CURVE, (28, 36))
    assert (found.low, found.high, found.percent) == (28, 36, pytest.approx(0))


def test_bd_rate_of_straight_lines_in_the_logarithm() -> None:
    """log2 rate = q / 3 and log2 rate = q / 6 + 2 differ by 2 - q / 6; over 0 to 18 that is 0.5 in the mean."""
    anchor = [(2 ** (q / 3), float(q)) for q in range(0, 19, 3)]
    test = [(2 ** (q / 6 + 2), float(q)) for q in range(-6, 25, 3)]
    assert bd.bd_rate(anchor, test).percent == pytest.approx((2**0.5 - 1) * 100, abs=1e-9)
    window = bd.bd_rate(anchor, test, (0, 6))  # there, 1.5 in the mean
    assert window.percent == pytest.approx((2**1.5 - 1) * 100, abs=1e-9)


def test_bd_rate_without_overlap_says_so() -> None:
    high = [(1.0, 45.0), (2.0, 48.0), (3.0, 50.0)]
    with pytest.raises(NoOverlapError, match=r"anchor covers 24\.00 to 41\.00, the test 45\.00 to 50\.00"):
        bd.bd_rate(JPEG_CURVE, high)
    with pytest.raises(NoOverlapError, match="within 10 to 20"):
        bd.bd_rate(JPEG_CURVE, JPEG_CURVE, (10, 20))
    with pytest.raises(NoOverlapError, match="at least three points"):
        bd.bd_rate(JPEG_CURVE, JPEG_CURVE[:2])


def test_bd_rate_passes_over_points_that_are_no_better() -> None:
    flat = sorted([*JPEG_CURVE, (5.0, 41.0)])
    assert bd.bd_rate(JPEG_CURVE, flat).percent == pytest.approx(0, abs=1e-9)


# Codecs and pictures


@pytest.mark.parametrize("name", list(peers.PEERS))
def test_peers_go_there_and_back(name: str, photo: NDArray[np.uint8]) -> None:
    peer = peers.PEERS[name]
    try:
        assert peer.version()
    except MissingError as error:
        pytest.skip(error.message)
    image = Image.fromarray(photo[:90, :101])
    sizes = []
    for setting in (peer.settings[0], peer.middle, peer.settings[-1]):
        data = peer.encode(image, setting, 1)
        back = np.asarray(peer.decode(data, 1))
        assert back.shape == (90, 101, 3)
        sizes.append(len(data))
    assert sizes == sorted(set(sizes))
    assert metrics.psnr(photo[:90, :101], back) > 30
    assert peer.settings == tuple(sorted(peer.settings))


def test_vvc_keeps_odd_sides_and_colours(photo: NDArray[np.uint8]) -> None:
    peer = peers.PEERS["vvc"]
    try:
        peer.version()
    except MissingError as error:
        pytest.skip(error.message)
    for height, width in ((33, 40), (32, 41), (33, 41)):
        image = Image.fromarray(photo[:height, :width])
        data = peer.encode(image, 40, 1)
        back = np.asarray(peer.decode(data, 1))
        assert back.shape == (height, width, 3)
        assert metrics.psnr(photo[:height, :width], back) > 33
        assert abs((back.astype(float) - photo[:height, :width]).mean((0, 1))).max() < 1.5


def test_a_tune_that_vqcodec_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(image: object, quality: int = 75, *, effort: int = 5, threads: int = 0) -> bytes:
        return b""

    monkeypatch.setattr("vqcodec.encode", encode)
    with pytest.raises(MissingError, match="has no tune eye"):
        peers.PEERS["vqcodec-eye"].version()
    assert "--tune" in peers.PEERS["vqcodec-eye"].command("encode", 75, Path("a"), Path("b"), 1)
    assert "--tune" not in peers.PEERS["vqcodec"].command("encode", 75, Path("a"), Path("b"), 1)


def test_a_model_has_one_hash_everywhere(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In files, in `info` and in results; a graph that changes is seen all the same."""
    from vqcodec.cli import main as cli
    from vqcodec.model import zoo

    data = vqcodec.encode(np.zeros((16, 16, 3), np.uint8), 1)
    name = vqcodec.info(data)["model"]
    version = peers.PEERS["vqcodec"].version()
    assert f"model photo-1 {name}, " in version
    assert cli.main(["info", "--model", "photo-1"]) == 0
    assert name in capsys.readouterr().out
    folder = tmp_path / "model"
    shutil.copytree(zoo.find().folder, folder)
    card = json.loads((folder / "model.json").read_text())
    card["files"]["synthesis.onnx"]["sha256"] = "00" * 32
    (folder / "model.json").write_text(json.dumps(card))
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    monkeypatch.setitem(zoo.MODELS, "photo-1", "model")
    changed = peers.PEERS["vqcodec"].version()
    assert changed.split(", ")[:2] == version.split(", ")[:2]
    assert changed != version


def test_vqcodec_is_known_by_its_files(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name for the same files keeps the rows; other files under the same name do not."""
    settings = ["--settings", "vqcodec-psnr=5", "--settings", "vqcodec-eye=5", "--out", tmp_path, *QUICK]
    arguments = ["--images", crops / "a.png", "--peers", "vqcodec-psnr,vqcodec-eye", *settings]
    assert bench(*arguments).exit_code == 0
    first = Store.read(tmp_path)
    assert first.run["peers"]["vqcodec-psnr"]["files"] != first.run["peers"]["vqcodec-eye"]["files"]
    monkeypatch.setattr(vqcodec, "__version__", "9.9")
    assert "measured again" not in bench(*arguments).output
    renamed = Store.read(tmp_path)
    assert renamed.rows == first.rows
    assert "vqcodec 9.9, " in renamed.run["peers"]["vqcodec-eye"]["version"]
    whole = vqcodec.encode

    def encode(image: Any, quality: int, *, tune: str, effort: int, threads: int) -> bytes:
        return whole(image, quality - (tune == "eye"), tune=tune, effort=effort, threads=threads)

    monkeypatch.setattr(vqcodec, "encode", encode)
    changed = bench(*arguments).output
    assert "vqcodec-eye has changed since" in changed
    assert "vqcodec-psnr has changed since" not in changed


def test_unknown_names_are_told() -> None:
    with pytest.raises(BenchError, match="unknown codec tiff; known are jpeg"):
        peers.choose("jpeg,tiff")
    assert [peer.name for peer in peers.choose("webp,default")][:2] == ["webp", "jpeg"]
    every = {peer.name for peer in peers.choose("all,slow")}
    assert every == set(peers.PEERS) - {"vqcodec"}
    assert bench("--metrics", "lpips").exit_code == 1
    assert "write it like" in bench("--settings", "jpeg=many").output
    assert "no such folder" in bench("--images", "nowhere", "--peers", "jpeg").output


def test_pictures_of_a_folder_and_of_the_built_in_sets(crops: Path, tmp_path: Path) -> None:
    found = pictures.find(str(crops))
    assert [file.name for file in found.files] == ["a.png", "b.png"]
    assert [file.name for file in pictures.find(str(crops), every=2).files] == ["a.png"]
    assert found.facts()["a.png"] == pictures.find(str(crops / "a.png")).facts()["a.png"]
    with pytest.raises(BenchError, match="no picture in it"):
        pictures.find(str(tmp_path))
    pytest.importorskip("skimage", reason="the built-in pictures come with the bench extra")
    for name in pictures.BUILT_IN:
        files = pictures.find(name).files
        assert len(files) >= 4
        assert max(max(file.pixels().shape) for file in files) <= pictures.MAX_SIDE


def test_grown_pictures_repeat_in_mirror_image(photo: NDArray[np.uint8]) -> None:
    grown = pictures.grown(photo[:30, :40], 10_000)
    assert abs(grown.shape[0] * grown.shape[1] - 10_000) < 300
    assert np.array_equal(grown[:30, :40], photo[:30, :40])
    assert np.array_equal(grown[30:60, :40], photo[:30, :40][::-1])
    assert np.array_equal(grown[:30, 40:80], photo[:30, :40][:, ::-1])


# Runs


def test_a_killed_run_goes_on_where_it_was(crops: Path, tmp_path: Path) -> None:
    settings = ",".join(str(quality) for quality in range(2, 92, 2))
    arguments = ["--images", str(crops), "--peers", "jpeg,webp", "--settings", f"webp={settings}", "--out"]
    command = [sys.executable, "-m", "bench", *arguments, str(tmp_path), *QUICK]
    rows = tmp_path / "results.jsonl"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        for _ in range(3000):
            if (rows.exists() and rows.read_text(encoding="utf-8").count("\n") > 12) or running.poll() is not None:
                break
            time.sleep(0.01)
        running.kill()
    before = rows.read_text(encoding="utf-8").splitlines()
    assert 12 <= len(before) < 114
    rows.write_text(rows.read_text(encoding="utf-8") + '{"picture": "b.png", "pe', encoding="utf-8")
    done = bench(*arguments, tmp_path, *QUICK)
    assert done.exit_code == 0, done.output
    after = rows.read_text(encoding="utf-8").splitlines()
    assert after[: len(before)] == before  # the seconds in them would differ if they had been measured again
    assert len(after) == len(Store.read(tmp_path).rows) == 2 * (12 + 45)


def test_nothing_is_measured_twice(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--images", crops, "--peers", "jpeg", "--settings", "jpeg=20,50,80", "--out", tmp_path, *QUICK]
    assert bench(*arguments).exit_code == 0
    first = (tmp_path / "results.jsonl").read_text(encoding="utf-8")
    assert bench(*arguments).exit_code == 0
    assert (tmp_path / "results.jsonl").read_text(encoding="utf-8") == first
    monkeypatch.setattr(codecs.PillowPeer, "version", lambda self: "another library")
    changed = bench(*arguments)
    assert "jpeg has changed since" in changed.output
    assert len(Store.read(tmp_path).rows) == 6
    other = bench("--images", crops / "a.png", "--peers", "jpeg", "--out", tmp_path, *QUICK)
    assert other.exit_code == 1
    assert "results of other pictures" in other.output
    assert bench("--images", crops / "a.png", "--peers", "jpeg", "--out", tmp_path, "--fresh", *QUICK).exit_code == 0


def test_a_missing_library_leaves_its_rows_out(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    done = bench("--images", crops, "--peers", "jpeg,jxl", "--settings", "jpeg=20,80", "--out", tmp_path, *QUICK)
    assert done.exit_code == 0, done.output
    assert "jxl is left out: pillow-jxl-plugin is not installed" in done.output
    assert {row["peer"] for row in Store.read(tmp_path).rows.values()} == {"jpeg"}
    assert "jxl is left out" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "none of these codecs is here" in bench("--images", crops, "--peers", "jxl").output


def test_a_failing_codec_is_counted_and_gives_no_point(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = codecs.PillowPeer.encode

    def failing(self: codecs.PillowPeer, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        if setting == 50 and image.width == 192:
            raise ValueError("not today")
        return whole(self, image, setting, threads)

    monkeypatch.setattr(codecs.PillowPeer, "encode", failing)
    some = ["--peers", "jpeg", "--settings", "jpeg=20,50,60,80", "--out", tmp_path]
    done = bench("--images", crops, *some, *QUICK)
    assert done.exit_code == 0, done.output
    assert "jpeg at 50 failed on a.png: ValueError: not today" in done.output
    store = Store.read(tmp_path)
    assert sum("error" in row for row in store.rows.values()) == 1
    assert [point.setting for point in curves.curves(store, metrics.METRICS["psnr"])["jpeg"]] == [20, 60, 80]
    monkeypatch.undo()
    assert bench("--images", crops, *some, *QUICK).exit_code == 0  # errors are tried again
    assert not any("error" in row for row in Store.read(tmp_path).rows.values())


def test_rows_are_what_the_codec_makes(crops: Path, tmp_path: Path) -> None:
    some = ["--peers", "webp", "--settings", "webp=5,40,90", "--out", tmp_path]
    done = bench("--images", crops, *some, *QUICK)
    assert done.exit_code == 0, done.output
    store = Store.read(tmp_path)
    image = Image.open(crops / "b.png").convert("RGB")
    row = store.rows["b.png", "webp", 40]
    data = peers.PEERS["webp"].encode(image, 40)
    assert row["bytes"] == len(data)
    assert curves.bpp_of(store, row) == 8 * len(data) / (176 * 176)
    decoded = np.asarray(peers.PEERS["webp"].decode(data))
    assert row["psnr"] == pytest.approx(metrics.psnr(np.asarray(image), decoded), abs=1e-4)
    point = next(p for p in curves.curves(store, metrics.METRICS["psnr"])["webp"] if p.setting == 40)
    assert point.quality == pytest.approx((row["psnr"] + store.rows["a.png", "webp", 40]["psnr"]) / 2)


def test_processes_and_folders_are_measured_whole(crops: Path, tmp_path: Path) -> None:
    done = bench("speed", "--images", crops, "--peers", "jpeg,vqcodec", "--repeats", "1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = Store.read(tmp_path).processes
    for name in ("jpeg", "vqcodec"):
        for scope, pixels in (("process", 176 * 192), ("folder", 176 * (192 + 176))):
            for direction in ("encode", "decode"):
                (row,) = (
                    r for r in found.values() if (r["scope"], r["peer"], r["direction"]) == (scope, name, direction)
                )
                assert "error" not in row
                assert row["pixels"] == pixels
                assert 0 < row["seconds"] < 60
                assert scope == "folder" or row["peak_bytes"] is None or 5e6 < row["peak_bytes"] < 4e9
    scaling = ["speed", "--scaling", "--max-megapixels", "0.1", "--images", crops, "--peers", "jpeg", "--out", tmp_path]
    assert bench(*scaling).exit_code == 0
    assert sum(row["scope"] == "scaling" for row in Store.read(tmp_path).processes.values()) == 2


def test_a_folder_is_coded_whole_by_every_codec(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """What the commands of a folder leave: a file per picture there, and a picture per file back."""
    originals = tmp_path / "originals"
    originals.mkdir()
    for place in range(3):
        Image.fromarray(photo[place * 40 : place * 40 + 64, :80]).save(originals / f"{place}.png")
    plan = speed.SpeedPlan(pictures.find(str(originals)), (peers.PEERS["vqcodec"],), repeats=1, processors=2)
    for name in ("webp", "vqcodec"):
        source = originals
        for direction in ("encode", "decode"):
            target = tmp_path / name / direction
            target.mkdir(parents=True)
            commands = speed._folder_commands(peers.PEERS[name], direction, sorted(source.iterdir()), target)
            row = speed._folder(speed._rows("folder", "3", 1, peers.PEERS[name])[0], commands, plan.processors)
            assert "error" not in row, row
            assert len(list(target.iterdir())) == 3
            source = target
        back = np.asarray(Image.open(sorted(source.iterdir())[1]).convert("RGB"))
        assert metrics.psnr(np.asarray(Image.open(originals / "1.png")), back) > 25


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("name", list(tools.TOOLS))
def test_programs_of_the_system_go_there_and_back(
    name: str, threads: int, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    tool = tools.TOOLS[name]
    try:
        assert any(character.isdigit() for character in tool.version())
    except MissingError as error:
        pytest.skip(error.message)
    source, back = tmp_path / "in.png", tmp_path / "out.png"
    code = tmp_path / f"code{tools.SUFFIXES[name]}"
    Image.fromarray(photo[:96, :128]).save(source)
    for direction, before, after in (("encode", source, code), ("decode", code, back)):
        found = speed.watched(tool.command(direction, tool.middle, before, after, threads))
        assert found["code"] == 0, found["stderr"]
    assert code.stat().st_size < source.stat().st_size / 2
    assert metrics.psnr(photo[:96, :128], np.asarray(Image.open(back).convert("RGB"))) > 28


def test_the_watcher_tells_peak_memory_code_and_time() -> None:
    """In a small process, as the benchmark runs it: this one's own size would be counted as its child's."""

    def watch(seconds: float, code: str) -> dict[str, Any]:
        command = [sys.executable, process.__file__, "watch", str(seconds), sys.executable, "-c", code]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found

    found = watch(60, "x = bytearray(150_000_000); raise SystemExit(3)")
    assert found["code"] == 3
    if found["peak_bytes"] is not None:
        assert 150e6 < found["peak_bytes"] < 400e6
    slow = watch(0.2, "import time; time.sleep(30)")
    assert slow["code"] != 0
    assert slow["seconds"] < 10


def test_progress_estimates_each_kind_at_its_own_pace() -> None:
    stream = io.StringIO()
    shown = progress.Progress("step", {"fast": 10.0, "slow": 10.0}, stream)
    shown.step("fast", 5, 1.0)
    assert shown.seconds_left() == pytest.approx(1 + 2)
    shown.step("slow", 5, 50.0)
    assert shown.seconds_left() == pytest.approx(1 + 50)
    assert stream.getvalue().splitlines() == ["step  25%  0:03 left", "step  50%  0:51 left"]
    assert progress.clock(125) == "2:05"
    assert progress.clock(3725) == "1:02:05"
