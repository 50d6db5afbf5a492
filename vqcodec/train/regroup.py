# SPDX-License-Identifier: MIT
"""Split the channel chunks of a trained model's prior: `python -m vqcodec.train.regroup OLD.pt NEW.pt --chunks ...`.

A step of a part of a chunk starts as the step of the whole chunk, so that training goes on from where it was: it
predicts what that one predicted, and knows nothing yet of the parts before.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from itertools import accumulate
from pathlib import Path

import torch

from vqcodec.errors import UsageError, VqcError
from vqcodec.train.config import ModelConfig, override
from vqcodec.train.loop import load_checkpoint, save_checkpoint
from vqcodec.train.networks import Codec

State = dict[str, torch.Tensor]


def _places(config: ModelConfig) -> list[tuple[int, int, int]]:
    """(number of the first step, first channel, end) of each chunk."""
    numbers = accumulate(config.halves(), initial=0)
    starts = accumulate(config.chunks, initial=0)
    return [(n, start, start + width) for n, start, width in zip(numbers, starts, config.chunks, strict=False)]


def regroup(state: State, old: ModelConfig, new: ModelConfig) -> State:
    """The weights of a model whose chunks are split: every chunk of `new` must lie in one of `old`.

    A half of the checkerboard starts as the same half before; where there is one step now, it starts as the first half.

    Raises:
        UsageError: a chunk that is no part of one before.
    """
    out = {name: value for name, value in state.items() if not name.startswith("prior.steps.")}
    for (number, start, end), halves in zip(_places(new), new.halves(), strict=True):
        old_chunks = zip(_places(old), old.halves(), strict=True)
        (first, from_, to), count = next(chunk for chunk in old_chunks if chunk[0][1] <= start < chunk[0][2])
        if end > to:
            raise UsageError(f"channels {start} to {end} are no part of one chunk before")
        for half in range(halves):
            source = f"prior.steps.{first + min(half, count - 1)}."
            for name, value in state.items():
                if not name.startswith(source):
                    continue
                part = name.removeprefix(source)
                if part.startswith("out."):  # means of the chunk's channels, then scales
                    means, scales = value.chunk(2)
                    value = torch.cat([means[start - from_ : end - from_], scales[start - from_ : end - from_]])
                elif part == "context.weight":
                    value = _fit(value, start + half * (end - start))
                out[f"prior.steps.{number + half}.{part}"] = value.clone()
            if number + half:  # what the first step of all has not
                prefix, width = f"prior.steps.{number + half}", new.prior_width
                out.setdefault(f"{prefix}.context.weight", torch.zeros(width, start + half * (end - start), 1, 1))
                if new.carry:
                    out.setdefault(f"{prefix}.carry.weight", torch.zeros(width, width, 1, 1))
                    out.setdefault(f"{prefix}.carry.bias", torch.zeros(width))
    return out


def _fit(weight: torch.Tensor, seen: int) -> torch.Tensor:
    """The weights for `seen` channels, zero where they are new."""
    wide = torch.zeros(len(weight), seen, 1, 1)
    known = min(seen, weight.shape[1])
    wide[:, :known] = weight[:, :known]
    return wide


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = ArgumentParser(prog="python -m vqcodec.train.regroup", description=__doc__)
    parser.add_argument("old", type=Path, help="checkpoint of `vqcodec train`")
    parser.add_argument("new", type=Path, help="checkpoint to write, for --resume")
    parser.add_argument("--chunks", required=True, metavar="N,N,...", help="channels of each chunk")
    parser.add_argument("--checkerboard", default="2", metavar="N,...", help="steps of each, the last for the rest")
    parser.add_argument("--last", action="store_true", help="the last weights, not their moving average")
    o = parser.parse_args(arguments)
    try:
        model, _ = load_checkpoint(o.old, not o.last)
        config = override(model.config, {"chunks": o.chunks, "checkerboard": o.checkerboard, "carry": True})
        grown = Codec(config)
        grown.load_state_dict(regroup(model.state_dict(), model.config, config))
    except VqcError as error:
        print(f"vqcodec: {error}", file=sys.stderr)
        return error.exit_code
    state = {"phase": "regrouped", "step": 0, "elapsed": 0.0, "train": {}}
    save_checkpoint(o.new, grown, grown.state_dict(), None, state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
