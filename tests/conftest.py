# SPDX-License-Identifier: MIT
"""What several test files share: the bundled photograph, and ways to compare pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vqcodec

PHOTOGRAPHS = Path(vqcodec.__file__).with_name("photographs")


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """The bundled photograph, [H, W, 3] uint8."""
    (path,) = PHOTOGRAPHS.glob("*.png")
    return np.asarray(Image.open(path).convert("RGB"))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """RGB PSNR in dB."""
    mse = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return 99.0 if mse == 0 else float(10 * np.log10(255**2 / mse))
