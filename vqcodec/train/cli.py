# SPDX-License-Identifier: MIT
"""`vqcodec train`: data in, a model folder out. The phases, one after the other, each resumable.

Without --phase: joint, then finish.

joint      analysis, synthesis, codebook and refinement prior together        -> OUT/last.pt
prior      the context steps of the refinement's prior, everything else frozen    -> OUT/last.pt
decoder    synthesis and refinement prior, encoder frozen, true quantisation  -> OUT/last.pt
analysis   the analysis alone, decoder frozen (optional)                      -> OUT/last.pt
synthesis  the synthesis alone, on truly quantised values (optional)          -> OUT/last.pt
finish     base layer's prior on frozen indices, integer tables, export       -> OUT/model/
realistic  the realistic decoder's network against a discriminator, the codec -> OUT/realistic.pt
           frozen; with --into MODEL it joins a finished model (optional)        and MODEL/realistic.onnx
denoiser   a network that removes noise, the codec frozen; with --into as above  -> OUT/denoiser.pt (optional)
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from vqcodec.errors import EXIT_INTERRUPTED, UsageError, VqcError
from vqcodec.model.zoo import MODELS, find
from vqcodec.train.arguments import check_installed, missing, parse
from vqcodec.train.attach import attach, attach_denoiser
from vqcodec.train.codec import Codec
from vqcodec.train.config import (
    DenoiserConfig,
    ModelConfig,
    NoiseConfig,
    RealismConfig,
    TextureConfig,
    TrainConfig,
    load_toml,
    override,
    to_dict,
)
from vqcodec.train.data import Pictures, load_pictures
from vqcodec.train.denoising import DenoiserTrainer
from vqcodec.train.export import integer_tables, write_model
from vqcodec.train.eye import start_eye
from vqcodec.train.files import quick_files, rate_distortion
from vqcodec.train.finish import analysed, count_tables, train_base_prior
from vqcodec.train.loop import Trainer, load_checkpoint, new_model
from vqcodec.train.prior import BasePrior
from vqcodec.train.progress import Stages
from vqcodec.train.realistic import RealismTrainer
from vqcodec.train.shipped import load_shipped
from vqcodec.train.steps import checkpoint_errors, save_by_rename
from vqcodec.train.widen import widened

BASE_MINUTES = 8.0  # for the base prior
BASE_SHARE = 0.1  # of the time of the joint phase, at most, where the base prior is trained after it
SAMPLES, LEAST_SAMPLES = 400, 96  # crops to round and count on: with BASE_MINUTES, and with next to none
CROP = 384  # pixels, the side of these crops
EXPORT_NEEDS = ("onnx", "onnxruntime")


def pairs(values: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` texts of the command line as a dict."""
    out: dict[str, Any] = {}
    for value in values:
        name, found, text = value.partition("=")
        if not found:
            raise UsageError(f"--set takes NAME=VALUE, not {value!r}")
        out[name.strip()] = text.strip()
    return out


def choose_device(name: str, threads: int = 0) -> torch.device:
    """The device of "cpu", "cuda" or "auto", made ready for training; `threads` 0 leaves torch its choice."""
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return device


def _load(
    o: argparse.Namespace, device: torch.device, t: TrainConfig = TrainConfig()
) -> tuple[Pictures, Pictures | None]:
    """Pictures to train and to judge on; decoded (or read from the cache) by the first process, then by the others."""
    o.out.mkdir(parents=True, exist_ok=True)
    load = functools.partial(load_pictures, device=device, cache=o.cache, smallest=t.smallest, augment=t.augment)
    first = not dist.is_initialized() or dist.get_rank() == 0
    if first:
        print("reading the pictures", flush=True)
    else:
        dist.barrier()
    found = load(o.data), load(o.validation) if o.validation else None
    if first:
        print(f"{len(found[0]):,} pictures to train on", flush=True)
    if dist.is_initialized() and first:
        dist.barrier()
    return found


def samples_for(minutes: float) -> int:
    """Crops to round and count on, where the base prior is trained for so long; 0: it is not trained."""
    return max(LEAST_SAMPLES, round(SAMPLES * min(1.0, (minutes or BASE_MINUTES) / BASE_MINUTES)))


def finish(
    model: Codec,
    state: dict[str, Any] | None,
    pictures: Pictures,
    o: argparse.Namespace,
    seed: int,
    device: torch.device,
) -> Path:
    """Base prior, integer tables, model folder `o.out`/model; the base prior is kept in `o.out`/base_prior.pt.

    The base prior goes on from the one in `base_prior.pt`, if it is of this shape, or from the one that the checkpoint
    brought along.
    """
    path = o.out / "base_prior.pt"
    start = state.get("base_prior") if state else None
    if path.exists():
        with checkpoint_errors(path):
            kept = torch.load(path, map_location="cpu", weights_only=True)["model"]
        here = BasePrior(model.config).state_dict()
        if {n: v.shape for n, v in kept.items()} == {
            n: v.shape for n, v in here.items()
        }:  # else an earlier run's, in the same folder
            start = kept
    minutes = BASE_MINUTES if o.base_minutes is None else o.base_minutes
    crops = o.samples or samples_for(minutes)
    model = model.to(device).eval()
    with Stages("finish", 6 if minutes else 4) as stages:
        samples = analysed(model, pictures, crops, CROP, seed + 1, device, stages)
        known = torch.from_numpy(np.stack([sample.base for sample in samples])).to(device)
        base_prior, bits = train_base_prior(
            model, pictures, known, minutes, seed, o.base_crops, start, stages, stages.say
        )
        save_by_rename(path, {"model": base_prior.state_dict(), "bits": bits})
        stages("rounding the priors", 0)
        tables = count_tables(integer_tables(model, base_prior, samples, stages), samples, model, stages)
        folder: Path = o.out / "model"
        stages("writing the model", 0)
        write_model(folder, o.name, model, tables, {"base_bits_per_index": round(bits, 3)})
    return folder


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        the exit code.
    """
    try:
        run(parse(arguments))
    except VqcError as error:
        print(f"vqcodec: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("vqcodec: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def run(o: argparse.Namespace) -> None:
    """Run what the options of `arguments.parse` ask for.

    Raises:
        VqcError: data, checkpoint or settings are not what they should be, or a library is missing.
    """
    try:
        {"realistic": _realistic, "denoiser": _denoiser}.get(o.phase, _run)(o)
    except ModuleNotFoundError as error:
        raise missing(error.name or "another library") from None


def _run(o: argparse.Namespace) -> None:
    finishes = o.phase is None and not o.no_finish
    if finishes or o.phase == "finish":
        check_installed(*EXPORT_NEEDS)
    model_table, train_table = load_toml(o.config)
    shape = {**model_table, **pairs(o.shape)}
    t = override(TrainConfig(), {**train_table, **pairs(o.settings)})
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() and o.device != "cpu" else "gloo")
    device = choose_device(o.device, o.threads)
    pictures, judged = _load(o, device, t)
    state: dict[str, Any] | None = None
    if o.resume:
        model, state = _resumed(o.resume, shape, pictures, t.seed)
    elif o.phase in (None, "joint"):
        model = new_model(override(ModelConfig(), shape), pictures, t.seed)
    else:
        raise UsageError(f"--phase {o.phase} needs --resume with the checkpoint of the phase before")
    if o.phase == "finish":
        _finish(model, state, pictures, judged, o, t, device)
        return
    t, begun = override(t, {"phase": o.phase or "joint"}), time.perf_counter()
    Trainer(model, pictures, judged, t, o.out, device, state, o.tensorboard, quick_files).run()
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    settings = {"model": to_dict(model.config), "train": to_dict(t)}
    (o.out / "config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    if finishes:
        if o.base_minutes is None:
            o.base_minutes = min(BASE_MINUTES, (time.perf_counter() - begun) / 60 * BASE_SHARE)
        _finish(*load_checkpoint(o.out / "last.pt"), pictures, judged, o, t, device)


def _finish(
    model: Codec, state: dict[str, Any] | None, pictures: Pictures, judged: Pictures | None, o: argparse.Namespace,
    t: TrainConfig, device: torch.device,
) -> None:  # fmt: skip
    """The last phase, and the rate and distortion of real files where there are pictures to judge on."""
    folder = finish(model, state, pictures, o, t.seed, device)
    print(f"model written to {folder}: use it with --model {folder}")
    if judged is not None:
        rate_distortion(folder, judged, t.eval_pictures)


def _resumed(source: str, shape: dict[str, Any], pictures: Pictures, seed: int) -> tuple[Codec, dict[str, Any] | None]:
    """The model to go on from, in the shape that was asked for, and what else its checkpoint holds.

    Raises:
        UsageError: a setting of the shape that a trained model cannot change.
    """
    state: dict[str, Any] | None = None
    if source in MODELS or Path(source).is_dir():
        model, base_prior = load_shipped(source)
        state = {"base_prior": base_prior.state_dict()}
    else:
        model, state = load_checkpoint(Path(source))
    grown = widened(model, override(model.config, shape))
    if grown is model:
        return model, state
    if "eye" in grown.config.tunes and "eye" not in model.config.tunes:
        start_eye(grown, pictures, seed)
    return grown, {"base_prior": state["base_prior"]} if state and "base_prior" in state else None


Shape = TypeVar("Shape", TextureConfig, DenoiserConfig)
Settings = TypeVar("Settings", RealismConfig, NoiseConfig)


def _settings(
    o: argparse.Namespace, tables: tuple[str, str], shape: Shape, settings: Settings
) -> tuple[Shape, Settings, torch.device]:
    """Shape and settings of a network beside the codec, from a TOML file's tables and the command line; the device."""
    if "RANK" in os.environ:
        raise UsageError(f"--phase {o.phase} runs in one process")
    of_shape, of_training = load_toml(o.config, tables)
    shape = override(shape, {**of_shape, **pairs(o.shape)})
    settings = override(settings, {**of_training, **pairs(o.settings)})
    return shape, settings, choose_device(o.device, o.threads)


def _realistic(o: argparse.Namespace) -> None:
    shape, config, device = _settings(o, ("texture", "realistic"), TextureConfig(), RealismConfig())
    if not o.resume:
        raise UsageError("--phase realistic needs --resume with the checkpoint of the codec")
    codec, _ = load_checkpoint(Path(o.resume))
    trainer = RealismTrainer(codec, *_load(o, device), shape, config, o.out, device)
    trainer.run()
    if o.into:
        attach(o.into, trainer.codec.cpu(), trainer.averaged().cpu(), config.full)
        print(f"the realistic decoder joined the model in {o.into}")


def _denoiser(o: argparse.Namespace) -> None:
    shape, config, device = _settings(o, ("denoiser", "noise"), DenoiserConfig(), NoiseConfig())
    if o.into:
        find(o.into)
    codec = load_checkpoint(Path(o.resume))[0] if o.resume else None
    trainer = DenoiserTrainer(codec, *_load(o, device), shape, config, o.out, device)
    trainer.run()
    if o.into:
        attach_denoiser(o.into, trainer.averaged().cpu())
        print(f"the denoiser joined the model in {o.into}")
