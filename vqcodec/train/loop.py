# SPDX-License-Identifier: MIT
"""The training loop: joint training of transforms, codebook and refinement prior, and the tuning phases after it.

Runs on CPU and, unchanged, on CUDA (bf16 autocast, channels_last, optionally compiled); several processes under
`torchrun` use torch's DistributedDataParallel. The base layer's prior and the integer tables come afterwards, in
`finish.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqcodec.errors import UsageError
from vqcodec.train.budget import machine_speed, step_operations
from vqcodec.train.codec import Analysed, Codec, start_linear
from vqcodec.train.config import LEARNS, ModelConfig, TrainConfig, override, to_dict
from vqcodec.train.data import Pictures, block_statistics, linear_basis
from vqcodec.train.eye import start_eye
from vqcodec.train.layers import STRIDE
from vqcodec.train.losses import mse_per_sample, psnr
from vqcodec.train.optimiser import optimisers, update
from vqcodec.train.patterns import pattern
from vqcodec.train.perception import ms_ssim
from vqcodec.train.quantise import Quantisation
from vqcodec.train.steps import Figures, Phase, checkpoint_errors

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
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rate-distortion loss of a batch, every rate weighted alike, and what to log."""
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
    return loss, {"loss": loss.detach(), "bpp": bpp.detach().mean(), "psnr": decibels.mean()}


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


def prior_loss(codec: Codec, analysed: Analysed, level: Tensor, t: TrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The rate alone, every rate weighted alike, of steps that change nothing else; for the log as `sample_loss`."""
    places = analysed.y.shape[2] * analysed.y.shape[3]
    bpp = codec.refinement_bits(analysed) / (STRIDE**2 * places)
    loss = (bpp * balance(codec.lambda_of(level), t)).mean()
    return loss, {"loss": loss.detach(), "bpp": bpp.detach().mean()}


@torch.no_grad()
def evaluate(model: Codec, pictures: Pictures, count: int, device: torch.device) -> list[dict[str, Any]]:
    """Estimated rate and true-rounding distortion on whole pictures (cut to multiples of 16), per tune and level."""
    model.eval()
    rows = []
    for tune, name in enumerate(model.config.tunes):
        for level in EVAL_LEVELS:
            figures = []
            for number in pictures.spread(count):
                x = pictures.sample(number)
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


class Trainer(Phase[TrainConfig, Codec]):
    """One of the codec's phases.

    Args:
        model: the codec (on CPU).
        pictures, validation, config, out, device: as of `Phase`.
        resume: what `load_checkpoint` gave, to go on in the middle of a phase; None for a fresh optimiser.
        tensorboard: folder for TensorBoard's scalars and pictures; None for none.
        files: what judges real files every `files_minutes` (`files.quick_files`); None for none.
    """

    checkpoint = "last.pt"

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
        super().__init__(config, model, pictures, validation, out, device)
        if config.files_minutes and validation is None:
            raise UsageError("files_minutes needs pictures to judge files on: give --validation")
        if config.phase == "prior" and self.world > 1:
            raise UsageError("--phase prior runs in one process")
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name.startswith(LEARNS[config.phase]))
        precision = torch.bfloat16 if config.bf16 else torch.float32
        learning = self.network.named_parameters()
        self.optimisers = optimisers(learning, config.optimiser, self.device.type == "cuda", precision)
        self.name, self.rate = config.phase, 0.0
        self.base_prior = resume.get("base_prior") if resume else None  # comes along, for the end
        if resume and resume.get("phase") == config.phase and resume.get("optimisers"):
            self._resume(resume)
        self.model = self._forward()
        self.board = _board(tensorboard) if tensorboard and self.rank == 0 else None
        if self.board is not None and validation is None:
            self.say("TensorBoard gets no validation curves and no pictures: they need --validation")
        self.share = 0.0  # of the machine's speed, per crop and second
        if self.rank == 0:
            speed = machine_speed(device, precision) * self.world
            self.share = step_operations(self.network.config, config.crop) / speed
        self.network.quantiser.learns = config.phase == "joint"
        self.replay = Replay(self.network)
        self.files = files if config.files_minutes else None

    def _forward(self) -> nn.Module:
        """The network as the loss calls it: compiled, and with gradients averaged over the processes."""
        forward: nn.Module = self.network
        if self.c.compile:
            forward = torch.compile(forward)  # type: ignore[assignment]
        if self.world > 1:
            # Every process keeps the codebook's averages alike itself (quantise.py); the name changed in torch 2.13.
            known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            forward = nn.parallel.DistributedDataParallel(forward, **{name: False})  # type: ignore[arg-type]
        return forward

    def _resume(self, resume: dict[str, Any]) -> None:
        """Take over weights, averages and the optimisers' states of the same phase."""
        if set(resume["optimisers"]) != set(self.optimisers):
            known = " and ".join(resume["optimisers"])
            self.say(f"the checkpoint's optimiser is {known}: starting afresh with {self.c.optimiser}")
            return
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(resume["optimisers"][name])
        self.go_on(resume)

    def duties(self) -> list[tuple[float, Callable[[], None]]]:
        """Real files, too."""
        return [*super().duties(), (self.c.files_minutes, self.judge_files)]

    def one_step(self, rng: np.random.Generator, done: float) -> Figures:
        """One update; its figures are on the device: nothing here waits for a GPU."""
        c = self.c
        self.rate = c.learning_rate * self.rate_factor(done)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.bf16):
            if c.phase == "prior":
                loss, figures = prior_loss(self.network, *self.replay.draw(rng, lambda: self._samples(rng)), c)
            else:
                loss, figures = sample_loss(self.model, self.network, *self._samples(rng), c)
        norm = update(self.optimisers, loss, self.rate, c.clip, self.network.parameters())
        return {**figures, "norm": norm}

    def _samples(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [B, 3, S, S], and the levels [B] and tunes [B] at which they are coded."""
        t, x = self.c, self._batch(rng)
        order = torch.from_numpy(rng.permutation(t.batch))
        level = torch.from_numpy(((np.arange(t.batch) + rng.random(t.batch)) / t.batch).astype(np.float32))
        tunes = self.network.config.tunes
        tune = torch.zeros(t.batch, dtype=torch.int64)
        if len(tunes) > 1:
            tune[:] = tunes.index("psnr")
            tune[: int(t.eye * t.batch + rng.random())] = tunes.index("eye")
            tune = tune[torch.from_numpy(rng.permutation(t.batch))]  # in another order than the levels
        return x, level[order].to(self.device), tune.to(self.device)

    def _batch(self, rng: np.random.Generator) -> Tensor:
        """Random crops [B, 3, S, S]; some of them become patterns."""
        t = self.c
        x = self.pictures.crops(rng, t.batch, t.crop)
        for number in np.flatnonzero(rng.random(t.batch) < t.patterns):
            drawn = pattern(rng, x[number].permute(1, 2, 0).cpu().numpy())
            x[number] = torch.from_numpy(drawn).permute(2, 0, 1).to(x.device)
        return x.contiguous(memory_format=torch.channels_last)

    def told(self, means: dict[str, float], speed: float) -> str:
        """Loss, rate and quality; TensorBoard gets them, too."""
        self._draw({**means, "lr": self.rate, "crops/s": speed})
        quality = f"psnr {means['psnr']:.2f} " if "psnr" in means else ""
        return (
            f"loss {means['loss']:.4f} bpp {means['bpp']:.3f} {quality}norm {means['norm']:.2f} lr {self.rate:.1e} "
            f"crops/s {speed:.1f} ({speed * self.share:.0%} of the machine)"
        )

    def _averaged(self) -> Codec:
        """A model of the EMA weights."""
        with torch.random.fork_rng(devices=[]):  # training goes on as if nothing had been judged
            model = Codec(self.network.config).to(self.device)
        model.load_state_dict(self.average.weights)
        return model

    def judge_files(self) -> None:
        """Log rate and distortion of real files of the EMA weights, or once, why that cannot be done."""
        if self.files is None or self.validation is None:
            return
        try:
            self.files(self._averaged().eval(), self.pictures, self.validation, self.c.eval_pictures, self.say)
        except ModuleNotFoundError as error:
            self.say(f"files are left out: {error.name} is not installed")
            self.files = None

    def report(self) -> None:
        """Log the validation table of the EMA weights."""
        if self.validation is None:
            return
        model = self._averaged()
        for row in evaluate(model, self.validation, self.c.eval_pictures, self.device):
            self.say(
                "val {tune} level {level:.1f}: {bpp:.4f} bpp {psnr:.3f} dB, MS-SSIM {ms_ssim:.3f} dB "
                "(base alone {base:.2f} dB)".format(**row)
            )
            level = f"{row['tune']}/{row['level']:.1f}"
            self._draw({f"validation bpp/{level}": row["bpp"], f"validation psnr/{level}": row["psnr"]})
        if self.board is not None:
            self._show(self.board, model, self.validation)

    @torch.no_grad()
    def _show(self, board: Any, model: Codec, pictures: Pictures) -> None:
        """A validation picture beside what two levels and the base layer alone make of it, for TensorBoard."""
        x = pictures.sample(0, 384)
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

    def content(self) -> dict[str, Any]:
        """The shape, the optimisers and the phase; the base prior that came along."""
        return {
            "config": to_dict(self.network.config), "phase": self.c.phase, "train": to_dict(self.c),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "base_prior": self.base_prior,
        }  # fmt: skip
