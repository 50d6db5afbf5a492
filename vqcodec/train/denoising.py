# SPDX-License-Identifier: MIT
"""The denoiser's phase: one network learns to remove noise, to go back from decoded pictures, and to fill holes.

Every sample is a picture with Gaussian noise (model/denoiser.py says how) of which the network estimates the picture:
with noise everywhere, of a level drawn evenly in the logarithm, clipped and rounded as in files of 8 bits, some of them
gray; with a decoded picture as its condition; or with noise in holes alone, half of which hold nothing else. The codec
is frozen. It resumes from `OUT/denoiser.pt`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqcodec.errors import InputError, UsageError
from vqcodec.model.denoiser import SIGMA_MAX
from vqcodec.train.codec import Codec
from vqcodec.train.config import DenoiserConfig, NoiseConfig, override, to_dict
from vqcodec.train.data import Pictures
from vqcodec.train.denoiser import Denoiser, conditions, objective
from vqcodec.train.layers import channels_last
from vqcodec.train.losses import mse_per_sample, psnr
from vqcodec.train.optimiser import optimisers, update
from vqcodec.train.perception import opponent
from vqcodec.train.quantise import Quantisation
from vqcodec.train.steps import Figures, Phase, checkpoint_errors

CHECKPOINT = "denoiser.pt"
LEVELS = (15, 25, 50)  # standard deviations, of 255, on which it is judged
LOW = 0.55  # of the quality scale: decoded pictures of about 0.2 bpp and less
JUDGED_SIDE = 256  # pixels


def holes(rng: np.random.Generator, count: int, side: int) -> NDArray[np.float32]:
    """Masks [count, side, side] float32, 1 in the holes: strokes and spots, like scratches, dust and small objects."""
    out = np.zeros((count, side, side), np.float32)
    rows, columns = np.mgrid[0:side, 0:side]
    for mask in out:
        for _ in range(int(rng.integers(1, 6))):
            y, x = rng.uniform(0, side, 2)
            angle, length, width = rng.uniform(0, np.pi), rng.uniform(0, side / 2), rng.uniform(1, side / 12)
            along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
            across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
            mask[np.hypot(np.maximum(np.abs(along) - length / 2, 0), across) < width] = 1
        if not mask.any():
            mask[side // 2, side // 2] = 1
    return out


def load_denoiser(path: Path) -> tuple[Denoiser, dict[str, Any]]:
    """A checkpoint's averaged network, and everything else that was saved.

    Raises:
        InputError: not there, or not such a checkpoint.
    """
    with checkpoint_errors(path):
        content = torch.load(path, map_location="cpu", weights_only=True)
        network = Denoiser(override(DenoiserConfig(), content["denoiser"]))
        network.load_state_dict(content["ema"])
    return network, content


class DenoiserTrainer(Phase[NoiseConfig, Denoiser]):
    """The denoiser's phase; it goes on from `out`/denoiser.pt where that is there.

    Args:
        codec: frozen, on CPU; None where no samples start from decoded pictures.
        shape: of the network.
        pictures, validation, config, out, device: as of `Phase`.
    """

    checkpoint, name = CHECKPOINT, "denoiser"

    def __init__(
        self,
        codec: Codec | None,
        pictures: Pictures,
        validation: Pictures | None,
        shape: DenoiserConfig,
        config: NoiseConfig,
        out: Path,
        device: torch.device,
    ) -> None:
        if config.decode and codec is None and (config.steps or config.minutes):
            raise UsageError(
                "give the codec's checkpoint with --resume, or --set decode=0 to do without decoded pictures"
            )
        torch.manual_seed(config.seed)
        super().__init__(config, Denoiser(shape), pictures, validation, out, device)
        self.codec = None if codec is None else channels_last(codec, device).eval().requires_grad_(False)
        if self.codec is not None:
            self.codec.quantiser.learns = False
        self.optimisers = optimisers(self.network.named_parameters(), config.optimiser, device.type == "cuda")
        if (out / CHECKPOINT).exists():
            self._resume(out / CHECKPOINT)

    def _resume(self, path: Path) -> None:
        network, content = load_denoiser(path)
        if network.config != self.network.config:
            raise InputError(f"{path} holds a network of another shape than the settings say")
        with checkpoint_errors(path):
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(content["optimisers"][name])
            self.go_on(content)

    def content(self) -> dict[str, Any]:
        """The shape, the phase and the optimisers."""
        return {
            "denoiser": to_dict(self.network.config), "config": to_dict(self.c),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
        }  # fmt: skip

    def averaged(self) -> Denoiser:
        """The network with the averaged weights, which is the one to use."""
        network = Denoiser(self.network.config).to(self.device)
        network.load_state_dict(self.average.weights)
        return network.eval()

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clean and noisy pictures [B, 3, S, S], sigma [B, 1, S, S], conditions [B, 4, S, S]."""
        c = self.c
        x = self.pictures.crops(rng, c.batch, c.crop)
        kinds = rng.random(c.batch)
        back, fill = kinds < c.decode, kinds > 1 - c.repair
        high = np.where(back | fill, SIGMA_MAX, c.sigma_high)
        sigma = np.exp(rng.uniform(np.log(c.sigma_low), np.log(high)))
        planes = np.broadcast_to(sigma[:, None, None], (c.batch, c.crop, c.crop)).astype(np.float32)
        planes[fill] *= holes(rng, int(fill.sum()), c.crop)
        blank = fill & (rng.random(c.batch) < 0.5)  # their holes say nothing of the picture
        planes[blank] = SIGMA_MAX * (planes[blank] > 0)
        sigmas = torch.from_numpy(planes)[:, None].to(self.device)
        noise = torch.randn_like(x)
        gray = torch.from_numpy(~back & ~fill & (rng.random(c.batch) < c.gray)).to(self.device)
        x[gray], noise[gray] = opponent(x[gray])[:, :1].expand_as(x[gray]), noise[gray, :1].expand_as(x[gray])
        noisy = x + sigmas * noise
        nothing = torch.from_numpy(blank)[:, None, None, None].to(self.device) & (sigmas > 0)
        noisy = torch.where(nothing, 0.5 + sigmas * noise, noisy)
        stored = torch.from_numpy(~back & ~fill).to(self.device)  # as files of 8 bits have it
        noisy[stored] = (255 * noisy[stored].clamp(0, 1)).round() / 255
        condition = conditions(None, x).clone()
        if back.any():
            assert self.codec is not None
            chosen = torch.from_numpy(back).to(self.device)
            level = torch.from_numpy((LOW * rng.random(int(back.sum()))).astype(np.float32)).to(self.device)
            condition[chosen] = conditions(self._decoded(x[chosen], level), x[chosen])
        return x, noisy, sigmas, condition

    @torch.no_grad()
    def _decoded(self, x: Tensor, level: Tensor) -> Tensor:
        """What the faithful decoder makes of pictures."""
        assert self.codec is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.c.bf16):
            coded = self.codec.code(x, level, quantisation=Quantisation.CHOICE)
            restored = self.codec.synthesis(coded.latents, torch.nn.functional.pad(coded.weights, (0, 1)))
        found: Tensor = restored.float().clamp(0, 1)
        return found

    def one_step(self, rng: np.random.Generator, done: float) -> Figures:
        """One update."""
        c = self.c
        clean, noisy, sigma, condition = self.batch(rng)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.bf16):
            loss = objective(self.network, clean, noisy, sigma, condition).mean()
        rate = c.learning_rate * self.rate_factor(done)
        return {"loss": loss.detach(), "norm": update(self.optimisers, loss, rate, c.clip, self.network.parameters())}

    def told(self, means: dict[str, float], speed: float) -> str:
        """Loss and norm of the gradient."""
        return f"loss {means['loss']:.4f} norm {means['norm']:.2f} crops/s {speed:.1f}"

    @torch.no_grad()
    def report(self) -> None:
        """Log the PSNR of validation pictures before and after noise of known levels is removed."""
        if self.validation is None:
            return
        network, found = self.averaged(), {level: [0.0, 0.0] for level in LEVELS}
        numbers = self.validation.spread(self.c.eval_pictures)
        for number in numbers:
            x = self.validation.sample(number, JUDGED_SIDE)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(number)).to(self.device)
            for level in LEVELS:
                noisy = (255 * (x + level / 255 * noise).clamp(0, 1)).round() / 255
                sigma = torch.full_like(x[:, :1], level / 255)
                clean = network(noisy, sigma, conditions(None, x)).clamp(0, 1)
                for place, seen in enumerate((noisy, clean)):
                    found[level][place] += psnr(float(mse_per_sample(seen, x))) / len(numbers)
        for level, (before, after) in found.items():
            self.say(f"denoiser val sigma {level}: {before:.2f} -> {after:.2f} dB")
