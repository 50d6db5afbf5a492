# SPDX-License-Identifier: MIT
"""The command line as a user and a script meet it: files in and out, messages, exit codes, and what is left behind."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import psnr, wide_gamut_profile
from vqcodec.bitstream import container
from vqcodec.cli import atomic, names, streams
from vqcodec.cli import main as cli
from vqcodec.codec import decode, encode
from vqcodec.options import EncodeOptions
from vqcodec.pictures import metadata, read

QUALITY = ("-q", "60")
needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def small(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A piece of the photograph whose sides are no multiples of anything, [61, 83, 3] uint8."""
    return np.ascontiguousarray(photo[120:181, 300:383])


@pytest.fixture(scope="session")
def coded(small: NDArray[np.uint8]) -> bytes:
    """The piece as a .vqc file."""
    return vqcodec.encode(small, 60)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: NDArray[np.uint8], coded: bytes) -> Path:
    """A current folder with photo.png and photo.vqc in it."""
    Image.fromarray(small).save(tmp_path / "photo.png")
    (tmp_path / "photo.vqc").write_bytes(coded)
    (tmp_path / "text.png").write_text("this is not a picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsysbinary: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process."""

    def call(*arguments: object, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsysbinary.readouterr()
        return Done(code, out, err.decode())

    return call


def process(*arguments: object, stdin: bytes = b"", prefix: Sequence[str] = ()) -> Done:
    """Runs the command line in a process of its own, behind `prefix`."""
    command = [*prefix, sys.executable, "-m", "vqcodec", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment(), timeout=120)
    return Done(done.returncode, done.stdout, done.stderr.decode())


def environment() -> dict[str, str]:
    """The process's environment, in which the package under test is found from any folder."""
    root = str(Path(vqcodec.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that lies in a folder: names to bytes, None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def assert_one_line(done: Done) -> None:
    """One line on stderr that says what is wrong, and nothing else."""
    assert done.err.startswith("vqcodec: "), done
    assert done.err.count("\n") == 1, done
    assert "Traceback" not in done.err
    assert done.err.rstrip("\n").isprintable()


def assert_fails(done: Done, code: int, *words: str) -> None:
    """It ended with this exit code, and one line that contains the words."""
    assert done.code == code, done
    assert_one_line(done)
    for word in words:
        assert word in done.err


# ---- what speaks against a file --------------------------------------------------------------------------------------


def test_a_picture_that_comes_back_poor_is_noted(here: Path, run: Run) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save("noise.png")
    done = run("compress", "-q", "20", "noise.png")
    assert_one_line(done)
    assert " dB only" in done.err
    assert done.code == 0
    reached = psnr(np.asarray(vqcodec.decode("noise.vqc")), noise)
    assert reached < 25
    assert float(done.err.split("comes back with ")[1].split(" dB")[0]) == pytest.approx(reached, abs=0.3)


def test_a_file_larger_than_its_source_is_noted(here: Path, run: Run) -> None:
    with Image.open("photo.png") as photo:
        photo.resize((166, 122)).save("photo.jpg", quality=15)
    done = run("compress", "-q", "95", "photo.jpg", "again.vqc")
    assert_one_line(done)
    sizes = [os.path.getsize(name) for name in ("again.vqc", "photo.jpg")]
    assert done.err.rstrip().endswith(f"{sizes[0]:,} bytes, more than its source has ({sizes[1]:,})")
    assert run("compress", "-q", "50", "photo.png", "small.vqc") == Done(0, b"", "")


# ---- there and back --------------------------------------------------------------------------------------------------


def test_a_photograph_there_and_back_in_files(here: Path, small: NDArray[np.uint8], coded: bytes) -> None:
    assert process("compress", *QUALITY, "photo.png", "new.vqc") == Done(0, b"", "")
    assert (here / "new.vqc").read_bytes() == coded
    assert process("decompress", "new.vqc", "back.png") == Done(0, b"", "")
    with Image.open(here / "back.png") as back:
        assert (back.mode, back.size) == ("RGB", (83, 61))
        assert psnr(np.asarray(back), small) > 24
        assert np.array_equal(np.asarray(back), np.asarray(vqcodec.decode(coded)))


def test_a_photograph_there_and_back_through_pipes(here: Path, coded: bytes) -> None:
    done = process("compress", *QUALITY, "-", "-", stdin=(here / "photo.png").read_bytes())
    assert done == Done(0, coded, "")
    back = process("decompress", "-", "-", stdin=done.out)
    assert (back.code, back.err) == (0, "")
    with Image.open(io.BytesIO(back.out)) as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), np.asarray(vqcodec.decode(coded)))


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [("a.png", (), "PNG"), ("a.JPG", (), "JPEG"), ("a.webp", (), "WEBP"), ("a.png", ("--format", "tif"), "TIFF"),
     ("a", ("--format", ".BMP"), "BMP")],
)  # fmt: skip
def test_the_suffix_or_format_chooses_the_format(
    run: Run, here: Path, target: str, options: tuple[str, ...], expected: str
) -> None:
    assert run("decompress", "photo.vqc", target, *options) == Done(0, b"", "")
    with Image.open(here / target) as picture:
        assert picture.format == expected


def test_format_of_stdout(run: Run, here: Path) -> None:
    done = run("decompress", "photo.vqc", "-", "--format", "jpg")
    assert done.out.startswith(b"\xff\xd8")


def test_options_mean_what_they_mean_in_python(run: Run, here: Path, small: NDArray[np.uint8]) -> None:
    run("compress", "photo.png", "default.vqc")
    assert (here / "default.vqc").read_bytes() == vqcodec.encode(small)
    run("compress", "photo.png", "other.vqc", "--quality", "33", "--effort", "1", "--threads", "1")
    assert (here / "other.vqc").read_bytes() == vqcodec.encode(small, 33, effort=1)
    run("compress", "photo.png", "named.vqc", "--model", "photo-1", "-q", "1")
    assert (here / "named.vqc").read_bytes() == vqcodec.encode(small, 1)


def test_targets_say_what_was_reached(run: Run, here: Path, small: NDArray[np.uint8]) -> None:
    done = run("compress", "photo.png", "a.vqc", "--bpp", "0.8")
    data = (here / "a.vqc").read_bytes()
    assert data == vqcodec.encode(small, bpp=0.8)
    facts = json.loads(run("info", "a.vqc", "--json").out)
    words = f"note: photo.png: quality {facts['quality']}, {len(data):,} bytes, {facts['bpp']:.4g} bpp"
    assert done == Done(0, b"", f"vqcodec: {words}\n")
    assert "nearest to the 30 bpp" in run("compress", "-f", "photo.png", "a.vqc", "--bpp", "30").err
    done = run("compress", "-f", "photo.png", "a.vqc", "--psnr", "26.5")
    assert done.err.endswith(" dB\n")
    assert psnr(np.asarray(vqcodec.decode((here / "a.vqc").read_bytes())), small) >= 26.5
    assert run("compress", "-f", "photo.png", "a.vqc", "--max-bytes", str(len(data))).code == 0
    assert (here / "a.vqc").stat().st_size <= len(data)
    assert run("compress", "photo.png", "-", "--max-bytes", str(len(data))).out == (here / "a.vqc").read_bytes()


def test_a_target_out_of_reach_writes_nothing(run: Run, here: Path) -> None:
    before = contents(here)
    assert_fails(run("compress", "photo.png", "a.vqc", "--max-bytes", "40"), 7, "photo.png", "40 allowed")
    assert_fails(run("compress", "photo.png", "a.vqc", "--psnr", "70"), 7, "photo.png", "70 asked for")
    assert contents(here) == before


def test_regions_and_sizes(run: Run, here: Path, coded: bytes) -> None:
    full = vqcodec.decode(coded)
    for options, expected in (
        (("--region", "5,7,60,40"), vqcodec.decode(coded, region=(5, 7, 60, 40))),
        (("--scale", "4"), vqcodec.decode(coded, scale=4)),
        (("--region", "5, 7, 60, 40", "--scale", "8"), vqcodec.decode(coded, region=(5, 7, 60, 40), scale=8)),
        (("--scale", "1"), full),
    ):
        assert run("decompress", "-f", "photo.vqc", "a.png", *options) == Done(0, b"", "")
        with Image.open(here / "a.png") as found:
            assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_strip_leaves_metadata_out(run: Run, here: Path, small: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[315] = "somebody"
    options = {"quality": 95, "exif": exif, "xmp": b"<x:xmpmeta/>"}
    for profile, wide in ((metadata.srgb_profile(), False), (wide_gamut_profile(), True)):
        Image.fromarray(small).save(here / "rich.jpg", icc_profile=profile, **options)
        for arguments, kept in (((), True), (("--strip",), False)):
            run("compress", "rich.jpg", "rich.vqc", "-f", *arguments)
            facts = json.loads(run("info", "rich.vqc", "--json").out)
            assert (facts["exif_bytes"] is not None, facts["xmp_bytes"] is not None) == (kept, kept)
            assert (facts["icc_bytes"] is not None, facts["srgb"]) == (wide, kept and not wide)


def test_what_was_converted_is_said(run: Run, here: Path) -> None:
    Image.fromarray(np.full((20, 20), 30000, np.uint16)).save(here / "deep.png")
    done = run("compress", "deep.png", "deep.vqc")
    assert (done.code, done.err) == (0, "vqcodec: note: deep.png: 16-bit samples reduced to 8 bits\n")
    Image.new("RGBA", (20, 20), (200, 10, 10, 100)).save(here / "clear.png")
    run("compress", "clear.png", "clear.vqc")
    done = run("decompress", "clear.vqc", "clear.jpg")
    assert done.code == 0
    assert done.err.startswith("vqcodec: note: clear.jpg: JPEG does not hold transparency")


@pytest.mark.parametrize(
    "name", ["ünïcode 写真.png", "-dash.png", "new\nline \x1b[31mred.png", "a.tar.png", "$(x) 'y\".png"]
)
def test_files_with_odd_names(run: Run, here: Path, name: str) -> None:
    (here / "photo.png").rename(here / name)
    source = os.path.join(".", name)
    assert run("compress", source, f"{source}.vqc").code == 0
    assert (here / f"{name}.vqc").exists()
    info = run("info", f"{source}.vqc")
    assert info.code == 0
    assert b"\x1b" not in info.out
    assert_fails(run("compress", source, f"{source}.vqc"), 6)
    assert_fails(run("decompress", source, "new.png"), 4)


def test_a_name_that_is_not_unicode(here: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.vqc")
    assert_fails(process("info", name), 3, "no such file")


# ---- several files ---------------------------------------------------------------------------------------------------


def test_a_folder_and_several_files(run: Run, here: Path, coded: bytes) -> None:
    (here / "in").mkdir()
    for name in ("in/b.PNG", "in/a.png", "in/.hidden.png", "c.png"):
        (here / name).write_bytes((here / "photo.png").read_bytes())
    (here / "in/readme.txt").write_text("no picture")
    assert run("compress", *QUALITY, "in", "c.png", "-o", "out/deep") == Done(0, b"", "")
    assert {p.name: p.read_bytes() for p in (here / "out/deep").iterdir()} == dict.fromkeys(
        ("a.vqc", "b.vqc", "c.vqc"), coded
    )
    assert run("decompress", "out/deep", "-o", "back") == Done(0, b"", "")
    assert {p.name for p in (here / "back").iterdir()} == {"a.png", "b.png", "c.png"}
    assert run("decompress", "photo.vqc", "-o", "back", "--format", "ppm").code == 0
    assert (here / "back/photo.ppm").exists()


def test_an_error_in_one_file_does_not_stop_the_rest(run: Run, here: Path) -> None:
    (here / "out").mkdir()
    (here / "out/photo.vqc").write_bytes(b"old")
    Image.new("RGB", (20, 20)).save(here / "last.png")
    done = run("compress", "text.png", "photo.png", "nowhere.png", "last.png", "-o", "out")
    assert done.code == 3
    lines = done.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["vqcodec"] * 3
    assert "text.png" in lines[0]
    assert "exists" in lines[1]
    assert "nowhere.png" in lines[2]
    assert (here / "out/photo.vqc").read_bytes() == b"old"
    assert sorted(p.name for p in (here / "out").iterdir()) == ["last.vqc", "photo.vqc"]


def test_two_inputs_never_become_the_same_output(run: Run, here: Path, coded: bytes) -> None:
    Image.new("RGB", (20, 20)).save(here / "photo.bmp")
    done = run("compress", *QUALITY, "-f", "photo.png", "photo.bmp", "-o", "out")
    assert_fails(done, 6, "photo.bmp", "photo.png")
    assert (here / "out/photo.vqc").read_bytes() == coded


# ---- where the output goes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("new.png", "new.vqc"),
        ("folder/new.png", "folder/new.vqc"),
        ("new.png -o deep.vqc", "deep.vqc"),
        ("new.png -o folder", "folder/new.vqc"),
        ("new.png -o made", "made/new.vqc"),
        ("new.png -o v1.0/", "v1.0/new.vqc"),
        ("new.png folder", "folder/new.vqc"),
        ("new.png made/", "made/new.vqc"),
        ("new.png named", "named"),
        ("new.png -o named.data", "named.data"),
    ],
)
def test_where_the_output_of_one_input_goes(run: Run, here: Path, coded: bytes, arguments: str, written: str) -> None:
    (here / "folder").mkdir()
    for name in ("new.png", "folder/new.png"):
        (here / name).write_bytes((here / "photo.png").read_bytes())
    before = contents(here)
    assert run("compress", *QUALITY, *arguments.split()) == Done(0, b"", "")
    new = {name: data for name, data in contents(here).items() if before.get(name, 0) != data and data is not None}
    assert new == {written: coded}


def test_the_last_name_may_be_the_folder_of_several(run: Run, here: Path, coded: bytes) -> None:
    (here / "in").mkdir()
    for name in ("in/b.png", "c.png"):
        (here / name).write_bytes((here / "photo.png").read_bytes())
    assert run("compress", *QUALITY, "in", "c.png", "out/") == Done(0, b"", "")
    assert contents(here / "out") == {"b.vqc": coded, "c.vqc": coded}
    assert run("compress", *QUALITY, "-f", "photo.png", "c.png", "out") == Done(0, b"", "")
    assert contents(here / "out") == {"b.vqc": coded, "c.vqc": coded, "photo.vqc": coded}
    assert run("decompress", "out", "back/").code == 0
    assert sorted(contents(here / "back")) == ["b.png", "c.png", "photo.png"]
    assert run("decompress", "out/b.vqc", "-o", "one.webp").code == 0
    with Image.open(here / "one.webp") as picture:
        assert picture.format == "WEBP"


def test_without_an_output_the_file_lies_beside_its_input(run: Run, here: Path, coded: bytes) -> None:
    (here / "photo.vqc").write_bytes(b"old")
    assert_fails(run("compress", *QUALITY, "photo.png"), 6, "photo.vqc")
    assert (here / "photo.vqc").read_bytes() == b"old"
    assert run("compress", *QUALITY, "-f", "photo.png") == Done(0, b"", "")
    assert (here / "photo.vqc").read_bytes() == coded
    original = (here / "photo.png").read_bytes()
    assert_fails(run("decompress", "-f", "photo.vqc"), 6, "photo.png", "original")
    assert run("decompress", "--skip-existing", "photo.vqc") == Done(0, b"", "")
    assert (here / "photo.png").read_bytes() == original
    assert run("decompress", "photo.vqc", "--format", "jpg") == Done(0, b"", "")
    with Image.open(here / "photo.jpg") as picture:
        assert picture.format == "JPEG"


def test_stdin_and_stdout_with_o(run: Run, here: Path, coded: bytes) -> None:
    picture = (here / "photo.png").read_bytes()
    assert run("compress", *QUALITY, "photo.png", "-o", "-") == Done(0, coded, "")
    assert run("compress", *QUALITY, "-", "-o", "a.vqc", stdin=picture) == Done(0, b"", "")
    assert (here / "a.vqc").read_bytes() == coded


# ---- reports ---------------------------------------------------------------------------------------------------------


def reached_psnr(data: bytes, small: NDArray[np.uint8]) -> float:
    return psnr(np.asarray(vqcodec.decode(data)), small)


def test_a_report_for_people(run: Run, here: Path, coded: bytes, small: NDArray[np.uint8]) -> None:
    done = run("compress", "-v", *QUALITY, "photo.png", "a.vqc")
    assert (done.code, done.out) == (0, b"")
    bpp = 8 * len(coded) / (83 * 61)
    before = (here / "photo.png").stat().st_size
    facts = f"83 x 61, {before:,} -> {len(coded):,} bytes, {bpp:.3f} bpp, {reached_psnr(coded, small):.2f} dB, "
    assert done.err.startswith(f"photo.png -> a.vqc: {facts}")
    assert done.err.count("\n") == 1
    done = run("compress", "-v", "-j", "2", *QUALITY, "photo.png", "text.png", "-o", "out")
    assert done.code == 3
    assert [facts in line for line in done.err.splitlines()] == [True, False]


def test_lossless(run: Run, here: Path, small: NDArray[np.uint8]) -> None:
    done = run("compress", "-v", "--lossless", "photo.png", "a.vqc")
    assert done.code == 0
    assert ", lossless, " in done.err
    assert np.array_equal(np.asarray(vqcodec.decode(here / "a.vqc")), small)
    assert json.loads(run("compress", "--json", "--lossless", "photo.png", "b.vqc").out)["psnr"] is None


def test_a_report_for_scripts(run: Run, here: Path, coded: bytes, small: NDArray[np.uint8]) -> None:
    done = run("compress", "--json", *QUALITY, "photo.png", "a.vqc")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts.pop("seconds") > 0
    assert facts.pop("psnr") == pytest.approx(reached_psnr(coded, small), abs=1e-6)
    known = vqcodec.info(coded)
    names_ = ("width", "height", "quality", "tune", "model", "model_id", "file_bytes", "bpp")
    assert facts == {"input": "photo.png", "output": "a.vqc", **{name: known[name] for name in names_}}
    done = run("compress", "--json", "--psnr", "26.5", "photo.png", "b.vqc")
    assert json.loads(done.out)["psnr"] == pytest.approx(reached_psnr((here / "b.vqc").read_bytes(), small), abs=1e-6)
    done = run("compress", "--json", *QUALITY, "photo.png", "text.png", "b.vqc", "-o", "out")
    assert done.code == 3
    assert [json.loads(line)["output"] for line in done.out.splitlines()] == ["out/photo.vqc", "out/b.vqc"]


# ---- a .vqc file as input --------------------------------------------------------------------------------------------


def test_a_vqc_file_is_encoded_again(run: Run, here: Path, coded: bytes) -> None:
    again = vqcodec.encode(vqcodec.decode(coded), 20)
    note = "vqcodec: note: {}: encoded again from a .vqc file: the losses of both encodings add up\n"
    assert run("compress", "-q", "20", "photo.vqc", "a.vqc") == Done(0, b"", note.format("photo.vqc"))
    assert (here / "a.vqc").read_bytes() == again
    assert run("compress", "-q", "20", "-", "-", stdin=coded) == Done(0, again, note.format("stdin"))
    (here / "cut.vqc").write_bytes(coded[:-9])
    assert_fails(run("compress", "cut.vqc", "b.vqc"), 4, "cut.vqc")
    assert not (here / "b.vqc").exists()


def test_what_a_vqc_file_holds_is_kept_when_it_is_encoded_again(run: Run, here: Path, small: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[315] = "somebody"
    alpha = Image.fromarray(small).convert("RGBA")
    alpha.putalpha(100)
    alpha.save(here / "rich.png", exif=exif, icc_profile=wide_gamut_profile())
    assert run("compress", "rich.png").code == 0
    assert run("compress", "-q", "20", "rich.vqc", "again.vqc").code == 0
    before, after = (json.loads(run("info", "--json", name).out) for name in ("rich.vqc", "again.vqc"))
    for name in ("exif_bytes", "icc_bytes", "alpha_bytes"):
        assert after[name] == before[name] is not None, name
    assert after["file_bytes"] < before["file_bytes"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_read_once(here: Path, coded: bytes) -> None:
    script = f'"{sys.executable}" -m vqcodec compress -q 60 <(cat photo.png) a.vqc'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment(), timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert (here / "a.vqc").read_bytes() == coded


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_for_people(run: Run, here: Path, coded: bytes) -> None:
    done = run("info", "photo.vqc")
    text = done.out.decode("ascii")
    assert done.code == 0
    assert text.startswith("photo.vqc\n")
    for words in ("83 x 61, RGB", f"{len(coded):,} bytes", "60 of 100", "photo-1", "base layer", "refinement layer"):
        assert words in text
    assert "damage            none" in text
    assert run("info", "-", stdin=coded).out.decode() == text.replace("photo.vqc", "stdin")


def test_info_for_scripts(run: Run, here: Path, coded: bytes) -> None:
    facts = json.loads(run("info", "photo.vqc", "--json").out)
    assert facts == {**vqcodec.info(coded), "damage": []}
    assert facts["file_bytes"] == len(coded)
    assert facts["bpp"] == pytest.approx(8 * len(coded) / (83 * 61))
    parts = [
        facts[f"{part}_bytes"] or 0 for part in ("header", "checksum", "base", "refinement", "alpha", "icc", "exif")
    ]
    assert sum(parts) == len(coded)


def test_info_of_a_damaged_file_says_both(run: Run, here: Path, coded: bytes) -> None:
    (here / "cut.vqc").write_bytes(coded[:-9])
    done = run("info", "cut.vqc", "--json")
    assert_fails(done, 4, "cut.vqc", "cut off")
    facts = json.loads(done.out)
    assert facts["width"] == 83
    assert len(facts["damage"]) == 1


def test_info_of_several_files(run: Run, here: Path, coded: bytes) -> None:
    for name in ("in/a.vqc", "in/deep/b.vqc"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(coded)
    single = run("info", "photo.vqc").out.decode()
    expected = [single.replace("photo.vqc", name) for name in ("photo.vqc", "in/a.vqc", "in/deep/b.vqc")]
    assert run("info", "photo.vqc", "in").out.decode() == "\n".join(expected[:2])
    assert run("info", "-r", "in").out.decode() == "\n".join(expected[1:])
    done = run("info", "--json", "text.png", "photo.vqc", "nowhere.vqc", "in")
    assert done.code == 4
    assert ["text.png" in line or "nowhere.vqc" in line for line in done.err.splitlines()] == [True, True]
    facts = [json.loads(line) for line in done.out.splitlines()]
    assert facts == [{"file": name, **vqcodec.info(coded), "damage": []} for name in ("photo.vqc", "in/a.vqc")]
    (here / "in/a.vqc").write_bytes(coded[:-9])
    done = run("info", "in/a.vqc", "photo.vqc")
    assert_fails(done, 4, "in/a.vqc", "cut off")
    assert done.out.decode().count("picture  ") == 2, "what is left of a damaged file is told"


def test_info_knows_a_model_of_ones_own(run: Run, here: Path, coded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from vqcodec.model import zoo

    folder = here / "mine"
    shutil.copytree(zoo.find().folder, folder)
    monkeypatch.setattr(zoo, "MODELS", {})
    assert b"not installed" in run("info", "photo.vqc").out
    assert b"photo-1 (" in run("info", "photo.vqc", "--model", folder).out
    (line,) = run("info", "--json", here, "--model", folder).out.splitlines()
    assert json.loads(line)["model_id"] == "photo-1"
    assert_fails(run("info", "photo.vqc", "--model", "nowhere"), 5, "nowhere")


def test_info_and_help_load_nothing_heavy(here: Path) -> None:
    code = """if True:
        import sys
        from vqcodec.cli.main import main
        assert main(["--help"]) == main(["compress", "--help"]) == 0
        assert not {"numpy", "PIL", "onnxruntime", "torch"} & set(sys.modules)
        assert main(["info", "photo.vqc"]) == 0
        assert not {"onnxruntime", "torch"} & set(sys.modules)
        assert main(["decompress", "photo.vqc", "back.png", "--threads", "1"]) == 0
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_version(run: Run) -> None:
    assert run("--version") == Done(0, f"vqcodec {vqcodec.__version__}\n".encode(), "")


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("frobnicate", 2, ["frobnicate"]),
        ("inf photo.vqc", 2, ["no such command", "did you mean info?"]),
        ("compress", 2, ["nothing to work on", "IN [OUT]"]),
        ("view text.png --no-browser", 4, ["text.png", "not a .vqc file"]),
        ("compress --lossless -q 50 photo.png a.vqc", 2, ["--quality and --lossless"]),
        ("compress photo.png", 6, ["photo.vqc", "exists", "-f"]),
        ("compress photo.png a.vqc b.vqc", 2, ["-o DIR"]),
        ("compress - -o out", 2, ["stdin"]),
        ("compress -", 2, ["stdin"]),
        ("compress folder", 2, ["folder", "-o DIR"]),
        ("compress photo.png text.png -o a.vqc", 2, ["a.vqc", "one file", "-o DIR"]),
        ("compress photo.png photo.png -o -", 2, ["stdout", "one file"]),
        ("compress folder -o photo.vqc", 2, ["photo.vqc", "one file"]),
        ("compress photo.png -o photo.vqc", 6, ["photo.vqc", "exists"]),
        ("compress -v --json photo.png a.vqc", 2, ["--json"]),
        ("compress --json photo.png -", 2, ["--json"]),
        ("compress --json photo.png -o -", 2, ["--json"]),
        ("compress --colour photo.png a.vqc", 2, ["--colour"]),
        ("compress -q 0 photo.png a.vqc", 2, ["quality"]),
        ("compress -q 101 photo.png a.vqc", 2, ["quality"]),
        ("compress -q high photo.png a.vqc", 2, ["quality"]),
        ("compress -e 10 photo.png a.vqc", 2, ["effort"]),
        ("compress --bpp 0 photo.png a.vqc", 2, ["bpp"]),
        ("compress --bpp nan photo.png a.vqc", 2, ["bpp"]),
        ("compress --psnr high photo.png a.vqc", 2, ["psnr"]),
        ("compress --max-bytes 1.5 photo.png a.vqc", 2, ["max-bytes"]),
        ("compress -q 50 --bpp 1 photo.png a.vqc", 2, ["--quality and --bpp"]),
        ("compress --psnr 30 --max-bytes 900 photo.png a.vqc", 2, ["--psnr and --max-bytes"]),
        ("decompress --region 1,2,3 photo.vqc a.png", 2, ["X,Y,W,H"]),
        ("decompress --region 1,2,3,-4 photo.vqc a.png", 2, ["X,Y,W,H"]),
        ("decompress --region 80,0,4,4 photo.vqc a.png", 2, ["83 x 61"]),
        ("decompress --scale 3 photo.vqc a.png", 2, ["scale"]),
        ("compress --threads -1 photo.png a.vqc", 2, ["threads"]),
        ("compress --max-pixels 0 photo.png a.vqc", 2, ["max-pixels"]),
        ("compress photo.png other.png", 2, ["other.png", ".vqc"]),
        ("compress -f photo.vqc photo.vqc", 2, ["both"]),
        ("compress folder a.vqc", 2, ["folder", "-o DIR"]),
        ("compress photo.png nowhere/a.vqc", 3, ["nowhere"]),
        ("compress photo.png text.png photo.vqc", 2, ["photo.vqc", "no folder", "-o DIR"]),
        ("compress photo.png text.png/a.vqc", 3, ["text.png"]),
        ("compress photo.png -o text.png", 2, ["text.png", ".vqc"]),
        ("compress folder -o out", 3, ["nothing to do"]),
        ("compress nowhere.png a.vqc", 3, ["nowhere.png", "no such file"]),
        ("compress text.png a.vqc", 3, ["text.png", "not a picture"]),
        ("compress --max-pixels 5062 photo.vqc a.vqc", 7, ["photo.vqc", "5062"]),
        ("compress - a.vqc", 3, ["stdin", "empty"]),
        ("compress --model none photo.png a.vqc", 5, ["none"]),
        ("compress --model folder photo.png a.vqc", 5, ["folder"]),
        ("compress photo.png photo.vqc", 6, ["photo.vqc", "exists", "-f"]),
        ("compress --max-pixels 5062 photo.png a.vqc", 7, ["photo.png", "5,062"]),
        ("decompress photo.vqc", 6, ["photo.png", "exists"]),
        ("decompress -f photo.vqc", 6, ["photo.png", "original"]),
        ("decompress photo.vqc a", 2, ["suffix", "--format"]),
        ("decompress photo.vqc a.xyz", 2, [".xyz"]),
        ("decompress photo.vqc a.png --format xyz", 2, [".xyz"]),
        ("decompress -f photo.vqc photo.vqc --format png", 2, ["both"]),
        ("decompress nowhere.vqc a.png", 3, ["nowhere.vqc"]),
        ("decompress folder a.png", 2, ["-o DIR"]),
        ("decompress photo.vqc nowhere/a.png", 3, ["nowhere"]),
        ("decompress photo.png a.png", 4, ["photo.png", "not a .vqc file"]),
        ("decompress - a.png", 4, ["stdin", "empty"]),
        ("decompress photo.vqc photo.png", 6, ["photo.png", "exists"]),
        ("decompress --max-pixels 5062 photo.vqc a.png", 7, ["photo.vqc", "5062"]),
        ("info", 2, ["FILE"]),
        ("info -r photo.vqc", 2, ["-r"]),
        ("info -r", 2, ["FILE"]),
        ("info nowhere.vqc", 3, ["nowhere.vqc"]),
        ("info folder", 3, ["folder", "nothing to do"]),
        ("info text.png", 4, ["text.png", "not a .vqc file"]),
        ("info -", 4, ["stdin"]),
        ("demo -o text.png", 3, ["text.png"]),
    ],
)
def test_mistakes_end_with_their_code_and_change_nothing(
    run: Run, here: Path, arguments: str, code: int, words: list[str]
) -> None:
    (here / "folder").mkdir()
    before = contents(here)
    assert_fails(run(*arguments.split()), code, *words)
    with suppress(FileNotFoundError):
        (here / "out").rmdir()  # made for -o, and empty
    assert contents(here) == before


def test_no_arguments_print_the_help(run: Run) -> None:
    done = run()
    assert done.code == 2
    assert b"Usage: vqcodec" in done.out


def test_a_process_ends_with_the_code(here: Path) -> None:
    before = contents(here)
    assert_fails(process("compress", "photo.png", "photo.vqc"), 6, "exists")
    assert_fails(process("decompress", "text.png", "a.png"), 4)
    assert contents(here) == before


def test_an_existing_output_is_refused_before_the_work(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, coded: bytes
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(read, "load", forbidden)
        patch.setattr(decode, "decode_strips", forbidden)
        assert_fails(run("compress", "photo.png", "photo.vqc"), 6)
        assert_fails(run("decompress", "photo.vqc", "photo.png"), 6)
        assert_fails(run("compress", "photo.png", "nowhere/a.vqc"), 3)
    (here / "photo.vqc").write_bytes(b"old")
    assert run("compress", *QUALITY, "-f", "photo.png", "photo.vqc").code == 0
    assert (here / "photo.vqc").read_bytes() == coded


@pytest.mark.parametrize("share", [0.0, 0.002, 0.01, 0.02, 0.1, 0.3, 0.6, 0.9, 0.99, 0.999])
def test_truncated_files(run: Run, here: Path, coded: bytes, share: float) -> None:
    data = coded[: int(share * len(coded))]
    (here / "cut.vqc").write_bytes(data)
    before = contents(here)
    assert_fails(run("decompress", "cut.vqc", "a.png"), 4, "cut.vqc")
    assert_fails(run("decompress", "-", "-", stdin=data), 4, "stdin")
    assert_fails(run("info", "cut.vqc"), 4, "cut.vqc")
    assert contents(here) == before


def test_damaged_bytes(run: Run, here: Path, coded: bytes) -> None:
    places = [*range(24), *range(24, len(coded), 1 + len(coded) // 40), len(coded) - 1]
    before = contents(here)
    for place in places:
        data = bytearray(coded)
        data[place] ^= 0x55
        done = run("decompress", "-", "a.png", stdin=bytes(data))
        assert_fails(done, 4, "stdin")
    assert_fails(run("decompress", "-", "a.png", stdin=coded + b"\0"), 4)
    assert contents(here) == before


def test_an_unknown_version_and_an_unknown_model(run: Run, here: Path, coded: bytes) -> None:
    newer = bytearray(coded)
    newer[len(container.MAGIC)] = 99
    assert_fails(run("decompress", "-", "a.png", stdin=bytes(newer)), 4, "newer vqcodec", "99")
    contents_ = container.unpack(coded, max_pixels=10**6)
    header = container.Header(83, 61, 60, b"\xde\xad\xbe\xef")
    foreign = container.pack(container.Contents(header, contents_.base, contents_.refinement))
    (here / "foreign.vqc").write_bytes(foreign)
    assert_fails(run("decompress", "foreign.vqc", "a.png"), 5, "foreign.vqc", "deadbeef")
    assert "not installed (deadbeef)" in run("info", "foreign.vqc").out.decode()
    assert json.loads(run("info", "foreign.vqc", "--json").out)["model_id"] is None


def test_an_endless_input_is_not_read_to_its_end(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqcodec.options.METADATA_BYTES", 1000)
    endless = bytes(3_000_000)
    assert_fails(run("compress", "-", "a.vqc", "--max-pixels", "100", stdin=endless), 7, "stdin", "2,600 bytes")
    assert_fails(run("decompress", "-", "a.png", "--max-pixels", "9", stdin=container.MAGIC + endless), 7, "stdin")
    if os.path.exists("/dev/zero"):
        assert_fails(run("decompress", "/dev/zero", "a.png"), 4)


# ---- full disks, pipes, terminals ------------------------------------------------------------------------------------


@needs_dev_full
def test_a_full_device(here: Path) -> None:
    for arguments in ("compress photo.png /dev/full", "decompress photo.vqc /dev/full --format png"):
        assert_fails(process(*arguments.split()), 3, "/dev/full", "full")
    for arguments in ("compress photo.png -", "info photo.vqc", "--help"):
        shell = ("sh", "-c", 'exec "$@" > /dev/full', "sh")
        assert_fails(process(*arguments.split(), prefix=shell), 3, "no space left")


def test_a_disk_that_fills_up_leaves_the_old_file_alone(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.write, []

    def fill(handle: int, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) % 2 == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, bytes(data)[:100])

    (here / "old.vqc").write_bytes(b"old")
    before = contents(here)
    monkeypatch.setattr(atomic.os, "write", fill)
    assert_fails(run("compress", "photo.png", "new.vqc"), 3, "new.vqc", "disk is full")
    assert_fails(run("compress", "-f", "photo.png", "old.vqc"), 3, "old.vqc", "disk is full")
    assert_fails(run("decompress", "photo.vqc", "new.png"), 3, "new.png", "disk is full")
    assert contents(here) == before


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_standard_streams(here: Path, coded: bytes) -> None:
    def closed(what: str, *arguments: str) -> Done:
        return process(*arguments, prefix=("sh", "-c", f'exec "$@" {what}', "sh"))

    assert_fails(closed("<&-", "compress", "-", "a.vqc"), 3, "stdin")
    assert_fails(closed(">&-", "decompress", "photo.vqc", "-"), 3, "stdout")
    assert_fails(closed(">&-", "info", "photo.vqc"), 3, "stdout")
    assert closed("2>&-", "info", "nowhere.vqc") == Done(3, b"", "")
    assert closed("<&- >&- 2>&-", "compress", *QUALITY, "photo.png", "a.vqc") == Done(0, b"", "")
    assert (here / "a.vqc").read_bytes() == coded


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_nobody_reads_the_output(here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vqcodec", "info", "photo.vqc"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment(), timeout=60)
    os.close(writer)
    assert_fails(Done(done.returncode, b"", done.stderr.decode()), 3, "broken pipe")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code", "line"), [("SIGINT", 130, "vqcodec: interrupted\n"), ("SIGTERM", 143, "")])
def test_interrupted(here: Path, number: str, code: int, line: str) -> None:
    before = contents(here)
    command = [sys.executable, "-m", "vqcodec", "compress", "-", "a.vqc"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert child.stdin is not None
    child.stdin.write(bytes(1 << 20))  # more than a pipe holds: when it is written, the child is at work
    child.send_signal(getattr(signal, number))
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err.decode()) == (code, line)
    assert contents(here) == before


def test_terminals(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "on_terminal", lambda stream: stream is not None)
    for arguments in (
        "compress - a.vqc",
        "compress photo.png -",
        "decompress photo.vqc -",
        "decompress - a.png",
        "info -",
    ):
        assert_fails(run(*arguments.split()), 2, "is a terminal")
    done = run("compress", "photo.png", "a.vqc")
    assert done.code == 0
    assert done.err.startswith("photo.png -> a.vqc: 83 x 61, ")
    assert done.err.count("\n") == 1
    assert "83 x 61" in run("decompress", "a.vqc", "a.png").err


def test_a_progress_bar_for_many_tiles(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, photo: NDArray[np.uint8]
) -> None:
    monkeypatch.setattr(streams, "on_terminal", lambda stream: stream is sys.stderr)
    tiled = encode.encode(read.load(photo), 20, EncodeOptions(tile_log2=8))
    (here / "tiled.vqc").write_bytes(tiled)
    done = run("decompress", "tiled.vqc", "tiled.png")
    assert done.code == 0
    assert done.err.startswith("tiled.vqc")
    assert done.err.splitlines()[-1].startswith("tiled.vqc -> tiled.png: 600 x 400")


# ---- surprises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 7, ["not enough memory"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (OSError(errno.EIO, "Input/output error", "disk\n1"), 3, ["disk 1", "input/output error"]),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 3, ["broken pipe"]),
        (ValueError("a\nsurprise \x1b[0m"), 1, ["ValueError", "a surprise ?[0m", "report"]),
        (RecursionError("deep"), 1, ["report"]),
    ],
)
def test_surprises_end_as_one_line(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: list[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    before = contents(here)
    monkeypatch.setattr(encode, "encode_layers", fail)
    monkeypatch.setattr(decode, "decode_strips", fail)
    assert_fails(run("compress", "photo.png", "a.vqc"), code, *words)
    assert_fails(run("decompress", "photo.vqc", "a.png"), code, *words)
    assert contents(here) == before
    monkeypatch.setenv("VQCODEC_TRACEBACK", "1")
    with pytest.raises(type(error)):
        run("compress", "photo.png", "a.vqc")


def test_numpy_is_kept_from_starting_threads_before_it_is_loaded(here: Path) -> None:
    code = f"""if True:
        import os, sys
        from vqcodec.cli import batch
        from vqcodec.cli import main as cli
        def check(*_, **__):
            assert "numpy" not in sys.modules
            assert [os.environ[name] for name in {cli.THREAD_VARIABLES!r}] == ["1"] * 3
        batch.run = check
        assert cli.main(["compress", "photo.png", "a.vqc", "--threads", "3"]) == 0
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_training_without_torch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("vqcodec.train")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    done = run("train", "pictures", "-o", "x")
    assert_fails(done, 2)
    hint = "pip install 'vqcodec[train]'; for a torch without CUDA, name PyTorch's package index for CPU builds"
    assert done.err == f"vqcodec: training needs torch: {hint} with --extra-index-url\n"
    assert_fails(run("train", "pictures"), 2, "-o/--out", "train --help")
    assert_fails(run("train", "pictures", "-o", "x", "--phase", "none"), 2, "none", "joint")
    with pytest.raises(SystemExit) as request:
        run("train", "--help")
    assert not request.value.code


def test_pictures_are_searched_by_suffixes_that_can_be_read() -> None:
    Image.init()
    readable = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    assert readable >= names.PICTURE_SUFFIXES - {".avif", ".heic", ".heif"}
