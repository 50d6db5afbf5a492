# SPDX-License-Identifier: MIT
"""SOAP: what it computes, that it helps where Adam is slow, and that training goes on with it where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")

from tests.test_train import TINY, few_blocks, run  # noqa: E402, F401
from vqcodec.train.optimiser import Optimiser, Soap  # noqa: E402


def weights(*shapes: tuple[int, int]) -> list[Any]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(o, i, 1, 1)) for o, i in shapes]


def test_one_weight_beside_others_moves_as_it_does_alone() -> None:
    """Weights of one shape are worked on at once; none may see another."""
    together, alone = weights((6, 4), (6, 4), (3, 4)), weights((6, 4), (6, 4), (3, 4))
    several, single = Soap(together, every=3), [Soap([p], every=3) for p in alone]
    for number in range(8):
        for a, b in zip(together, alone, strict=True):
            a.grad = torch.sin(a.detach() * (number + 1))
            b.grad = a.grad.clone()
        several.step(0.01)
        for one in single:
            one.step(0.01)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_bases_hold_the_eigenvectors() -> None:
    (p,) = weights((8, 5))
    soap = Soap([p], every=1)
    mixing = torch.randn(8, 8) @ torch.diag(2.0 ** torch.arange(8))
    for _ in range(400):
        p.grad = (mixing @ torch.randn(8, 5))[:, :, None, None]
        soap.step(0.0)
    s = soap.state["8x5"]
    turned = s["u"][0].T @ s["left"][0] @ s["u"][0]
    assert (turned - torch.diag(turned.diag())).norm() < 0.05 * turned.norm()
    torch.testing.assert_close(s["u"][0].T @ s["u"][0], torch.eye(8), atol=1e-5, rtol=0)
    values = turned.diag()
    assert (values[:-1] >= 0.5 * values[1:]).all()  # the largest first


def _loss_after(soap: bool, steps: int = 200) -> float:
    """Of a quadratic bowl, long in some directions and narrow in others, none of them along an axis."""
    torch.manual_seed(2)
    p = torch.nn.Parameter(torch.zeros(16, 16, 1, 1))
    other = torch.nn.Parameter(torch.zeros(1))
    q1, q2 = (torch.linalg.qr(torch.randn(16, 16))[0] for _ in range(2))
    scales = torch.diag(10.0 ** torch.linspace(0, -1.5, 16))
    target = torch.randn(16, 16)
    groups = [{"params": [other if soap else p], "weight_decay": 0.0, "scale": 1.0}]
    optimiser = Optimiser(groups, [p] if soap else [])
    for number in range(steps):
        loss = (scales @ q1 @ (p[:, :, 0, 0] - target) @ q2 @ scales).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step(0.1 * (1 - number / steps))
    return float(loss.detach())


def test_it_is_ahead_of_adam_where_directions_differ_in_scale() -> None:
    assert _loss_after(soap=True) < 0.1 * _loss_after(soap=False)


def test_the_state_goes_on_exactly() -> None:
    def gradient(p: Any, number: int) -> Any:
        return torch.cos(p.detach() * (number + 2))

    def walk(start: int, stop: int, p: Any, optimiser: Optimiser) -> None:
        for number in range(start, stop):
            p.grad = gradient(p, number)
            optimiser.step(0.01)

    def made(p: Any) -> Optimiser:
        return Optimiser([{"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": 0.0, "scale": 1.0}], [p])

    (whole,), (parts,) = weights((6, 4)), weights((6, 4))
    walk(0, 25, whole, made(whole))
    before = made(parts)
    walk(0, 13, parts, before)
    after = made(parts)
    after.load_state_dict(before.state_dict())
    walk(13, 25, parts, after)
    assert torch.equal(whole, parts)
    assert not Optimiser(before.adamw.param_groups, []).fits(before.state_dict())


@pytest.mark.usefixtures("few_blocks")
def test_training_with_it_resumes(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """With the same optimiser the phase goes on; with another it begins again."""
    Image.fromarray(photo[:200, :300]).save(tmp_path / "a.png")
    shape = [x for setting in TINY for x in ("--set-model", setting)]
    common = [tmp_path / "a.png", "-o", tmp_path / "run", "--threads", 1, "--device", "cpu"]
    common += [x for s in ("crop=64", "batch=2", "log_seconds=0") for x in ("--set", s)]
    soap, resume = ["--set", "optimiser=soap"], ["--resume", tmp_path / "run" / "last.pt"]
    assert "joint step 3 " in run(*common, *shape, *soap, "--set", "steps=3")
    log = run(*common, *soap, *resume, "--set", "steps=5")
    assert "joint step 4 " in log
    assert "joint step 1 " not in log
    assert "joint step 1 " in run(*common, *resume, "--set", "steps=2")


def test_another_name_is_refused(photo: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vqcodec.train.cli import main

    Image.fromarray(photo[:64, :64]).save(tmp_path / "a.png")
    assert main([str(tmp_path / "a.png"), "-o", str(tmp_path), "--set", "optimiser=sgd", "--set", "steps=1"]) == 2
    assert "optimiser must be 'adamw' or 'soap', not 'sgd'" in capsys.readouterr().err
