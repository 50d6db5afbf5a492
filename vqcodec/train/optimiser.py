# SPDX-License-Identifier: MIT
"""What follows the gradients: AdamW, and for the matrices of the 1x1 convolutions SOAP, where that is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MATRIX_DECAY = 1e-4


class Soap:
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., "SOAP", ICLR 2025), for [O, I, 1, 1] weights.

    Every weight W has running means of G G^T [O, O] and G^T G [I, I] over its gradients G; Adam's two moments are kept
    in the bases of their eigenvectors, which one step of power iteration follows every `every` updates. Weights of one
    shape are worked on at once.

    Args:
        parameters: weights [O, I, 1, 1].
        every: updates from one turn of the bases to the next.
        precision: of the matrix products, but for the turns; what is kept is float32.
    """

    BETAS = (0.9, 0.98)
    GRAM_BETA = 0.95
    EPSILON = 1e-8

    def __init__(self, parameters: list[nn.Parameter], every: int = 10, precision: torch.dtype = torch.float32) -> None:
        self.every, self.precision = every, precision
        self.shapes: dict[str, list[nn.Parameter]] = {}
        for p in parameters:
            self.shapes.setdefault(f"{p.shape[0]}x{p.shape[1]}", []).append(p)
        self.state: dict[str, dict[str, Tensor]] = {}
        self.steps = 0  # gradients seen; the first only starts the bases

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update at this learning rate. A weight without a gradient counts as one with a gradient of zero."""
        for shape, weights in self.shapes.items():
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
            g = torch.stack([part[:, :, 0, 0] for part in parts]).float()
            left, right = self._product(g, g.mT), self._product(g.mT, g)
            if shape not in self.state:
                self.state[shape] = {
                    "left": left,
                    "right": right,
                    "u": torch.linalg.eigh(left)[1],
                    "v": torch.linalg.eigh(right)[1],
                    "mean": torch.zeros_like(g),
                    "square": torch.zeros_like(g),
                }
                continue
            for p, move in zip(weights, self._moves(self.state[shape], g, left, right), strict=True):
                p.mul_(1 - rate * MATRIX_DECAY).sub_(move[:, :, None, None], alpha=rate)
        self.steps += 1

    def _product(self, *factors: Tensor) -> Tensor:
        """The product of stacks of matrices, from the left, in float32."""
        low = [factor.to(self.precision) for factor in factors]
        product = low[0]
        for factor in low[1:]:
            product = product @ factor
        return product.float()

    def _moves(self, s: dict[str, Tensor], g: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Moments and bases brought up to date; what to take from the weights, before the learning rate."""
        beta1, beta2 = self.BETAS
        s["mean"].lerp_(g, 1 - beta1)
        s["square"].lerp_(self._product(s["u"].mT, g, s["v"]).square(), 1 - beta2)
        mean = self._product(s["u"].mT, s["mean"], s["v"]) / (1 - beta1**self.steps)
        deviation = (s["square"] / (1 - beta2**self.steps)).sqrt()
        moves = self._product(s["u"], mean / (deviation + self.EPSILON), s["v"].mT)
        s["left"].lerp_(left, 1 - self.GRAM_BETA)
        s["right"].lerp_(right, 1 - self.GRAM_BETA)
        if self.steps % self.every == 0 or self.steps == 1:
            for axis, gram, basis in ((1, "left", "u"), (2, "right", "v")):
                self._turn(s, axis, gram, basis)
        return moves

    @staticmethod
    def _turn(s: dict[str, Tensor], axis: int, gram: str, basis: str) -> None:
        """Bring a basis nearer to the eigenvectors, the largest eigenvalue first; the second moments go with it."""
        product = s[gram] @ s[basis]
        order = (s[basis] * product).sum(1).argsort(1, descending=True)  # Rayleigh quotients
        s[basis] = torch.linalg.qr(product.take_along_dim(order[:, None, :], 2))[0]
        s["square"] = s["square"].take_along_dim(order[:, :, None] if axis == 1 else order[:, None, :], axis)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later `load_state_dict` needs to go on."""
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.steps = int(saved["steps"])
        for shape, weights in self.shapes.items():
            if shape in saved["state"]:
                self.state[shape] = {name: x.to(weights[0].device) for name, x in saved["state"][shape].items()}


class Optimiser:
    """One learning rate for all.

    Args:
        groups: parameter groups for AdamW, each with a `scale` of the learning rate.
        matrices: weights for SOAP; none of them where only AdamW is wanted.
        fused: one kernel for all of AdamW (CUDA).
        precision: of SOAP's matrix products.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        matrices: list[nn.Parameter],
        fused: bool = False,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=fused)
        self.soap = Soap(matrices, precision=precision) if matrices else None
        self.matrices = matrices
        self.rate = 0.0

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.adamw.zero_grad(set_to_none=True)
        for p in self.matrices:
            p.grad = None

    def step(self, rate: float) -> None:
        """One update at this learning rate."""
        self.rate = rate
        for group in self.adamw.param_groups:
            group["lr"] = rate * group["scale"]
        self.adamw.step()
        if self.soap:
            self.soap.step(rate)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's own, and SOAP's as its `soap`."""
        return {**self.adamw.state_dict(), "soap": self.soap.state_dict() if self.soap else None}

    def fits(self, saved: dict[str, Any]) -> bool:
        """Whether `saved` was taken of an optimiser of the same kind."""
        return bool(saved.get("soap")) == bool(self.soap)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.adamw.load_state_dict({name: x for name, x in saved.items() if name != "soap"})
        if self.soap:
            self.soap.load_state_dict(saved["soap"])
