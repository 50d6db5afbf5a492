# SPDX-License-Identifier: MIT
"""SOAP, for the matrices of the 1x1 convolutions: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vqcodec.train.steps import clip_gradients

State = dict[str, Any]
Named = Iterable[tuple[str, nn.Parameter]]


def optimisers(
    weights: Named, name: str, fused: bool = False, precision: torch.dtype = torch.float32
) -> dict[str, torch.optim.Optimizer]:
    """AdamW, and with the name "soap" SOAP for the 1x1 convolutions.

    Each group has a "scale", by which the learning rate is to be multiplied: for biases and gains 2, for the linear
    shortcut, which starts good, 0.1.
    """
    matrices: list[nn.Parameter] = []
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    fast: list[nn.Parameter] = []
    for key, p in weights:
        if not p.requires_grad:
            continue
        if "linear" in key:
            plain.append(p)
        elif name == "soap" and p.ndim == 4 and p.shape[2:] == (1, 1) and min(p.shape[:2]) > 1:
            matrices.append(p)
        else:
            (decay if p.ndim == 4 else fast).append(p)
    groups = [
        {"params": decay, "weight_decay": 1e-4, "scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "scale": 0.1},
        {"params": fast, "weight_decay": 0.0, "scale": 2.0},
    ]
    kept = [group for group in groups if group["params"]]
    found: dict[str, torch.optim.Optimizer] = {"adamw": torch.optim.AdamW(kept, betas=(0.9, 0.98), fused=fused)}
    if matrices:
        found["soap"] = Soap([{"params": matrices, "scale": 1.0}], precision=precision)
    return found


def update(
    found: dict[str, torch.optim.Optimizer], loss: Tensor, rate: float, clip: float, weights: Iterable[nn.Parameter]
) -> Tensor:
    """One update at a learning rate; the norm that the gradient had before it was clipped."""
    for optimiser in found.values():
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
    loss.backward()  # type: ignore[no-untyped-call]
    norm = clip_gradients(weights, clip)
    for optimiser in found.values():
        optimiser.step()
    return norm


class Soap(torch.optim.Optimizer):
    """SOAP (Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025) for [O, I, 1, 1] weights.

    Every weight has running means of G G^T [O, O] and G^T G [I, I] over its gradients G. Adam's two moments are kept in
    the bases of their eigenvectors. One step of power iteration brings the bases up to date every `turn_every` updates,
    at another update for each weight, so that updates take equally long. The first gradient only starts the bases.

    Args:
        parameters: weights [O, I, 1, 1], or groups of them.
        lr: learning rate.
        betas: decay of Adam's two moments.
        gram_beta: decay of the running means of G G^T and G^T G, per update.
        weight_decay: as in AdamW, decoupled.
        gram_every: updates between two gradients that enter the running means.
        turn_every: updates between two turns of a weight's bases.
        precision: of the matrix products outside the turns; what is kept is float32.
    """

    EPSILON = 1e-8

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        gram_beta: float = 0.95,
        weight_decay: float = 1e-4,
        gram_every: int = 4,
        turn_every: int = 20,
        precision: torch.dtype = torch.float32,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "gram_beta": gram_beta, "weight_decay": weight_decay,
            "gram_every": gram_every, "turn_every": turn_every,
        }  # fmt: skip
        super().__init__(parameters, defaults)
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update. A weight without a gradient stays as it is."""
        assert closure is None
        for group in self.param_groups:
            for number, p in enumerate(group["params"]):
                if p.grad is not None:
                    self._update(p, p.grad[:, :, 0, 0].float(), group, number)

    def _update(self, p: nn.Parameter, g: Tensor, group: dict[str, Any], number: int) -> None:
        s: State = self.state[p]
        if not s:
            left, right = self._product(g, g.mT), self._product(g.mT, g)
            s.update(
                step=0, left=left, right=right, u=torch.linalg.eigh(left)[1], v=torch.linalg.eigh(right)[1],
                mean=torch.zeros_like(g), square=torch.zeros_like(g),
            )  # fmt: skip
            return
        s["step"] += 1
        beta1, beta2 = group["betas"]
        turned = self._product(s["u"].mT, g, s["v"])
        s["mean"].lerp_(turned, 1 - beta1)
        s["square"].lerp_(turned.square(), 1 - beta2)
        mean = s["mean"] / (1 - beta1 ** s["step"])
        deviation = (s["square"] / (1 - beta2 ** s["step"])).sqrt()
        move = self._product(s["u"], mean / (deviation + self.EPSILON), s["v"].mT)
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move[:, :, None, None], alpha=group["lr"])
        if (s["step"] + number) % group["gram_every"] == 0:
            new = 1 - group["gram_beta"] ** group["gram_every"]
            s["left"].lerp_(self._product(g, g.mT), new)
            s["right"].lerp_(self._product(g.mT, g), new)
        if (s["step"] + number) % group["turn_every"] == 0 or s["step"] == 1:
            self._turn(s)

    def _product(self, *factors: Tensor) -> Tensor:
        """The product of matrices, from the left, in float32."""
        product = factors[0].to(self.precision)
        for factor in factors[1:]:
            product = product @ factor.to(self.precision)
        return product.float()

    @staticmethod
    def _turn(s: State) -> None:
        """Bring both bases nearer to the eigenvectors, the largest eigenvalue first; the moments go with them."""
        for gram, basis, rows in (("left", "u", True), ("right", "v", False)):
            old = s[basis]
            product = s[gram] @ old
            order = (old * product).sum(0).argsort(descending=True)  # Rayleigh quotients
            s[basis] = torch.linalg.qr(product[:, order])[0]
            change = s[basis].mT @ old
            s["mean"] = change @ s["mean"] if rows else s["mean"] @ change.mT
            s["square"] = s["square"][order] if rows else s["square"][:, order]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: it was taken of other weights.
        """
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state.get(p)
                if s and s["mean"].shape != p.shape[:2]:
                    wanted, given = list(p.shape[:2]), list(s["mean"].shape)
                    raise ValueError(f"SOAP's state is of a weight of {given}, the model's has {wanted}")
