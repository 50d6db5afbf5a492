# SPDX-License-Identifier: MIT
"""SOAP: what it computes, that it helps where Adam is slow, and that training goes on with it where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.train.conftest import TINY, run
from vqcodec.train.optimiser import Soap


def weights(*shapes: tuple[int, int]) -> list[Any]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(o, i, 1, 1)) for o, i in shapes]


def test_a_weight_moves_as_adam_says_in_the_bases_it_has() -> None:
    """The second update, from the definition: Adam's first step in the eigenbases of the first gradient."""
    (p,) = weights((6, 4))
    soap, start = Soap([p], lr=0.01, weight_decay=0.0), p.detach().clone()
    first, second = torch.randn(2, 6, 4)
    p.grad = first[:, :, None, None]
    soap.step()
    assert torch.equal(p, start), "the first gradient only starts the bases"
    p.grad = second[:, :, None, None]
    soap.step()
    u, v = torch.linalg.eigh(first @ first.T)[1], torch.linalg.eigh(first.T @ first)[1]
    turned = u.T @ second @ v
    want = start[:, :, 0, 0] - 0.01 * u @ (turned / (turned.abs() + Soap.EPSILON)) @ v.T
    torch.testing.assert_close(p.detach()[:, :, 0, 0], want, atol=1e-6, rtol=1e-4)


def test_a_turn_leaves_the_running_mean_where_it_was() -> None:
    """The mean is kept in the bases; a turn changes its coordinates, not the mean."""
    (p,) = weights((6, 4))
    soap = Soap([p], lr=0.0, turn_every=1000)
    for _ in range(5):
        p.grad = torch.randn(6, 4, 1, 1)
        soap.step()
    s = soap.state[p]
    before, basis = s["u"] @ s["mean"] @ s["v"].T, s["u"].clone()
    Soap._turn(s)
    assert not torch.allclose(s["u"], basis)
    torch.testing.assert_close(s["u"] @ s["mean"] @ s["v"].T, before, atol=1e-5, rtol=1e-4)


def test_bases_hold_the_eigenvectors() -> None:
    (p,) = weights((8, 5))
    soap = Soap([p], lr=0.0, gram_every=1, turn_every=1)
    mixing = torch.randn(8, 8) @ torch.diag(2.0 ** torch.arange(8))
    for _ in range(400):
        p.grad = (mixing @ torch.randn(8, 5))[:, :, None, None]
        soap.step()
    s = soap.state[p]
    turned = s["u"].T @ s["left"] @ s["u"]
    assert (turned - torch.diag(turned.diag())).norm() < 0.05 * turned.norm()
    torch.testing.assert_close(s["u"].T @ s["u"], torch.eye(8), atol=1e-5, rtol=0)
    values = turned.diag()
    assert (values[:-1] >= 0.5 * values[1:]).all()  # the largest first


def _loss_after(soap: bool, steps: int = 200) -> float:
    """Of a quadratic bowl, long in some directions and narrow in others, none of them along an axis."""
    torch.manual_seed(2)
    p = torch.nn.Parameter(torch.zeros(16, 16, 1, 1))
    q1, q2 = (torch.linalg.qr(torch.randn(16, 16))[0] for _ in range(2))
    scales = torch.diag(10.0 ** torch.linspace(0, -1.5, 16))
    target = torch.randn(16, 16)
    optimiser = Soap([p]) if soap else torch.optim.AdamW([p], betas=(0.9, 0.98))
    for number in range(steps):
        loss = (scales @ q1 @ (p[:, :, 0, 0] - target) @ q2 @ scales).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - number / steps)
        optimiser.step()
    return float(loss.detach())


def test_it_is_ahead_of_adam_where_directions_differ_in_scale() -> None:
    assert _loss_after(soap=True) < 0.1 * _loss_after(soap=False)


def test_the_state_goes_on_exactly() -> None:
    def walk(start: int, stop: int, p: Any, optimiser: Soap) -> None:
        for number in range(start, stop):
            p.grad = torch.cos(p.detach() * (number + 2))
            optimiser.step()

    (whole,), (parts,) = weights((6, 4)), weights((6, 4))
    walk(0, 45, whole, Soap([whole], lr=0.01))
    before = Soap([parts], lr=0.01)
    walk(0, 23, parts, before)
    after = Soap([parts], lr=0.01)
    after.load_state_dict(before.state_dict())
    walk(23, 45, parts, after)
    assert torch.equal(whole, parts)


def test_the_state_of_other_weights_is_refused() -> None:
    (p,), (other,) = weights((6, 4)), weights((4, 4))
    soap = Soap([p])
    p.grad = torch.ones_like(p)
    soap.step()
    with pytest.raises(ValueError, match=r"of a weight of \[6, 4\], the model's has \[4, 4\]"):
        Soap([other]).load_state_dict(soap.state_dict())


@pytest.mark.usefixtures("quick_start")
def test_training_with_it_resumes(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """With the same optimiser the phase goes on; with another it begins again."""
    Image.fromarray(photo[:96, :144]).save(tmp_path / "a.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    common = [tmp_path / "a.png", "-o", tmp_path / "run", "--no-finish", "--threads", 1, "--device", "cpu"]
    common += [x for s in ("crop=64", "batch=2", "log_seconds=0") for x in ("--set", s)]
    soap, resume = ["--set", "optimiser=soap"], ["--resume", tmp_path / "run" / "last.pt"]
    assert "joint step 3 " in run(*common, *shape, *soap, "--set", "steps=3")
    log = run(*common, *soap, *resume, "--set", "steps=5")
    assert "joint step 4 " in log
    assert "joint step 1 " not in log
    log = run(*common, *resume, "--set", "steps=2")
    assert "joint step 1 " in log
    assert "the checkpoint's optimiser is adamw and soap: starting afresh with adamw" in log


def test_another_name_is_refused(photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vqcodec.train.cli import main

    Image.fromarray(photo[:64, :64]).save(tmp_path / "a.png")
    assert main([str(tmp_path / "a.png"), "-o", str(tmp_path), "--set", "optimiser=sgd", "--set", "steps=1"]) == 2
    assert "optimiser must be 'adamw' or 'soap', not 'sgd'" in capsys.readouterr().err
