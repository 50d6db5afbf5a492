# SPDX-License-Identifier: MIT
"""A model folder back to torch: ONNX graphs and integer tables -> `Codec` and `BasePrior`, to train on from.

The graphs are exported again byte for byte. The networks of the priors come back in the units of their codes: what they
compute is what the integers compute, but for the rounding of codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqcodec.bitstream.codebook import CODE_BITS, LATENT_BITS
from vqcodec.bitstream.quality import anchor_weights, quality_level
from vqcodec.errors import InputError
from vqcodec.model.layers import FINER, FRACTION
from vqcodec.model.prior import CLASS_ORIGIN, CLASSES_PER_OCTAVE, CONTEXT_BITS, MEAN_BITS, STRENGTH_BITS
from vqcodec.model.zoo import ModelFiles, find, read_tables
from vqcodec.train.codec import Codec
from vqcodec.train.config import ModelConfig
from vqcodec.train.graph import Graph
from vqcodec.train.layers import Block, Gain
from vqcodec.train.prior import BasePrior, PriorStep, RefinementPrior
from vqcodec.train.transform_graphs import analysis, synthesis

Tables = Mapping[str, NDArray[Any]]
STREAM = 2.0**FRACTION


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


class _Reader(Graph):
    """Follows the order of an exported graph's layers, and sets each from the weights that its nodes use."""

    def __init__(self, data: bytes) -> None:
        import onnx
        from onnx import numpy_helper

        super().__init__()
        graph = onnx.load_from_string(data).graph
        values = {i.name: numpy_helper.to_array(i).astype(np.float32) for i in graph.initializer}
        for node in graph.node:  # weights are kept in half precision
            if node.op_type == "Cast" and node.input[0] in values:
                values[node.output[0]] = values[node.input[0]]
        self._convs = [[values[name] for name in n.input[1:]] for n in graph.node if n.op_type == "Conv"]
        self._gains = [values[n.input[1]] for n in graph.node if n.op_type == "MatMul"]

    def conv(self, x: str, conv: nn.Conv2d, scale_out: Tensor | None = None, scale_in: Tensor | None = None) -> str:
        """Set a layer; the scales are those that the export multiplied its rows and columns by."""
        weight, *bias = (_tensor(part) for part in self._convs.pop(0))
        if scale_out is not None:
            weight, bias = weight / scale_out[:, None, None, None], [part / scale_out for part in bias]
        if scale_in is not None:
            weight = weight / scale_in[None, :, None, None]
        conv.weight.copy_(weight)
        if conv.bias is not None:
            conv.bias.copy_(bias[0])
        return x

    def gain(self, x: str, gain: Gain, hat: str = "hat") -> str:
        """Set a table of gains."""
        gain.table.copy_(_tensor(self._gains.pop(0)) - 1)
        return x


def _config(tables: Tables, files: ModelFiles) -> ModelConfig:
    """The shape of a shipped model; what its tables do not show is the default."""
    return ModelConfig(
        latents=len(tables["prior.base_scale"]),
        chunks=tuple(int(width) for width in tables["prior.chunks"]),
        checkerboard=tuple(int(halves) for halves in tables["prior.halves"]),
        codebook_size=tables["codebook"].shape[0],
        codebook_dim=tables["codebook"].shape[1],
        prior_width=tables["prior.enter.weight"].shape[0],
        base_prior_width=tables["base_prior.enter.weight"].shape[0],
        carry=_carries(tables),
        tunes=files.tunes,
        anchors=int(files.card["anchors"]),
        lambda_min=float(files.card["lambda_min"]),
        lambda_max=float(files.card["lambda_max"]),
    )


def _sigma(tables: Tables) -> NDArray[np.float64]:
    """Deviations of the latents [M]: what scales and steps say together, as `calibrate.py` makes them."""
    octaves = tables["prior.ratio"].astype(np.float64) / (STREAM * CLASSES_PER_OCTAVE) + CLASS_ORIGIN
    steps = tables["prior.step_size"] * 2.0**-LATENT_BITS
    sigma: NDArray[np.float64] = 2.0 ** np.mean(octaves + np.log2(steps), 0)
    return sigma


def _features(tables: Tables) -> int:
    """How many codes the features of the base layer have: one for each channel, or a pair."""
    return int(tables["prior.steps.0.join.weight"].shape[1])


def _carries(tables: Tables) -> bool:
    """Whether steps go on from the features of the one before."""
    width, inputs = tables["prior.steps.1.join.weight"].shape
    seen = int(tables["prior.chunks"][0])
    return bool(inputs == _features(tables) + 2 * seen + width)


def _rows(tables: Tables, name: str) -> NDArray[np.float64]:
    """The weights of a layer in units of codes and streams: [O, I], or [C, 9]."""
    weight = tables[f"{name}.weight"].astype(np.float64)
    rows: NDArray[np.float64] = weight.reshape(len(weight), -1) * 2.0 ** -tables[f"{name}.shift"].astype(float)[:, None]
    return rows


def _set_conv(
    layer: nn.Conv2d, tables: Tables, name: str, columns: slice = slice(None), out: NDArray[np.float64] | None = None
) -> None:
    """Set a layer from some columns of an integer one; `out` [O] is what its outputs are multiplied by.

    Where the layer takes pairs, the first codes alone count: the second ones are what rounding leaves of them.
    """
    weight = _rows(tables, name)[:, columns]
    weight = weight[:, : layer.weight[0].numel()]
    depthwise = tables[f"{name}.weight"].ndim == 3  # whose bias is in units of its sums
    units = 2.0 ** -tables[f"{name}.shift"].astype(np.float64) if depthwise else 1 / STREAM
    bias = tables[f"{name}.bias"] * units
    scale = np.ones(len(weight)) if out is None else out
    layer.weight.copy_(_tensor(weight * scale[:, None]).reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(_tensor(bias * scale))


def _set_block(block: Block, tables: Tables, name: str) -> None:
    for part in block.layers():
        _set_conv(getattr(block, part), tables, f"{name}.{part}")


def _set_prior(prior: RefinementPrior, tables: Tables, anchors: int) -> None:
    """Everything of the refinement's prior but its deviations, which are set already, and the first layer."""
    sigma = prior.sigma.double().numpy()
    to_sigma = 2.0 ** -(MEAN_BITS + LATENT_BITS) / sigma
    for i, block in enumerate(prior.blocks):
        _set_block(block, tables, f"prior.blocks.{i}")
    _set_conv(prior.base_mean, tables, "prior.base_mean", out=tables["prior.base_scale"] * to_sigma)
    if "prior.activity.weight" in tables:
        _set_conv(prior.activity, tables, "prior.activity")
        prior.place_strength.copy_(_at_anchors(tables["prior.strength"] * 2.0**-STRENGTH_BITS, anchors))
    context_scale = tables["prior.context_scale"] * 2.0 ** (LATENT_BITS - CONTEXT_BITS) * sigma
    for number, step in enumerate(prior.steps):
        name = f"prior.steps.{number}"
        _set_step(step, tables, name, context_scale[: step.seen], anchors)
        means = tables[f"{name}.mean_scale"] * to_sigma[step.channels]
        scales = np.full(len(means), 1 / CLASSES_PER_OCTAVE)
        _set_conv(step.out, tables, f"{name}.out", out=np.concatenate([means, scales]))


def _set_step(step: PriorStep, tables: Tables, name: str, context_scale: NDArray[np.float64], anchors: int) -> None:
    """The layers of a step but the last; `context_scale` [seen] turns contexts into codes."""
    features, seen = _features(tables), len(context_scale)
    _set_conv(step.base, tables, f"{name}.join", slice(0, features))
    if step.context is not None:
        first = _rows(tables, f"{name}.join")[:, features : features + 2 * seen : 2] * context_scale
        step.context.weight.copy_(_tensor(first).reshape(step.context.weight.shape))
    if step.carry is not None:
        last = _rows(tables, f"{name}.join")[:, features + 2 * seen :]
        step.carry.weight.copy_(_tensor(last).reshape(step.carry.weight.shape))
        if step.carry.bias is not None:
            step.carry.bias.zero_()  # the joined layer has one bias
    step.quality.copy_(_at_anchors(tables[f"{name}.quality"] / STREAM, anchors))
    _set_block(step.block1, tables, f"{name}.block1")
    _set_block(step.block2, tables, f"{name}.block2")


def _enter(layer: nn.Conv2d, tables: Tables, name: str) -> None:
    """Set a layer whose inputs are codewords; codewords are their codes times a unit each."""
    dim = layer.weight.shape[1]
    words, codes = tables["codebook"] * 2.0**-CODE_BITS, tables["codes"][:, :dim] + tables["codes"][:, dim:] / FINER
    unit = (words * codes).sum(0) / (codes * codes).sum(0)
    _set_conv(layer, tables, name)
    layer.weight.div_(_tensor(unit)[None, :, None, None])


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
        sigma = _tensor(_sigma(tables))
        for part in (model.analysis, model.synthesis, model.prior):
            part.sigma.copy_(sigma)
        analysis(_Reader(files.verified("analysis.onnx")), model.analysis)
        synthesis(_Reader(files.verified("synthesis.onnx")), model.synthesis, "y")
        codebook = _tensor(tables["codebook"] * 2.0**-CODE_BITS)
        model.quantiser.codebook.copy_(codebook)
        model.quantiser.counts.fill_(1.0)
        model.quantiser.sums.copy_(codebook)
        model.quantiser.started.fill_(True)
        _enter(model.prior.enter, tables, "prior.enter")
        _set_prior(model.prior, tables, config.anchors)
        steps = np.log(tables["prior.step_size"] / 2.0**LATENT_BITS)
        model.log_step.copy_(_at_anchors(steps, config.anchors))
        _enter(base_prior.enter, tables, "base_prior.enter")
        base_prior.passes.copy_(_tensor(tables["base_prior.passes"] / STREAM))
        for part_name in ("spread", "out"):
            _set_conv(getattr(base_prior, part_name), tables, f"base_prior.{part_name}")
        for i, block in enumerate(base_prior.blocks):
            _set_block(block, tables, f"base_prior.blocks.{i}")
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise InputError(f"the model {files.id} does not fit this version's networks: {error}") from None
    return model, base_prior
