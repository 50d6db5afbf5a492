# SPDX-License-Identifier: MIT
"""The Python interface, argument by argument: what is taken, what is refused, and what is warned of."""

from __future__ import annotations

import io
import re
import threading
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.bitstream.codebook import MAX_INDEX
from vqcodec.model import zoo
from vqcodec.options import MAX_THREADS, DecodeOptions, EncodeOptions, Target

U8 = NDArray[np.uint8]
GRAY = np.full((24, 40, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def data() -> bytes:
    return vqcodec.encode(GRAY, 40)


# ---- types of numbers ------------------------------------------------------------------------------------------------


def test_numbers_of_numpy_are_numbers(data: bytes) -> None:
    assert vqcodec.encode(GRAY, np.int64(40), effort=np.uint8(5), threads=np.int32(1)) == data
    assert vqcodec.encode(GRAY, bpp=np.float32(2)) == vqcodec.encode(GRAY, bpp=2)
    assert vqcodec.encode(GRAY, max_bytes=np.int64(500)) == vqcodec.encode(GRAY, max_bytes=500)
    region = tuple(np.arange(4) + 1)
    whole = vqcodec.decode(data, region=(1, 2, 3, 4))
    assert np.array_equal(vqcodec.decode(data, region=region, scale=np.int16(1), max_pixels=np.int64(10**6)), whole)
    assert np.array_equal(vqcodec.decode(data, region=np.array(region)), whole)
    assert vqcodec.decode(data, realism=np.float32(0)).size == (40, 24)
    base = np.zeros((2, 3), np.uint16)
    plain = vqcodec.from_indices(base, width=40, height=24)
    assert vqcodec.from_indices(base, width=np.int16(40), height=np.int64(24), tile_side=np.int32(1024)) == plain


NO_NUMBERS = (
    True,
    False,
    np.True_,
    1.5,
    4.0,
    float("nan"),
    float("inf"),
    "4",
    b"4",
    [4],
    np.array([4, 4]),
    4j,
    object(),
)


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", ["quality", "effort", "threads", "max_bytes", "max_pixels"])
def test_what_must_be_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(vqcodec.UsageError, match=f"^{name} must be a whole number"):
        vqcodec.encode(GRAY, **{name: value})


@pytest.mark.parametrize("value", [-1, MAX_THREADS + 1, 4000, 10**5, 10**30])
def test_threads_have_a_limit(data: bytes, value: int) -> None:
    for call in (
        lambda: vqcodec.encode(GRAY, threads=value),
        lambda: vqcodec.decode(data, threads=value),
        lambda: vqcodec.indices(data, threads=value),
        lambda: vqcodec.decode_indices(np.zeros((2, 3), int), threads=value),
    ):
        with pytest.raises(vqcodec.UsageError, match=r"^threads must be a whole number from 0 to 1,024"):
            call()


def test_as_many_threads_as_are_allowed(data: bytes) -> None:
    assert np.array_equal(vqcodec.decode(data, threads=MAX_THREADS), vqcodec.decode(data, threads=1))


@pytest.mark.parametrize("value", [v for v in NO_NUMBERS if not isinstance(v, float)] + [float("nan"), -0.1, 1.5])
def test_realism_and_rates(data: bytes, value: Any) -> None:
    with pytest.raises(vqcodec.UsageError, match=r"^realism must be a number"):
        vqcodec.decode(data, realism=value)
    if not isinstance(value, float) or not value > 0:
        for name in ("bpp", "psnr"):
            with pytest.raises(vqcodec.UsageError, match=f"^{name} must be"):
                vqcodec.encode(GRAY, **{name: value})


def test_any_real_number_is_a_rate() -> None:
    assert Target(bpp=Fraction(1, 2)).bpp == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 3, True, 2.0, "2", None, np.array([1, 2]), -1, 16])
def test_scales(data: bytes, value: Any) -> None:
    with pytest.raises(vqcodec.UsageError, match=r"^scale must be 1, 2, 4 or 8"):
        vqcodec.decode(data, scale=value)


@pytest.mark.parametrize(
    "value",
    [1, "0,0,1,1", (0, 0, 8), (0, 0, 8, 8, 8), (0, 0, 8, 8.0), (0.5, 0, 8, 8), (0, 0, True, 8), (0, 0, 0, 8),
     (-1, 0, 8, 8), (0, 0, 41, 8), (0, 0, 8, 10**30), (float("nan"), 0, 1, 1), (None,) * 4, ("0", "0", "1", "1")],
)  # fmt: skip
def test_regions(data: bytes, value: Any) -> None:
    with pytest.raises(vqcodec.UsageError):
        vqcodec.decode(data, region=value)


@pytest.mark.parametrize("value", [True, 1, b"faithful", "other", ["faithful"], np.array(["faithful", "realistic"])])
def test_choices(data: bytes, value: Any) -> None:
    with pytest.raises(vqcodec.UsageError, match=r"^there is no decoder"):
        vqcodec.decode(data, decoder=value)
    with pytest.raises(vqcodec.UsageError, match=r"^there is no tune"):
        vqcodec.encode(GRAY, tune=value)


@pytest.mark.parametrize("value", [5, True, b"photo-1", ["photo-1"]])
def test_models(data: bytes, value: Any) -> None:
    base = np.zeros((2, 3), int)
    for call in (
        lambda: vqcodec.encode(GRAY, model=value),
        lambda: vqcodec.decode(data, model=value),
        lambda: vqcodec.from_indices(base, model=value),
        lambda: vqcodec.decode_indices(base, model=value),
    ):
        with pytest.raises(vqcodec.UsageError, match=r"^model must be an id or a folder"):
            call()


@pytest.mark.parametrize("value", [0, -5, 1e9, float("nan"), float("inf"), None])
def test_the_limit_of_pixels_cannot_be_switched_off(data: bytes, value: Any) -> None:
    for call in (lambda: vqcodec.decode(data, max_pixels=value), lambda: vqcodec.encode(GRAY, max_pixels=value)):
        with pytest.raises(vqcodec.UsageError, match=r"^max_pixels must be a whole number from 1"):
            call()


def test_options_hold_plain_numbers() -> None:
    options = DecodeOptions(scale=np.int8(2), threads=np.int8(3), region=np.arange(4))  # type: ignore[arg-type]
    assert (type(options.scale), type(options.threads), type(options.region)) == (int, int, tuple)
    assert type(EncodeOptions(effort=np.int8(3)).effort) is int
    assert type(Target(psnr=np.float32(3)).psnr) is float


# ---- indices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, MAX_INDEX + 1, -MAX_INDEX - 1])
def test_an_index_of_the_colour_layer_that_overflows_is_refused(value: int) -> None:
    layer = np.array([[2, 2, 2], [0, value, 0]])
    for call in (vqcodec.from_indices, vqcodec.decode_indices):
        with pytest.raises(vqcodec.InputError, match="indices of a colour layer lie in"):
            call(np.zeros((2, 3), int), None, layer)
    with pytest.raises(vqcodec.InputError, match="indices of a colour layer lie in"):
        vqcodec.from_indices(np.zeros((2, 3), int), None, np.array([[2, 2, 2], [0, 2**64 - 5, 0]], np.uint64))


@pytest.mark.parametrize("name", ["width", "height", "tile_side", "quality"])
@pytest.mark.parametrize("value", [True, 0, -1, 1.5, "40", float("nan")])
def test_sides_of_indices(name: str, value: Any) -> None:
    with pytest.raises((vqcodec.UsageError, vqcodec.InputError)):
        vqcodec.from_indices(np.zeros((2, 3), int), **{name: value})


# ---- where the bytes come from ---------------------------------------------------------------------------------------


def test_a_file_by_its_path_or_as_a_stream(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.vqc"
    path.write_bytes(data)
    whole = np.asarray(vqcodec.decode(data))
    for source in (path, str(path), io.BytesIO(data), bytearray(data), memoryview(data)):
        assert np.array_equal(vqcodec.decode(source), whole)  # type: ignore[arg-type]
        if isinstance(source, io.BytesIO):
            source.seek(0)
        assert vqcodec.info(source) == vqcodec.info(data)  # type: ignore[arg-type]
    assert np.array_equal(vqcodec.indices(path).base, vqcodec.indices(data).base)


@pytest.mark.parametrize("call", [vqcodec.decode, vqcodec.info, vqcodec.indices])
def test_what_is_no_file(call: Any, tmp_path: Path) -> None:
    for source, sentence in (
        (tmp_path / "none.vqc", "there is no such file"),
        (tmp_path, "it is a folder"),
        ("a\0b", "cannot read"),
        (None, "give the bytes of a .vqc file, its path or a stream"),
        (5, "give the bytes"),
        (GRAY, "give the bytes"),
    ):
        with pytest.raises(vqcodec.InputError, match=re.escape(sentence)):
            call(source)


# ---- warnings --------------------------------------------------------------------------------------------------------


def test_what_is_not_kept_is_warned_of(tmp_path: Path, plugin: Any) -> None:
    deep = np.full((8, 8), 40_000, np.uint16)
    with pytest.warns(vqcodec.VqcWarning, match=r"^16-bit samples reduced to 8 bits$") as caught:
        vqcodec.encode(deep, 50)
    assert caught[0].filename == __file__
    with pytest.warns(vqcodec.VqcWarning, match="16-bit samples reduced") as caught:
        Image.fromarray(deep).save(tmp_path / "a.vqc", quality=50)
    assert caught[0].filename == __file__
    frames = io.BytesIO()
    Image.fromarray(GRAY).save(frames, "GIF", save_all=True, append_images=[Image.fromarray(GRAY[::-1] // 2)])
    with pytest.warns(vqcodec.VqcWarning, match="animated: only the first of 2 frames is kept"):
        vqcodec.encode(frames.getvalue(), 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vqcodec.encode(GRAY, 50)


# ---- threads that start cold -----------------------------------------------------------------------------------------


def test_threads_that_start_cold_load_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = vqcodec.encode(GRAY, 40, patches=False)
    loaded: list[str] = []
    start = threading.Barrier(8)
    make_model, make_synthesis = zoo.Model.__init__, zoo.Synthesis.__init__

    def model(self: Any, *arguments: Any) -> None:
        loaded.append("model")
        make_model(self, *arguments)

    def synthesis(self: Any, *arguments: Any) -> None:
        loaded.append("synthesis")
        make_synthesis(self, *arguments)

    monkeypatch.setattr(zoo.Model, "__init__", model)
    monkeypatch.setattr(zoo.Synthesis, "__init__", synthesis)
    zoo._load.cache_clear()

    def work() -> None:
        start.wait()
        vqcodec.decode(data, threads=1)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(loaded) == ["model", "synthesis"]
