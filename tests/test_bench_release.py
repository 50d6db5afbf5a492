# SPDX-License-Identifier: MIT
"""A release in parts: rates without times, what an earlier release measured, sampled metrics, speed by itself."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from bench import codecs, metrics, pictures, report, run, session, speed
from bench.__main__ import main
from bench.release import section
from bench.store import Row, Store

SOME = ["--peers", "jpeg,webp", "--settings", "jpeg=20,80", "--settings", "webp=5,90"]


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is repeated."""
    monkeypatch.setattr(speed, "ENOUGH_SECONDS", 1e-9)


def release(out: Path, crops: Path, *arguments: str | Path) -> Result:
    given = ["release", "--set", f"one={crops}", "--work", out / "work", "--out", out / "out", *SOME, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in given])


def release_page(out: Path) -> str:
    return (out / "out" / "one" / "results.md").read_text(encoding="utf-8")


def test_rates_have_no_times_and_speed_comes_by_itself(crops: Path, tmp_path: Path) -> None:
    done = release(tmp_path, crops, "--metrics", "psnr", "--only", "rates")
    assert done.exit_code == 0, done.output
    store = Store.read(tmp_path / "out" / "one")
    assert len(store.rows) == 8
    assert not store.processes
    assert {key for row in store.rows.values() for key in row} == {"picture", "peer", "setting", "bytes", "psnr"}
    assert "Not measured: it wants an idle machine" in release_page(tmp_path)
    assert "seconds of a whole process" not in section(report.Report(store), "x")
    assert "compress s" not in section(report.Report(store), "x")
    shutil.rmtree(tmp_path / "work")  # as on another machine: the run goes on from what is committed
    done = release(tmp_path, crops, "--metrics", "psnr", "--only", "speed", "--max-megapixels", "0")
    assert done.exit_code == 0, done.output
    after = Store.read(tmp_path / "out" / "one")
    assert after.rows == store.rows
    assert {row["scope"] for row in after.processes.values()} == {"warm", "process", "folder"}
    assert "Not measured" not in release_page(tmp_path)
    assert "compress s" in section(report.Report(after), "x")
    table = report.cost_table(after)
    assert table.head[1:3] == ("warm encode MP/s", "warm decode MP/s")
    warm = next(row for row in after.processes.values() if (row["scope"], row["peer"]) == ("warm", "jpeg"))
    assert float(table.rows[0][1]) == pytest.approx(176 * 192 / 1e6 / warm["seconds"], rel=0.01)
    assert "unknown part colours" in release(tmp_path, crops, "--only", "rates,colours").output


def test_speed_can_be_measured_first(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any rate; a codec that fails stands in the table."""

    def failing(*_: Any) -> bytes:
        raise ValueError("not today")

    monkeypatch.setattr(codecs.PillowPeer, "encode", failing)
    done = release(tmp_path, crops, "--only", "speed", "--max-megapixels", "0", "--peers", "jpeg")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "one" / "results.md").read_text(encoding="utf-8")
    assert "## Speed and memory" in page
    assert "jpeg encode of a.png failed when it was timed: ValueError: not today" in page


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[int, ...]]:
    """The shapes of the pictures that a metric judges from now on."""
    found: list[tuple[int, ...]] = []
    metric = metrics.METRICS[name]

    def measure(a: metrics.Rgb, b: metrics.Rgb) -> float | None:
        found.append(a.shape)
        return metric.measure(a, b)

    monkeypatch.setitem(metrics.METRICS, name, replace(metric, measure=measure))
    return found


def test_only_lacking_metrics_are_measured(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ["--images", crops, "--peers", "jpeg", "--settings", "jpeg=20,80", "--slides", "0", "--out", tmp_path]

    def measured(names: str) -> Store:
        done = CliRunner().invoke(main, [*map(str, some), "--metrics", names])
        assert done.exit_code == 0, done.output
        return Store.read(tmp_path)

    before = measured("psnr,ms_ssim")
    calls = counted(monkeypatch, "ms_ssim")
    after = measured("psnr,ms_ssim,psnr_luma")
    assert not calls
    assert all(after.rows[key]["ms_ssim"] == row["ms_ssim"] for key, row in before.rows.items())
    assert all("psnr_luma" in row for row in after.rows.values())
    rows = tmp_path / "results.jsonl"  # another file than today's: all its figures are measured again
    rows.write_text(rows.read_text(encoding="utf-8").replace('"bytes":', '"bytes":1'), encoding="utf-8")
    assert measured("psnr,ms_ssim,psnr_luma,psnr_chroma").rows.keys() == before.rows.keys()
    assert len(calls) == 4


def test_a_metric_of_another_version_is_measured_again(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release(tmp_path, crops, "--metrics", "psnr,ms_ssim", "--only", "rates").exit_code == 0
    monkeypatch.setitem(metrics.METRICS, "ms_ssim", replace(metrics.METRICS["ms_ssim"], detail=" of tomorrow"))
    calls = counted(monkeypatch, "ms_ssim")
    assert release(tmp_path, crops, "--metrics", "psnr,ms_ssim", "--only", "rates").exit_code == 0
    assert len(calls) == 8


def test_metrics_that_need_torch_judge_a_sample(crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(metrics.METRICS["psnr_luma"], package="piq")
    monkeypatch.setitem(metrics.METRICS, "psnr_luma", slow)
    monkeypatch.setattr(session, "metrics_here", lambda names: ({"psnr": "", "psnr_luma": "piq"}, {}))
    done = release(tmp_path, crops, "--sample", "2", "--only", "rates")
    assert done.exit_code == 0, done.output
    store = Store.read(tmp_path / "out" / "one")
    assert {key[0] for key, row in store.rows.items() if "psnr_luma" in row} == {"a.png"}
    assert {key[0] for key, row in store.rows.items() if "psnr" in row} == {"a.png", "b.png"}
    assert report.notices(report.Report(store))[-1] == "luma PSNR judged 1 of 2 pictures"
    assert "| luma PSNR (1 of 2 pictures) |" in release_page(tmp_path)
    figure = (tmp_path / "out" / "one" / "rd-psnr_luma.svg").read_text(encoding="utf-8")
    assert "mean of 1 pictures" in figure
    files = pictures.find(str(crops))
    plan = run.Plan(files, (), ("psnr", "psnr_luma"), sample=2)
    assert [plan.metrics_of(file.name) for file in files.files] == [("psnr", "psnr_luma"), ("psnr",)]


def test_what_an_earlier_release_measured_is_taken_over(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    assert release(old, crops, "--metrics", "psnr", "--only", "rates").exit_code == 0
    packed = Store.read(old / "out" / "one")
    for row in packed.rows.values():
        row["enc_seconds"] = row["dec_seconds"] = 1.0
    packed.run["peers"]["webp"]["version"] = "of yesterday"
    packed.run["date"] = "2020-02-02"
    shutil.rmtree(old / "out" / "one")
    packed.folder.mkdir()
    packed._write()
    calls: list[str] = []
    whole = codecs.PillowPeer.encode

    def encode(self: codecs.PillowPeer, *arguments: Any) -> bytes:
        calls.append(self.name)
        return whole(self, *arguments)

    monkeypatch.setattr(codecs.PillowPeer, "encode", encode)
    done = release(new, crops, "--metrics", "psnr", "--only", "rates", "--earlier", old / "out")
    assert done.exit_code == 0, done.output
    assert "4 rows of jpeg are those of" in done.output
    assert set(calls) == {"webp"}
    store = Store.read(new / "out" / "one")
    assert len(store.rows) == 8
    assert not any("enc_seconds" in row for row in store.rows.values())
    assert "Files of jpeg were measured 2020-02-02." in report.provenance(store.run)
    assert "rows of" not in release(new, crops, "--metrics", "psnr", "--only", "rates", "--earlier", old / "out").output
    assert Store.read(new / "out" / "one").run["borrowed"] == {"2020-02-02": ["jpeg"]}


def test_an_earlier_release_of_other_pictures_is_refused(crops: Path, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    assert release(tmp_path / "old", crops, "--metrics", "psnr", "--only", "rates").exit_code == 0
    earlier = ["--metrics", "psnr", "--only", "rates", "--earlier", tmp_path / "old" / "out" / "one"]
    done = release(tmp_path / "new", crops / "a.png", *earlier)  # one of the two pictures is there
    assert "4 rows of jpeg, webp are those of" in done.output
    other = tmp_path / "a.png"  # the same name, other pixels
    Image.fromarray(photo[:80, :90]).save(other)
    done = release(tmp_path / "newer", other, *earlier)
    assert done.exit_code == 1
    assert "holds results of other pictures" in done.output


def test_a_package_that_cannot_be_imported_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.import_module

    def broken(name: str, package: str | None = None) -> Any:
        if name == "piq":
            raise RuntimeError("operator torchvision::nms does not exist\nmore")
        return whole(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    found, missing = session.metrics_here("psnr,gmsd")
    assert found == {"psnr": "bench.metrics"}
    assert missing["gmsd"] == (
        "piq cannot be imported (operator torchvision::nms does not exist): install torch and torchvision together"
    )


def test_rows_of_known_files_keep_their_figures(photo: NDArray[np.uint8]) -> None:
    """Only where bytes and PSNR are those of today is a figure of before one of today."""
    a, b = photo[:64, :64], photo[1:65, :64]
    db = round(metrics.psnr(a, b), 5)
    known: Row = {"picture": "a", "peer": "jpeg", "setting": 5, "bytes": 9, "psnr": db, "ms_ssim": 0.25}
    fresh: Row = {"picture": "a", "peer": "jpeg", "setting": 5, "bytes": 9}
    assert run._judge({**fresh}, a, b, ("psnr", "ms_ssim"), known)["ms_ssim"] == 0.25
    assert "ms_ssim" not in run._judge({**fresh}, a, b, ("psnr",), {**known, "psnr": db + 1})
    assert "ms_ssim" not in run._judge({**fresh, "bytes": 8}, a, b, ("psnr",), known)
