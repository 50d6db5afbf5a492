# SPDX-License-Identifier: MIT
"""The options of `vqcodec train`, and what is said where a library is missing. No torch: --help must work without."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vqcodec.errors import UsageError
from vqcodec.train.config import LEARNS

PHASES = (*LEARNS, "finish", "realistic", "denoiser")
EXAMPLES = """examples:
  vqcodec train photos/ -o run --resume photo-1 --name mine --set minutes=5 --set learning_rate=2e-4   # fine-tune
  vqcodec train photos/ -o run --name mine --set minutes=60                                            # from scratch
  vqcodec compress photo.png photo.vqc --model run/model
  vqcodec train photos/ -o run --resume run/last.pt --phase decoder --set minutes=10 --set learning_rate=2e-4
  vqcodec train photos/ -o run --resume run/last.pt --phase finish --name mine
  vqcodec train photos/ -o run --resume run/last.pt --phase realistic --into run/model --set minutes=60
  vqcodec train photos/ -o run --resume run/last.pt --phase denoiser --into run/model --set minutes=60

Several processes: torchrun --nproc-per-node N -m vqcodec.train ...
"""


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as the other commands do."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see vqcodec train --help)")


def parser() -> argparse.ArgumentParser:
    """The options of `vqcodec train`."""
    command = _Parser(
        "vqcodec train",
        description="Train a model on DATA (folders, tar shards or pictures). Without --phase, all parts are trained\n"
        "together and the finished model is written to OUT/model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option("data", nargs="+", type=Path, metavar="DATA")
    option("-o", "--out", required=True, type=Path, help="folder for checkpoints and model")
    option("--config", type=Path, help="TOML file with settings in tables [model] and [train]")
    option(
        "--resume", metavar="CHECKPOINT|MODEL", help="start from a checkpoint, a model folder or a shipped model's id"
    )
    option("--phase", choices=PHASES, help="run this phase only (default: joint, then finish)")
    option("--no-finish", action="store_true", help="without --phase: run joint only")
    option("--validation", action="append", type=Path, default=[], help="pictures for validation; repeatable")
    option(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting of [train], or of [realistic] or [noise] in their phases",
    )
    option(
        "--set-model",
        dest="shape",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting of [model], or of [texture] or [denoiser] in their phases",
    )
    option("--cache", type=Path, help="folder that keeps the decoded pictures for later runs")
    option("--device", default="auto", help="cpu, cuda, or auto (the default)")
    option("--threads", type=int, default=0, help="processor threads (default: torch's choice)")
    option("--tensorboard", type=Path, metavar="DIR", help="write curves and restored pictures for TensorBoard")
    option("--name", default="custom", help="id of the finished model (default: custom)")
    option(
        "--base-minutes",
        type=float,
        help="finish: time to train the base prior (default: 8; after joint, at most a tenth of its time)",
    )
    option(
        "--base-crops",
        type=int,
        help="finish: crops to train the base prior on (default: as many as half of its time allows)",
    )
    option("--into", type=Path, metavar="MODEL", help="realistic, denoiser: folder of the model to add the network to")
    option("--samples", type=int, help="finish: crops to count tables on (default: up to 400, 96 after short training)")
    return command


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; prints the help and ends the process where it is asked for.

    Raises:
        UsageError: they make no sense.
    """
    return parser().parse_args(arguments)


def missing(name: str) -> UsageError:
    """What is said where a library is not installed."""
    return UsageError(
        f"training needs {name}: pip install 'vqcodec[train]'; for a torch without CUDA, name PyTorch's package index "
        "for CPU builds with --extra-index-url"
    )


def check_installed(*names: str) -> None:
    """Finds out before the work whether libraries are there.

    Raises:
        UsageError: one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise missing(name)
