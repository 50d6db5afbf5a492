# SPDX-License-Identifier: MIT
"""Thousands of broken and hostile files: each ends in the right picture or in one `VqcError`, soon, in little memory.

The first seeds of each kind are run always, all of them with `python -m pytest -mslow`. `tests/fuzz.py` runs the same
for as long as one likes, guided by coverage. What they found stands at the end.
"""

from __future__ import annotations

import io
import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from tests.conftest import PHOTOGRAPHS, few_or
from tests.golden.make import FOLDER
from tests.mutate import Parts, broken, hostile
from vqcodec.bitstream import container, entropy
from vqcodec.bitstream.corrections import Corrections
from vqcodec.bitstream.tiles import Rect
from vqcodec.codec import encode, tokens
from vqcodec.codec.decode import decode_strips
from vqcodec.model import zoo
from vqcodec.model.transforms import Synthesis
from vqcodec.options import DecodeOptions, EncodeOptions
from vqcodec.pictures import read

MAX_PIXELS = 40_000
SECONDS = 2.0  # of processor time, for one file


def small_files() -> list[bytes]:
    """Golden files of all kinds, cut down to what decodes in milliseconds, and files with metadata and tiles."""
    photo = np.asarray(Image.open(next(PHOTOGRAPHS.glob("*.png"))).convert("RGB"))
    exif = Image.Exif()
    exif[315] = "somebody"
    stream = io.BytesIO()
    profile = bytes(16) + b"RGB " + bytes(16) + b"acsp" + bytes(200)
    Image.fromarray(photo[:20, :30]).save(stream, "PNG", exif=exif, icc_profile=profile)
    tiny = [
        encode.encode(read.load(photo[50:82, 80:112]), 60),
        encode.encode(read.load(photo[50:70, 80:100]), 100),
        encode.encode(read.load(photo[50:70, 80:100]), 1),
        encode.encode(read.load(photo[:16, :513]), 30, EncodeOptions(tile_log2=8)),
        encode.encode(read.load(photo[:300, 8:40]), 1, EncodeOptions(tile_log2=8)),
        encode.encode(read.load(np.dstack([photo[:20, :20], photo[:20, :20, :1]])), 40),
        encode.encode(read.load(photo[:9, :9, 0]), 70),
        vqcodec.encode(stream.getvalue(), 50),
    ]
    return [*tiny, *((FOLDER / f"{name}.vqc").read_bytes() for name in ("one", "gray", "alpha", "srgb", "metadata"))]


@pytest.fixture(scope="module")
def good() -> list[bytes]:
    return small_files()


@pytest.fixture
def flat_synthesis(monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthesis costs most of a small file's time, and no file can do more to it than give it numbers."""

    def synthesis(
        _: Synthesis, latents: NDArray[np.float32], hat: NDArray[np.float64], window: Rect, corrections: Corrections
    ) -> NDArray[np.uint8]:
        assert np.isfinite(latents).all()
        assert np.isfinite(hat).all()
        picture = np.full((1, 3, 16, 16), 0.3, np.float32)
        corrections.apply(picture, Rect(window.x0, window.y0, window.x0 + 16, window.y0 + 16))
        assert np.isfinite(picture).all()
        return np.zeros((16 * latents.shape[0], 16 * latents.shape[1], 3), np.uint8)

    monkeypatch.setattr(Synthesis, "__call__", synthesis)


def claiming(width: int, height: int, quality: int, payload: bytes, tile_log2: int = 10) -> bytes:
    """A file, right in all its checksums, each of whose tiles has this base payload, and an empty refinement."""
    checksum = zoo.find().checksum
    header = container.Header(width, height, quality, checksum, tile_log2=tile_log2)
    fine = None if quality == 1 else (b"",) * header.tile_count
    return container.pack(container.Contents(header, (payload,) * header.tile_count, fine))


def outcome(data: bytes, partial: bool) -> str:
    """Decodes; the kind of error, or "picture" for one that has the size and mode that the header promises."""
    started = time.process_time()
    try:
        picture = vqcodec.decode(data, threads=1, max_pixels=MAX_PIXELS, allow_partial=partial)
    except vqcodec.VqcError as error:
        result, message = type(error).__name__, str(error)
        assert message.isprintable(), message
    else:
        header = container.read_header(data).header
        assert picture.size == (header.width, header.height)
        assert picture.mode.startswith("L" if header.gray else "RGB")
        result = "damaged picture" if picture.info.get("damage") else "picture"
    assert time.process_time() - started < SECONDS
    return result


def run(make: Callable[[list[bytes], Random], bytes], good: list[bytes], seeds: range) -> Counter[str]:
    """How many of the files made ended how."""
    found: Counter[str] = Counter()
    for seed in seeds:
        data = make(good, Random(seed))
        try:
            found[outcome(data, bool(seed % 2))] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    return found


@pytest.mark.timeout(600)
@few_or(14_000, 2_000)
def test_broken_files(good: list[bytes], flat_synthesis: None, count: int) -> None:
    """What happens to files by accident is always found out: no picture without a word, unless nothing was changed."""
    found: Counter[str] = Counter()
    for seed in range(count):
        data = broken(good, Random(seed))
        result = outcome(data, bool(seed % 2))
        found[result] += 1
        assert (result == "picture") == (data in good), seed
    assert found["DamagedError"] > 0.55 * count
    assert found["damaged picture"] > 0.14 * count


@pytest.mark.timeout(600)
@few_or(7_000, 1_500)
def test_hostile_files(good: list[bytes], flat_synthesis: None, count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = run(hostile, good, range(count))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # [KiB]
    kinds = ("picture", "damaged picture", "DamagedError", "LimitError", "ModelError")
    assert min(found[kind] for kind in kinds) > 0.007 * count
    assert found["DamagedError"] > 0.28 * count


def test_hostile_files_through_the_real_synthesis(good: list[bytes]) -> None:
    assert run(hostile, good, range(100_000, 100_100))["picture"] > 3


@pytest.mark.parametrize("apart", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_truncation(good: list[bytes], flat_synthesis: None, apart: int) -> None:
    """At every byte of the header; behind it at bytes so far apart, which is no multiple of a word's four."""
    for data in good[3:5] + good[-3:-1]:
        header_end = container.read_header(data).header_size_bytes
        for size in [*range(header_end), *range(header_end, len(data), apart)]:
            assert outcome(data[:size], False) == "DamagedError", size
            assert outcome(data[:size], True) == ("DamagedError" if size < header_end else "damaged picture"), size


def test_memory_follows_from_the_pixels(good: list[bytes], flat_synthesis: None) -> None:
    """What Python and NumPy allocate for a hostile file stays below what its header's pixels need."""
    vqcodec.decode(good[0])
    worst = 0.0
    for seed in range(150):
        data = hostile(good, Random(seed))
        tracemalloc.start()
        outcome(data, bool(seed % 2))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        try:
            header = container.read_header(data).header
            pixels = min(MAX_PIXELS, (header.width + 15) // 16 * (header.height + 15) // 16 * 256)
        except vqcodec.VqcError:
            pixels = 0
        allowed = 4_000_000 + 1000 * pixels + 40 * len(data)
        worst = max(worst, peak / allowed)
        assert peak < allowed, (seed, peak, pixels)
    assert worst > 0.05, "the bound is so wide that it bounds nothing"


def test_a_hostile_length_is_not_believed() -> None:
    """A few bytes that promise gigabytes cost nothing."""
    parts = Parts.of((FOLDER / "one.vqc").read_bytes())
    for lengths in ([2**30 - 1, 1], [1, 2**32 - 1]):
        parts.lengths = lengths
        tracemalloc.start()
        assert outcome(parts.joined(), False) == "DamagedError"
        assert outcome(parts.joined(), True) == "damaged picture"
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
        tracemalloc.stop()


@pytest.mark.parametrize(("quality", "partial"), [(1, False), (75, False), (75, True)])
def test_a_few_bytes_do_not_stand_for_millions_of_pixels(quality: int, partial: bool) -> None:
    """Words behind the end count as zeros: 1.2 kB decoded to 16,384 x 16,384 pixels, in minutes."""
    side = 2048 if partial else 16_384
    data = claiming(side, side, quality, b"")
    assert len(data) < 3_000
    started = time.process_time()
    strips = decode_strips(data, DecodeOptions(allow_partial=partial, threads=1))
    if partial:
        assert all((rows == 128).all() for rows in strips.rows)
        assert "4 of 4 tiles lost" in str(strips.damage)
    else:
        with pytest.raises(vqcodec.DamagedError, match="too short for what it would say"):
            next(strips.rows)
    assert time.process_time() - started < SECONDS


def test_memory_does_not_grow_with_the_height(flat_synthesis: None) -> None:
    """What is not at work any more is forgotten, however many tiles there are."""
    photo = np.asarray(Image.open(next(PHOTOGRAPHS.glob("*.png"))).convert("RGB"))[:256, :256]
    payload = container.unpack(encode.encode(read.load(photo), 1), max_pixels=MAX_PIXELS * 2).base[0]

    def peak(rows: int) -> int:
        data = claiming(256, 256 * rows, 1, payload, tile_log2=8)
        tracemalloc.start()
        assert sum(map(len, decode_strips(data, DecodeOptions(threads=1)).rows)) == 256 * rows
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)
    assert peak(24) < 1.2 * peak(4)


# ---- findings --------------------------------------------------------------------------------------------------------


def test_names_of_chunks_cannot_steer_a_terminal() -> None:
    """A chunk of the alpha channel's PNG whose name is not letters was named in the message as it stood."""
    parts = Parts.of((FOLDER / "alpha.vqc").read_bytes())
    parts.bodies[-1] = parts.bodies[-1].replace(b"IDAT", b"I\x1b[\x00")
    assert outcome(parts.joined(), False) == "DamagedError"


def test_an_index_that_no_encoder_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An escape could stand for more than 2**20: `decode` showed it, `indices` ended in an AssertionError."""
    base = np.zeros((1, 1), np.int32)
    fine = np.zeros((1, 1, zoo.load(zoo.find()).prior.latents), np.int32)
    with monkeypatch.context() as patch:
        for module in (entropy, tokens):
            patch.setattr(module, "MAX_INDEX", 2**21)
        files = {}
        for index in (2**20, -(2**20), 2**20 + 1, -(2**20) - 1, 2**21):
            fine[0, 0, 0] = index
            files[index] = vqcodec.from_indices(base, fine, width=16, height=16, quality=100)
    for index, data in files.items():
        if abs(index) <= 2**20:
            found = vqcodec.indices(data).refinement
            assert found is not None
            assert found[0, 0, 0] == index
        else:
            assert outcome(data, False) == "DamagedError"
            with pytest.raises(vqcodec.DamagedError, match="impossible index"):
                vqcodec.indices(data)
