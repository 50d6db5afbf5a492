# SPDX-License-Identifier: MIT
"""What a caller may choose: defaults, ranges and rules, each written once. No picture, no model, no bytes."""

from __future__ import annotations

import math
import numbers
import os
from dataclasses import dataclass

from vqcodec.errors import UsageError

BASE_ONLY_QUALITY = 1  # the lowest quality: the base layer alone
MAX_QUALITY = 100
DEFAULT_QUALITY = 75
MAX_EFFORT = 9
MAX_THREADS = 1024
DEFAULT_EFFORT = 5
DEFAULT_MAX_PIXELS = 268_435_456  # 2^28 pixels, 16,384 x 16,384
BYTES_PER_PIXEL = 16  # no picture or .vqc file that anybody writes takes more, but for metadata:
METADATA_BYTES = 64 << 20
TILE_LOG2 = 10
SCALES = (1, 2, 4, 8)
DECODERS = ("faithful", "realistic", "diffusion")
MAX_STEPS, DEFAULT_STEPS = 8, 4  # of the denoiser's sampler
EXECUTIONS = ("cpu", "cuda")  # what runs the transforms
TUNES = ("psnr", "eye")  # what a file serves: least squared error, or what people see
DEFAULT_TUNE = "eye"  # of models that have it
MAX_SEED = 2**63 - 1
MAX_TEMPERATURE = 4.0
SAMPLE_QUALITY, SAMPLE_TEMPERATURE = 50, 0.8  # of pictures drawn from the priors
KEEP_BASE = "base"
AUTO_NOISE, MAX_NOISE = "auto", 100.0  # levels of 255: more than any camera's

ModelName = str | os.PathLike[str]  # a shipped model's id, or a folder
Region = tuple[int, int, int, int]  # x, y, width, height in pixels


def most_file_bytes(max_pixels: int) -> int:
    """More bytes than any file of a picture of so many pixels has: where reading a stream that does not end stops."""
    return BYTES_PER_PIXEL * max_pixels + METADATA_BYTES


def whole_number(name: str, value: object, low: int, high: int | None = None) -> int:
    """A value of a whole number type, NumPy's among them, as an int.

    Raises:
        UsageError: it is something else (True and False are), or out of range.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
        if low <= number and (high is None or number <= high):
            return number
    most = "" if high is None else f" to {high:,}"
    raise UsageError(f"{name} must be a whole number from {low}{most}, not {value!r}")


def _real_number(name: str, value: object, whole: bool = False) -> float:
    """A value of a number type, NumPy's among them, as a float, or an int where it must be whole.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, numbers.Integral if whole else numbers.Real) or isinstance(value, bool):
        raise UsageError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _check_model(model: object) -> None:
    if model is not None and not isinstance(model, str | os.PathLike):
        raise UsageError(f"model must be an id or a folder, not {model!r}")


def _check_choice(name: str, value: object, known: tuple[str, ...], *, optional: bool = True) -> None:
    if not (optional and value is None) and not (isinstance(value, str) and value in known):
        raise UsageError(f"there is no {name} {value!r}; known are {', '.join(known[:-1])} and {known[-1]}")


def check_quality(quality: object) -> int:
    """A quality as an int.

    Raises:
        UsageError: it is not a whole number from 1 to 100.
    """
    return whole_number("quality", quality, BASE_ONLY_QUALITY, MAX_QUALITY)


def check_noise(noise: object) -> str | float:
    """A standard deviation in levels of 255 as a float, or "auto".

    Raises:
        UsageError: it is something else, or not from 0 to 100.
    """
    if noise == AUTO_NOISE:
        return AUTO_NOISE
    if isinstance(noise, str):
        raise UsageError(f"the noise must be {AUTO_NOISE} or a number of levels, not {noise!r}")
    level = _real_number("the noise", noise)
    if not 0 <= level <= MAX_NOISE:
        raise UsageError(f"the noise must be a number of levels from 0 to {MAX_NOISE:g}, not {level:g}")
    return float(level)


def check_region(region: object) -> Region:
    """A region as four ints.

    Raises:
        UsageError: it is something else.
    """
    try:
        parts = list(region)  # type: ignore[call-overload]
    except TypeError:
        parts = []
    if len(parts) != 4:
        raise UsageError(f"region must be x, y, width and height, not {region!r}")
    low = -(2**63)  # whether it lies inside is known when the picture is
    x, y, width, height = (
        whole_number(name, part, low) for name, part in zip(("x", "y", "width", "height"), parts, strict=True)
    )
    return x, y, width, height


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode, whatever the quality.

    Attributes:
        effort: 1 to 9; more is smaller and slower.
        threads: 0 for all processors.
        model: None for the default.
        strip: leave out EXIF and XMP.
        tile_log2: of the side of a tile in pixels.
        tune: "psnr" or "eye"; None for "eye", where the model has it.
        execution: "cpu" or "cuda": what runs the transforms.
        patches: keep without loss what is better kept so (effort 3 and more).
        denoise: remove noise before coding: its standard deviation in levels of 255, 0 to 100, or "auto" to estimate
            it; None for no.

    Raises:
        UsageError: a value out of range.
    """

    effort: int = DEFAULT_EFFORT
    threads: int = 0
    model: ModelName | None = None
    strip: bool = False
    tile_log2: int = TILE_LOG2
    tune: str | None = None
    execution: str = "cpu"
    patches: bool = True
    denoise: str | float | None = None

    def __post_init__(self) -> None:
        _check_choice("tune", self.tune, TUNES)
        _check_choice("execution", self.execution, EXECUTIONS, optional=False)
        _check_model(self.model)
        if self.denoise is not None:
            object.__setattr__(self, "denoise", check_noise(self.denoise))
        object.__setattr__(self, "effort", whole_number("effort", self.effort, 1, MAX_EFFORT))
        object.__setattr__(self, "threads", whole_number("threads", self.threads, 0, MAX_THREADS))


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode; see `api.decode`.

    Raises:
        UsageError: a value of another type or out of range, or an option of another decoder.
    """

    decoder: str | None = None
    realism: float | None = None
    region: Region | None = None
    scale: int = 1
    threads: int = 0
    model: ModelName | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    allow_partial: bool = False
    execution: str = "cpu"
    steps: int | None = None  # of the diffusion decoder
    seed: int | None = None  # the same

    def __post_init__(self) -> None:
        _check_choice("execution", self.execution, EXECUTIONS, optional=False)
        scale = self.scale if isinstance(self.scale, numbers.Integral) and not isinstance(self.scale, bool) else 0
        if scale not in SCALES:
            raise UsageError(f"scale must be 1, 2, 4 or 8, not {self.scale!r}")
        _check_choice("decoder", self.decoder, DECODERS)
        _check_model(self.model)
        if self.realism is not None:
            realism = _real_number("realism", self.realism)
            if not 0 <= realism <= 1:
                raise UsageError(f"realism must be a number from 0 to 1, not {realism:g}")
            object.__setattr__(self, "realism", realism)
        if self.region is not None:
            object.__setattr__(self, "region", check_region(self.region))
        object.__setattr__(self, "scale", int(scale))
        object.__setattr__(self, "threads", whole_number("threads", self.threads, 0, MAX_THREADS))
        object.__setattr__(self, "max_pixels", whole_number("max_pixels", self.max_pixels, 1))
        if self.decoder in ("faithful", "diffusion") and self.realism:
            raise UsageError(f"realism is for the realistic decoder; the {self.decoder} one has none")
        for name, low, high in (("steps", 1, MAX_STEPS), ("seed", 0, MAX_SEED)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name), low, high))
                if self.decoder != "diffusion":
                    raise UsageError(f"{name} is for the diffusion decoder: give decoder diffusion, too")

    @property
    def texture(self) -> float:
        """How much of the realistic decoder's texture: 0, the faithful picture, to 1."""
        if self.realism is not None:
            return float(self.realism)
        return 1.0 if self.decoder == "realistic" else 0.0


@dataclass(frozen=True)
class SampleOptions:
    """How to draw a picture from the priors; see `api.sample`.

    Raises:
        UsageError: a value of another type or out of range.
    """

    temperature: float = SAMPLE_TEMPERATURE
    quality: int | None = None  # None: that of the .vqc file to vary, or SAMPLE_QUALITY
    tune: str | None = None
    decoder: str | None = None
    keep: str | int = KEEP_BASE  # of a picture to vary: the base layer, or it and so many steps of the refinement
    threads: int = 0
    model: ModelName | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS

    def __post_init__(self) -> None:
        _check_choice("tune", self.tune, TUNES)
        _check_choice("decoder", self.decoder, DECODERS)
        _check_model(self.model)
        temperature = _real_number("temperature", self.temperature)
        if not 0 <= temperature <= MAX_TEMPERATURE:
            raise UsageError(f"temperature must be a number from 0 to {MAX_TEMPERATURE:g}, not {temperature:g}")
        object.__setattr__(self, "temperature", float(temperature))
        if self.quality is not None:
            object.__setattr__(self, "quality", check_quality(self.quality))
        if self.keep != KEEP_BASE:
            try:
                object.__setattr__(self, "keep", whole_number("keep", self.keep, 1))
            except UsageError:
                raise UsageError(f"keep must be {KEEP_BASE!r} or a number of steps, not {self.keep!r}") from None
        object.__setattr__(self, "threads", whole_number("threads", self.threads, 0, MAX_THREADS))
        object.__setattr__(self, "max_pixels", whole_number("max_pixels", self.max_pixels, 1))

    @property
    def kept_steps(self) -> int:
        """Steps of the refinement that are kept, beside the base layer."""
        return 0 if self.keep == KEEP_BASE else int(self.keep)


@dataclass(frozen=True)
class Target:
    """What a file is to be: one of the five, or none for the default quality.

    Raises:
        UsageError: more than one, or a value that cannot be.
    """

    bpp: float | None = None  # bits of the whole file per pixel
    psnr: float | None = None  # [dB] of the RGB samples
    max_bytes: int | None = None
    quality: int | None = None
    lossless: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.lossless, bool):
            raise UsageError(f"lossless must be True or False, not {self.lossless!r}")
        given = [name for name in ("quality", "bpp", "psnr", "max_bytes") if getattr(self, name) is not None]
        given += ["lossless"] if self.lossless else []
        if len(given) > 1:
            raise UsageError(f"{given[0]} and {given[1]} cannot both be met: give one of them")
        if self.quality is not None:
            object.__setattr__(self, "quality", check_quality(self.quality))
        for name in ("bpp", "psnr", "max_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            number = _real_number(name, value, whole=name == "max_bytes")
            if not 0 < number < math.inf:
                raise UsageError(f"{name} must be greater than 0, not {value!r}")
            object.__setattr__(self, name, number)

    @property
    def aim(self) -> float | None:
        """What is searched for; None for a quality."""
        return next((value for value in (self.bpp, self.psnr, self.max_bytes) if value is not None), None)
