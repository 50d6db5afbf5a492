# SPDX-License-Identifier: MIT
"""Many pictures at once give what one gives; and the transforms run where `execution` says."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec import batch
from vqcodec.model import transforms, zoo

U8 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def pictures(photo: U8) -> U8:
    return np.stack([photo[64 * n : 64 * n + 48, 100:164] for n in range(3)])


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_a_batch_gives_what_its_pictures_give_alone(pictures: U8, threads: int) -> None:
    files = vqcodec.encode_batch(pictures, 60, effort=3, threads=threads)
    assert files == [vqcodec.encode(picture, 60, effort=3) for picture in pictures]
    restored = vqcodec.decode_batch(files, threads=threads, scale=2)
    assert [np.asarray(x).tolist() for x in restored] == [
        np.asarray(vqcodec.decode(x, scale=2)).tolist() for x in files
    ]
    assert vqcodec.encode_batch([]) == vqcodec.decode_batch([]) == []


def test_pictures_are_worked_on_side_by_side(pictures: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three must be under way before one may end."""
    together, work = threading.Barrier(3, timeout=60), batch.encode_to_target

    def wait(*arguments: Any) -> Any:
        together.wait()
        return work(*arguments)

    monkeypatch.setattr(batch, "encode_to_target", wait)
    assert len(vqcodec.encode_batch(pictures, 30, effort=1, threads=3)) == 3
    assert batch._shared(8, 3) == (3, 2)
    assert batch._shared(2, 9) == (2, 1)


def test_a_batch_takes_anything_that_one_takes(pictures: U8, tmp_path: Path) -> None:
    path, stream = tmp_path / "a.png", io.BytesIO()
    Image.fromarray(pictures[0]).save(path)
    Image.fromarray(pictures[1]).save(stream, "PNG")
    stream.seek(0)
    mixed: Iterator[Any] = iter([path, stream, Image.fromarray(pictures[2])])
    files = vqcodec.encode_batch(mixed, max_bytes=300)
    assert files == vqcodec.encode_batch(pictures, max_bytes=300)
    (tmp_path / "a.vqc").write_bytes(files[0])
    restored = vqcodec.decode_batch([tmp_path / "a.vqc", io.BytesIO(files[1])])
    assert [picture.size for picture in restored] == [(64, 48)] * 2


@pytest.mark.parametrize("single", ["a.png", b"\xb1VQC", io.BytesIO(), 7, Path("a.png")])
def test_a_single_picture_is_no_batch(single: Any) -> None:
    for function in (vqcodec.encode_batch, vqcodec.decode_batch):
        with pytest.raises(vqcodec.UsageError, match="must be a list"):
            function(single)


def test_errors_and_warnings_name_the_picture(pictures: U8) -> None:
    with pytest.raises(vqcodec.UsageError, match=r"\[pictures, height, width, bands\], not \[48, 64, 3\]"):
        vqcodec.encode_batch(pictures[0])
    with pytest.raises(vqcodec.InputError, match=r"^picture 1: cannot read nowhere\.png"):
        vqcodec.encode_batch([pictures[0], "nowhere.png"], 1)
    with pytest.raises(vqcodec.DamagedError, match=r"^picture 1: "):
        vqcodec.decode_batch([vqcodec.encode(pictures[0], 1), b"no file"])
    with pytest.warns(vqcodec.VqcWarning, match="picture 2: 16-bit") as caught:
        vqcodec.encode_batch([pictures[0], pictures[1], np.zeros((9, 9), np.uint16)], 1)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vqcodec.encode_batch(pictures, 1)


# ---- codebook --------------------------------------------------------------------------------------------------------


def test_the_codebook_is_the_decoders(pictures: U8) -> None:
    words = vqcodec.codebook()
    inner = zoo.load(zoo.find()).codebook
    assert words.dtype == np.float32
    assert np.array_equal(words * 2.0**14, inner.vectors)
    words[:] = 0  # a copy: the decoder's own stay as they are
    assert inner.vectors.any()
    with pytest.raises(vqcodec.ModelError):
        vqcodec.codebook("nowhere")


# ---- execution -------------------------------------------------------------------------------------------------------


class Asked(list[Any]):
    """Stands for ONNX Runtime with CUDA: notes what sessions are asked for, and runs them on the CPU."""

    def __init__(self, patch: pytest.MonkeyPatch, works: bool) -> None:
        real = onnxruntime.InferenceSession

        def start(graph: bytes, options: Any, providers: list[Any]) -> Any:
            self.append(providers)
            session = real(graph, options, providers=["CPUExecutionProvider"])
            cuda = [transforms.CUDA] if works and len(providers) == 2 else []
            session.get_providers = lambda: [*cuda, "CPUExecutionProvider"]
            return session

        patch.setattr(onnxruntime, "get_available_providers", lambda: [transforms.CUDA, "CPUExecutionProvider"])
        patch.setattr(onnxruntime, "InferenceSession", start)
        zoo._load.cache_clear()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    zoo._load.cache_clear()


def test_cuda_runs_the_transforms_and_nothing_else(pictures: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = vqcodec.encode(pictures[0], 60)
    asked = Asked(monkeypatch, works=True)
    assert vqcodec.encode(pictures[0], 60, execution="cuda") == on_cpu
    cuda = (transforms.CUDA, transforms.CUDA_OPTIONS)
    assert asked.count([cuda, "CPUExecutionProvider"]) == 3, "analysis, synthesis and aim"
    assert ["CPUExecutionProvider"] in asked, "the prior"
    base, fine, *layer = vqcodec.indices(on_cpu)
    del asked[:]
    assert vqcodec.decode(on_cpu, execution="cuda") == vqcodec.decode(on_cpu)
    again = vqcodec.decode_indices(base, fine, *layer, width=64, height=48, quality=60, execution="cuda")
    assert again == vqcodec.decode(on_cpu)
    assert vqcodec.decode_batch([on_cpu], execution="cuda") == [vqcodec.decode(on_cpu)]
    assert vqcodec.encode_batch(pictures[:1], 60, execution="cuda") == [on_cpu]


def test_no_cuda_is_said_and_never_replaced(pictures: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    data = vqcodec.encode(pictures[0], 60)
    with pytest.raises(vqcodec.UsageError, match="pip install onnxruntime-gpu"):
        vqcodec.encode(pictures[0], 60, execution="cuda")
    with pytest.raises(vqcodec.UsageError, match="pip install onnxruntime-gpu"):
        vqcodec.decode(data, execution="cuda")
    asked = Asked(monkeypatch, works=False)
    with pytest.raises(vqcodec.UsageError, match="no NVIDIA GPU that it can use"):
        vqcodec.decode(data, execution="cuda")
    assert len(asked) >= 1


@pytest.mark.parametrize("wrong", ["gpu", "CUDA", None, 1])
def test_other_executions(wrong: Any, pictures: U8) -> None:
    with pytest.raises(vqcodec.UsageError, match="no execution"):
        vqcodec.encode(pictures[0], execution=wrong)
    with pytest.raises(vqcodec.UsageError, match="no execution"):
        vqcodec.decode(b"", execution=wrong)
