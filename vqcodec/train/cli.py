# SPDX-License-Identifier: MIT
"""`vqcodec train`: data in, a model folder out. The phases, one after the other, each resumable.

joint      analysis, synthesis, codebook and refinement prior together        -> OUT/last.pt
decoder    synthesis and refinement prior, encoder frozen, true quantisation  -> OUT/last.pt
analysis   the analysis alone, decoder frozen (optional)                      -> OUT/last.pt
synthesis  the synthesis alone, on truly quantised values (optional)          -> OUT/last.pt
finish     base layer's prior on frozen indices, integer tables, export       -> OUT/model/
realistic  the realistic decoder's network against a discriminator, the codec -> OUT/realistic.pt
           frozen; with --into MODEL it joins a finished model (optional)        and MODEL/realistic.onnx
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vqcodec.errors import UsageError, VqcError
from vqcodec.model.zoo import MODELS
from vqcodec.train.attach import attach
from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig, RealismConfig, TextureConfig, TrainConfig, load_toml, override, to_dict
from vqcodec.train.data import Pictures, load_pictures
from vqcodec.train.export import integer_tables, write_model
from vqcodec.train.eye import start_eye
from vqcodec.train.files import quick_files, rate_distortion
from vqcodec.train.finish import analysed, count_tables, train_base_prior
from vqcodec.train.loop import LEARNS, Trainer, load_checkpoint, new_model
from vqcodec.train.realistic import RealismTrainer
from vqcodec.train.shipped import load_shipped
from vqcodec.train.steps import save_by_rename
from vqcodec.train.widen import widened

PHASES = (*LEARNS, "finish", "realistic")
EXAMPLES = """examples:
  vqcodec train photos/ -o run --set minutes=60
  vqcodec train photos/ -o run --resume run/last.pt --phase decoder --set minutes=10 --set learning_rate=2e-4
  vqcodec train photos/ -o run --resume run/last.pt --phase finish --name mine
  vqcodec compress photo.png photo.vqc --model run/model
  vqcodec train photos/ -o run --resume run/last.pt --phase realistic --into run/model --set minutes=60

Several processes: torchrun --nproc-per-node N -m vqcodec.train ...
"""


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


def _load(sources: tuple[Path, ...], device: torch.device, cache: Path | None) -> Pictures:
    """Decode (or read the cache) on the first process, then on the others."""
    if dist.is_initialized() and dist.get_rank() > 0:
        dist.barrier()
        return load_pictures(sources, device, cache)
    pictures = load_pictures(sources, device, cache)
    if dist.is_initialized():
        dist.barrier()
    return pictures


def finish(
    model: Codec,
    state: dict[str, Any] | None,
    pictures: Pictures,
    o: argparse.Namespace,
    seed: int,
    device: torch.device,
) -> Path:
    """Base prior, integer tables, model folder `o.out`/model; the base prior is kept in `o.out`/base_prior.pt.

    The base prior goes on from the one in `base_prior.pt`, or from the one that the checkpoint brought along.
    """
    path = o.out / "base_prior.pt"
    start = state.get("base_prior") if state else None
    if path.exists():
        start = torch.load(path, map_location="cpu", weights_only=True)["model"]
    base_prior, bits = train_base_prior(model, pictures, o.base_minutes, device, seed, o.base_crops, start)
    save_by_rename(path, {"model": base_prior.state_dict(), "bits": bits})
    model = model.to(device).eval()
    samples = analysed(model, pictures, o.samples, 384, seed + 1, device)
    tables = count_tables(integer_tables(model, base_prior, samples), samples, model)
    folder: Path = o.out / "model"
    write_model(folder, o.name, model, tables, {"base_bits_per_index": round(bits, 3)})
    return folder


def parser() -> argparse.ArgumentParser:
    """The options of `vqcodec train`."""
    command = argparse.ArgumentParser(
        "vqcodec train",
        description="Train a model on DATA (folders, tar shards or pictures), phase by phase.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    option = command.add_argument
    option("data", nargs="+", type=Path, metavar="DATA")
    option("-o", "--out", required=True, type=Path, help="folder for checkpoints and model")
    option("--config", type=Path, help="TOML file with [model] and [train] tables")
    option("--resume", metavar="CHECKPOINT|MODEL", help="checkpoint, model folder or shipped model's id to go on from")
    option("--phase", choices=PHASES, default="joint", help="default: joint")
    option("--validation", action="append", type=Path, default=[], help="pictures to judge on; repeatable")
    option(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a [train] setting ([realistic])",
    )
    option(
        "--set-model",
        dest="shape",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a [model] setting ([texture])",
    )
    option("--cache", type=Path, help="folder that keeps decoded pictures between runs")
    option("--device", default="auto", help="cpu, cuda, or auto (the default)")
    option("--threads", type=int, default=0, help="processor threads (default: torch's choice)")
    option("--tensorboard", type=Path, metavar="DIR", help="write scalars and pictures for TensorBoard")
    option("--name", default="custom", help="finish: the model's id (default: custom)")
    option("--base-minutes", type=float, default=8.0, help="finish: time for the base prior (default: 8)")
    option("--base-crops", type=int, default=3000, help="finish: crops that the base prior learns from (default: 3000)")
    option("--into", type=Path, metavar="MODEL", help="realistic: the folder of the finished model that it joins")
    option("--samples", type=int, default=400, help="finish: crops to count tables on (default: 400)")
    return command


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        the exit code.
    """
    try:
        options = parser().parse_args(arguments)
        _run(options)
    except VqcError as error:
        print(f"vqcodec: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:  # onnx, which only the export needs
        print(f"vqcodec: this needs {error.name}: pip install 'vqcodec[train]'", file=sys.stderr)
        return UsageError.exit_code
    except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
        print(f"vqcodec: {error} (see vqcodec train --help)", file=sys.stderr)
        return UsageError.exit_code
    return 0


def _run(o: argparse.Namespace) -> None:
    if o.phase == "realistic":
        _realistic(o)
        return
    model_table, train_table = load_toml(o.config)
    shape = {**model_table, **pairs(o.shape)}
    t = override(TrainConfig(), {**train_table, **pairs(o.settings)})
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() and o.device != "cpu" else "gloo")
    device = choose_device(o.device, o.threads)
    o.out.mkdir(parents=True, exist_ok=True)
    pictures = _load(tuple(o.data), device, o.cache)
    judged = _load(tuple(o.validation), device, o.cache) if o.validation else None
    state: dict[str, Any] | None = None
    if o.resume:
        model, state = _resumed(o.resume, shape, pictures, t.seed)
    elif o.phase == "joint":
        model = new_model(override(ModelConfig(), shape), pictures, t.seed)
    else:
        raise UsageError(f"--phase {o.phase} needs --resume with the checkpoint of the phase before")
    if o.phase == "finish":
        folder = finish(model, state, pictures, o, t.seed, device)
        print(f"model written to {folder}")
        if judged is not None:
            rate_distortion(folder, judged, t.eval_pictures)
        return
    t = override(t, {"phase": o.phase})
    Trainer(model, pictures, judged, t, o.out, device, state, o.tensorboard, quick_files).run()
    if not dist.is_initialized() or dist.get_rank() == 0:
        settings = {"model": to_dict(model.config), "train": to_dict(t)}
        (o.out / "config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


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


def _realistic(o: argparse.Namespace) -> None:
    texture_table, train_table = load_toml(o.config, ("texture", "realistic"))
    shape = override(TextureConfig(), {**texture_table, **pairs(o.shape)})
    config = override(RealismConfig(), {**train_table, **pairs(o.settings)})
    if not o.resume:
        raise UsageError("--phase realistic needs --resume with the checkpoint of the codec")
    if "RANK" in os.environ:
        raise UsageError("--phase realistic runs in one process")
    device = choose_device(o.device, o.threads)
    codec, _ = load_checkpoint(o.resume)
    o.out.mkdir(parents=True, exist_ok=True)
    pictures = load_pictures(tuple(o.data), device, o.cache)
    judged = load_pictures(tuple(o.validation), device, o.cache) if o.validation else None
    trainer = RealismTrainer(codec, pictures, judged, shape, config, o.out, device)
    trainer.run()
    if o.into:
        attach(o.into, trainer.codec.cpu(), trainer.averaged().cpu(), config.full)
        print(f"the realistic decoder joined the model in {o.into}")
