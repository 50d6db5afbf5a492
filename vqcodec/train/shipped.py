# SPDX-License-Identifier: MIT
"""A model folder back to torch: ONNX graphs and integer tables -> `Codec` and `BasePrior`, to train on from.

What is exported again equals the folder: the graphs byte for byte, the tables to one unit of their rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqcodec.bitstream.codebook import ACT_BITS, LATENT_BITS, anchor_weights, quality_level
from vqcodec.errors import InputError
from vqcodec.model.zoo import ModelFiles, find, read_tables
from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig
from vqcodec.train.layers import Block, Gain
from vqcodec.train.prior import BasePrior, PriorStep, RefinementPrior

Tables = Mapping[str, NDArray[Any]]
ONE = 2.0**ACT_BITS


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


class _Graph:
    """Hands out the weights of an ONNX graph in the order in which its nodes use them."""

    def __init__(self, data: bytes) -> None:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load_from_string(data).graph
        values = {i.name: numpy_helper.to_array(i).astype(np.float32) for i in graph.initializer}
        for node in graph.node:  # weights are kept in half precision
            if node.op_type == "Cast" and node.input[0] in values:
                values[node.output[0]] = values[node.input[0]]
        self._convs = [[values[name] for name in n.input[1:]] for n in graph.node if n.op_type == "Conv"]
        self._gains = [values[n.input[1]] for n in graph.node if n.op_type == "MatMul"]

    def conv(self, layer: nn.Conv2d, scale_out: Tensor | None = None, scale_in: Tensor | None = None) -> None:
        """Set a layer; the scales are those that the export multiplied its rows and columns by."""
        weight, *bias = (_tensor(part) for part in self._convs.pop(0))
        if scale_out is not None:
            weight, bias = weight / scale_out[:, None, None, None], [part / scale_out for part in bias]
        if scale_in is not None:
            weight = weight / scale_in[None, :, None, None]
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias[0])

    def blocks(self, blocks: list[Block]) -> None:
        """Set residual blocks, one after the other."""
        for block in blocks:
            for name in block.layers():
                self.conv(getattr(block, name))

    def gain(self, gain: Gain) -> None:
        """Set a table of gains."""
        gain.table.copy_(_tensor(self._gains.pop(0)) - 1)


def _config(tables: Tables, files: ModelFiles) -> ModelConfig:
    """The shape of a shipped model; what its tables do not show is the default."""
    return ModelConfig(
        latents=len(tables["prior.sigma"]),
        chunks=tuple(int(width) for width in tables["prior.chunks"]),
        checkerboard=tuple(int(halves) for halves in tables["prior.halves"]),
        codebook_size=tables["codebook"].shape[0],
        codebook_dim=tables["codebook"].shape[1],
        prior_width=tables["prior.enter.weight"].shape[0],
        base_prior_width=tables["base_prior.enter.weight"].shape[0],
        carry="prior.steps.1.carry.weight" in tables,
        tunes=files.tunes,
        anchors=int(files.card["anchors"]),
        lambda_min=float(files.card["lambda_min"]),
        lambda_max=float(files.card["lambda_max"]),
    )


def _sigma(tables: Tables) -> Tensor:
    """Deviations of the latents [M]: the middle of what both of their rounded tables allow."""
    sigma, inverse = tables["prior.sigma"].astype(float), tables["prior.inverse_sigma"].astype(float)
    low = np.maximum((sigma - 0.5) / 2.0**LATENT_BITS, ONE / (inverse + 0.5))
    high = np.minimum((sigma + 0.5) / 2.0**LATENT_BITS, ONE / (inverse - 0.5))
    return _tensor((low + high) / 2)


def _set_conv(layer: nn.Conv2d, tables: Tables, name: str) -> None:
    shift = float(tables[f"{name}.shift"])
    layer.weight.copy_(_tensor(tables[f"{name}.weight"] / 2.0**shift).reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(_tensor(tables[f"{name}.bias"] / (ONE * 2.0**shift)))


def _set_block(block: Block, tables: Tables, name: str) -> None:
    for part in block.layers():
        _set_conv(getattr(block, part), tables, f"{name}.{part}")


def _set_prior(prior: RefinementPrior, tables: Tables, anchors: int) -> None:
    _set_conv(prior.enter, tables, "prior.enter")
    for i, block in enumerate(prior.blocks):
        _set_block(block, tables, f"prior.blocks.{i}")
    _set_conv(prior.base_mean, tables, "prior.base_mean")
    if "prior.activity.weight" in tables:
        _set_conv(prior.activity, tables, "prior.activity")
        prior.place_strength.copy_(_at_anchors(tables["prior.strength"] / ONE, anchors))
    for i, step in enumerate(prior.steps):
        assert isinstance(step, PriorStep)
        name = f"prior.steps.{i}"
        for part in ("context", "carry", "base", "out"):
            if getattr(step, part) is not None:
                _set_conv(getattr(step, part), tables, f"{name}.{part}")
        step.quality.copy_(_at_anchors(tables[f"{name}.quality"] / ONE, anchors))
        _set_block(step.block1, tables, f"{name}.block1")
        _set_block(step.block2, tables, f"{name}.block2")


def _at_anchors(table: NDArray[np.float64], anchors: int) -> Tensor:
    """[100 tunes, ...], a row per tune and quality, between anchors -> [R, ...], the rows at the anchors."""
    weights = np.stack([anchor_weights(quality_level(quality), anchors) for quality in range(1, 101)])
    per_tune = [np.linalg.lstsq(weights, part, rcond=None)[0] for part in np.split(table, len(table) // 100)]
    return _tensor(np.concatenate(per_tune))


@torch.no_grad()
def load_shipped(name: str | Path) -> tuple[Codec, BasePrior]:
    """A shipped model's id, or a model folder, as modules that train on.

    Raises:
        ModelError: there is no such model, or its files are not what its card says.
        InputError: its parts do not fit the networks of this version.
    """
    files = find(name)
    tables: Tables = read_tables(files.verified("tables.npz"))
    try:
        config = _config(tables, files)
        model, base_prior = Codec(config), BasePrior(config)
        sigma = _sigma(tables)
        for part in (model.analysis, model.synthesis, model.prior):
            part.sigma.copy_(sigma)
        _set_transforms(model, files, sigma)
        codebook = _tensor(tables["codebook"] / ONE)
        model.quantiser.codebook.copy_(codebook)
        model.quantiser.counts.fill_(1.0)
        model.quantiser.sums.copy_(codebook)
        model.quantiser.started.fill_(True)
        _set_prior(model.prior, tables, config.anchors)
        steps = np.log(tables["prior.step_size"] / 2.0**LATENT_BITS)
        model.log_step.copy_(_at_anchors(steps, config.anchors))
        for part_name in ("enter", "spread", "out"):
            _set_conv(getattr(base_prior, part_name), tables, f"base_prior.{part_name}")
        base_prior.passes.copy_(_tensor(tables["base_prior.passes"] / ONE))
        for i, block in enumerate(base_prior.blocks):
            _set_block(block, tables, f"base_prior.blocks.{i}")
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise InputError(f"the model {files.id} does not fit this version's networks: {error}") from None
    return model, base_prior


def _set_transforms(model: Codec, files: ModelFiles, sigma: Tensor) -> None:
    a, graph = model.analysis, _Graph(files.verified("analysis.onnx"))
    graph.conv(a.patch)
    graph.blocks(list(a.blocks8))
    graph.gain(a.gain8)
    graph.conv(a.down)
    graph.blocks(list(a.blocks16))
    graph.gain(a.gain16)
    graph.conv(a.linear)
    graph.conv(a.out, scale_out=sigma)
    graph.conv(a.base_linear, scale_in=1 / sigma)
    graph.conv(a.base_out)
    s, graph = model.synthesis, _Graph(files.verified("synthesis.onnx"))
    graph.conv(s.enter, scale_in=1 / sigma)
    graph.gain(s.gain_in)
    graph.blocks(list(s.blocks16))
    graph.gain(s.gain16)
    graph.conv(s.up)
    graph.blocks(list(s.blocks8))
    graph.gain(s.gain8)
    graph.conv(s.out)
    graph.conv(s.linear)
