# SPDX-License-Identifier: MIT
"""The training loop: joint training of transforms, codebook and refinement prior, and the tuning phases after it.

Runs on CPU and, unchanged, on CUDA (bf16 autocast, channels_last, optionally compiled); several processes under
`torchrun` use torch's DistributedDataParallel. The base layer's prior and the integer tables come afterwards, in
`finish.py`.
"""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vqcodec.errors import InputError, UsageError
from vqcodec.train.budget import machine_speed, step_operations
from vqcodec.train.config import ModelConfig, TrainConfig, override, to_dict
from vqcodec.train.data import Pictures, block_statistics, linear_basis
from vqcodec.train.losses import mse_per_sample, psnr
from vqcodec.train.networks import STRIDE, Codec, start_linear
from vqcodec.train.optimiser import Optimiser
from vqcodec.train.progress import Progress

LEARNS = {
    "joint": ("analysis", "synthesis", "prior", "log_step", "quantiser"),
    "decoder": ("synthesis", "prior"),
    "synthesis": ("synthesis",),
    "analysis": ("analysis",),
}
Files = Callable[[Codec, Pictures, Pictures, int, Callable[[str], None]], object]
EVAL_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)


def new_model(
    config: ModelConfig, pictures: Pictures, seed: int, statistics: tuple[Tensor, Tensor] | None = None
) -> Codec:
    """A fresh model: linear shortcut from the pictures' statistics, codebook by k-means on its first vectors.

    `statistics`, what `block_statistics` gave for these pictures, saves counting them again.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Codec(config)
    statistics = statistics or block_statistics(pictures, np.random.default_rng([seed, 1]))
    basis, sigma, mean = linear_basis(config.frontend, config.latents, *statistics)
    start_linear(model, basis, sigma, mean)
    with torch.no_grad():
        crops = pictures.crops(rng, 96, pictures.crop_size(192)).cpu()
        _, z = model.analysis(crops, model.hat(torch.rand(len(crops))))
        model.quantiser.start(z.permute(0, 2, 3, 1).reshape(-1, config.codebook_dim))
    return model


def save_checkpoint(path: Path, model: Codec, ema: dict[str, Tensor], optimiser: Any, state: dict[str, Any]) -> None:
    """Write a checkpoint (tensors and plain values only, loadable with weights_only=True) by rename."""
    content = {
        "config": to_dict(model.config),
        "model": model.state_dict(),
        "ema": ema,
        "optimiser": optimiser.state_dict() if optimiser else None,
        **state,
    }
    part = path.with_suffix(".part")
    torch.save(content, part)
    os.replace(part, path)


def load_checkpoint(path: Path, use_ema: bool = True) -> tuple[Codec, dict[str, Any]]:
    """Read a checkpoint back: the model (EMA weights if wanted) and everything else that was saved.

    Raises:
        InputError: not there, or not a checkpoint of ours.
    """
    with checkpoint_errors(path):
        content = torch.load(path, map_location="cpu", weights_only=True)
        model = Codec(override(ModelConfig(), content["config"]))
        model.load_state_dict(content["ema"] if use_ema else content["model"])
    return model, content


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Whatever reading a checkpoint may raise, as an InputError."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, EOFError, ValueError, UsageError) as error:
        raise InputError(f"cannot resume from {path}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # torch.load raises pickle.UnpicklingError and others on garbage
        raise InputError(f"{path} is not a checkpoint: {type(error).__name__}") from None


def sample_loss(model: nn.Module, codec: Codec, x: Tensor, level: Tensor, t: TrainConfig) -> tuple[Tensor, Tensor]:
    """Rate-distortion loss of a batch, every rate weighted alike, and (loss, bpp, PSNR) for the log, [3]."""
    alone = max(1, len(x) // 4) if t.phase != "analysis" else 0
    tuning = t.phase in ("decoder", "synthesis")  # the encoder is frozen: everything as in a real file
    out = model(x, level, alone, not tuning, tuning)
    pixels = x.shape[2] * x.shape[3]
    bpp = (out.bits + out.base_bits) / pixels
    mse = mse_per_sample(out.restored, x)
    lam = codec.lambda_of(level)
    balance = (lam / 436.0) ** -t.weight_balance
    cost = bpp + lam * mse
    loss = (cost * balance).mean() + t.commitment * out.commitment
    if out.base_restored is not None:
        low = codec.config.lambda_min
        weight = t.base_only_weight * low * (low / 436.0) ** -t.weight_balance * alone / len(x)
        loss = loss + weight * mse_per_sample(out.base_restored, x[:alone]).mean()
    decibels = -10 * torch.log10(mse.detach().clamp(min=1e-9))
    return loss, torch.stack([loss.detach(), bpp.detach().mean(), decibels.mean()])


@torch.no_grad()
def evaluate(model: Codec, pictures: Pictures, count: int, device: torch.device) -> list[dict[str, float]]:
    """Estimated rate and true-rounding distortion on whole pictures (cut to multiples of 16), per level."""
    model.eval()
    rows = []
    numbers = np.linspace(0, len(pictures) - 1, min(count, len(pictures))).astype(int)
    for level in EVAL_LEVELS:
        bpps, dbs, base = [], [], []
        for number in numbers:
            p = pictures.picture(int(number))
            p = p[: p.shape[0] // 16 * 16, : p.shape[1] // 16 * 16]
            x = p.permute(2, 0, 1)[None].to(device).float() / 255
            out = model(x, torch.tensor([level], device=device), 1, False, True)
            bpps.append(float(out.bits + out.base_bits) / x.shape[2] / x.shape[3])
            dbs.append(psnr(float(mse_per_sample(out.restored.clamp(0, 1), x))))
            assert out.base_restored is not None
            base.append(psnr(float(mse_per_sample(out.base_restored.clamp(0, 1), x))))
        row = {"level": level, "bpp": float(np.mean(bpps)), "psnr": float(np.mean(dbs)), "base": float(np.mean(base))}
        rows.append(row)
    model.train()
    return rows


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("--tensorboard needs tensorboard: pip install tensorboard") from None
    return SummaryWriter(str(folder))


class Trainer:
    """One phase of training of one model, resumable.

    Args:
        model: the codec (on CPU).
        pictures, validation: pictures on the device; validation may be None.
        config: the phase.
        out: folder for `last.pt` and `log.txt`.
        resume: what `load_checkpoint` gave, to go on in the middle of a phase; None for a fresh optimiser.
        tensorboard: folder for TensorBoard's scalars and pictures; None for none.
        files: what judges real files every `files_minutes` (`files.quick_files`); None for none.
    """

    def __init__(
        self,
        model: Codec,
        pictures: Pictures,
        validation: Pictures | None,
        config: TrainConfig,
        out: Path,
        device: torch.device,
        resume: dict[str, Any] | None = None,
        tensorboard: Path | None = None,
        files: Files | None = None,
    ) -> None:
        if not (config.steps or config.minutes):
            raise UsageError("give --set steps=N or --set minutes=M: a training run must end")
        if config.files_minutes and validation is None:
            raise UsageError("files_minutes needs pictures to judge files on: give --validation")
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.t, self.out, self.device = config, out, device
        self.pictures, self.validation = pictures, validation
        self.codec = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, parameter in self.codec.named_parameters():
            parameter.requires_grad_(name.startswith(LEARNS[config.phase]))
        matrices, groups = self._groups()
        precision = torch.bfloat16 if config.bf16 else torch.float32
        self.optimiser = Optimiser(groups, matrices, device.type == "cuda", precision)
        self.step, self.elapsed = 0, 0.0
        self.ema = {k: v.detach().clone() for k, v in self.codec.state_dict().items()}
        saved = resume.get("optimiser") if resume and resume.get("phase") == config.phase else None
        if resume and saved and self.optimiser.fits(saved):
            self.codec.load_state_dict(resume["model"])
            self.ema = {k: v.to(device) for k, v in resume["ema"].items()}
            self.optimiser.load_state_dict(saved)
            self.step, self.elapsed = int(resume["step"]), float(resume["elapsed"])
        forward: nn.Module = self.codec
        if config.compile:
            forward = torch.compile(forward)  # type: ignore[assignment]
        if self.world > 1:
            # Every process keeps the codebook's averages alike itself (quantise.py); the name changed in torch 2.13.
            known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            forward = nn.parallel.DistributedDataParallel(forward, **{name: False})  # type: ignore[arg-type]
        self.model = forward
        self.board = _board(tensorboard) if tensorboard and self.rank == 0 else None
        self.share = 0.0  # of the machine's speed, per crop and second
        if self.rank == 0:
            speed = machine_speed(device, precision) * self.world
            self.share = step_operations(self.codec.config, config.crop) / speed
        self.codec.quantiser.learns = config.phase == "joint"
        self.files = files if config.files_minutes else None
        self.progress = Progress(self.rank == 0)

    def _groups(self) -> tuple[list[nn.Parameter], list[dict[str, Any]]]:
        """Weights for SOAP, and the groups for AdamW."""
        matrices, decay, plain, fast = [], [], [], []
        for name, p in self.codec.named_parameters():
            if not p.requires_grad:
                continue
            if self.t.optimiser == "soap" and p.ndim == 4 and p.shape[2:] == (1, 1) and "linear" not in name:
                matrices.append(p)
            elif name == "log_step":
                fast.append(p)
            elif p.ndim > 1 and "linear" not in name and "table" not in name and "quality" not in name:
                decay.append(p)
            elif "linear" in name:
                plain.append(p)
            else:
                fast.append(p)
        return matrices, [
            {"params": decay, "weight_decay": 1e-4, "scale": 1.0},
            {"params": plain, "weight_decay": 0.0, "scale": 0.1},  # the linear shortcut starts good
            {"params": fast, "weight_decay": 0.0, "scale": 2.0},
        ]

    def _progress(self) -> float:
        done = self.step / self.t.steps if self.t.steps else 0.0
        if self.t.minutes:
            done = max(done, self.elapsed / 60 / self.t.minutes)
        if self.world > 1:  # every process must take the same learning rate
            shared = torch.tensor([done], device=self.device)
            dist.broadcast(shared, 0)
            done = float(shared)
        return min(1.0, done)

    def one_step(self, rng: np.random.Generator, done: float) -> Tensor:
        """One update; (loss, bpp, PSNR, gradient norm) on the device, [4]: nothing here waits for a GPU."""
        t = self.t
        rate = t.learning_rate * min(1.0, (self.step + 1) / t.warmup)
        rate *= t.final_rate + (1 - t.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
        x = self.pictures.crops(rng, t.batch, t.crop).contiguous(memory_format=torch.channels_last)
        level = torch.from_numpy(((np.arange(t.batch) + rng.random(t.batch)) / t.batch).astype(np.float32))
        level = level[torch.from_numpy(rng.permutation(t.batch))].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=t.bf16):
            loss, figures = sample_loss(self.model, self.codec, x, level, t)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_([p for p in self.codec.parameters() if p.requires_grad], t.clip)
        for p in self.codec.parameters():  # a step that is not finite becomes a step of nothing
            if p.grad is not None:
                torch.nan_to_num_(p.grad, nan=0.0, posinf=0.0, neginf=0.0)
        self.optimiser.step(rate)
        self._average()
        self.step += 1
        return torch.cat([figures, norm.detach().reshape(1)])

    @torch.no_grad()
    def _average(self) -> None:
        """Move the exponential moving average of the weights; the codebook and other buffers are taken as they are."""
        keep = min(self.t.ema, (self.step + 1) / (self.step + 10))
        learning = {name for name, _ in self.codec.named_parameters()}
        now = self.codec.state_dict()
        averaged = [name for name in now if name in learning]
        torch._foreach_lerp_([self.ema[n] for n in averaged], [now[n] for n in averaged], 1 - keep)
        rest = [name for name in now if name not in learning]
        torch._foreach_copy_([self.ema[n] for n in rest], [now[n] for n in rest])

    def run(self) -> None:
        """Train to the end of the phase; the log says a line per interval, `last.pt` holds the newest state."""
        t = self.t
        rng = np.random.default_rng([t.seed, self.rank, self.step])
        torch.manual_seed(t.seed * 1000 + self.rank + self.step)
        begin = time.perf_counter() - self.elapsed
        marks = dict.fromkeys(("log", "save", "eval", "files"), self.elapsed)
        self.progress.begin(self._progress())
        window: list[Tensor] = []
        while (done := self._progress()) < 1.0:
            window.append(self.one_step(rng, done))
            self.elapsed = time.perf_counter() - begin
            if self.rank:
                continue
            self.progress.show(f"{t.phase} step {self.step}", done, t.batch * self.world)
            if self.elapsed - marks["log"] > t.log_seconds:
                loss, bpp, decibels, norm = torch.stack(window).mean(0).tolist()
                speed = len(window) * t.batch * self.world / (self.elapsed - marks["log"])
                rate = self.optimiser.rate
                self._say(
                    f"{t.phase} step {self.step} {self.elapsed / 60:.1f} min {done:.1%} loss {loss:.4f} bpp {bpp:.3f} "
                    f"psnr {decibels:.2f} norm {norm:.2f} lr {rate:.1e} crops/s {speed:.1f} "
                    f"({speed * self.share:.0%} of the machine)"
                )
                self._draw({"loss": loss, "bpp": bpp, "psnr": decibels, "norm": norm, "lr": rate, "crops/s": speed})
                window, marks["log"] = [], self.elapsed
            if self.elapsed - marks["save"] > 60 * t.save_minutes:
                self.save()
                marks["save"] = self.elapsed
            if self.validation and self.elapsed - marks["eval"] > 60 * t.eval_minutes:
                self.report()
                marks["eval"] = self.elapsed
            if self.files and self.elapsed - marks["files"] > 60 * t.files_minutes:
                self.judge_files()
                marks["files"] = self.elapsed
        self.progress.clear()
        if self.rank == 0:
            self.save()
            if self.validation:
                self.report()
            self.judge_files()

    def _averaged(self) -> Codec:
        """A model of the EMA weights."""
        with torch.random.fork_rng(devices=[]):  # training goes on as if nothing had been judged
            model = Codec(self.codec.config).to(self.device)
        model.load_state_dict(self.ema)
        return model

    def judge_files(self) -> None:
        """Log rate and distortion of real files of the EMA weights, or once, why that cannot be done."""
        if self.files is None or self.validation is None:
            return
        if not self.codec.config.exportable():
            self._say("files are left out: they have no place for what this model codes")
            self.files = None
            return
        try:
            self.files(self._averaged().eval(), self.pictures, self.validation, self.t.eval_pictures, self._say)
        except ModuleNotFoundError as error:
            self._say(f"files are left out: {error.name} is not installed")
            self.files = None

    def report(self) -> None:
        """Log the validation table of the EMA weights."""
        model = self._averaged()
        assert self.validation is not None
        for row in evaluate(model, self.validation, self.t.eval_pictures, self.device):
            self._say("val level {level:.1f}: {bpp:.4f} bpp {psnr:.3f} dB (base alone {base:.2f} dB)".format(**row))
            level = f"{row['level']:.1f}"
            self._draw({f"validation bpp/{level}": row["bpp"], f"validation psnr/{level}": row["psnr"]})
        if self.board is not None:
            self._show(self.board, model)

    @torch.no_grad()
    def _show(self, board: Any, model: Codec) -> None:
        """A validation picture beside what two levels and the base layer alone make of it, for TensorBoard."""
        assert self.validation is not None
        picture = self.validation.picture(0)
        side = min(384, picture.shape[0] // STRIDE * STRIDE, picture.shape[1] // STRIDE * STRIDE)
        x = picture[:side, :side].permute(2, 0, 1)[None].to(self.device).float() / 255
        shown = [x]
        for level in (0.2, 0.6):
            out = model.eval()(x, torch.tensor([level], device=self.device), 1, False)
            shown.append(out.restored)
        assert out.base_restored is not None
        row = torch.cat([*shown, out.base_restored], 3)[0].clamp(0, 1).cpu().float().numpy()
        board.add_image("original, level 0.2, 0.6, base alone", row, self.step)
        board.flush()

    def _draw(self, values: dict[str, float]) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, self.step)
            self.board.flush()

    def save(self) -> None:
        """Write `last.pt`."""
        state = {"phase": self.t.phase, "step": self.step, "elapsed": self.elapsed, "train": to_dict(self.t)}
        save_checkpoint(self.out / "last.pt", self.codec, self.ema, self.optimiser, state)

    def _say(self, line: str) -> None:
        self.progress.clear()
        print(line, flush=True)
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(line + "\n")
