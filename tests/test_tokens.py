# SPDX-License-Identifier: MIT
"""Indices as tokens: to a file and back without a change, to a picture, and in token files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.cli import main as cli
from vqcodec.codec import encode, tokens
from vqcodec.codec import token_file as token_file_module
from vqcodec.model import zoo
from vqcodec.options import EncodeOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def tiled(photo: U8) -> bytes:
    """A piece of the photograph, 300 x 270, in tiles of 256 x 256."""
    return encode.encode(read.load(photo[:270, :300]), 55, EncodeOptions(tile_log2=8))


def options(data: bytes) -> dict[str, Any]:
    facts = vqcodec.info(data)
    return {name: facts[name] for name in ("width", "height", "quality", "gray", "tile_side")}


# ---- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.int16])
def test_indices_to_a_file_and_back(tiled: bytes, kind: type) -> None:
    base, refinement, colour, drift = vqcodec.indices(tiled)
    assert refinement is not None
    assert colour is not None
    assert drift is not None
    given = base.astype(kind), refinement.astype(kind), colour.astype(kind), drift.astype(kind)
    data = vqcodec.from_indices(*given, **options(tiled))
    assert data == tiled


def test_indices_to_a_picture(tiled: bytes) -> None:
    direct = vqcodec.decode_indices(*vqcodec.indices(tiled), **options(tiled))
    assert np.array_equal(np.asarray(direct), np.asarray(vqcodec.decode(tiled)))


@pytest.mark.parametrize("quality", [1, 2, 100])
def test_every_golden_kind(photo: U8, quality: int) -> None:
    for picture in (photo[:50, :70], photo[:50, :70, 0], photo[:1, :1]):
        data = vqcodec.encode(picture, quality, patches=False)
        found = vqcodec.indices(data)
        given = options(data) | ({"quality": None} if quality == 1 else {})
        assert vqcodec.from_indices(*found, **given) == data
        direct = vqcodec.decode_indices(*found, **given)
        assert direct.mode == ("L" if picture.ndim == 2 else "RGB")
        assert np.array_equal(np.asarray(direct), np.asarray(vqcodec.decode(data)))


def test_base_indices_of_ones_own() -> None:
    """What a generative model does: any indices, no file to begin with."""
    base = np.random.default_rng(3).integers(0, zoo.load(zoo.find()).codebook.size, (5, 7))
    data = vqcodec.from_indices(base)
    assert np.array_equal(vqcodec.indices(data).base, base)
    assert vqcodec.decode(data).size == (112, 80)
    assert vqcodec.decode_indices(base, width=100, height=65).size == (100, 65)


def test_refinement_indices_of_ones_own(tiled: bytes) -> None:
    """Changed ones that have a code come back as they are; one without is named, and shown all the same."""
    base, refinement, *_ = vqcodec.indices(tiled)
    assert refinement is not None
    given = options(tiled)
    changed = refinement.copy()
    changed[changed != 0] += 3
    changed[0, 0, 0] = 70_000
    data = vqcodec.from_indices(base, changed, **given)
    assert np.array_equal(vqcodec.indices(data).refinement, changed)
    quiet = np.argwhere((refinement == 0).all(axis=(0, 1)))[-1, 0]
    changed = refinement.copy()
    changed[16, 18, quiet] = 1  # in the last tile
    with pytest.raises(vqcodec.InputError, match=f"index 1 at row 16, column 18, channel {quiet} has no code"):
        vqcodec.from_indices(base, changed, **given)
    assert vqcodec.decode_indices(base, changed, **given).size == (300, 270)


def test_other_tiles_are_another_picture(tiled: bytes) -> None:
    found, given = vqcodec.indices(tiled), options(tiled)
    whole = vqcodec.decode_indices(*found, **(given | {"tile_side": 512}))
    assert not np.array_equal(np.asarray(whole), np.asarray(vqcodec.decode(tiled)))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"base": np.zeros((17, 19))}, "InputError", "integers in 2 dimensions"),
        ({"base": np.zeros((17, 19, 1), int)}, "InputError", "integers in 2 dimensions"),
        ({"base": np.full((17, 19), 99_999)}, "InputError", "base indices of this model lie in 0 to"),
        ({"base": np.full((17, 19), -1)}, "InputError", "base indices of this model lie in 0 to"),
        ({"base": np.full((17, 19), 2**40)}, "InputError", "base indices"),
        ({"base": np.zeros((0, 19), int)}, "InputError", "do not fit"),
        ({"base": np.zeros((17, 18), int)}, "InputError", "17 rows and 18 columns do not fit a picture of 300 x 270"),
        ({"width": 0}, "InputError", "do not fit"),
        ({"height": -5}, "InputError", "do not fit"),
        ({"refinement": None}, "UsageError", "quality"),
        ({"quality": None}, "UsageError", "quality"),
        ({"quality": 1}, "UsageError", "quality"),
        ({"quality": 101}, "UsageError", "quality"),
        ({"refinement": np.zeros((17, 19, 3), int)}, "InputError", r"shape \[17, 19, 3\]"),
        ({"refinement": "large"}, "InputError", "refinement indices"),
        ({"tile_side": 300}, "UsageError", "tile"),
        ({"colour": np.zeros((5, 3))}, "InputError", "a colour layer is integers"),
        ({"colour": np.zeros((6, 3), int)}, "InputError", "a colour layer is integers"),
        ({"colour": np.full((5, 3), 16)}, "InputError", "0 to 15"),
        ({"colour": np.arange(15).reshape(5, 3)}, "InputError", "one number three times"),
        ({"colour": np.array([[2, 2, 2], [2**30, 0, 0]])}, "InputError", "indices of a colour layer"),
        ({"drift": np.zeros((6, 5, 3))}, "InputError", "a drift layer is integers"),
        ({"drift": np.zeros((6, 5, 3), int)}, "InputError", "5 x 5 cells does not fit a picture of 300 x 270"),
        ({"model": "nothing"}, "ModelError", "no model"),
    ],
)
def test_arrays_that_are_no_indices(tiled: bytes, changes: dict[str, Any], error: str, words: str) -> None:
    base, refinement, *_ = vqcodec.indices(tiled)
    assert refinement is not None
    if isinstance(changes.get("refinement"), str):
        changes = {"refinement": refinement + 2**21}
    for function in (vqcodec.from_indices, vqcodec.decode_indices):
        with pytest.raises(getattr(vqcodec, error), match=words):
            function(**({"base": base, "refinement": refinement} | options(tiled) | changes))


# ---- token files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: U8, tiled: bytes) -> Path:
    """A current folder with pictures and a .vqc file."""
    (tmp_path / "in").mkdir()
    Image.fromarray(photo[:40, :50]).save(tmp_path / "in/a.png")
    Image.fromarray(photo[:33, :20, 1]).save(tmp_path / "in/b.tif")
    (tmp_path / "in/c.vqc").write_bytes(tiled)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failing(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The line on stderr of a command that must end with this code."""
    capsys.readouterr()
    assert cli.main(arguments) == code
    line = capsys.readouterr().err
    assert line.startswith("vqcodec: ")
    assert line.count("\n") == 1, line
    return line


def test_pictures_and_files_to_tokens_and_back(here: Path, photo: U8, tiled: bytes) -> None:
    assert cli.main(["tokens", "in", "-q", "30", "-o", "t.npz"]) == 0
    with np.load("t.npz", allow_pickle=False) as found:
        arrays = dict(found)
    model = zoo.load(zoo.find())
    assert list(arrays["names"]) == ["a", "b", "c"]
    assert arrays["sizes"].tolist() == [[50, 40], [20, 33], [300, 270]]
    assert arrays["qualities"].tolist() == [30, 30, 55]
    assert arrays["gray"].tolist() == [False, True, False]
    assert arrays["tile_sides"].tolist() == [1024, 1024, 256]
    assert (arrays["codebook_size"], arrays["latent_channels"]) == (model.codebook.size, model.prior.latents)
    assert arrays["model"] == vqcodec.info(tiled)["model"]
    expected = [vqcodec.encode(photo[:40, :50], 30), vqcodec.encode(photo[:33, :20, 1], 30), tiled]
    for number, data in enumerate(expected):
        for name, array in vqcodec.indices(data)._asdict().items():
            if array is None:
                assert f"{name}_{number}" not in arrays
                continue
            assert arrays[f"{name}_{number}"].dtype == np.int32
            assert np.array_equal(arrays[f"{name}_{number}"], array)
    assert cli.main(["tokens", "--back", "t.npz", "-o", "files", "--format", "vqc"]) == 0
    assert [path.read_bytes() for path in sorted((here / "files").iterdir())] == expected
    assert cli.main(["tokens", "--back", "t.npz", "-o", "pictures"]) == 0
    for name, data in zip("abc", expected, strict=True):
        with Image.open(here / "pictures" / f"{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(vqcodec.decode(data)))


def test_folders_below_folders(here: Path, photo: U8) -> None:
    for name in ("all/a.png", "all/deep/a.png", "all/deep/er/b.png"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[:32, :48]).save(here / name)
    assert cli.main(["tokens", "all", "-q", "1", "-o", "t.npz"]) == 0
    assert np.load("t.npz")["names"].tolist() == ["a"]
    assert cli.main(["tokens", "-r", "all", "all/deep/a.png", "-q", "1", "-f", "-o", "t.npz"]) == 0
    assert np.load("t.npz")["names"].tolist() == ["a", "deep/a", "deep/er/b", "a"]
    assert cli.main(["tokens", "-r", "all", "-q", "1", "-f", "-o", "t.npz"]) == 0
    assert cli.main(["tokens", "--back", "t.npz", "-o", "back"]) == 0
    assert sorted(path.name for path in (here / "back").iterdir()) == ["a.png", "deep_a.png", "deep_er_b.png"]
    assert cli.main(["tokens", "-r", "--back", "t.npz", "-o", "back"]) == 2


def test_the_base_layer_alone(here: Path) -> None:
    assert cli.main(["tokens", "in/a.png", "-q", "1", "-o", "t.npz"]) == 0
    with np.load("t.npz") as arrays:
        assert "refinement_0" not in arrays
        assert arrays["base_0"].shape == (3, 4)
        assert arrays["qualities"].tolist() == [1]
    assert cli.main(["tokens", "--back", "t.npz", "-o", "."]) == 0
    with Image.open("a.png") as picture:
        assert picture.size == (50, 40)


def test_the_base_layer_alone_comes_without_colours(here: Path, photo: U8) -> None:
    """Of a picture and of a .vqc file, whose base layer stays as it is."""
    Image.fromarray(photo).save(here / "large.png")
    coded = vqcodec.encode(photo, 30)
    (here / "coded.vqc").write_bytes(coded)
    base, fine, *layer = vqcodec.indices(coded)
    assert fine is not None
    assert any(part is not None for part in layer), "there is something to leave out"
    assert cli.main(["tokens", "large.png", "coded.vqc", "-q", "1", "-o", "t.npz"]) == 0
    with np.load("t.npz") as arrays:
        assert [name for name in arrays if name.endswith(("_0", "_1"))] == ["base_0", "base_1"]
        assert arrays["qualities"].tolist() == [1, 1]
        assert np.array_equal(arrays["base_1"], base)
        assert np.array_equal(arrays["base_0"], vqcodec.indices(vqcodec.encode(photo, 1)).base)
    assert cli.main(["tokens", "--back", "t.npz", "-o", "back"]) == 0
    with Image.open("back/coded.png") as picture:
        assert picture.size == (600, 400)


@pytest.mark.parametrize("letter", ["a", "ü", "猫", "𝄞"])
def test_long_names_are_cut_to_what_a_file_system_takes(here: Path, letter: str) -> None:
    """A file system counts bytes, and a letter may take four."""
    assert cli.main(["tokens", "in/a.png", "-q", "1", "-o", "t.npz"]) == 0
    with np.load("t.npz") as arrays:
        changed = {**arrays, "names": np.array([letter * 240])}
    np.savez_compressed("long.npz", **changed)
    assert cli.main(["tokens", "--back", "long.npz", "-o", "back"]) == 0
    (path,) = (here / "back").iterdir()
    assert path.suffix == ".png"
    assert set(path.stem) <= {letter, "_"}
    assert 190 < len(path.name.encode()) <= 204


def test_what_is_dropped_is_said(here: Path, capsys: pytest.CaptureFixture[str], photo: U8) -> None:
    rgba = np.dstack([photo[:20, :20], np.full((20, 20), 99, np.uint8)])
    Image.fromarray(rgba).save("clear.png")
    (here / "clear.vqc").write_bytes(vqcodec.encode(rgba, 30))
    for name in ("clear.png", "clear.vqc"):
        assert cli.main(["tokens", name, "-f", "-o", "t.npz"]) == 0
        assert capsys.readouterr().err == f"vqcodec: note: {name}: transparency is no part of the tokens: dropped\n"
    assert cli.main(["tokens", "in/a.png", "-f", "-o", "t.npz"]) == 0
    assert capsys.readouterr().err == ""


def test_through_pipes(here: Path, capsysbinary: Any, monkeypatch: pytest.MonkeyPatch, tiled: bytes) -> None:
    import sys

    for data, name in ((tiled, "tiled"), ((here / "in/a.png").read_bytes(), "a")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert cli.main(["tokens", "-", "-q", "1", "-o", "-"]) == 0
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(capsysbinary.readouterr().out)))
        assert cli.main(["tokens", "--back", "-", "-o", name]) == 0
        assert [path.name for path in (here / name).iterdir()] == ["stdin.png"]


def test_the_same_input_gives_the_same_bytes(here: Path) -> None:
    for name in ("first.npz", "second.npz"):
        assert cli.main(["tokens", "in/a.png", "-o", name]) == 0
    first, second = ((here / name).read_bytes() for name in ("first.npz", "second.npz"))
    assert first == second
    assert b"in/" not in first


def test_mistakes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "text.png").write_text("no picture")
    (here / "old.npz").write_bytes(b"old")
    (here / "empty").mkdir()
    before = sorted(here.rglob("*"))
    assert "npz" in failing(capsys, 2, "tokens", "in", "-o", "t.vqc")
    assert "exists" in failing(capsys, 6, "tokens", "in", "-o", "old.npz")
    assert "text.png" in failing(capsys, 3, "tokens", "text.png", "-o", "t.npz")
    assert "nowhere" in failing(capsys, 3, "tokens", "nowhere.png", "-o", "t.npz")
    assert "nothing to do" in failing(capsys, 3, "tokens", "empty", "-o", "t.npz")
    assert "c.vqc" in failing(capsys, 7, "tokens", "in/c.vqc", "-o", "t.npz", "--max-pixels", "9")
    assert "a.png" in failing(capsys, 7, "tokens", "in/a.png", "-o", "t.npz", "--max-pixels", "9")
    assert "output" in failing(capsys, 2, "tokens", "in")
    assert "--back" in failing(capsys, 2, "tokens", "--back", "-q", "3", "old.npz", "-o", "x")
    assert "old.npz: this is not a token file" in failing(capsys, 3, "tokens", "--back", "old.npz", "-o", "x")
    assert sorted(here.rglob("*")) == before
    assert (here / "old.npz").read_bytes() == b"old"


def test_one_that_fails_does_not_stop_the_rest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in/broken.vqc").write_bytes((here / "in/c.vqc").read_bytes()[:-50])
    assert "broken.vqc" in failing(capsys, 4, "tokens", "in", "-q", "1", "-o", "t.npz")
    with np.load("t.npz") as arrays:
        assert list(arrays["names"]) == ["a", "b", "c"]


# ---- token files from anywhere ---------------------------------------------------------------------------------------


def token_file(**changes: Any) -> bytes:
    """A token file of one picture, 20 x 20, with arrays replaced; None removes one."""
    writer = token_file_module.Writer(zoo.load(zoo.find()))
    writer.add("a", tokens.Tokens(np.zeros((2, 2), np.int32), None, 20, 20, 1))
    with np.load(io.BytesIO(writer.finish())) as found:
        arrays = {name: array for name, array in (dict(found) | changes).items() if array is not None}
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": None}, "no array 'names'"),
        ({"base_0": None}, "no array 'base_0'"),
        ({"base_0": np.zeros((2, 2))}, "'base_0' is float64"),
        ({"base_0": np.zeros((2, 3), np.int32)}, r"shape \[2, 3\]"),
        ({"base_0": np.zeros((999, 999), np.int32)}, "'base_0' cannot be read .it is larger than it can be"),
        ({"base_0": np.full((2, 2), 77_777, np.int32)}, "base indices"),
        ({"base_0": np.array([[{}, 1], [1, 1]], object)}, "'base_0'"),
        ({"qualities": np.array([50], np.int32)}, "no array 'refinement_0'"),
        ({"qualities": np.array([-1], np.int32)}, "refinement_0"),
        ({"sizes": np.array([[0, 20]], np.int32)}, "0 x 20"),
        ({"sizes": np.array([[20, 2**30]], np.int32)}, "pixels"),
        ({"sizes": np.array([[20, 20], [20, 20]], np.int32)}, "one length"),
        ({"sizes": np.array([20], np.int32)}, "'sizes'"),
        ({"tile_sides": np.array([7], np.int32)}, "tile"),
        ({"model": np.array("../../x")}, "no model"),
        ({"model": np.array("00000000")}, "not installed"),
    ],
)
def test_token_files_with_nonsense(
    here: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    import re

    (here / "t.npz").write_bytes(token_file(**changes))
    capsys.readouterr()
    assert cli.main(["tokens", "--back", "t.npz", "-o", "out"]) in (2, 3, 5)
    line = capsys.readouterr().err
    assert re.search(words, line)
    assert line.count("\n") == 1
    assert not list(here.glob("out/*"))


def test_damaged_token_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tokens", "in/a.png", "-q", "2", "-o", "good.npz"]) == 0
    good = (here / "good.npz").read_bytes()
    rng = np.random.default_rng(5)
    codes = set()
    for _ in range(60):
        data = bytearray(good)
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        else:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (here / "bad.npz").write_bytes(data)
        capsys.readouterr()
        codes.add(cli.main(["tokens", "--back", "bad.npz", "-o", "out", "-f", "--format", "ppm"]))
        assert "internal error" not in capsys.readouterr().err
    assert codes <= {0, 2, 3, 5}
    assert 3 in codes


def test_an_array_that_says_it_is_huge(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A header of a few bytes that asks for 2**60 of them: refused before anything is allocated."""
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(claim, {"descr": "<i4", "fortran_order": False, "shape": (2**29, 2**29)})
    good = zipfile.ZipFile(io.BytesIO(token_file()))
    with zipfile.ZipFile(here / "t.npz", "w") as out:
        for name in good.namelist():
            out.writestr(name, claim.getvalue() if name == "base_0.npy" else good.read(name))
    assert "an array that is larger than its file" in failing(capsys, 3, "tokens", "--back", "t.npz", "-o", "out")


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..", "", "a\0b", "x" * 999, "new\nline", "C:\\evil"])
def test_names_stay_in_their_folder(here: Path, name: str) -> None:
    (here / "t.npz").write_bytes(token_file(names=np.array([name])))
    assert cli.main(["tokens", "--back", "t.npz", "-o", "deep/out"]) == 0
    assert len(list((here / "deep/out").iterdir())) == 1
    assert {path.name for path in here.iterdir()} == {"in", "t.npz", "deep"}
