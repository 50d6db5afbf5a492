# SPDX-License-Identifier: MIT
"""Both range coders write the same words and read the same symbols, whatever the tables and the words."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden.make import FOLDER
from vqcodec.bitstream import range_coder
from vqcodec.bitstream.codebook import Ints
from vqcodec.bitstream.range_coder import ENVIRONMENT, TOTAL, Coder, Frequencies, Plain, PlainEncoder, Words
from vqcodec.errors import DamagedError, UsageError

pytest.importorskip("constriction")
from vqcodec.bitstream.range_coder import Constriction

CODERS: tuple[Coder, Coder] = (Constriction(), Plain())
Part = tuple[str, Any, Any]  # "table" symbols frequencies, "each" symbols frequencies, "uniform" symbol size


def frequencies(rng: np.random.Generator, size: int, peak: int) -> Frequencies:
    """Of an alphabet; the larger the peak, the more uneven."""
    weights = rng.integers(1, 2**20, size) >> rng.integers(0, peak + 1, size)
    share = weights * (TOTAL - size) // max(1, int(weights.sum()))
    share[rng.integers(size)] += TOTAL - size - share.sum()
    return share.astype(np.float64)


def drawn(rng: np.random.Generator, weights: Frequencies, count: int) -> Ints:
    """Symbols, half of them as probable as the table says and half of them not at all."""
    likely = rng.choice(len(weights), count, p=(weights + 1) / TOTAL)
    return np.where(rng.random(count) < 0.5, likely, rng.integers(len(weights), size=count))


def message(rng: np.random.Generator, parts: int, count: int) -> list[Part]:
    out: list[Part] = []
    for _ in range(parts):
        size, peak = int(rng.choice([2, 3, 8, 100, 514])), int(rng.choice([0, 6, 19, 40]))
        match rng.integers(4):
            case 0:
                rows = np.array([frequencies(rng, size, peak) for _ in range(rng.integers(1, 20))])
                out.append(("each", rng.integers(size, size=len(rows)), rows))
            case 1:
                size = int(rng.choice([2, 3, 7, 32, 64, 2**20]))
                out.append(("uniform", int(rng.choice([0, size - 1, rng.integers(size)])), size))
            case _:
                table = frequencies(rng, size, peak)
                out.append(("table", drawn(rng, table, int(rng.integers(0, count))), table))
    return out


def written(coder: Coder, parts: list[Part]) -> Words:
    encoder = coder.encoder()
    for kind, symbols, what in parts:
        if kind == "table":
            encoder.put(symbols, coder.table(what))
        elif kind == "each":
            encoder.put_each(symbols, what)
        else:
            encoder.put_uniform(symbols, what)
    return encoder.words()


def read(coder: Coder, parts: list[Part], words: Words) -> tuple[list[list[int]], bool | None]:
    """The symbols of every part, up to where the coder refuses to go on; and whether the words were used up."""
    decoder, out = coder.decoder(words), []
    try:
        for kind, symbols, what in parts:
            if kind == "table":
                out.append(decoder.get(len(symbols), coder.table(what)).tolist())
            elif kind == "each":
                out.append(decoder.get_each(what).tolist())
            else:
                out.append([decoder.get_uniform(what)])
    except DamagedError:
        return out, None
    return out, decoder.exhausted()


def check(parts: list[Part]) -> Words:
    """Both write the same, and both read what was written."""
    words, own = (written(coder, parts) for coder in CODERS)
    assert own.dtype == words.dtype == np.uint32
    np.testing.assert_array_equal(own, words)
    wanted = [np.atleast_1d(symbols).tolist() for _, symbols, _ in parts]
    for coder in CODERS:
        assert read(coder, parts, words) == (wanted, True)
    return words


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from([3, 40, 700]))
def test_random_tables(seed: int, parts: int, count: int) -> None:
    check(message(np.random.default_rng(seed), parts, count))


def test_no_symbols_give_no_words() -> None:
    assert check([]).size == check([("table", np.zeros(0, np.int64), np.array([5.0, TOTAL - 7]))]).size == 0
    for coder in CODERS:
        assert not coder.decoder(np.zeros(1, np.uint32)).exhausted()


def test_long_streams() -> None:
    """More symbols than the coder in Python takes at once, in one part and in several."""
    rng = np.random.default_rng(1)
    several = message(rng, 40, 20_000)
    assert sum(np.size(symbols) for _, symbols, _ in several) > 2 * range_coder._AT_ONCE
    assert len(check(several)) > 10_000
    flat, even = frequencies(rng, 300, 0), np.array([TOTAL - 4, 0, 1.0])
    check([("table", drawn(rng, flat, 3 * range_coder._AT_ONCE), flat), ("table", np.zeros(200_000, np.int64), even)])


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("size", [3, 10, 1000])
@pytest.mark.parametrize("words", [1, 2, 7, 40])
def test_carries(size: int, above: bool, words: int) -> None:
    """Symbols that keep the border of a word inside the interval for many words, and then fall to one side of it."""
    each, last = TOTAL // size, TOTAL - TOTAL // size * (size - 1)
    low, span, scale, parts, border = 0, 2**64 - 1, 0, [], 2**63
    while True:
        scale = span >> 24
        symbol = min((border - low) // scale // each, size - 1)
        long_enough = border.bit_length() > 64 + 32 * words
        if long_enough and 0 < symbol < size - 1:
            symbol += 1 if above else -1
        parts.append(("uniform", symbol, size))
        low, span = low + scale * symbol * each, scale * (last if symbol == size - 1 else each)
        if not low <= border < low + span:
            break
        if span < 2**32:
            low, span, border = low << 32, span << 32, border << 32
    found = check(parts).tolist()
    assert found[0] == (2**31 if above else 2**31 - 1)
    assert found[1:words] == [0 if above else 2**32 - 1] * (words - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from(["cut", "changed", "noise", "ones", "zeros"]))
def test_damaged_words(seed: int, keep: int, how: str) -> None:
    """Both read the same wrong symbols, and both refuse to go on at the same part."""
    rng = np.random.default_rng(seed)
    parts = message(rng, 6, 60)
    words = written(CODERS[0], parts)
    if how == "cut":
        words = words[:keep]
    elif how == "changed" and len(words):
        words[keep % len(words)] ^= 1 << rng.integers(32)
    elif how == "noise":
        words = rng.integers(0, 2**32, keep, np.uint32)
    else:
        words = np.full(keep, 2**32 - 1 if how == "ones" else 0, np.uint32)
    first, second = (read(coder, parts, words) for coder in CODERS)
    assert first == second


def test_words_that_no_encoder_writes_are_refused() -> None:
    """Behind a start of 2^64 - 1 the point lies above the interval."""
    table = np.array([1.0, TOTAL - 3])
    for part in (
        ("table", np.zeros(1, np.int64), table),
        ("each", np.zeros(1, np.int64), table[None]),
        ("uniform", 0, 3),
    ):
        for coder in CODERS:
            assert read(coder, [part], np.full(2, 2**32 - 1, np.uint32)) == ([], None)


def test_which_one_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    choose: Callable[[], Coder] = range_coder.choose
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert isinstance(choose(), Constriction)
    monkeypatch.setenv(ENVIRONMENT, "plain")
    assert isinstance(choose(), Plain)
    assert isinstance(choose().encoder(), PlainEncoder)
    monkeypatch.setenv(ENVIRONMENT, "fast")
    with pytest.raises(UsageError, match="plain or constriction"):
        choose()


def without_constriction(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.modules['constriction'] = None; {code}"
    env = {"PYTHONPATH": str(Path(__file__).parent.parent), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_without_constriction_files_are_the_same() -> None:
    """A golden file is decoded and encoded again where constriction cannot be imported; nothing is said about it."""
    code = f"""
import vqcodec, hashlib
from pathlib import Path
picture = vqcodec.decode(Path({str(FOLDER / "tiled.vqc")!r}).read_bytes(), threads=1)
print(hashlib.sha256(vqcodec.encode(picture, threads=1)).hexdigest())
"""
    body = "exec(" + repr(code) + ")"
    own = without_constriction(body)
    usual = subprocess.run(
        [sys.executable, "-c", body], capture_output=True, text=True,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), ENVIRONMENT: "constriction"},
    )  # fmt: skip
    assert (own.returncode, own.stderr, own.stdout) == (0, "", usual.stdout)
    assert len(own.stdout) == 65


def test_a_coder_that_is_not_there_is_refused() -> None:
    done = without_constriction(
        f"from vqcodec.cli.main import main; sys.exit(main(['decompress', {str(FOLDER / 'one.vqc')!r}, '-']))",
        **{ENVIRONMENT: "constriction"},
    )
    assert done.returncode == UsageError.exit_code
    assert "VQCODEC_CODER is constriction, which is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_speed() -> None:
    """At most 3 s of processor time for a megapixel: 1.25 symbols per pixel at the highest qualities."""
    rng, coder = np.random.default_rng(3), Plain()
    table = frequencies(rng, 100, 19)
    symbols, prepared = rng.choice(100, 312_500, p=(table + 1) / TOTAL), coder.table(table)
    start = time.process_time()
    encoder = coder.encoder()
    encoder.put(symbols, prepared)
    words, middle = encoder.words(), time.process_time()
    assert np.array_equal(coder.decoder(words).get(len(symbols), prepared), symbols)
    assert max(middle - start, time.process_time() - middle) < 3 / 4
