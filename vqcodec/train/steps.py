# SPDX-License-Identifier: MIT
"""What training phases share: the loop with its log, checkpoints and reports; learning rates, guarded gradients."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vqcodec.errors import InputError, UsageError
from vqcodec.train.config import PhaseConfig
from vqcodec.train.data import Pictures
from vqcodec.train.layers import channels_last
from vqcodec.train.progress import Progress

Config = TypeVar("Config", bound=PhaseConfig)
Network = TypeVar("Network", bound=nn.Module)
Figures = Mapping[str, Tensor | float]  # what one update says, for the log


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


@contextmanager
def held_signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM wait: the list fills with those that came, and the first of them acts at the end.

    A second signal acts at once. Signals that the process ignores stay ignored.
    """
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if main}
    held = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}

    def restore() -> None:
        for number, handler in held.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        came.append(number)
        restore()

    for number in held:
        signal.signal(number, note)
    try:
        yield came
    finally:
        restore()
    if came:
        signal.raise_signal(came[0])


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Whatever reading a checkpoint may raise, as an InputError."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, EOFError, ValueError, UsageError) as error:
        raise InputError(f"cannot resume from {path}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # torch.load raises pickle.UnpicklingError and others on garbage
        raise InputError(f"{path} is not a checkpoint: {type(error).__name__}") from None


class Phase(ABC, Generic[Config, Network]):
    """One phase of training of one network, resumable: the loop, and what it does at intervals.

    Args:
        config: the phase.
        network: what learns; it goes to the device.
        pictures, validation: on the device; validation may be None.
        out: folder for the checkpoint and `log.txt`.
    """

    name: str  # what log lines call the phase
    checkpoint: str  # name of the file that `save` writes

    def __init__(
        self, config: Config, network: Network, pictures: Pictures, validation: Pictures | None, out: Path,
        device: torch.device,
    ) -> None:  # fmt: skip
        if not (config.steps or config.minutes):
            raise UsageError("give --set steps=N or --set minutes=M: a training run must end")
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.c, self.out, self.device = config, out, device
        self.pictures, self.validation = pictures, validation
        self.network: Network = channels_last(network, device)
        self.average = Average(self.network, config.ema)
        self.step, self.elapsed = 0, 0.0
        self.came: list[int] = []  # signals to end
        self.line = Progress(self.rank == 0)
        self.say = Log(out / "log.txt", self.line)

    @abstractmethod
    def one_step(self, rng: np.random.Generator, done: float) -> Figures:
        """One update, where a part of 1 of the phase is done."""

    @abstractmethod
    def told(self, means: dict[str, float], speed: float) -> str:
        """A log line's figures: the means of the updates since the last one, and crops a second."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """What the checkpoint holds beside `model`, `ema`, `step` and `elapsed`."""

    def report(self) -> None:
        """Log what the averaged network does on validation pictures, where there are any."""

    def duties(self) -> list[tuple[float, Callable[[], None]]]:
        """What the loop does every so many minutes, and at the end."""
        return [(self.c.save_minutes, self.save), (self.c.eval_minutes, self.report)]

    def done(self) -> float:
        """How much of the phase is over, 0 to 1; all of it when a signal came."""
        done = 1.0 if self.came else phase_done(self.step, self.c.steps, self.elapsed, self.c.minutes)
        if self.world > 1:  # every process must take the same learning rate
            shared = torch.tensor([done], device=self.device)
            dist.broadcast(shared, 0)
            done = float(shared)
        return done

    def rate_factor(self, done: float) -> float:
        """Part of the learning rate to use."""
        return rate_factor(self.step, done, self.c.warmup, self.c.final_rate)

    def run(self) -> None:
        """Train to the end of the phase; the log says a line per interval, the checkpoint holds the newest state.

        Ctrl-C or SIGTERM ends the phase after the update in hand, and saves it.
        """
        with held_signals() as self.came:
            self._loop()

    def _loop(self) -> None:
        c = self.c
        rng = np.random.default_rng([c.seed, self.rank, self.step])
        torch.manual_seed(c.seed * 1000 + self.rank + self.step)
        begin, logged = time.perf_counter() - self.elapsed, self.elapsed
        last = [self.elapsed] * len(self.duties())
        self.line.begin(self.done())
        window: list[Figures] = []
        while (done := self.done()) < 1.0:
            figures = self.one_step(rng, done)
            self.average.update(self.step)
            self.step += 1
            self.elapsed = time.perf_counter() - begin
            if self.rank:
                continue
            window.append(figures)
            self.line.show(f"{self.name} step {self.step}", done, c.batch * self.world)
            if self.elapsed - logged > c.log_seconds:
                speed = len(window) * c.batch * self.world / (self.elapsed - logged)
                told = self.told(means(window), speed)
                self.say(f"{self.name} step {self.step} {self.elapsed / 60:.1f} min {done:.1%} {told}")
                window, logged = [], self.elapsed
            for number, (minutes, duty) in enumerate(self.duties()):
                if self.elapsed - last[number] > 60 * minutes:
                    duty()
                    last[number] = self.elapsed
        self.line.clear()
        if self.rank == 0 and self.came:
            self.save()
            self.say(f"stopped at step {self.step}: --resume {self.out / self.checkpoint} continues")
        elif self.rank == 0:
            for _, duty in self.duties():
                duty()

    def save(self) -> None:
        """Write the checkpoint by rename."""
        state = {"model": self.network.state_dict(), "ema": self.average.weights}
        content = {**state, "step": self.step, "elapsed": self.elapsed, **self.content()}
        save_by_rename(self.out / self.checkpoint, content)

    def go_on(self, content: dict[str, Any]) -> None:
        """Take over the weights, their averages and the place in the phase from a checkpoint."""
        self.network.load_state_dict(content["model"])
        self.average.load(content["ema"])
        self.step, self.elapsed = int(content["step"]), float(content["elapsed"])


def means(window: list[Figures]) -> dict[str, float]:
    """The mean of each figure over the updates that had it."""
    names = dict.fromkeys(name for figures in window for name in figures)
    return {name: float(np.mean([float(f[name]) for f in window if name in f])) for name in names}
