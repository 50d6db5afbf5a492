# SPDX-License-Identifier: MIT
"""The adversarial phase: the realistic decoder's network learns against a discriminator, the codec stays as it is.

What is minimised at full realism is how different texture looks (local statistics, structural similarity, the
discriminator), under a budget: the PSNR may fall by so many decibels below the faithful picture's and no more. The
price of the squared error is what keeps the budget; it is found while training. With realism below 1 the same price
stands against so much less of everything else.

The discriminator joins after a while (Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image
Synthesis", CVPR 2021), and its gradient is brought to the size of the texture losses' at the last layer, as there.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqcodec.errors import InputError, UsageError
from vqcodec.train.codec import Codec
from vqcodec.train.config import RealismConfig, TextureConfig, override, to_dict
from vqcodec.train.data import Pictures
from vqcodec.train.discriminator import Discriminator, feature_distance, judge_loss
from vqcodec.train.layers import channels_last
from vqcodec.train.losses import mse_per_sample, psnr
from vqcodec.train.perception import ms_ssim, wasserstein_distortion
from vqcodec.train.quantise import Quantisation
from vqcodec.train.steps import Phase, checkpoint_errors, clip_gradients
from vqcodec.train.texture import Texture

CHECKPOINT = "realistic.pt"
LOW = 0.55  # of the quality scale: about 0.2 bpp
EVAL_LEVELS = (0.2, 0.4, 0.55)
EVAL_REALISMS = (0.0, 0.5, 1.0)
PRICE_RATE = 0.02  # how fast the price of the squared error follows the budget, per step and decibel


class Decoded(NamedTuple):
    """What a file holds of a batch, and the faithful picture."""

    latents: Tensor  # [B, M, h, w]
    weights: Tensor  # [B, R + 1] anchor weights of the synthesis
    faithful: Tensor  # [B, 3, H, W], not clipped


@torch.no_grad()
def decoded(codec: Codec, x: Tensor, level: Tensor, alone: int) -> Decoded:
    """Code a batch as the encoder does; the first `alone` samples from the base layer alone."""
    coded = codec.code(x, level, quantisation=Quantisation.CHOICE)
    latents = torch.cat([coded.base_mean[:alone], coded.latents[alone:]])
    weights = torch.cat([codec.base_only_weights(alone), F.pad(coded.weights[alone:], (0, 1))])
    return Decoded(latents, weights, codec.synthesis(latents, weights))


def uniform_noise(like: Tensor) -> Tensor:
    """Uniform noise of variance 1 for pictures [B, 3, H, W]: [B, 1, H, W]."""
    return (torch.rand_like(like[:, :1]) - 0.5) * math.sqrt(12)


def fingerprint(codec: Codec) -> int:
    """Tells codecs apart: CRC-32 of the synthesis, whose pictures the network has learned to add to."""
    value = 0
    for tensor in codec.synthesis.state_dict().values():
        value = zlib.crc32(tensor.detach().cpu().float().contiguous().numpy().tobytes(), value)
    return value


def load_texture(path: Path, codec: Codec) -> tuple[Texture, dict[str, Any]]:
    """A checkpoint's averaged network, and everything else that was saved.

    Raises:
        InputError: not there, not such a checkpoint, or of another codec.
    """
    with checkpoint_errors(path):
        content = torch.load(path, map_location="cpu", weights_only=True)
        texture = Texture(codec.config, override(TextureConfig(), content["texture"]))
        texture.load_state_dict(content["ema"])
        made_for = int(content["codec"])
    if made_for != fingerprint(codec):
        raise InputError(f"{path} was trained for another codec than the checkpoint given")
    return texture, content


def _perceptual(name: str, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    if not name:
        return None
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError:
        raise UsageError("perceptual=lpips needs torchmetrics and torchvision, and their weights") from None
    network = LearnedPerceptualImagePatchSimilarity("vgg", normalize=True).to(device).eval()

    def distance(a: Tensor, b: Tensor) -> Tensor:
        value: Tensor = network(a.clamp(0, 1), b)
        network.reset()  # or it would gather every step's graph for an average that nobody asks for
        return value

    return distance


class RealismTrainer(Phase[RealismConfig, Texture]):
    """The adversarial phase of one codec; it goes on from `out`/realistic.pt where that is there.

    Args:
        codec: frozen, on CPU.
        shape: of the network.
        pictures, validation, config, out, device: as of `Phase`.
    """

    checkpoint, name = CHECKPOINT, "realistic"

    def __init__(
        self,
        codec: Codec,
        pictures: Pictures,
        validation: Pictures | None,
        shape: TextureConfig,
        config: RealismConfig,
        out: Path,
        device: torch.device,
    ) -> None:
        torch.manual_seed(config.seed)
        texture, judge = Texture(codec.config, shape), Discriminator(codec.config)
        for part in (texture, judge):
            part.sigma.copy_(codec.synthesis.sigma)
        super().__init__(config, texture, pictures, validation, out, device)
        self.codec = channels_last(codec, device).eval()
        self.codec.requires_grad_(False)
        self.codec.quantiser.learns = False
        self.judge = channels_last(judge, device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), betas=(0.5, 0.98))
        self.judge_optimiser = torch.optim.Adam(self.judge.parameters(), betas=(0.5, 0.98))
        self.log_price = -4.0  # of one unit of (squared error / the faithful picture's), natural logarithm
        self.balance = 0.0  # factor that brings the adversary's gradient to the others' size
        self.perceptual = _perceptual(config.perceptual, device)
        if (out / CHECKPOINT).exists():
            self._resume(out / CHECKPOINT)

    def _resume(self, path: Path) -> None:
        texture, content = load_texture(path, self.codec)
        if texture.config != self.network.config:
            raise InputError(f"{path} holds a network of another shape than the settings say")
        self.judge.load_state_dict(content["judge"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.judge_optimiser.load_state_dict(content["judge_optimiser"])
        self.go_on(content)
        self.log_price, self.balance = float(content["log_price"]), float(content["balance"])

    def content(self) -> dict[str, Any]:
        """The shape, the phase, the discriminator, the optimisers and the balance found."""
        return {
            "texture": to_dict(self.network.config), "config": to_dict(self.c), "codec": fingerprint(self.codec),
            "judge": self.judge.state_dict(), "optimiser": self.optimiser.state_dict(),
            "judge_optimiser": self.judge_optimiser.state_dict(), "log_price": self.log_price, "balance": self.balance,
        }  # fmt: skip

    def averaged(self) -> Texture:
        """The network with the averaged weights, which is the one to use."""
        texture = Texture(self.codec.config, self.network.config).to(self.device)
        texture.load_state_dict(self.average.weights)
        return texture.eval()

    def _batch(self, rng: np.random.Generator) -> tuple[Tensor, Decoded, Tensor]:
        """Originals, what is decoded of them, and the realism to train for."""
        c = self.c
        x = self.pictures.crops(rng, c.batch, c.crop).contiguous(memory_format=torch.channels_last)
        level = np.where(rng.random(c.batch) < c.low_rates, LOW * rng.random(c.batch), rng.random(c.batch))
        alone = int(rng.binomial(c.batch, c.base_only))
        realism = np.where(rng.random(c.batch) < 0.5, 1.0, rng.random(c.batch))
        found = decoded(self.codec, x, torch.from_numpy(level.astype(np.float32)).to(self.device), alone)
        return x, found, torch.from_numpy(realism.astype(np.float32)).to(self.device)[:, None]

    def _rates(self, done: float) -> None:
        for optimiser, rate in ((self.optimiser, self.c.learning_rate), (self.judge_optimiser, self.c.judge_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * self.rate_factor(done)

    def one_step(self, rng: np.random.Generator, done: float) -> dict[str, float]:
        """One update of the network, and of the discriminator once it takes part; what to log."""
        c = self.c
        self._rates(done)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.bf16):
            x, seen, realism = self._batch(rng)
            restored = self.network(seen.latents, seen.faithful, seen.weights, realism, uniform_noise(x))
        restored, weight = restored.float(), realism[:, 0]
        look = c.texture * wasserstein_distortion(restored, x) + c.similarity * (1 - ms_ssim(restored, x))
        if self.perceptual is not None:
            look = look + c.perceptual_weight * self.perceptual(restored, x).reshape(-1)
        look_loss = (weight * look).mean()
        error = mse_per_sample(seen.faithful.float(), x).clamp(min=1e-6)
        ratio = mse_per_sample(restored, x) / error
        moved = F.avg_pool2d(restored - seen.faithful.float(), 8).square().mean((1, 2, 3)) / error
        loss = look_loss + math.exp(self.log_price) * (ratio + c.low_pass * moved).mean()
        figures = {"look": float(look_loss.detach())}
        if done >= c.alone:
            adversary, more = self._adversary(restored, x, seen.latents, weight, look_loss)
            loss = loss + adversary
            figures.update(more)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        figures["norm"] = float(clip_gradients(self.network.parameters(), c.clip))
        self.optimiser.step()
        if done >= c.alone:
            figures.update(self._teach_judge(restored.detach()[weight > 0.5], x, seen.latents, weight > 0.5))
        decibels = 10 * torch.log10(ratio.detach())
        if bool((weight > 0.9).any()):
            figures["cost"] = float(decibels[weight > 0.9].mean())
            step = PRICE_RATE * (figures["cost"] - c.budget_db)
            self.log_price = float(np.clip(self.log_price + step, -8, 4))
        return figures

    def _adversary(
        self, restored: Tensor, x: Tensor, latents: Tensor, weight: Tensor, look: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The adversarial loss and feature matching, scaled, and what to log of them."""
        c = self.c
        self.judge.requires_grad_(False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=c.bf16):
            fake, features = self.judge(restored.clamp(0, 1), latents)
            with torch.no_grad():
                _, wanted = self.judge(x, latents)
        adversary = -(weight[:, None, None, None] * fake).mean()
        if self.step % 8 == 0 or not self.balance:
            last = self.network.out.weight
            (of_look,) = torch.autograd.grad(look, last, retain_graph=True)
            (of_judge,) = torch.autograd.grad(adversary, last, retain_graph=True)
            now = min(1e3, float(of_look.norm() / (of_judge.norm() + 1e-8)))
            self.balance = now if not self.balance else 0.9 * self.balance + 0.1 * now
        matching = (weight * feature_distance(wanted, features)).mean()
        ramp = min(1.0, (self.done() - c.alone) / max(1e-9, 0.1 * (1 - c.alone)))
        loss = ramp * self.balance * (c.adversarial * adversary) + ramp * c.features * matching
        return loss, {"adversary": float(adversary.detach()), "features": float(matching.detach())}

    def _teach_judge(self, restored: Tensor, x: Tensor, latents: Tensor, chosen: Tensor) -> dict[str, float]:
        """One update of the discriminator; how often it is right on either side."""
        if not len(restored):
            return {}
        x, latents = x[chosen], latents[chosen]
        self.judge.requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.c.bf16):
            both, _ = self.judge(torch.cat([x, restored.clamp(0, 1)]), torch.cat([latents, latents]))
        real, fake = both.float().chunk(2)
        loss = judge_loss(real, fake)
        self.judge_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(self.judge.parameters(), self.c.clip)
        self.judge_optimiser.step()
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return {"judge": float(loss.detach()), "right": float(right)}

    def told(self, means: dict[str, float], speed: float) -> str:
        """All figures, what the squared error costs, and the adversary's factor."""
        text = " ".join(f"{name} {value:.5f}" for name, value in means.items())
        return f"{text} price {math.exp(self.log_price):.4f} balance {self.balance:.3f} crops/s {speed:.1f}"

    def report(self) -> None:
        """Log what the averaged network does on validation pictures, where there are any."""
        if self.validation is None:
            return
        rows = evaluate(self.codec, self.averaged(), self.validation, self.c.eval_pictures, self.device)
        for row in rows:
            self.say(
                "val level {level:.2f} realism {realism:.1f}: {psnr:.3f} dB, texture distance {texture:.6f}, "
                "1 - MS-SSIM {similarity:.4f}".format(**row)
            )


@torch.no_grad()
def evaluate(
    codec: Codec, texture: Texture, pictures: Pictures, count: int, device: torch.device
) -> list[dict[str, float]]:
    """PSNR, Wasserstein distortion and structural dissimilarity per level and realism; level -1 is the base alone."""
    rows: list[dict[str, float]] = []
    numbers = pictures.spread(count)
    for level in (-1.0, *EVAL_LEVELS):
        found = []
        for number in numbers:
            torch.manual_seed(number)
            x = pictures.sample(number)
            seen = decoded(codec, x, torch.tensor([max(0.0, level)], device=device), int(level < 0))
            noise = uniform_noise(x)
            for realism in EVAL_REALISMS:
                weight = torch.tensor([[realism]], device=device)
                out = texture(seen.latents, seen.faithful, seen.weights, weight, noise).clamp(0, 1)
                distance, alike = wasserstein_distortion(out, x), ms_ssim(out, x)
                found.append((psnr(float(mse_per_sample(out, x))), float(distance), 1 - float(alike)))
        means = np.array(found).reshape(len(numbers), len(EVAL_REALISMS), 3).mean(0)
        for realism, (decibels, distance_, unlike) in zip(EVAL_REALISMS, means.tolist(), strict=True):
            row = {"level": level, "realism": realism, "psnr": decibels, "texture": distance_, "similarity": unlike}
            rows.append(row)
    return rows
