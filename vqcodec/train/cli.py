# SPDX-License-Identifier: MIT
"""`vqcodec train`: data in, a model folder out. The phases, one after the other, each resumable.

joint      analysis, synthesis, codebook and refinement prior together        -> OUT/last.pt
decoder    synthesis and refinement prior, encoder frozen, true quantisation  -> OUT/last.pt
analysis   the analysis alone, decoder frozen (optional)                      -> OUT/last.pt
synthesis  the synthesis alone, on truly quantised values (optional)          -> OUT/last.pt
finish     base layer's prior on frozen indices, integer tables, export       -> OUT/model/
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist

from vqcodec.errors import UsageError, VqcError
from vqcodec.train.config import ModelConfig, TrainConfig, load_toml, override
from vqcodec.train.data import Pictures, load_pictures
from vqcodec.train.export import integer_tables, write_model
from vqcodec.train.finish import analysed, count_tables, train_base_prior
from vqcodec.train.loop import Trainer, load_checkpoint, new_model
from vqcodec.train.networks import BasePrior, Codec

PHASES = ("joint", "decoder", "analysis", "synthesis", "finish")


def _pairs(values: tuple[str, ...]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for value in values:
        name, found, text = value.partition("=")
        if not found:
            raise UsageError(f"--set takes NAME=VALUE, not {value!r}")
        out[name.strip()] = text.strip()
    return out


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(name)


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
    samples: int,
    device: torch.device,
    seed: int,
) -> Path:
    """Base prior, integer tables, model folder `out`/model; the base prior is kept in `out`/base_prior.pt.

    Args:
        minutes: training time of the base prior, from the one in `base_prior.pt` if it is there; 0 takes that one.
        samples: crops on which the frequency tables are counted.
    """
    path = out / "base_prior.pt"
    if minutes > 0:
        start = None
        if path.exists():  # go on from an earlier try
            start = torch.load(path, map_location="cpu", weights_only=True)["model"]
        base_prior, bits = train_base_prior(model, pictures, minutes, device, seed, start=start)
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


@click.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder for checkpoints and model.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with [model] and [train] tables.")
@click.option("--resume", type=click.Path(path_type=Path), help="Checkpoint to go on from.")
@click.option("--phase", type=click.Choice(PHASES), default="joint", show_default=True)
@click.option("--validation", multiple=True, type=click.Path(path_type=Path), help="Pictures to judge on.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a [train] setting.")
@click.option("--set-model", "shape", multiple=True, metavar="NAME=VALUE", help="Override a [model] setting.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps decoded pictures between runs.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
@click.option("--threads", type=int, default=0, help="Processor threads (0: torch's choice).")
@click.option("--name", default="custom", show_default=True, help="finish: the model's id.")
@click.option("--base-minutes", type=float, default=8.0, show_default=True, help="finish: time for the base prior.")
@click.option("--samples", type=int, default=400, show_default=True, help="finish: crops to count tables on.")
def train(
    data: tuple[Path, ...],
    out: Path,
    config: Path | None,
    resume: Path | None,
    phase: str,
    validation: tuple[Path, ...],
    settings: tuple[str, ...],
    shape: tuple[str, ...],
    cache: Path | None,
    device: str,
    threads: int,
    name: str,
    base_minutes: float,
    samples: int,
) -> None:
    """Train a model on DATA (folders, tar shards or pictures), phase by phase.

    \b
    vqcodec train photos/ -o run --set minutes=60
    vqcodec train photos/ -o run --resume run/last.pt --phase synthesis --set minutes=10
    vqcodec train photos/ -o run --resume run/last.pt --phase finish --name mine
    vqcodec compress photo.png photo.vqc --model run/model

    Several processes: torchrun --nproc-per-node N -m vqcodec train ...
    """
    try:
        _run(
            data, out, config, resume, phase, validation, settings, shape, cache, device, threads,
            name, base_minutes, samples,
        )  # fmt: skip
    except VqcError as error:
        print(f"vqcodec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _run(
    data: tuple[Path, ...],
    out: Path,
    config: Path | None,
    resume: Path | None,
    phase: str,
    validation: tuple[Path, ...],
    settings: tuple[str, ...],
    shape: tuple[str, ...],
    cache: Path | None,
    device_name: str,
    threads: int,
    name: str,
    base_minutes: float,
    samples: int,
) -> None:
    model_table, train_table = load_toml(config)
    wanted = override(ModelConfig(), {**model_table, **_pairs(shape)})
    t = override(TrainConfig(), {**train_table, **_pairs(settings)})
    if threads:
        torch.set_num_threads(threads)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() and device_name != "cpu" else "gloo")
    device = _device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    out.mkdir(parents=True, exist_ok=True)
    pictures = _load(data, device, cache)
    judged = _load(validation, device, cache) if validation else None
    state: dict[str, Any] | None = None
    if resume:
        model, state = load_checkpoint(resume)
    elif phase == "joint":
        model = new_model(wanted, pictures, t.seed)
    else:
        raise UsageError(f"--phase {phase} needs --resume with the checkpoint of the phase before")
    if phase == "finish":
        folder = finish(model, pictures, out, name, base_minutes, samples, device, t.seed)
        print(f"model written to {folder}")
        return
    t = override(t, {"phase": phase})
    Trainer(model, pictures, judged, t, out, device, state).run()
    if not dist.is_initialized() or dist.get_rank() == 0:
        (out / "config.json").write_text(json.dumps({"model": str(model.config), "train": str(t)}, indent=1) + "\n")
