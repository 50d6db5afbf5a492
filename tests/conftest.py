# SPDX-License-Identifier: MIT
"""What several test files share: the bundled photograph, and ways to compare pictures."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec
from vqcodec.pictures import metadata

PHOTOGRAPHS = Path(vqcodec.__file__).with_name("photographs")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Shells start what runs in the background with SIGINT ignored, and so would the processes that tests interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def few_or(many: int, few: int) -> pytest.MarkDecorator:
    """A number of cases: few in every run of the tests, many in the slow one."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


@contextmanager
def pillow_plugin() -> Iterator[Any]:
    """The Pillow plugin, for these tests only: others ask what happens without it."""
    import vqcodec.pillow_plugin as module

    module.register()
    try:
        yield module
    finally:
        Image.ID.remove(module.FORMAT)
        for registry in (Image.OPEN, Image.SAVE, Image.MIME):
            del registry[module.FORMAT]
        del Image.EXTENSION[module.EXTENSION]


@pytest.fixture
def plugin() -> Iterator[Any]:
    """`pillow_plugin` for one test."""
    with pillow_plugin() as module:
        yield module


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """The bundled photograph, [H, W, 3] uint8."""
    (path,) = PHOTOGRAPHS.glob("*.png")
    return np.asarray(Image.open(path).convert("RGB"))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """RGB PSNR in dB."""
    mse = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if mse == 0 else float(10 * np.log10(255**2 / mse))


def wide_gamut_profile() -> bytes:
    """An ICC profile with the primaries of Display P3 and the transfer curve of sRGB."""
    profile = metadata.srgb_profile()
    assert profile is not None
    out = bytearray(profile)
    primaries = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2920, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    for entry in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        if (tag := profile[entry : entry + 4]) in primaries:
            (offset,) = struct.unpack_from(">I", profile, entry + 4)
            struct.pack_into(">3i", out, offset + 8, *(round(65536 * value) for value in primaries[tag]))
    return bytes(out)


@pytest.fixture(scope="session")
def crops(photo: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two crops of the bundled photograph, large enough for MS-SSIM: a.png and b.png."""
    path = tmp_path_factory.mktemp("pictures")
    Image.fromarray(photo[:176, :192]).save(path / "a.png")
    Image.fromarray(photo[100:276, 200:376]).save(path / "b.png")
    return path
