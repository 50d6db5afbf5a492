# SPDX-License-Identifier: MIT
"""Drawing from the priors: the right distribution, the same on every machine, and what of a picture is kept."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.entropy import TOTAL, ClassTables, Decoder
from vqcodec.bitstream.tiles import Grid
from vqcodec.cli import main as cli
from vqcodec.codec import sample, tokens
from vqcodec.codec.sample import RefinementTables, Sampler, base_symbols
from vqcodec.options import SampleOptions
from vqcodec.pictures import read

U8 = NDArray[np.uint8]
SIZE = (96, 80)


def random_frequencies(count: int, seed: int) -> NDArray[np.float64]:
    """Frequencies of `count` symbols as the coder takes them, from rare to frequent."""
    rng = np.random.default_rng(seed)
    weights = 2 ** rng.integers(0, 18, count) + rng.integers(0, 50, count)
    found = weights * (TOTAL - count) // weights.sum()
    found[0] += TOTAL - count - found.sum()
    return found.astype(np.float64)


def random_tables() -> ClassTables:
    """Class tables of a made-up model: every third class is not coded."""
    limits = np.array([0 if number % 3 == 0 else 1 + number // 4 for number in range(64)])
    rows = tuple(random_frequencies(2 * int(n) + 2, 7) if n else np.zeros(0) for n in limits)
    return ClassTables(limits, rows, np.zeros((64, 3)))


# ---- the distribution ------------------------------------------------------------------------------------------------


def test_symbols_are_those_of_the_range_decoder() -> None:
    """The first symbol that a range decoder makes of 64 random bits is the one that is drawn from them."""
    rng = np.random.default_rng(1)
    frequencies = random_frequencies(50, 2)
    words = rng.integers(0, 2**64, 2000, np.uint64, endpoint=False)
    decoded = []
    for word in words.tolist():
        payload = (word >> 32).to_bytes(4, "little") + (word & 0xFFFFFFFF).to_bytes(4, "little")
        decoded.append(int(Decoder(payload).get_base(frequencies[None])[0]))
    assert base_symbols(np.repeat(frequencies[None], 2000, 0), words).tolist() == decoded
    assert len(set(decoded)) > 10


def test_every_symbol_has_its_share() -> None:
    """Of the 2**24 points of a table, each symbol takes one more than its frequency."""
    frequencies = random_frequencies(9, 3)
    ends = np.cumsum(frequencies + 1).astype(np.uint64)
    points = np.stack([ends - 1, ends - (frequencies + 1).astype(np.uint64)]) << np.uint64(40)
    for row in points:
        assert base_symbols(np.repeat(frequencies[None], 9, 0), row).tolist() == list(range(9))
    tables = random_tables()
    drawn = RefinementTables(tables, 1.0)
    for number, limit in enumerate(tables.limits.tolist()):
        row = np.zeros(1) if not limit else tables.frequencies[number]
        ends = np.cumsum(row + 1).astype(np.uint64)
        for at in (ends - 1, ends - (row + 1).astype(np.uint64)):
            symbols = drawn.symbols(np.full(len(at), number, np.uint8), at << np.uint64(40))
            assert symbols.tolist() == ([*range(-limit, limit + 1), limit + 1] if limit else [0])


def test_an_escape_takes_its_sign_from_a_bit_of_its_own() -> None:
    tables = random_tables()
    words = np.array([2**64 - 1, 2**64 - 2], np.uint64)
    limit = int(tables.limits[8])
    assert RefinementTables(tables, 1.0).symbols(np.full(2, 8, np.uint8), words).tolist() == [-limit - 1, limit + 1]


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.7])
def test_temperature_is_a_power_of_the_probabilities(temperature: float) -> None:
    tables = random_tables()
    upper = RefinementTables(tables, temperature)._upper
    for number in (1, 7, 62):
        wanted = ((tables.frequencies[number] + 1) / TOTAL) ** (1 / temperature)
        found = np.diff(upper[number], prepend=0)
        assert np.allclose(found / found.sum(), wanted / wanted.sum(), atol=1e-7)


def test_no_temperature_takes_the_most_probable() -> None:
    tables = random_tables()
    words = np.random.default_rng(4).integers(0, 2**64, 500, np.uint64, endpoint=False)
    for number in (1, 7, 62):
        symbols = RefinementTables(tables, 0.0).symbols(np.full(500, number, np.uint8), words)
        assert set(symbols.tolist()) == {int(tables.frequencies[number].argmax()) - int(tables.limits[number])}


def test_base_frequencies_at_a_temperature() -> None:
    prior = Sampler(SampleOptions(), size=SIZE).model.base_prior
    known = np.zeros((2, 2), bool)
    nothing = np.zeros((2, 2), np.int64)
    plain = prior.frequencies(nothing, known, 0)[0]
    assert np.array_equal(prior.at(1.0).frequencies(nothing, known, 0)[0], plain)
    for temperature in (0.5, 2.0):
        found = prior.at(temperature).frequencies(nothing, known, 0)[0]
        assert found.sum() == plain.sum()
        likely = plain > 2000
        wanted = plain[likely] ** (1 / temperature)
        assert np.allclose(found[likely] / found[likely].sum(), wanted / wanted.sum(), rtol=0.03, atol=1e-4)
    only = prior.at(0.0).frequencies(nothing, known, 0)[0]
    assert only.argmax() == plain.argmax()
    assert only.max() > 0.999 * only.sum()


# ---- the same on every machine ---------------------------------------------------------------------------------------


def test_random_numbers_and_tables_are_fixed() -> None:
    """They belong to what a seed means: whatever changes them changes all samples."""
    tile = Grid(2000, 2000, 1024).tile(3)
    words = sample._Random(2**63 - 1, tile, 1).words(5)
    assert words.tolist() == [
        6590322625273133615, 11114503452271865203, 765682934486529156, 13036623551562331210, 629611839089640803,
    ]  # fmt: skip
    upper = np.concatenate([*RefinementTables(random_tables(), 0.7)._upper]).astype("<i8")
    assert hashlib.sha256(upper.tobytes()).hexdigest()[:16] == "f525073159856e64"


@pytest.mark.parametrize("engine", ["plain", "onnx"])
def test_seeds(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vqcodec.model import zoo

    zoo._load.cache_clear()
    monkeypatch.setenv("VQCODEC_ENGINE", engine)
    drawn = [Sampler(SampleOptions(threads=threads), size=(1100, 40)).draw(7) for threads in (1, 2)]
    zoo._load.cache_clear()
    monkeypatch.delenv("VQCODEC_ENGINE")
    drawn.append(Sampler(SampleOptions(), size=(1100, 40)).draw(7))
    other = Sampler(SampleOptions(), size=(1100, 40)).draw(8)
    for again in drawn[1:]:
        assert np.array_equal(drawn[0].base, again.base)
        assert drawn[0].refinement is not None
        assert np.array_equal(drawn[0].refinement, again.refinement)
    assert (drawn[0].base != other.base).mean() > 0.5
    assert not np.array_equal(drawn[0].base[:, :5], drawn[0].base[:, 64:69])  # tiles differ


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_a_sample_is_a_file_like_any_other() -> None:
    sampler = Sampler(SampleOptions(temperature=1.0, quality=60), size=(300, 90))
    drawn = sampler.draw(3)
    data = tokens.to_file(drawn)
    found = vqcodec.indices(data)
    assert np.array_equal(found.base, drawn.base)
    assert np.array_equal(found.refinement, drawn.refinement)
    assert np.array_equal(np.asarray(vqcodec.decode(data)), sampler.picture(3).rgb)


def test_temperature_decides_how_much_is_in_a_picture() -> None:
    sizes = [
        len(tokens.to_file(Sampler(SampleOptions(temperature=t), size=(256, 256)).draw(1))) for t in (0.2, 0.6, 1.0)
    ]
    assert sizes == sorted(set(sizes))
    assert sizes[2] > 3 * sizes[0]


def test_quality_1_draws_the_base_layer_alone() -> None:
    drawn = Sampler(SampleOptions(quality=1), size=SIZE).draw(0)
    assert drawn.refinement is None
    assert vqcodec.sample(SIZE, quality=1).size == SIZE


def test_the_realistic_decoder() -> None:
    faithful, realistic = (np.asarray(vqcodec.sample(SIZE, decoder=d)) for d in ("faithful", "realistic"))
    assert not np.array_equal(faithful, realistic)
    assert np.abs(faithful.astype(int) - realistic).mean() < 20


def test_what_is_kept_of_a_picture(photo: U8) -> None:
    picture = read.load(photo[:90, :120])
    of_it = tokens.of_picture(picture, 50)
    steps = Sampler(SampleOptions(), size=SIZE).model.prior.steps
    far = []
    for keep in ("base", 1, 4, 7):
        drawn = Sampler(SampleOptions(keep=keep), like=picture).draw(5)
        assert np.array_equal(drawn.base, of_it.base)
        assert drawn.refinement is not None
        assert of_it.refinement is not None
        same = [np.array_equal(drawn.refinement[..., s.channels], of_it.refinement[..., s.channels]) for s in steps]
        if keep == 4:
            assert same[:4] == [True] * 4
            assert not all(same)
        far.append(np.abs(tokens.to_picture(drawn).rgb.astype(float) - picture.rgb).mean())
    assert far == sorted(far, reverse=True)


def test_a_file_is_varied_as_it_is(photo: U8, tmp_path: Path) -> None:
    data = vqcodec.encode(photo[:90, :120, 0], 35, tune="psnr")
    found = vqcodec.indices(data)
    (tmp_path / "a.vqc").write_bytes(data)
    for given in (data, tmp_path / "a.vqc", str(tmp_path / "a.vqc")):
        assert vqcodec.sample(like=given, keep=2, seed=9).mode == "L"
    drawn = Sampler(SampleOptions(keep=2), like=data).draw(9)
    assert (drawn.quality, drawn.tune, drawn.gray) == (35, "psnr", True)
    assert found.refinement is not None
    assert drawn.refinement is not None
    assert np.array_equal(drawn.refinement[..., :8], found.refinement[..., :8])
    other = Sampler(SampleOptions(quality=70, tune="eye"), like=vqcodec.encode(photo[:40, :40], 1)).draw(9)
    assert (other.quality, other.tune) == (70, "eye")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": None}, "size"),
        ({"like": b"no picture", "size": SIZE}, "not a picture|cannot"),
        ({"size": (0, 4)}, "width"),
        ({"size": (4, 2.5)}, "height"),
        ({"size": (2**25, 1)}, "width"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"quality": 0}, "quality"),
        ({"tune": "nose"}, "tune"),
        ({"decoder": "magic"}, "decoder"),
        ({"keep": 3}, "keep"),
        ({"keep": "all"}, "keep"),
        ({"keep": -2}, "keep"),
    ],
)
def test_mistakes_in_python(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"size": SIZE} | options
    with pytest.raises((vqcodec.UsageError, vqcodec.InputError), match=words):
        vqcodec.sample(given.pop("size"), **given)


def test_mistakes_with_a_picture(photo: U8) -> None:
    small = photo[:32, :32]
    for options, words in (
        ({"keep": 8}, "from 1 to 7"),
        ({"quality": 1}, "nothing is left"),
        ({"size": SIZE}, "not both"),
    ):
        with pytest.raises(vqcodec.UsageError, match=words):
            vqcodec.sample(like=small, **options)  # type: ignore[arg-type]
    coarse = vqcodec.encode(small, 1)
    with pytest.raises(vqcodec.UsageError, match="nothing is left"):
        vqcodec.sample(like=coarse)
    with pytest.raises(vqcodec.UsageError, match="give neither"):
        vqcodec.sample(like=vqcodec.encode(small, 40), keep=2, quality=60)
    with pytest.raises(vqcodec.DamagedError):
        vqcodec.sample(like=vqcodec.encode(small, 40)[:-3])
    with pytest.raises(vqcodec.LimitError, match="limit"):
        vqcodec.sample((100, 100), max_pixels=9999)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: U8) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo[:48, :64]).save("a.png")
    return tmp_path


def test_files_are_named_by_their_seeds(here: Path) -> None:
    assert cli.main(["sample", "-o", "out", "--size", "40x30", "--count", "3", "--seed", "9"]) == 0
    assert sorted(p.name for p in (here / "out").iterdir()) == ["sample-10.png", "sample-11.png", "sample-9.png"]
    assert cli.main(["sample", "-o", "one", "--size", "40x30", "--seed", "10"]) == 0
    assert (here / "one/sample-10.png").read_bytes() == (here / "out/sample-10.png").read_bytes()
    with Image.open("one/sample-10.png") as opened:
        picture = np.asarray(opened)
    assert np.array_equal(picture, np.asarray(vqcodec.sample((40, 30), seed=10)))


def test_formats_and_variations(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["sample", "-o", "v", "--like", "a.png", "--keep", "3", "--format", "vqc", "-q", "40"]) == 0
    data = (here / "v/sample-0.vqc").read_bytes()
    assert vqcodec.info(data)["quality"] == 40
    assert vqcodec.decode(data).size == (64, 48)
    assert cli.main(["sample", "-o", "v", "--like", "v/sample-0.vqc", "--seed", "1", "--format", "webp"]) == 0
    with Image.open("v/sample-1.webp") as picture:
        assert picture.size == (64, 48)
    for given in (data, (here / "a.png").read_bytes()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert cli.main(["sample", "-o", "p", "-f", "--like", "-"]) == 0
        with Image.open("p/sample-0.png") as picture:
            assert picture.size == (64, 48)


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (2, "--size", []),
        (2, "not both", ["--size", "8x8", "--like", "a.png"]),
        (2, "WxH", ["--size", "8"]),
        (2, "width", ["--size", "0x8"]),
        (2, "--keep", ["--size", "8x8", "--keep", "base"]),
        (2, "keep must be", ["--like", "a.png", "--keep", "most"]),
        (2, "--temperature", ["--size", "8x8", "--temperature", "9"]),
        (2, "seed", ["--size", "8x8", "--seed", str(2**63 - 1), "--count", "2"]),
        (2, "decoder", ["--size", "8x8", "--format", "vqc", "--decoder", "realistic"]),
        (3, "nowhere", ["--like", "nowhere.png"]),
        (2, "format", ["--size", "8x8", "--format", "xyz"]),
        (4, "bad.vqc", ["--like", "bad.vqc"]),
        (5, "no model", ["--size", "8x8", "--model", "nowhere"]),
        (7, "limit", ["--size", "99999x99999"]),
    ],
)
def test_mistakes(here: Path, capsys: pytest.CaptureFixture[str], code: int, words: str, arguments: list[str]) -> None:
    (here / "bad.vqc").write_bytes(vqcodec.encode(here / "a.png", 40)[:-3])
    assert cli.main(["sample", "-o", "out", *arguments]) == code
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1
    assert not list(here.glob("out/*"))


def test_existing_files_stay(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "sample-1.png").write_bytes(b"mine")
    assert cli.main(["sample", "-o", ".", "--size", "8x8", "--count", "3"]) == 6
    assert "sample-1.png" in capsys.readouterr().err
    assert (here / "sample-1.png").read_bytes() == b"mine"
    assert (here / "sample-2.png").exists()
    assert cli.main(["sample", "-o", ".", "--size", "8x8", "--count", "3", "-f"]) == 0
    assert (here / "sample-1.png").read_bytes() != b"mine"
