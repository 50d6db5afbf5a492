# SPDX-License-Identifier: MIT
"""What the training loops share: learning rates, guarded gradients, averaged weights, checkpoints, log lines."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqcodec.train.progress import Progress


def rate_factor(step: int, done: float, warmup: int, final: float) -> float:
    """Part of the learning rate to use: a linear warm-up, then a cosine from 1 to `final`.

    Args:
        step: updates made.
        done: part of the phase that is over, 0 to 1.
        warmup: updates of the warm-up.
    """
    return min(1.0, (step + 1) / warmup) * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def phase_done(step: int, steps: int, elapsed: float, minutes: float) -> float:
    """Part of a phase that is over, 0 to 1, by updates or by seconds, whichever is further; 0 is no limit."""
    by_steps = step / steps if steps else 0.0
    return min(1.0, max(by_steps, elapsed / 60 / minutes if minutes else 0.0))


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clip the gradients to a norm of `limit`; a step that is not finite becomes a step of nothing. -> the norm, []."""
    learning = [p for p in parameters if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(learning, limit)
    for p in learning:
        assert p.grad is not None
        torch.nan_to_num_(p.grad, nan=0.0, posinf=0.0, neginf=0.0)
    return norm.detach()


class Average:
    """Exponential moving average of a module's parameters; its buffers are taken as they are.

    Args:
        decay: part of the average that stays at each update; less during the first updates.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.weights = {name: x.detach().clone() for name, x in module.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average after update number `step`, 0 the first."""
        keep = min(self.decay, (step + 1) / (step + 10))
        learning = {name for name, _ in self.module.named_parameters()}
        now = self.module.state_dict()
        averaged = [name for name in now if name in learning]
        torch._foreach_lerp_([self.weights[n] for n in averaged], [now[n] for n in averaged], 1 - keep)
        rest = [name for name in now if name not in learning]
        if rest:
            torch._foreach_copy_([self.weights[n] for n in rest], [now[n] for n in rest])

    def load(self, weights: dict[str, Tensor]) -> None:
        """Go on from averages that were saved."""
        for name, x in self.weights.items():
            x.copy_(weights[name])


def save_by_rename(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, loadable with weights_only=True; the old file stays until all is written."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    os.replace(part, path)


class Log:
    """Lines for people, on stdout and in `log.txt`."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path, self.progress = path, progress

    def __call__(self, line: str) -> None:
        """Write one line."""
        self.progress.clear()
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")
