# SPDX-License-Identifier: MIT
"""The training loop: joint training of transforms, codebook and refinement prior, and the tuning phases after it.

Runs on CPU and, unchanged, on CUDA (bf16 autocast, channels_last, optionally compiled); several processes under
`torchrun` use torch's DistributedDataParallel. The base layer's prior and the integer tables come afterwards, in
`finish.py`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.errors import InputError, UsageError
from vqcodec.train.budget import machine_speed, step_operations
from vqcodec.train.codec import Analysed, Codec, start_linear
from vqcodec.train.config import LEARNS, ModelConfig, TrainConfig, override, to_dict
from vqcodec.train.data import Pictures, block_statistics, linear_basis
from vqcodec.train.eye import start_eye
from vqcodec.train.layers import STRIDE, channels_last
from vqcodec.train.losses import mse_per_sample, psnr
from vqcodec.train.optimiser import optimisers, update
from vqcodec.train.patterns import pattern
from vqcodec.train.perception import ms_ssim
from vqcodec.train.progress import Progress
from vqcodec.train.quantise import Quantisation
from vqcodec.train.steps import Average, Log, phase_done, rate_factor, save_by_rename

Files = Callable[[Codec, Pictures, Pictures, int, Callable[[str], None]], object]
LOW_PASS = 32  # side in pixels of the blocks whose mean colour the eye tune protects
LOW_PASS_WEIGHT = 2.0  # of the squared error of these means, beside the blend
EVAL_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
SIMILARITY_UNIT = 0.026  # squared error on [0, 1] samples that a unit of 1 - MS-SSIM is worth along the shipped curve


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
    if "eye" in config.tunes:
        start_eye(model, pictures, seed)
    with torch.no_grad():
        crops = pictures.crops(rng, 96, pictures.crop_size(192)).cpu()
        _, z = model.analysis(crops, model.anchor_weights(torch.rand(len(crops))))
        model.quantiser.start(z.permute(0, 2, 3, 1).reshape(-1, config.codebook_dim))
    return model


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


def distortion(restored: Tensor, x: Tensor, eye: Tensor, similarity: float) -> tuple[Tensor, Tensor]:
    """What each sample's distortion counts for, and its mean squared error, both [B].

    The psnr tune counts squared error. The eye tune blends in 1 - MS-SSIM, brought to the size of a squared error, and
    adds the squared error of the mean colours of blocks, because a wrong hue is seen where MS-SSIM is blind to it.

    Args:
        restored, x: [B, 3, H, W] in [0, 1].
        eye: [B] bool, which samples are of the eye tune.
        similarity: the part of MS-SSIM in the blend, 0 to 1.
    """
    mse = mse_per_sample(restored, x)
    if not similarity or not bool(eye.any()):
        return mse, mse
    unlike = torch.zeros_like(mse)
    unlike[eye] = 1 - ms_ssim(restored[eye].clamp(0, 1), x[eye])
    coarse = F.avg_pool2d(restored - x, LOW_PASS).square().mean((1, 2, 3))
    blend = (1 - similarity) * mse + similarity * SIMILARITY_UNIT * unlike + LOW_PASS_WEIGHT * coarse
    return torch.where(eye, blend, mse), mse


def balance(lam: Tensor, t: TrainConfig) -> Tensor:
    """What a sample's loss is multiplied by, so that all rates count alike."""
    return (lam / 436.0) ** -t.weight_balance


def sample_loss(
    model: nn.Module, codec: Codec, x: Tensor, level: Tensor, tune: Tensor, t: TrainConfig
) -> tuple[Tensor, Tensor]:
    """Rate-distortion loss of a batch, every rate weighted alike, and (loss, bpp, PSNR) for the log, [3]."""
    base_only = max(1, len(x) // 4) if t.phase in ("joint", "decoder", "synthesis") else 0
    frozen_encoder = t.phase in ("decoder", "synthesis")
    quantisation = Quantisation.CHOICE if frozen_encoder else Quantisation.NOISE
    out = model(x, level, tune, base_only, quantisation)
    bpp = (out.bits + out.base_bits) / (x.shape[2] * x.shape[3])
    eye = tune == codec.config.tunes.index("eye") if "eye" in codec.config.tunes else torch.zeros_like(tune).bool()
    lost, mse = distortion(out.restored, x, eye, t.similarity)
    lam = codec.lambda_of(level)
    loss = ((bpp + lam * lost) * balance(lam, t)).mean() + t.commitment * out.commitment
    if out.base_restored is not None:
        low = codec.config.lambda_min
        weight = t.base_only_weight * low * (low / 436.0) ** -t.weight_balance * base_only / len(x)
        loss = loss + weight * mse_per_sample(out.base_restored, x[:base_only]).mean()
    decibels = -10 * torch.log10(mse.detach().clamp(min=1e-9))
    return loss, torch.stack([loss.detach(), bpp.detach().mean(), decibels.mean()])


class Replay:
    """Batches that a frozen encoder has analysed, each used a few times: the prior's phase learns faster from them."""

    SIZE, USES = 128, 3

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.kept: list[tuple[Analysed, Tensor]] = []

    def draw(
        self, rng: np.random.Generator, batch: Callable[[], tuple[Tensor, Tensor, Tensor]]
    ) -> tuple[Analysed, Tensor]:
        """An analysed batch and its levels, one in `USES` times of new pictures, levels and tunes from `batch`."""
        place = int(rng.integers(self.SIZE))
        if place < len(self.kept) and rng.random() > 1 / self.USES:
            return self.kept[place]
        x, level, tune = batch()
        with torch.no_grad():
            new = self.codec.analyse(x, level, tune), level
        if place < len(self.kept):
            self.kept[place] = new
        else:
            self.kept.append(new)
        return new


def prior_loss(codec: Codec, analysed: Analysed, level: Tensor, t: TrainConfig) -> tuple[Tensor, Tensor]:
    """The rate alone, every rate weighted alike, of steps that change nothing else; for the log as `sample_loss`."""
    places = analysed.y.shape[2] * analysed.y.shape[3]
    bpp = codec.refinement_bits(analysed) / (STRIDE**2 * places)
    loss = (bpp * balance(codec.lambda_of(level), t)).mean()
    return loss, torch.stack([loss.detach(), bpp.detach().mean(), torch.zeros_like(loss)])


@torch.no_grad()
def evaluate(model: Codec, pictures: Pictures, count: int, device: torch.device) -> list[dict[str, Any]]:
    """Estimated rate and true-rounding distortion on whole pictures (cut to multiples of 16), per tune and level."""
    model.eval()
    rows = []
    numbers = np.linspace(0, len(pictures) - 1, min(count, len(pictures))).astype(int)
    for tune, name in enumerate(model.config.tunes):
        for level in EVAL_LEVELS:
            figures = []
            for number in numbers:
                p = pictures.picture(int(number))
                p = p[: p.shape[0] // STRIDE * STRIDE, : p.shape[1] // STRIDE * STRIDE]
                x = p.permute(2, 0, 1)[None].to(device).float() / 255
                levels = torch.tensor([level], device=device)
                out = model(x, levels, torch.tensor([tune], device=device), 1, Quantisation.CHOICE)
                assert out.base_restored is not None
                restored, base = out.restored.clamp(0, 1), out.base_restored.clamp(0, 1)
                bpp = float(out.bits + out.base_bits) / x.shape[2] / x.shape[3]
                quality = [psnr(float(mse_per_sample(seen, x))) for seen in (restored, base)]
                figures.append([bpp, *quality, -10 * np.log10(1 - float(ms_ssim(restored, x)))])
            bpp, decibels, base_decibels, similar = np.mean(figures, 0).tolist()
            row = {"bpp": bpp, "psnr": decibels, "base": base_decibels, "ms_ssim": similar}
            rows.append({"tune": name, "level": level, **row})
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
        self.codec = channels_last(model, device)
        for name, parameter in self.codec.named_parameters():
            parameter.requires_grad_(name.startswith(LEARNS[config.phase]))
        precision = torch.bfloat16 if config.bf16 else torch.float32
        self.optimisers = optimisers(
            self.codec.named_parameters(), config.optimiser, self.device.type == "cuda", precision
        )
        self.step, self.elapsed, self.rate = 0, 0.0, 0.0
        self.average = Average(self.codec, config.ema)
        self.progress = Progress(self.rank == 0)
        self.say = Log(out / "log.txt", self.progress)
        self.base_prior = resume.get("base_prior") if resume else None  # comes along, for the end
        if resume and resume.get("phase") == config.phase and resume.get("optimisers"):
            self._go_on(resume)
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
        if self.board is not None and validation is None:
            self.say("TensorBoard gets no validation curves and no pictures: they need --validation")
        self.share = 0.0  # of the machine's speed, per crop and second
        if self.rank == 0:
            speed = machine_speed(device, precision) * self.world
            self.share = step_operations(self.codec.config, config.crop) / speed
        self.codec.quantiser.learns = config.phase == "joint"
        self.replay = Replay(self.codec)
        if config.phase == "prior" and self.world > 1:
            raise UsageError("--phase prior runs in one process")
        self.files = files if config.files_minutes else None

    def _go_on(self, resume: dict[str, Any]) -> None:
        """Take over weights, averages and the optimisers' states of the same phase."""
        if set(resume["optimisers"]) != set(self.optimisers):
            known = " and ".join(resume["optimisers"])
            self.say(f"the checkpoint's optimiser is {known}: starting afresh with {self.t.optimiser}")
            return
        self.codec.load_state_dict(resume["model"])
        self.average.load(resume["ema"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(resume["optimisers"][name])
        self.step, self.elapsed = int(resume["step"]), float(resume["elapsed"])

    def _done(self) -> float:
        done = phase_done(self.step, self.t.steps, self.elapsed, self.t.minutes)
        if self.world > 1:  # every process must take the same learning rate
            shared = torch.tensor([done], device=self.device)
            dist.broadcast(shared, 0)
            done = float(shared)
        return done

    def one_step(self, rng: np.random.Generator, done: float) -> Tensor:
        """One update; (loss, bpp, PSNR, gradient norm) on the device, [4]: nothing here waits for a GPU."""
        t = self.t
        self.rate = t.learning_rate * rate_factor(self.step, done, t.warmup, t.final_rate)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=t.bf16):
            if t.phase == "prior":
                loss, figures = prior_loss(self.codec, *self.replay.draw(rng, lambda: self._samples(rng)), t)
            else:
                loss, figures = sample_loss(self.model, self.codec, *self._samples(rng), t)
        norm = update(self.optimisers, loss, self.rate, t.clip, self.codec.parameters())
        self.average.update(self.step)
        self.step += 1
        return torch.cat([figures, norm.reshape(1)])

    def _samples(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [B, 3, S, S], and the levels [B] and tunes [B] at which they are coded."""
        t, x = self.t, self._batch(rng)
        order = torch.from_numpy(rng.permutation(t.batch))
        level = torch.from_numpy(((np.arange(t.batch) + rng.random(t.batch)) / t.batch).astype(np.float32))
        tunes = self.codec.config.tunes
        tune = torch.zeros(t.batch, dtype=torch.int64)
        if len(tunes) > 1:
            tune[:] = tunes.index("psnr")
            tune[: int(t.eye * t.batch + rng.random())] = tunes.index("eye")
        return x, level[order].to(self.device), tune[order].to(self.device)

    def _batch(self, rng: np.random.Generator) -> Tensor:
        """Random crops [B, 3, S, S]; some of them become patterns."""
        t = self.t
        x = self.pictures.crops(rng, t.batch, t.crop)
        for number in np.flatnonzero(rng.random(t.batch) < t.patterns):
            drawn = pattern(rng, x[number].permute(1, 2, 0).cpu().numpy())
            x[number] = torch.from_numpy(drawn).permute(2, 0, 1).to(x.device)
        return x.contiguous(memory_format=torch.channels_last)

    def run(self) -> None:
        """Train to the end of the phase; the log says a line per interval, `last.pt` holds the newest state."""
        t = self.t
        rng = np.random.default_rng([t.seed, self.rank, self.step])
        torch.manual_seed(t.seed * 1000 + self.rank + self.step)
        begin = time.perf_counter() - self.elapsed
        marks = dict.fromkeys(("log", "save", "eval", "files"), self.elapsed)
        self.progress.begin(self._done())
        window: list[Tensor] = []
        while (done := self._done()) < 1.0:
            window.append(self.one_step(rng, done))
            self.elapsed = time.perf_counter() - begin
            if self.rank:
                continue
            self.progress.show(f"{t.phase} step {self.step}", done, t.batch * self.world)
            if self.elapsed - marks["log"] > t.log_seconds:
                loss, bpp, decibels, norm = torch.stack(window).mean(0).tolist()
                speed = len(window) * t.batch * self.world / (self.elapsed - marks["log"])
                rate = self.rate
                quality = "" if t.phase == "prior" else f"psnr {decibels:.2f} "
                self.say(
                    f"{t.phase} step {self.step} {self.elapsed / 60:.1f} min {done:.1%} loss {loss:.4f} bpp {bpp:.3f} "
                    f"{quality}norm {norm:.2f} lr {rate:.1e} crops/s {speed:.1f} "
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
        model.load_state_dict(self.average.weights)
        return model

    def judge_files(self) -> None:
        """Log rate and distortion of real files of the EMA weights, or once, why that cannot be done."""
        if self.files is None or self.validation is None:
            return
        try:
            self.files(self._averaged().eval(), self.pictures, self.validation, self.t.eval_pictures, self.say)
        except ModuleNotFoundError as error:
            self.say(f"files are left out: {error.name} is not installed")
            self.files = None

    def report(self) -> None:
        """Log the validation table of the EMA weights."""
        model = self._averaged()
        assert self.validation is not None
        for row in evaluate(model, self.validation, self.t.eval_pictures, self.device):
            self.say(
                "val {tune} level {level:.1f}: {bpp:.4f} bpp {psnr:.3f} dB, MS-SSIM {ms_ssim:.3f} dB "
                "(base alone {base:.2f} dB)".format(**row)
            )
            level = f"{row['tune']}/{row['level']:.1f}"
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
            out = model.eval()(x, torch.tensor([level], device=self.device), None, 1, Quantisation.NEAREST)
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
        content = {
            "config": to_dict(self.codec.config), "model": self.codec.state_dict(), "ema": self.average.weights,
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "phase": self.t.phase, "step": self.step, "elapsed": self.elapsed, "train": to_dict(self.t),
            "base_prior": self.base_prior,
        }  # fmt: skip
        save_by_rename(self.out / "last.pt", content)
