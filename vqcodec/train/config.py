# SPDX-License-Identifier: MIT
"""The configuration of a model and of a training run: two frozen dataclasses, a TOML file and overrides. No torch."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from vqcodec.errors import UsageError

T = TypeVar("T")
FRONTENDS = ("klt", "dct", "random")
TUNES = ("psnr", "eye")  # what a model serves: least squared error, or what people see
LEARNS = {  # phase -> weights that learn in it
    "joint": ("analysis", "synthesis", "prior", "log_step"),
    "steps": ("log_step", "prior.place_strength", "prior.activity"),
    "prior": ("prior.steps",),  # alone: what the base layer says stays, and so does every picture
    "decoder": ("synthesis", "prior"),
    "synthesis": ("synthesis",),
    "analysis": ("analysis",),
}


def check_optimiser(name: str) -> None:
    """Raises a UsageError for an optimiser that there is not."""
    if name not in ("adamw", "soap"):
        raise UsageError(f"optimiser must be 'adamw' or 'soap', not {name!r}")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one model; stored in every checkpoint and in the exported model's metadata.

    Widths are channels; `*_blocks` count residual blocks at 1/8 and 1/16 of the picture's resolution.
    """

    latents: int = 320
    frontend: str = "klt"  # "klt", "dct" or "random" (an orthonormal basis): the start of the linear shortcut
    analysis_width8: int = 128
    analysis_width16: int = 192
    analysis_blocks8: int = 3
    analysis_blocks16: int = 3
    synthesis_width8: int = 128
    synthesis_width16: int = 192
    synthesis_blocks8: int = 3
    synthesis_blocks16: int = 2
    codebook_size: int = 1024
    codebook_dim: int = 16
    prior_width: int = 192
    prior_base_blocks: int = 2
    chunks: tuple[int, ...] = (8, 16, 32, 40, 96, 128)  # latent channels per chunk
    checkerboard: tuple[int, ...] = (2, 2, 1)  # context steps of a chunk, the last for the rest: 2 halves, or 1
    carry: bool = True  # each context step goes on from features of the one before, too
    base_prior_width: int = 96
    tunes: tuple[str, ...] = TUNES  # each has steps and gains of its own
    anchors: int = 8  # points of the quality scale at which steps and gains are learned; linear in between
    lambda_min: float = 4.0  # bits per pixel per unit of MSE on [0, 1] samples, at the lowest refined quality
    lambda_max: float = 22760.0

    def __post_init__(self) -> None:
        if sum(self.chunks) != self.latents:
            raise UsageError(f"the chunks {self.chunks} do not add up to {self.latents} latent channels")
        if not self.checkerboard or any(halves not in (1, 2) for halves in self.checkerboard):
            raise UsageError(f"checkerboard must be 1 or 2 for each chunk, not {self.checkerboard!r}")
        if self.frontend not in FRONTENDS:
            raise UsageError(f"frontend must be one of {', '.join(FRONTENDS)}, not {self.frontend!r}")
        if not self.tunes or not set(self.tunes) <= set(TUNES):
            raise UsageError(f"tunes must be of {', '.join(TUNES)}, not {self.tunes!r}")

    @property
    def rows(self) -> int:
        """Rows of the tables of steps and gains: the anchors of every tune."""
        return self.anchors * len(self.tunes)

    def halves(self) -> tuple[int, ...]:
        """Context steps of each chunk: 2 for the halves of a checkerboard, or 1."""
        return (self.checkerboard + self.checkerboard[-1:] * len(self.chunks))[: len(self.chunks)]


@dataclass(frozen=True)
class PhaseConfig:
    """What every phase has. `steps` or `minutes` ends it, whichever comes first (0 = not limited by it)."""

    steps: int = 0
    minutes: float = 0.0
    batch: int = 8
    crop: int = 192
    learning_rate: float = 1e-3
    final_rate: float = 0.02  # learning rate at the end, as a part of `learning_rate`
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 1
    log_seconds: float = 20.0
    save_minutes: float = 5.0
    eval_minutes: float = 15.0
    eval_pictures: int = 12
    bf16: bool = True


@dataclass(frozen=True)
class TrainConfig(PhaseConfig):
    """The phases that train the codec."""

    phase: str = "joint"  # which parts learn, on which quantisation: a name of `LEARNS`
    optimiser: str = "adamw"  # or "soap": SOAP for the weights of the 1x1 convolutions, AdamW for the others
    smallest: int = (
        64  # pixels: pictures with a shorter side are left out; those below 64 are padded to multiples of 16
    )
    augment: bool = True  # flip, turn and reduce the crops
    patterns: float = 0.05  # part of the crops that are synthetic patterns instead of photographs
    eye: float = 0.5  # part of the samples that are of the eye tune, where the model has it
    similarity: float = 0.6  # part of 1 - MS-SSIM in the distortion of the eye tune
    weight_balance: float = 0.45  # each sample's loss is divided by lambda ** this, so that all rates count alike
    base_only_weight: float = 1.0
    commitment: float = 0.05
    files_minutes: float = 0.0  # real files of validation pictures are written and judged this often; 0: never
    compile: bool = False

    def __post_init__(self) -> None:
        if self.smallest < 1:
            raise UsageError(f"smallest must be 1 or more pixels, not {self.smallest}")
        check_optimiser(self.optimiser)


@dataclass(frozen=True)
class TextureConfig:
    """The shape of the realistic decoder's network: channels and residual blocks at 1/16, 1/8 and 1/4; its filters."""

    width16: int = 96
    width8: int = 64
    width4: int = 64
    blocks16: int = 2
    blocks8: int = 2
    blocks4: int = 2
    noise_filters: int = 16
    noise_size: int = 9  # pixels, odd
    picture_filters: int = 12  # of 5 pixels


@dataclass(frozen=True)
class RealismConfig(PhaseConfig):
    """The adversarial phase."""

    crop: int = 128
    learning_rate: float = 5e-4
    judge_rate: float = 1e-3  # the discriminator's
    final_rate: float = 0.05  # of both learning rates
    warmup: int = 100
    ema: float = 0.998
    budget_db: float = 1.2  # decibels of PSNR that full realism may cost, on average over the training crops
    base_only: float = 0.2  # part of the samples restored from the base layer alone
    low_rates: float = 0.8  # part of the others in the lower 0.55 of the quality scale
    texture: float = 20.0  # weight of the Wasserstein distortion
    similarity: float = 0.05  # of multi-scale structural similarity
    low_pass: float = 2.0  # of the error in the means of 8 x 8 pixels against the faithful picture
    adversarial: float = 0.5  # of the adversarial loss, whose gradient is first brought to the size of the others'
    features: float = 0.05  # of feature matching
    alone: float = 0.2  # part of the phase before the discriminator takes part
    full: float = 1.0  # the realism in training that a reader's realism of 1 stands for: for the export alone
    perceptual: str = ""  # "lpips": also the user's own LPIPS network, through torchmetrics
    perceptual_weight: float = 0.5
    eval_pictures: int = 6

    def __post_init__(self) -> None:
        if self.perceptual not in ("", "lpips"):
            raise UsageError(f"perceptual must be '' or 'lpips', not {self.perceptual!r}")


@dataclass(frozen=True)
class DenoiserConfig:
    """The shape of the denoiser's network: channels, and residual blocks on each way, at 1/2, 1/4 and 1/8."""

    width2: int = 40
    width4: int = 96
    width8: int = 160
    blocks2: int = 2
    blocks4: int = 2
    blocks8: int = 3


@dataclass(frozen=True)
class NoiseConfig(PhaseConfig):
    """The denoiser's phase."""

    batch: int = 16
    crop: int = 128
    optimiser: str = "soap"  # as in TrainConfig
    decode: float = 0.25  # part of the samples that start from a decoded picture and go back to the original
    repair: float = 0.15  # part of the samples with holes to fill; the rest has noise to remove
    sigma_low: float = 0.008  # noise levels are drawn evenly in the logarithm, from here ...
    sigma_high: float = 0.25  # ... to here where noise is to be removed, to 1 in the other samples

    def __post_init__(self) -> None:
        check_optimiser(self.optimiser)
        if not 0 <= self.decode <= 1 - self.repair <= 1:
            raise UsageError(f"decode and repair are parts of the samples, not {self.decode} and {self.repair}")
        if not 0 < self.sigma_low <= self.sigma_high <= 1:
            raise UsageError("the noise levels must be above 0 and at most 1, sigma_low first")
        if self.crop % 16 or self.crop < 16:
            raise UsageError(f"crop must be a multiple of 16 pixels, not {self.crop}")


TABLES = ("model", "train", "texture", "realistic", "denoiser", "noise")


def load_toml(path: Path | None, wanted: tuple[str, str] = ("model", "train")) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read two tables of a TOML file, which may have the others of `TABLES`, too; two empty tables for None."""
    if path is None:
        return {}, {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from None
    unknown = set(tables) - set(TABLES)
    if unknown:
        known = ", ".join(f"[{name}]" for name in TABLES)
        raise UsageError(f"{path}: unknown table [{sorted(unknown)[0]}]; known are {known}")
    return tables.get(wanted[0], {}), tables.get(wanted[1], {})


def override(config: T, values: dict[str, Any]) -> T:
    """Return `config` with the named fields replaced, text converted to the field's own type.

    Raises:
        UsageError: a name that the configuration does not have, or a value that does not convert.
    """
    known = {field.name for field in fields(config)}  # type: ignore[arg-type]
    out: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"unknown setting {name!r}; known are {', '.join(sorted(known))}")
        old = getattr(config, name)
        try:
            if isinstance(old, tuple):
                parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
                kind = type(old[0]) if old else str
                out[name] = tuple(kind(part) for part in parts)
            elif isinstance(old, bool):
                out[name] = value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]
            else:
                out[name] = type(old)(value)
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{name} = {value!r} is not a {type(old).__name__}") from None
    return replace(config, **out)  # type: ignore[type-var]


def to_dict(config: ModelConfig | TextureConfig | DenoiserConfig | PhaseConfig) -> dict[str, Any]:
    """The configuration as a plain dict (JSON, checkpoints)."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
