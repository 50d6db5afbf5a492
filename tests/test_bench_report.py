# SPDX-License-Identifier: MIT
"""What the benchmark makes of its rows: direct comparisons, tables, README's section, releases, figures, the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from bench import (
    curves,
    direct,
    metrics,
    page,
    peers,
    pictures,
    plots,
    published,
    release,
    report,
    seams,
    slides,
    speed,
)
from bench.__main__ import main
from bench.errors import BenchError
from bench.store import Row, Run, Store, described, pack, read_lines
from bench.tables import Table

ROOT = Path(__file__).resolve().parent.parent
PSNR = metrics.METRICS["psnr"]
QUICK = ["--slides", "0", "--repeats", "1", "--metrics", "psnr,ms_ssim"]
SETTINGS = (10, 30, 50, 70, 90)


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def measured(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of JPEG, WebP and vqcodec, with processes of growing pictures."""
    out = tmp_path_factory.mktemp("results")
    some = ["--settings", "vqcodec=30,60,90", "--settings", "jpeg=10,30,60,90", "--settings", "webp=5,40,90"]
    done = bench("--images", crops, "--peers", "jpeg,webp,vqcodec", "--out", out, *some, *QUICK)
    assert done.exit_code == 0, done.output
    small = ["speed", "--scaling", "--max-megapixels", "0.1", "--peers", "jpeg", "--repeats", "1"]
    done = bench(*small, "--images", crops, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def invented(folder: Path, factors: dict[str, NDArray[np.float64]]) -> Store:
    """Results of codecs that need so many times the bits of a common curve on each picture: name -> [pictures]."""
    count = len(next(iter(factors.values())))
    names = [f"{place}.png" for place in range(count)]
    facts = {name: {"width": 1000, "height": 1000, "sha256": name} for name in names}
    labels = {name: {"label": name.upper(), "stated": "", "version": "1"} for name in factors}
    run: Run = described([], set="invented", threads=1, repeats=1, metrics={"psnr": ""}, pictures=facts, peers=labels,
                         missing={})  # fmt: skip
    store = Store(folder, run)
    for peer, mine in factors.items():
        for picture, factor in zip(names, mine, strict=True):
            for setting in SETTINGS:
                row: Row = {"picture": picture, "peer": peer, "setting": setting}
                row["bytes"] = round(20_000 * 2 ** (setting / 20) * float(factor))
                row["psnr"] = 25 + setting / 6
                store.rows[picture, peer, setting] = row
    return store


# Direct comparisons


def test_a_matrix_knows_the_factor_its_inverse_and_the_wins(tmp_path: Path) -> None:
    factors = {"a": np.ones(8), "b": np.full(8, 1.25), "c": np.array([0.5, 2.0] * 4)}
    found = direct.matrix(invented(tmp_path, factors), PSNR, draws=200)
    assert found["b", "a"].bd.percent == pytest.approx(25, abs=0.01)
    assert found["a", "b"].bd.percent == pytest.approx(-20, abs=0.01)
    assert (found["a", "b"].bd.low, found["a", "b"].bd.high) == (pytest.approx(25 + 10 / 6), 40)
    assert (found["a", "b"].wins, found["b", "a"].wins, found["a", "b"].judged) == (8, 0, 8)
    assert (found["c", "a"].wins, found["c", "a"].judged) == (4, 8)
    assert ("a", "a") not in found


def test_an_interval_is_narrow_where_pictures_agree_and_holds_zero_where_they_do_not(tmp_path: Path) -> None:
    factors = {"a": np.ones(8), "b": np.full(8, 1.25), "c": np.array([0.7, 1.3] * 4)}
    found = direct.matrix(invented(tmp_path, factors), PSNR, draws=400)
    sure, open_ = found["b", "a"].interval, found["c", "a"].interval
    assert sure is not None
    assert open_ is not None
    assert sure == (pytest.approx(25, abs=0.01), pytest.approx(25, abs=0.01))
    assert not found["b", "a"].level
    assert found["c", "a"].level
    assert -30 < open_[0] < -10
    assert 10 < open_[1] < 30
    turned = found["a", "c"].interval
    assert turned == (pytest.approx(direct.inverse(open_[1])), pytest.approx(direct.inverse(open_[0])))


def test_the_interval_is_that_of_means_drawn_by_hand(tmp_path: Path) -> None:
    """With equal qualities the BD-rate of a draw is the ratio of its mean rates."""
    factors = np.array([0.6, 0.8, 1.0, 1.1, 1.5])
    found = direct.matrix(invented(tmp_path, {"a": np.ones(5), "b": factors}), PSNR, draws=500)
    draws = np.random.default_rng(3).choice(factors, (20_000, 5)).mean(1)
    low, high = np.percentile(100 * (draws - 1), [2.5, 97.5])
    assert found["b", "a"].interval == (pytest.approx(low, abs=3), pytest.approx(high, abs=3))


def test_few_pictures_have_no_interval(tmp_path: Path) -> None:
    found = direct.matrix(invented(tmp_path, {"a": np.ones(3), "b": np.ones(3)}), PSNR)
    assert found["a", "b"].interval is None
    assert not found["a", "b"].level


def test_curves_that_share_no_range_are_left_out(tmp_path: Path) -> None:
    store = invented(tmp_path, {"a": np.ones(4), "b": np.ones(4)})
    for key, row in store.rows.items():
        if key[1] == "b":
            row["psnr"] += 40
    assert direct.matrix(store, PSNR) == {}


def test_the_sentence_names_the_strongest_of_the_others(tmp_path: Path) -> None:
    rates = {"jpeg": 2.0, "avif-iq-444": 0.8, "webp": 1.4, "vqcodec": 1.0, "vqcodec-e9": 0.5}
    store = invented(tmp_path, {name: np.full(6, rate) for name, rate in rates.items()})
    store.run["peers"]["vqcodec"]["trained_on"] = "psnr"
    (line,) = report.sentences(report.Report(store))
    assert line == (
        "PSNR (its model was trained on it): VQCODEC needs 25.0 % more bits than AVIF-IQ-444, the strongest of the "
        "others; 95 % interval +25.0 % to +25.0 %; fewer bits on 0 of 6 pictures."
    )
    swing = {"jpeg": np.full(6, 2.0), "vqcodec": np.array([0.8, 1.2] * 3), "webp": np.ones(6)}
    (line,) = report.sentences(report.Report(invented(tmp_path, swing)))
    assert line.startswith("PSNR: VQCODEC and WEBP, the strongest of the others, are level on these pictures (")
    assert line.endswith("fewer bits on 3 of 6 pictures.")


def test_cells_mark_what_is_level_and_what_was_trained_on(tmp_path: Path) -> None:
    store = invented(tmp_path, {"a": np.ones(6), "b": np.array([0.8, 1.2] * 3), "c": np.full(6, 0.5)})
    store.run["peers"]["c"]["trained_on"] = "psnr"
    found = report.Report(store, anchor="a")
    assert found.cell(PSNR, "b", "a").startswith("≈ ")
    assert found.cell(PSNR, "c", "a") == "−50.0 % †"
    assert found.cell(PSNR, "c", "a", interval=True) == "−50.0 % [−50.0, −50.0] †"
    assert found.cell(PSNR, "a", "a") == "0"
    with pytest.raises(BenchError, match="it was not measured; these were: a, b, c"):
        report.Report(store, anchor="d")


def test_picture_by_picture(tmp_path: Path) -> None:
    store = invented(tmp_path, {"vqcodec": np.array([0.5, 2.0]), "jpeg": np.ones(2), "vqcodec-e9": np.ones(2)})
    found = report.picture_table(report.Report(store), PSNR)
    assert found == Table(("VQCODEC against", "JPEG"), [("0.png", "−50.0 %"), ("1.png", "+100.0 %")])


def test_the_anchor_of_a_run_can_be_chosen(crops: Path, tmp_path: Path) -> None:
    some = ["--peers", "jpeg,webp", "--settings", "jpeg=10,40,70,90", "--settings", "webp=5,40,70,90"]
    done = bench("--images", crops, *some, "--anchor", "webp", "--out", tmp_path, *QUICK)
    assert done.exit_code == 0, done.output
    assert "Bits at equal quality, against WebP" in done.output
    assert re.search(r"^WebP +0 +0$", done.output, re.M)


# Releases


def test_a_release_is_small_and_makes_readmes_section(measured: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{release.BEGIN}\nwhat stood here\n{release.END}\n\nThe end.\n", encoding="utf-8")
    target = tmp_path / "results" / "kodak"
    done = bench("report", measured, "--release", target, "--readme", readme)
    assert done.exit_code == 0, done.output
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{release.BEGIN}\n")
    assert text.endswith(f"{release.END}\n\nThe end.\n")
    assert "what stood here" not in text
    assert "](results/kodak/rd.svg)" in text
    assert 2 <= sum(line.startswith("| ") for line in text.splitlines()) - 1 <= peers.MAX_SHORT
    assert str(tmp_path) not in text
    assert not (target / "results.jsonl").exists()
    assert not (target / "index.html").exists()
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    again = bench("report", target, "--readme", readme)  # from what is committed alone
    assert "had these numbers already" in again.output
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    readme.write_text("# Title\n", encoding="utf-8")
    assert "put these two lines" in bench("report", target, "--readme", readme).output
    assert "holds no results" in bench("report", tmp_path / "nothing").output


def test_the_page_of_results_has_all_codecs(measured: Path, tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text(
        f"# Results\n\n{release.PAGE_BEGIN}\nwhat stood here\n{release.PAGE_END}\n\nThe end.\n", encoding="utf-8"
    )
    done = bench("report", measured, "--release", tmp_path / "kodak", "--page", document)
    assert done.exit_code == 0, done.output
    text = document.read_text(encoding="utf-8")
    assert "what stood here" not in text
    assert text.endswith(f"{release.PAGE_END}\n\nThe end.\n")
    for part in ("| warm encode MP/s |", "0.1 MP", "Codecs: Pillow", "PSNR: row against column", "](kodak/results.md)"):
        assert part in text, part
    again = bench("report", tmp_path / "kodak", "--page", document)
    assert "had these numbers already" in again.output


def test_packed_rows_are_the_rows(measured: Path, tmp_path: Path) -> None:
    pack(measured / "results.jsonl", tmp_path / "results.jsonl")
    assert read_lines(tmp_path / "results.jsonl") == read_lines(measured / "results.jsonl")
    packed = tmp_path / "results.jsonl.xz"
    first = packed.read_bytes()
    pack(tmp_path / "results.jsonl", tmp_path / "results.jsonl")
    assert packed.read_bytes() == first
    packed.write_bytes(first[:-20])
    with pytest.raises(BenchError, match="malformed"):
        read_lines(tmp_path / "results.jsonl")


def test_one_command_makes_a_release_and_goes_on_after_a_stop(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "ENOUGH_SECONDS", 1e-9)  # no process is repeated
    readme = tmp_path / "README.md"
    readme.write_text(f"{release.BEGIN}\n{release.END}\n", encoding="utf-8")
    command = ["release", "--set", f"one={crops}", "--set", f"two={crops / 'a.png'}", "--peers", "jpeg", "--work",
               tmp_path / "work", "--out", tmp_path / "out", "--max-megapixels", "0.1", "--metrics", "psnr,ms_ssim",
               "--settings", "jpeg=20,50,80", "--readme", readme]  # fmt: skip
    done = bench(*command)
    assert done.exit_code == 0, done.output
    assert "one" in readme.read_text(encoding="utf-8")
    first, second = (Store.read(tmp_path / "out" / name) for name in ("one", "two"))
    assert {row["scope"] for row in first.processes.values()} == {"warm", "process", "folder", "scaling"}
    assert not second.processes
    assert len(first.rows) == 2 * len(second.rows) == 6
    before = (tmp_path / "work" / "one" / "results.jsonl").read_bytes()
    again = bench(*command)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "work" / "one" / "results.jsonl").read_bytes() == before
    assert bench("release", "--set", "kodak", "--out", tmp_path / "x").exit_code == 1


def test_folders_in_commands_are_cut_to_their_last_name() -> None:
    command = ["release", "--set", "kodak=/home/somebody/pictures/kodak", "--out", "/srv/out", "--peers", "jpeg"]
    (told,) = described(command)["commands"]
    assert told == "python -m bench release --set kodak=kodak --out out --peers jpeg"


def test_no_path_of_this_machine_is_written(measured: Path, crops: Path) -> None:
    for path in measured.iterdir():
        content = path.read_bytes()
        for secret in (str(crops.parent), str(ROOT)):
            assert secret.encode() not in content, path


def test_published_curves_are_shown_too(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "results")
    points = [{"bpp": 0.2 * 2**place, "psnr": 25.0 + 3 * place} for place in range(5)]
    (tmp_path / "curves.json").write_text(json.dumps({"vtm": {"points": points}, "hm": points}), encoding="utf-8")
    done = bench("report", tmp_path / "results", "--published", tmp_path / "curves.json", "--published-only", "vtm")
    assert done.exit_code == 0, done.output
    assert "vtm" in (tmp_path / "results" / "rd-psnr.svg").read_text(encoding="utf-8")
    assert list(Store.read(tmp_path / "results").published) == ["vtm"]
    with pytest.raises(BenchError, match="has no curve x265; it has vtm, hm"):
        published.read(tmp_path / "curves.json", "x265")
    with pytest.raises(BenchError, match="holds no published curves"):
        published.read(ROOT / "README.md")


def test_the_committed_curves_are_for_kodak_and_name_their_sources(tmp_path: Path) -> None:
    store = invented(tmp_path, {"jpeg": np.ones(24)})
    assert published.known(store.run) == {}
    content = json.loads((published.FOLDER / "kodak.json").read_text(encoding="utf-8"))
    for facts, digest in zip(store.run["pictures"].values(), content["pictures"], strict=True):
        facts["sha256"] = digest
    found = published.known(store.run)
    assert {"hyperprior", "cheng2020", "elic", "mlicpp", "hpcm", "cool-chic", "vtm"} == set(found)
    for curve in found.values():
        assert curve["source"]
        rates = [point["bpp"] for point in curve["points"]]
        qualities = [point["psnr"] for point in curve["points"]]
        assert len(rates) >= 3
        assert rates == sorted(rates)
        assert qualities == sorted(qualities)
    store.run["pictures"].popitem()
    assert published.known(store.run) == {}


def test_readme_says_what_was_measured() -> None:
    """README's numbers and figures are those of the committed results."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.search(rf"{release.BEGIN}\s*!\[[^]]*\]\((bench/results/[^)]+)/rd\.svg\)", readme)
    assert named, "README names no results: python -m bench report bench/results/VERSION/SET --readme README.md"
    again = f"python -m bench report {named[1]} --readme README.md --page docs/results.md"
    found = report.Report(Store.read(ROOT / named[1]))
    assert release.section(found, named[1]) in readme, again
    page_text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert release.page_section(found, f"../{named[1]}") in page_text, again


@pytest.mark.parametrize("path", sorted((ROOT / "bench" / "results").glob("*/*/results.jsonl.xz")), ids=str)
def test_committed_figures_show_the_committed_rows(path: Path) -> None:
    store = Store.read(path.parent)
    figures = list(path.parent.glob("*.svg"))
    assert {f"rd-{metric.name}.svg" for metric in curves.measured(store)} <= {figure.name for figure in figures}
    for figure in figures:
        assert curves.digest(store) in figure.read_text(encoding="utf-8"), f"{figure.name} shows other data"


# Figures and the page


def test_figures_say_which_data_they_show(measured: Path, tmp_path: Path) -> None:
    store = Store.read(measured)
    plots.write(store, tmp_path)
    first = (tmp_path / "rd-psnr.svg").read_text(encoding="utf-8")
    plots.write(store, tmp_path)
    assert first == (tmp_path / "rd-psnr.svg").read_text(encoding="utf-8")
    assert curves.digest(store) in first
    assert (tmp_path / "scaling.svg").exists()
    store.rows["a.png", "webp", 40]["psnr"] += 0.1
    assert curves.digest(store) not in first


def slides_of(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    content: list[dict[str, Any]] = json.loads(found[1].replace("<\\/", "</"))
    return content


def test_the_page_stands_alone(measured: Path, crops: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "results")
    store = Store.read(tmp_path / "results")
    files = pictures.find(str(crops)).files[:1]
    some = [peers.PEERS[name] for name in ("jpeg", "webp", "vqcodec")]
    shown = slides.slides(store, files, some, [0.5])
    text = page.write(report.Report(store), shown).read_text(encoding="utf-8")
    assert "@@" not in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    (slide,) = slides_of(text)
    assert slide["original"].startswith("data:image/avif;base64,")
    found = slide["levels"][0]["shown"]
    assert [one["codec"] for one in found] == ["vqcodec", "JPEG", "WebP"]
    assert found[1]["src"].startswith("data:image/jpeg;")
    for one in found[1:]:
        assert one["bpp"] == pytest.approx(found[0]["bpp"], rel=0.15)


def test_the_page_keeps_its_size(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(measured, tmp_path / "results")
    found = report.Report(Store.read(tmp_path / "results"))
    slide = {"picture": "a.png", "width": 8, "height": 8, "original": "x" * 200_000, "levels": []}
    empty = len(page.content(found).encode())
    monkeypatch.setattr(page, "MAX_BYTES", empty + 500_000)
    path = page.write(found, [slide] * 5)
    assert path.stat().st_size <= page.MAX_BYTES
    assert len(slides_of(path.read_text(encoding="utf-8"))) == 2


def test_copies_on_the_page_cannot_be_told_apart(photo: NDArray[np.uint8]) -> None:
    import base64
    import io

    from PIL import Image

    data = base64.b64decode(slides._copy(Image.fromarray(photo[:128, :128])).split(",")[1])
    back = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert metrics.psnr(photo[:128, :128], back) >= slides.COPY_DB


# Seams and hues


def test_seams_are_found_where_they_are(photo: NDArray[np.uint8]) -> None:
    original = np.tile(photo[:256, :256], (1, 3, 1))
    noise = np.random.default_rng(5).integers(-4, 5, original.shape)
    plain = np.clip(original + noise, 0, 255).astype(np.uint8)
    seamed = plain.astype(int)
    seamed[:, 256:512] += 4
    clean, dirty = (
        seams.judge(original, plain, 256),
        seams.judge(original, np.clip(seamed, 0, 255).astype(np.uint8), 256),
    )
    assert clean.seam == pytest.approx(1, abs=0.2)
    assert dirty.seam > 3
    assert dirty.worst >= dirty.seam
    assert dirty.grid == pytest.approx(1, abs=0.2)
    assert clean.hue < 1
    assert dirty.hue == pytest.approx(4, abs=1)


def test_a_grid_is_no_seam(photo: NDArray[np.uint8]) -> None:
    original = photo[:256, :384]
    noise = np.random.default_rng(5).integers(-2, 3, original.shape)
    stripes = (np.arange(384) // 16 % 2)[:, None]
    striped = np.clip(original.astype(int) + noise + 12 * stripes, 0, 255).astype(np.uint8)
    found = seams.judge(original, striped, 4096)
    assert found.grid > 3
    assert found.seam == found.worst == 1


def test_seams_are_measured_and_kept(crops: Path, tmp_path: Path) -> None:
    command = ["seams", "--images", crops, "--peers", "jpeg", "--out", tmp_path]
    done = bench(*command)
    assert done.exit_code == 0, done.output
    assert "JPEG 3" in done.output
    first = (tmp_path / "seams.jsonl").read_bytes()
    assert len(Store.read(tmp_path).seams) == 2 * len(peers.PEERS["jpeg"].settings[::2])
    assert bench(*command).exit_code == 0
    assert (tmp_path / "seams.jsonl").read_bytes() == first
    assert not seams.large(Store.read(tmp_path))
    alone = release.markdown(report.Report(Store.read(tmp_path)))
    assert "## Seams and hues" in alone
    assert "What the curves cover" not in alone
    assert "## Speed" not in alone
