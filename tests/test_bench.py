# SPDX-License-Identifier: MIT
"""The benchmark: metrics whose answer is known, runs that are killed and go on, libraries that are missing, reports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from bench import metrics, page, peers, pictures, plots, process, report, run, slides, stages
from bench.__main__ import main
from bench.errors import BenchError, MissingError, NoOverlapError
from bench.store import Store, read_published

ROOT = Path(__file__).resolve().parent.parent
JPEG_CURVE = [(0.1, 24.0), (0.2, 27.0), (0.4, 30.0), (0.8, 33.5), (1.6, 37.0), (3.2, 41.0)]
QUICK = ["--slides", "0", "--repeats", "1", "--metrics", "psnr,ms_ssim"]


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(photo: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two crops of the bundled photograph, large enough for MS-SSIM."""
    path = tmp_path_factory.mktemp("pictures")
    Image.fromarray(photo[:176, :192]).save(path / "a.png")
    Image.fromarray(photo[100:276, 200:376]).save(path / "b.png")
    return path


@pytest.fixture(scope="module")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of JPEG, WebP and vqcodec, with processes and scaling."""
    out = tmp_path_factory.mktemp("results")
    some = ["--settings", "vqcodec=30,60,90", "--settings", "jpeg=10,30,60,90", "--settings", "webp=5,40,90"]
    done = bench("--images", folder, "--peers", "jpeg,webp,vqcodec", "--out", out, *some, *QUICK)
    assert done.exit_code == 0, done.output
    small = ["--scaling", "--max-megapixels", "0.1", "--peers", "jpeg"]
    done = bench("--images", folder, *small, "--out", out, *QUICK)
    assert done.exit_code == 0, done.output
    return out


# Metrics


def test_psnr_of_known_differences() -> None:
    a = np.full((20, 30, 3), 100, np.uint8)
    assert metrics.psnr(a, a) == metrics.IDENTICAL_DB
    assert metrics.psnr(a, a + np.uint8(1)) == pytest.approx(20 * np.log10(255))
    one = a.copy()
    one[0, 0, 0] = 200
    assert metrics.psnr(one, a) == metrics.psnr(a, one) == pytest.approx(10 * np.log10(255**2 * a.size / 100**2))


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
    assert metrics.ms_ssim(a[:160], a[:160]) is None
    assert metrics.ms_ssim(a[:161, :161], a[:161, :161]) == pytest.approx(1)
    assert metrics.in_db(0.99) == pytest.approx(20)
    assert metrics.in_db(1.0) < 101


def test_ssimulacra2_orders_pictures(photo: NDArray[np.uint8]) -> None:
    pytest.importorskip("ssimulacra2", reason="SSIMULACRA2 comes with the bench extra")
    original = Image.fromarray(photo[:128, :128])
    jpeg = peers.PEERS["jpeg"]
    good, bad = (np.asarray(jpeg.decode(jpeg.encode(original, quality))) for quality in (95, 10))
    scores = [metrics.ssimulacra2(np.asarray(original), other) for other in (np.asarray(original), good, bad)]
    assert scores[0] == pytest.approx(100)
    assert scores[0] > scores[1] > 60 > scores[2]


# BD-rate


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.25])
def test_bd_rate_of_a_constant_factor(factor: float) -> None:
    shifted = [(rate * factor, quality) for rate, quality in JPEG_CURVE]
    for window in (None, (28.0, 36.0), (0.0, 99.0)):
        found = metrics.bd_rate(JPEG_CURVE, shifted, window)
        assert found.percent == pytest.approx((factor - 1) * 100, abs=1e-9)
    assert metrics.bd_rate(JPEG_CURVE, shifted[::-1]).percent == pytest.approx((factor - 1) * 100, abs=1e-9)


def test_bd_rate_says_over_which_range() -> None:
    test = [(0.3, 29.0), (0.6, 32.0), (1.2, 35.0)]
    assert metrics.bd_rate(JPEG_CURVE, test).low == 29
    assert metrics.bd_rate(JPEG_CURVE, test).high == 35
    found = metrics.bd_rate(JPEG_CURVE, JPEG_CURVE, (28, 36))
    assert (found.low, found.high, found.percent) == (28, 36, pytest.approx(0))


def test_bd_rate_of_straight_lines_in_the_logarithm() -> None:
    """log2 rate = q / 3 and log2 rate = q / 6 + 2 differ by 2 - q / 6; over 0 to 18 that is 0.5 in the mean."""
    anchor = [(2 ** (q / 3), float(q)) for q in range(0, 19, 3)]
    test = [(2 ** (q / 6 + 2), float(q)) for q in range(-6, 25, 3)]
    assert metrics.bd_rate(anchor, test).percent == pytest.approx((2**0.5 - 1) * 100, abs=1e-9)
    window = metrics.bd_rate(anchor, test, (0, 6))  # there, 1.5 in the mean
    assert window.percent == pytest.approx((2**1.5 - 1) * 100, abs=1e-9)


def test_bd_rate_without_overlap_says_so() -> None:
    high = [(1.0, 45.0), (2.0, 48.0), (3.0, 50.0)]
    with pytest.raises(NoOverlapError, match=r"anchor covers 24\.00 to 41\.00, the test 45\.00 to 50\.00"):
        metrics.bd_rate(JPEG_CURVE, high)
    with pytest.raises(NoOverlapError, match="within 10 to 20"):
        metrics.bd_rate(JPEG_CURVE, JPEG_CURVE, (10, 20))
    with pytest.raises(NoOverlapError, match="at least three points"):
        metrics.bd_rate(JPEG_CURVE, JPEG_CURVE[:2])


def test_bd_rate_passes_over_points_that_are_no_better() -> None:
    flat = sorted([*JPEG_CURVE, (5.0, 41.0)])
    assert metrics.bd_rate(JPEG_CURVE, flat).percent == pytest.approx(0, abs=1e-9)


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


def test_unknown_names_are_told() -> None:
    with pytest.raises(BenchError, match="unknown codec tiff; known are jpeg"):
        peers.choose("jpeg,tiff")
    assert [peer.name for peer in peers.choose("webp,default")][:2] == ["webp", "jpeg"]
    assert bench("--metrics", "lpips").exit_code == 1
    assert "write it like" in bench("--settings", "jpeg=many").output
    assert "no such folder" in bench("--images", "nowhere", "--peers", "jpeg").output


def test_pictures_of_a_folder_and_of_the_built_in_sets(folder: Path, tmp_path: Path) -> None:
    found = pictures.find(str(folder))
    assert [file.name for file in found.files] == ["a.png", "b.png"]
    assert [file.name for file in pictures.find(str(folder), every=2).files] == ["a.png"]
    assert found.facts()["a.png"] == pictures.find(str(folder / "a.png")).facts()["a.png"]
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


def test_a_killed_run_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    settings = ",".join(str(quality) for quality in range(2, 92, 2))
    arguments = ["--images", str(folder), "--peers", "jpeg,webp", "--settings", f"webp={settings}", "--out"]
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


def test_nothing_is_measured_twice(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--images", folder, "--peers", "jpeg", "--settings", "jpeg=20,50,80", "--out", tmp_path, *QUICK]
    assert bench(*arguments).exit_code == 0
    first = (tmp_path / "results.jsonl").read_text(encoding="utf-8")
    assert bench(*arguments).exit_code == 0
    assert (tmp_path / "results.jsonl").read_text(encoding="utf-8") == first
    monkeypatch.setattr(peers.PillowPeer, "version", lambda self: "another library")
    changed = bench(*arguments)
    assert "jpeg has changed since" in changed.output
    assert len(Store.read(tmp_path).rows) == 6
    other = bench("--images", folder / "a.png", "--peers", "jpeg", "--out", tmp_path, *QUICK)
    assert other.exit_code == 1
    assert "results of other pictures" in other.output
    assert bench("--images", folder / "a.png", "--peers", "jpeg", "--out", tmp_path, "--fresh", *QUICK).exit_code == 0


def test_a_missing_library_leaves_its_rows_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    done = bench("--images", folder, "--peers", "jpeg,jxl", "--settings", "jpeg=20,80", "--out", tmp_path, *QUICK)
    assert done.exit_code == 0, done.output
    assert "jxl is left out: pillow-jxl-plugin is not installed" in done.output
    assert {row["peer"] for row in Store.read(tmp_path).rows.values()} == {"jpeg"}
    assert "jxl is left out" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "none of these codecs is here" in bench("--images", folder, "--peers", "jxl").output


def test_a_failing_codec_is_counted_and_gives_no_point(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = peers.PillowPeer.encode

    def failing(self: peers.PillowPeer, image: Image.Image, setting: int, threads: int = 0) -> bytes:
        if setting == 50 and image.width == 192:
            raise ValueError("not today")
        return whole(self, image, setting, threads)

    monkeypatch.setattr(peers.PillowPeer, "encode", failing)
    some = ["--peers", "jpeg", "--settings", "jpeg=20,50,60,80", "--out", tmp_path]
    done = bench("--images", folder, *some, *QUICK)
    assert done.exit_code == 0, done.output
    assert "jpeg at 50 failed on a.png: ValueError: not today" in done.output
    store = Store.read(tmp_path)
    assert report.summarise(store)[0].failures == 1
    assert [point.setting for point in report.curves(store, metrics.METRICS["psnr"])["jpeg"]] == [20, 60, 80]
    monkeypatch.undo()
    assert bench("--images", folder, *some, *QUICK).exit_code == 0  # errors are tried again
    assert report.summarise(Store.read(tmp_path))[0].failures == 0


def test_rows_are_what_the_codec_makes(measured: Path, folder: Path) -> None:
    store = Store.read(measured)
    image = Image.open(folder / "b.png").convert("RGB")
    row = store.rows["b.png", "webp", 40]
    data = peers.PEERS["webp"].encode(image, 40)
    assert row["bytes"] == len(data)
    assert report.bpp_of(store, row) == 8 * len(data) / (176 * 176)
    decoded = np.asarray(peers.PEERS["webp"].decode(data))
    assert row["psnr"] == pytest.approx(metrics.psnr(np.asarray(image), decoded), abs=1e-4)
    point = next(p for p in report.curves(store, metrics.METRICS["psnr"])["webp"] if p.setting == 40)
    assert point.quality == pytest.approx((row["psnr"] + store.rows["a.png", "webp", 40]["psnr"]) / 2)


def test_processes_are_measured_whole(measured: Path) -> None:
    found = Store.read(measured).processes
    for name in ("jpeg", "webp", "vqcodec"):
        for direction in ("encode", "decode"):
            (row,) = (r for k, r in found.items() if k[0] == "a.png" and r["peer"] == name and k[4] == direction)
            assert "error" not in row
            assert 0 < row["seconds"] < 60
            assert row["peak_bytes"] is None or 5e6 < row["peak_bytes"] < 4e9
    assert sum(key[0] == "scaling" for key in found) == 2


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


def test_progress_estimates_each_codec_at_its_own_pace() -> None:
    progress = run.Progress({"fast": 10.0, "slow": 10.0}, quiet=True)
    progress.step("fast", 5, 1.0, "")
    assert progress.seconds_left() == pytest.approx(1 + 2)
    progress.step("slow", 5, 50.0, "")
    assert progress.seconds_left() == pytest.approx(1 + 50)
    assert run.clock(125) == "2:05"


# Reports


def test_the_report_makes_readmes_section(measured: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{report.BEGIN}\nwhat stood here\n{report.END}\n\nThe end.\n", encoding="utf-8")
    shutil.copytree(measured, tmp_path / "results")
    done = bench("report", tmp_path / "results", "--readme", readme)
    assert done.exit_code == 0, done.output
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\n\nThe end.\n")
    assert "what stood here" not in text
    assert "](results/rd-psnr.svg)" in text
    assert "| JPEG " in text
    assert "| vqcodec " in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) <= 9  # a head and eight rows
    assert str(tmp_path) not in text
    again = bench("report", tmp_path / "results", "--readme", readme)
    assert "had these numbers already" in again.output
    assert readme.read_text(encoding="utf-8") == text
    readme.write_text("# Title\n", encoding="utf-8")
    assert "put these two lines" in bench("report", tmp_path / "results", "--readme", readme).output
    assert "holds no results" in bench("report", tmp_path / "nothing").output


def test_the_report_makes_a_section_with_all_tables(measured: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.md"
    results.write_text(f"# Results\n\n{report.PAGE_BEGIN}\nold\n{report.PAGE_END}\n\nThe end.\n", encoding="utf-8")
    shutil.copytree(measured, tmp_path / "results")
    done = bench("report", tmp_path / "results", "--page", results)
    assert done.exit_code == 0, done.output
    text = results.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.endswith(f"{report.PAGE_END}\n\nThe end.\n")
    for part in ("| encode MP/s |", "0.1 MP", "Codecs: Pillow", "bpp is the whole file over width"):
        assert part in text, part
    assert "had these numbers already" in bench("report", tmp_path / "results", "--page", results).output


def test_a_codec_that_is_an_anchor_of_its_own_says_so(measured: Path) -> None:
    store = Store.read(measured)
    (line,) = report.direct(store, ["webp", "avif"])
    assert re.fullmatch(r"vqcodec against WebP directly: [+−][\d.]+ % \(PSNR\), [+−][\d.]+ % \(MS-SSIM\)\.", line)
    assert report.direct(store, ["vqcodec"])[0].startswith("vqcodec against vqcodec directly: +0.0 % (PSNR)")


def test_no_path_of_this_machine_is_written(measured: Path, folder: Path) -> None:
    for path in measured.iterdir():
        content = path.read_bytes()
        for secret in (str(folder.parent), str(ROOT)):
            assert secret.encode() not in content, path


def test_figures_say_which_data_they_show(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "results")
    store = Store.read(tmp_path / "results")
    first = (measured / "rd-psnr.svg").read_text(encoding="utf-8")
    assert report.digest(store) in first
    plots.write(store)
    assert (tmp_path / "results" / "rd-psnr.svg").read_text(encoding="utf-8") == first
    assert (tmp_path / "results" / "scaling.png").exists()
    store.rows["a.png", "webp", 40]["psnr"] += 0.1
    assert report.digest(store) not in first


def test_the_page_stands_alone(measured: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "results")
    store = Store.read(tmp_path / "results")
    files = pictures.find(str(folder)).files[:1]
    some = [peers.PEERS[name] for name in ("jpeg", "webp", "vqcodec")]
    text = page.write(store, slides.slides(store, files, some, [0.5])).read_text(encoding="utf-8")
    assert "@@" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    (slide,) = json.loads(found[1].replace("<\\/", "</"))
    assert slide["original"].startswith("data:image/webp;base64,")
    shown = slide["levels"][0]["shown"]
    assert [one["codec"] for one in shown] == ["vqcodec", "JPEG", "WebP"]
    assert shown[1]["src"].startswith("data:image/jpeg;")
    for one in shown[1:]:
        assert one["bpp"] == pytest.approx(shown[0]["bpp"], rel=0.15)


def test_published_curves_are_shown_too(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "results")
    points = [{"bpp": rate, "psnr": quality} for rate, quality in JPEG_CURVE]
    (tmp_path / "curves.json").write_text(json.dumps({"vtm": {"points": points}, "hm": points}), encoding="utf-8")
    done = bench("report", tmp_path / "results", "--published", tmp_path / "curves.json", "--published-only", "vtm")
    assert done.exit_code == 0, done.output
    assert "vtm" in done.output
    assert "vtm" in (tmp_path / "results" / "rd-psnr.svg").read_text(encoding="utf-8")
    assert list(Store.read(tmp_path / "results").published) == ["vtm"]
    with pytest.raises(BenchError, match="has no curve x265; it has vtm, hm"):
        read_published(tmp_path / "curves.json", "x265")


def test_the_report_tells_where_vqcodec_loses() -> None:
    table = report.Table(("vqcodec against", "JPEG", "AVIF"), [("a", "−40.0 %", "+2.0 %"), ("b", "−1.0 %", "–")])
    assert report.losses(table) == ["AVIF needs fewer bits than vqcodec on 1 of 2: a"]
    assert report.losses(None) == []


def test_readme_says_what_was_measured() -> None:
    """README's numbers and figures are those of the committed results."""
    if not list((ROOT / "bench" / "results").glob("*/run.json")):
        pytest.skip("no results are committed yet")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.search(rf"{report.BEGIN}\s*!\[[^]]*\]\((bench/results/[^)/]+)/rd-psnr\.svg\)", readme)
    assert named, "README names no results: python -m bench report bench/results/VERSION --readme README.md"
    store = Store.read(ROOT / named[1])
    table = report.picture_table(store)
    assert table is not None
    assert not any("vqcodec" in column for column in table.head[1:])  # it is not held against itself at other efforts
    again = f"python -m bench report {named[1]} --log-rate --readme README.md --page docs/results.md"
    assert report.section(store, named[1]) in readme, again
    assert report.page_section(store) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), again
    for figure in (ROOT / named[1]).glob("*.svg"):
        assert report.digest(store) in figure.read_text(encoding="utf-8"), f"{figure.name} shows other data"


def test_stages_add_up_to_the_whole_process(folder: Path, tmp_path: Path) -> None:
    picture = sorted(folder.iterdir())[0]
    page = tmp_path / "performance.md"
    page.write_text(f"# Speed\n\n{stages.BEGIN}\n{stages.END}\n", encoding="utf-8")
    done = bench("stages", picture, "--repeats", "1", "--out", tmp_path / "results", "--page", page)
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "results" / stages.FILE).read_text(encoding="utf-8"))
    for found in facts["milliseconds"].values():
        parts = {stage: spent for stage, spent in found.items() if stage != "whole process"}
        assert sum(parts.values()) == pytest.approx(found["whole process"], rel=0.02)
        assert all(
            parts[stage] > 0 for stage in ("imports", "picture file", "transform", "prior", "coder", ".vqc file")
        )
    assert "choice of indices" in page.read_text(encoding="utf-8")
    lost = bench("stages", tmp_path / "results" / stages.FILE, "--repeats", "1", "--out", tmp_path / "more")
    assert lost.exit_code == 1
    assert "cannot read" in lost.output


def test_the_page_on_speed_says_what_was_measured() -> None:
    """The table in docs/performance.md is that of the committed results."""
    found = sorted((ROOT / "bench" / "results").glob(f"*/{stages.FILE}"))
    if not found:
        pytest.skip("no results are committed yet")
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert stages.section(found[-1].parent) in page
