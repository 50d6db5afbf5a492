# SPDX-License-Identifier: MIT
"""Training pictures, their statistics and crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vqcodec
from vqcodec.train.data import Pictures, linear_basis


def test_linear_basis_is_orthonormal_and_sorted() -> None:
    x = torch.randn(4000, 768, dtype=torch.float64).cumsum(1)
    covariance = x.T @ x / len(x)
    for frontend in ("klt", "dct"):
        basis, sigma, _ = linear_basis(frontend, 768, covariance, torch.zeros(768, dtype=torch.float64))
        torch.testing.assert_close(basis @ basis.T, torch.eye(768), atol=1e-4, rtol=0)
        assert (sigma[1:] <= sigma[:-1] + 1e-4).all()


def test_crops_are_pieces_of_the_picture() -> None:
    """On a picture whose red is the column and whose green is the row, every crop says where it was cut and how."""
    rows, columns = np.mgrid[0:240, 0:250]
    picture = np.stack([columns, rows, np.zeros_like(rows)], 2).astype(np.uint8)
    pictures = Pictures(torch.from_numpy(picture.reshape(-1)), np.array([[240, 250]]), torch.device("cpu"))
    crops = pictures.crops(np.random.default_rng(0), 64, 64) * 255
    scales, turned = [], 0
    for crop in crops:
        red, green = crop[0], crop[1]
        along_x, along_y = red[5, 6] - red[5, 5], red[6, 5] - red[5, 5]
        turned += bool(abs(along_y) > abs(along_x))
        scale = float(max(abs(along_x), abs(along_y)))
        scales.append(scale)
        for plane in (red, green):  # straight lines throughout: no seam, no clamping but at the very edge
            assert (plane.diff(dim=0).diff(dim=0)[2:-2].abs() < 0.02).all()
            assert (plane.diff(dim=1).diff(dim=1)[:, 2:-2].abs() < 0.02).all()
        if abs(scale - 1) < 1e-3:
            torch.testing.assert_close(crop, crop.round(), atol=1e-3, rtol=0)
    assert 0.99 < min(scales) < 1.001
    assert 1.5 < max(scales) < 2.01
    assert 15 < turned < 49
    with pytest.raises(vqcodec.InputError, match="smaller than the crop"):
        pictures.crops(np.random.default_rng(0), 1, 256)


def test_the_random_front_end_is_an_orthonormal_basis() -> None:
    covariance = torch.diag(torch.linspace(1, 0.01, 768, dtype=torch.float64))
    basis, sigma, _ = linear_basis("random", 320, covariance, torch.zeros(768, dtype=torch.float64))
    torch.testing.assert_close(basis @ basis.T, torch.eye(320), atol=1e-4, rtol=0)
    best = linear_basis("klt", 320, covariance, torch.zeros(768, dtype=torch.float64))[1]
    assert float(sigma.square().sum()) < 0.9 * float(best.square().sum())
    again = linear_basis("random", 320, covariance, torch.zeros(768, dtype=torch.float64))[0]
    assert torch.equal(basis, again)
