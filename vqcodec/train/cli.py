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
from vqcodec.train.attach import attach
from vqcodec.train.config import ModelConfig, RealismConfig, TextureConfig, TrainConfig, load_toml, override
from vqcodec.train.data import Pictures, load_pictures
from vqcodec.train.export import integer_tables, write_model
from vqcodec.train.files import quick_files, rate_distortion
from vqcodec.train.finish import analysed, count_tables, train_base_prior
from vqcodec.train.loop import Trainer, load_checkpoint, new_model
from vqcodec.train.networks import BasePrior, Codec
from vqcodec.train.realistic import RealismTrainer

PHASES = ("joint", "decoder", "analysis", "synthesis", "finish", "realistic")
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
    pictures: Pictures,
    out: Path,
    name: str,
    minutes: float,
    crops: int,
    samples: int,
    device: torch.device,
    seed: int,
) -> Path:
    """Base prior, integer tables, model folder `out`/model; the base prior is kept in `out`/base_prior.pt.

    Args:
        minutes: training time of the base prior, from the one in `base_prior.pt` if it is there; 0 takes that one.
        crops: how many crops the base prior learns from.
        samples: crops on which the frequency tables are counted.
    """
    path = out / "base_prior.pt"
    if minutes > 0:
        start = None
        if path.exists():  # go on from an earlier try
            start = torch.load(path, map_location="cpu", weights_only=True)["model"]
        base_prior, bits = train_base_prior(model, pictures, minutes, device, seed, crops, start)
        torch.save({"model": base_prior.state_dict(), "bits": bits}, path)
    else:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        base_prior, bits = BasePrior(model.config), float(saved["bits"])
        base_prior.load_state_dict(saved["model"])
    model = model.to(device).eval()
    tables = integer_tables(model, base_prior)
    tables = count_tables(tables, analysed(model, pictures, samples, 384, seed + 1, device), model)
    write_model(out / "model", name, model, tables, {"base_bits_per_index": round(bits, 3)})
    return out / "model"


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
    option("--resume", type=Path, help="checkpoint to go on from")
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
    wanted = override(ModelConfig(), {**model_table, **pairs(o.shape)})
    t = override(TrainConfig(), {**train_table, **pairs(o.settings)})
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() and o.device != "cpu" else "gloo")
    device = choose_device(o.device, o.threads)
    o.out.mkdir(parents=True, exist_ok=True)
    pictures = _load(tuple(o.data), device, o.cache)
    judged = _load(tuple(o.validation), device, o.cache) if o.validation else None
    state: dict[str, Any] | None = None
    if o.resume:
        model, state = load_checkpoint(o.resume)
    elif o.phase == "joint":
        model = new_model(wanted, pictures, t.seed)
    else:
        raise UsageError(f"--phase {o.phase} needs --resume with the checkpoint of the phase before")
    if o.phase == "finish":
        if not model.config.exportable():
            raise UsageError("this model's quantisers are for comparisons; files have no place for what it codes")
        folder = finish(model, pictures, o.out, o.name, o.base_minutes, o.base_crops, o.samples, device, t.seed)
        print(f"model written to {folder}")
        if judged is not None:
            rate_distortion(folder, judged, t.eval_pictures)
        return
    t = override(t, {"phase": o.phase})
    Trainer(model, pictures, judged, t, o.out, device, state, o.tensorboard, quick_files).run()
    if not dist.is_initialized() or dist.get_rank() == 0:
        (o.out / "config.json").write_text(json.dumps({"model": str(model.config), "train": str(t)}, indent=1) + "\n")


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
    if not codec.config.exportable():
        raise UsageError("this model's quantisers are for comparisons; no file could be decoded with it")
    o.out.mkdir(parents=True, exist_ok=True)
    pictures = load_pictures(tuple(o.data), device, o.cache)
    judged = load_pictures(tuple(o.validation), device, o.cache) if o.validation else None
    trainer = RealismTrainer(codec, pictures, judged, shape, config, o.out, device)
    trainer.run()
    if o.into:
        attach(o.into, trainer.codec.cpu(), trainer.averaged().cpu(), config.full)
        print(f"the realistic decoder joined the model in {o.into}")
