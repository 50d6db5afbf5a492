# SPDX-License-Identifier: MIT
"""Indices to bytes and back, with the shipped tables: exact, close to the ideal length, escapes included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plain import PlainDecoder
from vqcodec.bitstream.codebook import Ints
from vqcodec.bitstream.entropy import ClassTables, CutDecoder, Decoder, Encoder
from vqcodec.bitstream.range_coder import ENVIRONMENT
from vqcodec.errors import DamagedError, ModelError
from vqcodec.model import zoo


@pytest.fixture(scope="module", autouse=True, params=["constriction", "plain"])
def coder(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests of this file with both range coders."""
    if request.param == "constriction":
        pytest.importorskip("constriction")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, request.param)
        yield


def normalised(weights: Ints) -> Ints:
    """Frequencies that sum to 2**24 - n."""
    room = 2**24 - weights.shape[1]
    frequencies = weights * room // weights.sum(1, keepdims=True)
    frequencies[:, 0] += room - frequencies.sum(1)
    return frequencies


def tables() -> ClassTables:
    return zoo.load(zoo.find()).tables


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([0.3, 3.0, 40.0, 3000.0]))
def test_refinement_round_trip(seed: int, count: int, spread: float) -> None:
    t = tables()
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 64, (count, 3))
    indices = np.rint(rng.laplace(0, spread, classes.shape)).astype(np.int64)
    indices[t.limits[classes] == 0] = 0
    coder = Encoder()
    coder.put_refinement(indices, classes, t)
    payload = coder.finish()
    assert len(payload) % 4 == 0
    reader = Decoder(payload)
    np.testing.assert_array_equal(reader.get_refinement(classes, t), indices)
    assert reader.exhausted()


def test_length_is_close_to_the_ideal() -> None:
    t = tables()
    rng = np.random.default_rng(5)
    number = 40
    p = (t.frequencies[number] + 1) / 2**24
    limit = int(t.limits[number])
    symbols = rng.choice(len(p) - 1, 20_000, p=p[:-1] / p[:-1].sum())
    coder = Encoder()
    coder.put_refinement((symbols - limit)[:, None], np.full((20_000, 1), number), t)
    ideal = -np.log2(p[symbols]).sum() / 8
    assert ideal <= len(coder.finish()) <= ideal * 1.005 + 8


def test_base_round_trip() -> None:
    rng = np.random.default_rng(6)
    frequencies = normalised(rng.integers(1, 2**23, (50, 1024)) >> rng.integers(0, 24, (50, 1024)))
    indices = rng.integers(0, 1024, 50)
    coder = Encoder()
    coder.put_base(indices, frequencies)
    np.testing.assert_array_equal(Decoder(coder.finish()).get_base(frequencies), indices)


def test_exact_words() -> None:
    """The coder's output for a known input: a change here means that old files no longer decode."""
    coder = Encoder()
    coder.put_base(np.array([2, 0, 1]), normalised(np.array([[1, 2, 5], [7, 1, 1], [3, 3, 1]])))
    assert coder.finish().hex() == "57565595"


def test_costs_match_the_frequencies() -> None:
    t = tables()
    number = 30
    p = (t.frequencies[number] + 1) / 2**24
    assert t.costs[number, 256 + 2] == pytest.approx(-np.log2(p[int(t.limits[number]) + 2]))
    uncoded = int(np.flatnonzero(t.limits == 0)[0])
    assert t.costs[uncoded, 256] == 0
    assert t.costs[uncoded, 257] > 1e6


def test_garbage_never_hangs_or_crashes() -> None:
    t = tables()
    rng = np.random.default_rng(8)
    classes = np.full((4000, 8), 63)
    outcomes = set()
    for length in (0, 4, 64, 4000):
        for pattern in (rng.bytes(length), b"\xff" * length, b"\0" * length):
            try:
                Decoder(pattern).get_refinement(classes, t)
                outcomes.add("decoded")
            except DamagedError:
                outcomes.add("damaged")
    assert outcomes


def test_malformed_tables_are_refused() -> None:
    good = {
        "tables.limits": np.array([0] * 63 + [2]),
        "tables.counts": np.array([0, 0, 2**24 - 6, 0, 0, 0]),
        "tables.shrink": np.zeros((64, 3), np.int16),
    }
    ClassTables.load(good)
    for change in (
        {"tables.counts": np.array([0, 0, 2**24 - 6, 0, 0])},
        {"tables.counts": np.array([0, -1, 2**24 - 5, 0, 0, 0])},
        {"tables.counts": np.zeros(6, np.int32)},
        {"tables.limits": np.array([-1] * 64)},
        {"tables.shrink": np.full((64, 3), 200)},
    ):
        with pytest.raises(ModelError):
            ClassTables.load({**good, **change})


def test_the_specified_range_decoder_reads_what_the_package_writes() -> None:
    t = tables()
    rng = np.random.default_rng(11)
    coder = Encoder()
    frequencies = normalised(rng.integers(1, 2**20, (20, 30)) >> rng.integers(0, 20, (20, 30)))
    base = rng.integers(0, 30, 20)
    coder.put_base(base, frequencies)
    classes = rng.integers(0, 64, (40, 5))
    indices = np.rint(rng.laplace(0, 20, classes.shape)).astype(np.int64)
    indices[t.limits[classes] == 0] = 0
    coder.put_refinement(indices, classes, t)
    plain = PlainDecoder(coder.finish())
    assert [plain.symbol((row + 1).tolist()) for row in frequencies] == base.tolist()
    escapes = 0
    for number in range(64):
        limit = int(t.limits[number])
        if not limit:
            continue
        weights = [int(f) + 1 for f in t.frequencies[number]]
        want = indices[classes == number].tolist()
        got = [plain.symbol(weights) - limit for _ in want]
        for place, value in enumerate(got):
            if value > limit:
                escapes += 1
                negative, length = plain.uniform(2), plain.uniform(32)
                excess = (1 << (length - 1)) + (plain.uniform(1 << (length - 1)) if length > 1 else 0)
                got[place] = -(limit + excess) if negative else limit + excess
        assert got == want
    assert escapes > 10


def words_of(indices: list[Ints], steps: list[Ints], t: ClassTables) -> int:
    """How many words the first steps take by themselves."""
    coder = Encoder()
    for values, classes in zip(indices, steps, strict=False):
        coder.put_refinement(values, classes, t)
    return len(coder.finish()) // 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 4.0, 400.0]))
def test_what_has_arrived_of_a_payload_decides_its_first_symbols(seed: int, spread: float) -> None:
    """Never a wrong symbol, every step whose words are there, and nothing behind the first that is not decided."""
    t = tables()
    rng = np.random.default_rng(seed)
    steps = [rng.integers(0, 64, (6, 5)) for _ in range(12)]
    coder, indices, ends = Encoder(), [], []
    for classes in steps:
        values = np.rint(rng.laplace(0, spread, classes.shape)).astype(np.int64)
        values[t.limits[classes] == 0] = 0
        coder.put_refinement(values, classes, t)
        indices.append(values)
        ends.append(words_of(indices, steps, t))
    payload = coder.finish()
    for words in range(len(payload) // 4 + 1):
        cut, decided = CutDecoder(payload[: 4 * words], len(payload)), []
        for classes, wanted in zip(steps, indices, strict=True):
            found = cut.get_refinement(classes, t)
            decided.append(found is not None)
            assert found is None or np.array_equal(found, wanted)
        assert decided == sorted(decided, reverse=True)
        assert sum(decided) >= sum(end <= words - 2 for end in ends)


def test_the_cut_may_promise_any_length() -> None:
    cut = CutDecoder(b"", 2**34)
    assert cut.get_base(np.full((3, 8), 2**24 // 8 - 1)) is None
