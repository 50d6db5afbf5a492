# SPDX-License-Identifier: MIT
"""The quantiser bake-off: variants of one model, trained alike and compared. Torch, NumPy and Pillow will do.

python -m vqcodec.train.bakeoff DATA... -o FOLDER --steps 2000 --validation PICTURES
python -m bench ablations FOLDER          tables and figure of what is there

Every variant gets the same seed, steps, crops and levels, and the same start of the networks. Its result is one line of
FOLDER/results.jsonl, written when it ends; the same command goes on with what is missing. What is measured, and how the
rates are estimated: docs/model.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqcodec.errors import InputError, UsageError, VqcError
from vqcodec.train.budget import parts
from vqcodec.train.cli import choose_device, pairs
from vqcodec.train.config import ModelConfig, TrainConfig, load_toml, override, to_dict
from vqcodec.train.data import Pictures, block_statistics, load_pictures
from vqcodec.train.loop import EVAL_LEVELS, Trainer, load_checkpoint, new_model
from vqcodec.train.losses import mse_per_sample, psnr
from vqcodec.train.networks import STRIDE, Codec
from vqcodec.train.variants import VARIANTS, settings_of

UNTRAINED = "base layer's prior, 4 passes"  # rates are of order 0 instead
RESULTS, SETTINGS = "results.jsonl", "settings.json"
TRIAL_STEPS = 6  # of which the first two are not timed
TRAINING_SHARE = 0.8  # of --minutes; the rest is for starts and evaluations


@dataclass(frozen=True)
class Run:
    """What all variants share."""

    model: ModelConfig
    train: TrainConfig
    pictures: Pictures
    validation: Pictures
    count_crops: int
    device: torch.device
    folder: Path
    statistics: tuple[Tensor, Tensor]  # of `block_statistics`


# ---- measuring one variant -------------------------------------------------------------------------------------------


def _stages(indices: Tensor) -> list[Tensor]:
    """[B, h, w] or [B, S, h, w] -> the indices of each stage, [B, h, w]."""
    return [indices] if indices.ndim == 3 else list(indices.unbind(1))


@torch.no_grad()
def count_indices(model: Codec, pictures: Pictures, crops: int, size: int, seed: int) -> Tensor:
    """How often each codeword of each stage is chosen on random crops at random levels: [S, K] float64."""
    rng = np.random.default_rng(seed)
    c = model.config
    counts = torch.zeros(c.base_stages, c.codebook_size, dtype=torch.float64)
    for first in range(0, crops, 16):
        x = pictures.crops(rng, min(16, crops - first), size)
        level = torch.from_numpy(rng.random(len(x), np.float32)).to(x.device)
        indices = model.quantiser(model.analysis(x, model.hat(level))[1], False).indices
        for stage, index in enumerate(_stages(indices)):
            counts[stage] += torch.bincount(index.flatten(), minlength=c.codebook_size).cpu()
    return counts


def order0_bits(counts: Tensor) -> Tensor:
    """Code length of each index, [S, K] bits, under tables counted elsewhere, one half added to every count."""
    return -torch.log2((counts + 0.5) / (counts + 0.5).sum(1, keepdim=True))


@torch.no_grad()
def rate_distortion(model: Codec, pictures: Pictures, lengths: Tensor | None) -> list[dict[str, float]]:
    """Rate of both layers and PSNR, without any noise, of whole pictures cut to multiples of 16; a row per level.

    Args:
        lengths: [S, K] bits of each base index; None takes the bits of the base layer's own density.
    """
    rows = []
    device = pictures.device
    for level in EVAL_LEVELS:
        each: list[tuple[float, float, float, float]] = []
        for number in range(len(pictures)):
            p = pictures.picture(number)
            p = p[: p.shape[0] // STRIDE * STRIDE, : p.shape[1] // STRIDE * STRIDE]
            x = p.permute(2, 0, 1)[None].to(device).float() / 255
            out = model(x, torch.tensor([level], device=device), 1, False)
            pixels = x.shape[2] * x.shape[3]
            base_bits = float(out.base_bits)
            if lengths is not None:
                chosen = [lengths[stage][index.flatten().cpu()] for stage, index in enumerate(_stages(out.indices))]
                base_bits = float(torch.cat(chosen).sum())
            assert out.base_restored is not None
            decibels = [psnr(float(mse_per_sample(r.clamp(0, 1), x))) for r in (out.restored, out.base_restored)]
            each.append((base_bits / pixels, float(out.bits) / pixels, *decibels))  # type: ignore[arg-type]
        base, refinement, quality, alone = np.mean(each, 0).tolist()
        rows.append(
            {"level": level, "bpp": base + refinement, "base_bpp": base, "refinement_bpp": refinement,
             "psnr": quality, "base_psnr": alone}
        )  # fmt: skip
    return rows


def codebook_use(counts: Tensor, lengths: Tensor) -> list[dict[str, float]]:
    """Of each stage: size, words used at all, perplexity and mean code length on the pictures that were counted."""
    share = counts / counts.sum(1, keepdim=True)
    entropy = -(share * torch.log2(share.clamp(min=1e-300))).sum(1)
    return [
        {"size": counts.shape[1], "used": int((counts[stage] > 0).sum()), "perplexity": float(2 ** entropy[stage]),
         "bits_per_index": float((share[stage] * lengths[stage]).sum())}
        for stage in range(len(counts))
    ]  # fmt: skip


def _trainer(run: Run, config: ModelConfig, out: Path, train: TrainConfig) -> Trainer:
    """A trainer of the variant: new, or going on from `out`/last.pt."""
    out.mkdir(parents=True, exist_ok=True)
    state = None
    if (out / "last.pt").exists():
        model, state = load_checkpoint(out / "last.pt")
    else:
        model = new_model(config, run.pictures, train.seed, run.statistics)
    return Trainer(model, run.pictures, None, train, out, run.device, state)


def measure(run: Run, name: str) -> dict[str, Any]:
    """Train and evaluate one variant; its line of the results."""
    settings = settings_of(run.model, name)
    config = override(run.model, settings)
    budget = [part for part in parts(config) if part.name != UNTRAINED]
    if run.train.compile:
        torch.compiler.reset()  # else the limit of recompilations is met after a few variants
    trainer = _trainer(run, config, run.folder / name, run.train)
    trainer.run()
    model = Codec(config).to(run.device).eval()
    model.load_state_dict(trainer.ema)
    result: dict[str, Any] = {
        "name": name, "settings": settings, "steps": trainer.step, "seconds": round(trainer.elapsed, 2),
        "crops_per_second": round(trainer.step * run.train.batch / max(trainer.elapsed, 1e-9), 2),
        "parameters": {part.name: part.parameters for part in budget},
        "kmac": {part.name: round(part.kmac, 3) for part in budget},
        "codebook": None,
    }  # fmt: skip
    lengths = None
    if config.base == "vq":
        counts = count_indices(model, run.pictures, run.count_crops, run.train.crop, run.train.seed + 1)
        lengths = order0_bits(counts)
        result["codebook"] = codebook_use(counts, lengths)
    rows = rate_distortion(model, run.validation, lengths)
    if all(math.isfinite(value) for row in rows for value in row.values()):
        return {**result, "rows": rows}
    return {**result, "codebook": None, "rows": [], "failed": "diverged"}


# ---- the run ---------------------------------------------------------------------------------------------------------


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Variant -> its line; a last line that was cut short does not count, and is taken away."""
    path = folder / RESULTS
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["name"]: line for line in lines}


def _append(folder: Path, line: dict[str, Any]) -> None:
    with (folder / RESULTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def steps_within(run: Run, names: Sequence[str], minutes: float) -> int:
    """Steps, the same for all, that bring the variants named through in about so many minutes."""
    seconds = 0.0
    for name in names:
        t = override(run.train, {"steps": 10**9})
        model = new_model(override(run.model, settings_of(run.model, name)), run.pictures, t.seed, run.statistics)
        trainer = Trainer(model, run.pictures, None, t, run.folder, run.device)
        rng, times = np.random.default_rng(0), []
        for _ in range(TRIAL_STEPS):
            begin = time.perf_counter()
            float(trainer.one_step(rng, 0.0).sum())  # waits for the device
            times.append(time.perf_counter() - begin)
        seconds += float(np.median(times[2:]))
    return max(1, int(TRAINING_SHARE * 60 * minutes / seconds))


def _facts(pictures: Pictures) -> dict[str, int]:
    """What tells one set of pictures from another."""
    return {"pictures": len(pictures), "shapes_crc32": zlib.crc32(pictures.shapes.tobytes())}


def _settle(run: Run, names: Sequence[str], minutes: float) -> Run:
    """The run with its steps, which the folder remembers; other settings than the folder's are refused."""
    path = run.folder / SETTINGS
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if not run.train.steps:
        steps = kept["train"]["steps"] if kept else steps_within(run, names, minutes)
        run = replace(run, train=override(run.train, {"steps": steps}))
    now = {
        "model": to_dict(run.model), "train": to_dict(run.train), "count_crops": run.count_crops,
        "data": _facts(run.pictures), "validation": _facts(run.validation),
    }  # fmt: skip
    if kept:
        for table, configuration in (("model", run.model), ("train", run.train)):  # settings newer than the folder
            kept[table] = {**to_dict(type(configuration)()), **kept.get(table, {})}
        for table in now:
            if kept.get(table) != now[table]:
                raise UsageError(f"{run.folder} holds results of other settings ({table}): give another folder with -o")
        return run
    gpu = run.device.type == "cuda"
    about = {
        "torch": torch.__version__, "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(run.device) if gpu else "cpu",
    }  # fmt: skip
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**now, "machine": about}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
    return run


def table(results: dict[str, dict[str, Any]]) -> str:
    """Bits per pixel and dB of every variant at every level, for a terminal."""
    width = max(len(name) for name in [*results, "variant"])
    lines = [f"{'variant':{width}}  crops/s  base bpp  " + "  ".join(f"{f'level {v:g}':>15}" for v in EVAL_LEVELS)]
    for name, line in results.items():
        rows = line["rows"]
        base = f"{np.mean([row['base_bpp'] for row in rows]):8.4f}" if rows else f"{line.get('failed', ''):>8}"
        cells = "  ".join(f"{row['bpp']:.4f} {row['psnr']:5.2f} dB" for row in rows)
        lines.append(f"{name:{width}}  {line['crops_per_second']:7.1f}  {base}  {cells}")
    return "\n".join(lines)


def run_all(run: Run, names: Sequence[str], minutes: float) -> list[str]:
    """Every variant that the folder does not have yet.

    Returns:
        the names of those that failed and have no result.
    """
    run = _settle(run, names, minutes)
    failed = []
    for name in names:
        if name in read_results(run.folder):
            print(f"{name}: done already", flush=True)
            continue
        print(f"{name}: {run.train.steps} steps", flush=True)
        try:
            _append(run.folder, measure(run, name))
        except RuntimeError as error:  # out of memory, for one: the others go on
            print(f"vqcodec: {name} failed: {str(error).splitlines()[0]}", file=sys.stderr)
            failed.append(name)
    found = read_results(run.folder)
    print(table({name: found[name] for name in VARIANTS if name in found}), flush=True)
    return failed


# ---- the command line ------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The options of `python -m vqcodec.train.bakeoff`."""
    command = argparse.ArgumentParser(
        "python -m vqcodec.train.bakeoff",
        description="Train variants of the model alike on DATA (folders, tar shards or pictures) and compare them.",
        epilog="variants: " + ", ".join(VARIANTS),
        exit_on_error=False,
    )
    option = command.add_argument
    option("data", nargs="+", type=Path, metavar="DATA")
    option("-o", "--out", required=True, type=Path, metavar="FOLDER", help="results; the same command goes on there")
    option("--validation", action="append", type=Path, required=True, help="pictures to judge on; repeatable")
    length = command.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=0, help="training steps of each variant")
    length.add_argument("--minutes", type=float, default=0.0, help="about so long for all of them together")
    option("--only", default="", metavar="NAMES", help="only these variants, with commas")
    option("--config", type=Path, help="TOML file with [model] and [train] tables")
    option("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help="a [train] setting")
    option("--set-model", dest="shape", action="append", default=[], metavar="NAME=VALUE", help="a [model] setting")
    option("--count-crops", type=int, default=2048, help="training crops that base indices are counted on")
    option("--cache", type=Path, help="folder that keeps decoded pictures between runs")
    option("--device", default="auto", help="cpu, cuda, or auto (the default)")
    option("--threads", type=int, default=0, help="processor threads (default: torch's choice)")
    return command


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        the exit code; 1 if a variant failed.
    """
    try:
        o = parser().parse_args(arguments)
        names = [name.strip() for name in o.only.split(",") if name.strip()] or list(VARIANTS)
        for name in names:
            if name not in VARIANTS:
                raise UsageError(f"unknown variant {name!r}; known are {', '.join(VARIANTS)}")
        if o.steps < 0 or o.minutes < 0 or not (o.steps or o.minutes) or o.count_crops < 1:
            raise UsageError("give --steps or --minutes, and --count-crops, of more than 0")
        model_table, train_table = load_toml(o.config)
        model = override(ModelConfig(), {**model_table, **pairs(o.shape)})
        train = override(TrainConfig(save_minutes=1.0), {**train_table, **pairs(o.settings)})
        for name in names:
            override(model, settings_of(model, name))  # refused before anything is trained
        device = choose_device(o.device, o.threads)
        o.out.mkdir(parents=True, exist_ok=True)
        train = override(train, {"steps": o.steps, "minutes": 0.0, "phase": "joint"})
        pictures, validation = (load_pictures(p, device, o.cache) for p in (o.data, o.validation))
        statistics = block_statistics(pictures, np.random.default_rng(train.seed))
        run = Run(model, train, pictures, validation, o.count_crops, device, o.out, statistics)
        failed = run_all(run, names, o.minutes)
    except VqcError as error:
        print(f"vqcodec: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"vqcodec: {error.filename or o.out}: {error.strerror}", file=sys.stderr)
        return InputError.exit_code
    except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
        print(f"vqcodec: {error} (see --help)", file=sys.stderr)
        return UsageError.exit_code
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
