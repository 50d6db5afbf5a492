# SPDX-License-Identifier: MIT
"""Rate and distortion of real files: of a finished model, and with quickly counted tables of one still in training."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from vqcodec.train.codec import Codec
from vqcodec.train.data import Pictures
from vqcodec.train.export import integer_tables, write_model
from vqcodec.train.finish import Sample, analysed, count_tables
from vqcodec.train.losses import psnr
from vqcodec.train.prior import BasePrior

RD_QUALITIES = (1, 5, 15, 30, 45, 60, 75, 90, 100)
QUICK_QUALITIES = (10, 30, 60, 90)
QUICK_SAMPLES = 99  # crops that tables are counted on: one of each quality
QUICK_SIDE = 192


def _print(line: str) -> None:
    print(line, flush=True)


def rate_distortion(
    folder: Path,
    pictures: Pictures,
    count: int,
    qualities: Sequence[int] = RD_QUALITIES,
    say: Callable[[str], None] = _print,
) -> list[dict[str, float]]:
    """Rate and distortion of real files of `count` validation pictures; said, and written to `folder`/rd.json."""
    from vqcodec import api
    from vqcodec.codec import decode  # the range coder, which training itself can do without
    from vqcodec.options import DecodeOptions

    rows = []
    for quality in qualities:
        bpps, decibels = [], []
        for number in pictures.spread(count):
            rgb = pictures.picture(number).cpu().numpy()
            data = api.encode(rgb, quality, model=folder, patches=False)
            back = decode.decode(data, DecodeOptions(model=folder)).rgb
            bpps.append(8 * len(data) / (rgb.shape[0] * rgb.shape[1]))
            decibels.append(psnr(float(np.square((rgb.astype(np.float64) - back) / 255).mean())))
        row = {"quality": quality, "bpp": float(np.mean(bpps)), "psnr": float(np.mean(decibels))}
        say("files, quality {quality}: {bpp:.4f} bpp {psnr:.3f} dB".format(**row))
        rows.append(row)
    (folder / "rd.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


@torch.no_grad()
def order0_prior(model: Codec, samples: Sequence[Sample]) -> BasePrior:
    """A base prior that knows how frequent each codeword is, and no context: all its weights are zero but a bias."""
    with torch.random.fork_rng(devices=[]):  # the training around it draws what it would have drawn
        prior = BasePrior(model.config)
    for p in prior.parameters():
        p.zero_()
    size = model.config.codebook_size
    counts = np.sum([np.bincount(base.ravel(), minlength=size) for _, _, base in samples], 0) + 0.5
    assert prior.out.bias is not None
    prior.out.bias.copy_(torch.from_numpy(np.log2(counts / counts.sum())))
    return prior


def quick_files(
    model: Codec, pictures: Pictures, validation: Pictures, count: int, say: Callable[[str], None]
) -> list[dict[str, float]]:
    """Rate and distortion of real files of a model that is still in training; a row per quality of QUICK_QUALITIES.

    The base layer's indices are coded without context, and the coder's tables are counted on few crops: files of the
    finished model are smaller. Differences between two such tables are those of the transforms and of the refinement.

    Args:
        model: in evaluation mode, on the pictures' device.
        pictures: training pictures, which tables are counted on.
        count: how many of `validation` to code.
        say: takes each line.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not there.
    """
    for name in ("onnx", "onnxruntime"):  # found out before the work, not after it
        importlib.import_module(name)
    samples = analysed(model, pictures, QUICK_SAMPLES, QUICK_SIDE, 0, pictures.device)
    tables = count_tables(integer_tables(model, order0_prior(model, samples), samples), samples, model)
    say(
        f"files of {min(count, len(validation))} pictures: base indices without context, tables of {len(samples)} crops"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), "training", model, tables, {})
        return rate_distortion(Path(folder), validation, count, QUICK_QUALITIES, say)
