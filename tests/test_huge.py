# SPDX-License-Identifier: MIT
"""`python -m tests.huge` measures what it says, on a picture that is not huge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import huge

pytest.importorskip("resource")


def test_a_line_for_each_direction(
    photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge.measure(huge.Case(0.06, alpha=True), [photo], ["-q", "30", "-e", "3"], tmp_path)
    said = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.out.splitlines()]
    assert [row[:2] for row in rows] == [["0.06, with alpha", "compress"], ["0.06, with alpha", "decompress"]]
    for row, name in zip(rows, ("a.vqc", "out.png"), strict=True):
        assert 0 < float(row[2]) < 60
        assert 50 < float(row[4].removesuffix(" MB").replace(",", "")) < 1000
        assert int(row[5].replace(",", "")) == (tmp_path / name).stat().st_size
    assert "1 tiles against one: 0 levels apart" in said.err


def test_a_mosaic_has_the_pixels_asked_for(photo: NDArray[np.uint8]) -> None:
    picture = huge.mosaic([photo, photo[:300]], 1_500_000)
    assert picture.shape == (1000, 1500, 3)
    assert np.array_equal(picture[:300, :600], photo[:300])
    assert np.array_equal(picture[:300, 600:1200], photo[:300])
    assert np.array_equal(picture[:300, 1200:], photo[:300, :300][:, ::-1])
