# SPDX-License-Identifier: MIT
"""A trained model in a larger shape, so that nothing that it learned is lost: silent channels, copied tables."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vqcodec.errors import UsageError
from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig


def widened(model: Codec, config: ModelConfig) -> Codec:
    """The model in the shape of `config`, computing what it computed.

    New channels of the prior get random weights from the channels before them, and zero weights to what was there: they
    are silent until training finds a use for them. A tune that the model lacks starts as a copy of its first.

    Raises:
        UsageError: `config` differs in more than the prior's width (which may grow) and the tunes.
    """
    old = model.config
    if replace(config, prior_width=old.prior_width, tunes=old.tunes) != old or config.prior_width < old.prior_width:
        raise UsageError("a trained model can change in prior_width, upwards, and in tunes alone")
    if config == old:
        return model
    wide = Codec(config)
    state = model.state_dict()
    new = {name: _grown(name, state[name], x, config, old) for name, x in wide.state_dict().items()}
    wide.load_state_dict(new)
    return wide


def _grown(name: str, old: Tensor, fresh: Tensor, config: ModelConfig, before: ModelConfig) -> Tensor:
    """One parameter in its new shape; `fresh` is how it would start."""
    if name.endswith((".table", ".quality", "log_step", "place_strength")):
        old = _rows(old, config, before)
    if old.shape == fresh.shape:
        return old
    out = fresh.clone()
    if name.endswith(".weight") and "depthwise" not in name:
        wider_outputs, wider_inputs = (fresh.shape[axis] > old.shape[axis] for axis in (0, 1))
        if wider_inputs:  # new inputs say nothing to the outputs that were there
            out[: old.shape[0], old.shape[1] :] = 0
        if wider_outputs and name.endswith((".leave.weight", ".reduce.weight", ".carry.weight")):
            out[old.shape[0] :] *= 0.3
    else:
        out.zero_() if name.endswith((".bias", ".quality")) else None
    out[tuple(slice(0, size) for size in old.shape)] = old
    return out


def _rows(old: Tensor, config: ModelConfig, before: ModelConfig) -> Tensor:
    """The rows of a table per tune and anchor (and one for the base layer alone, where there is one)."""
    count, body = before.anchors, before.rows
    parts = []
    for tune in config.tunes:
        start = count * (before.tunes.index(tune) if tune in before.tunes else 0)
        parts.append(old[start : start + count])
    return torch.cat([*parts, old[body:]])
