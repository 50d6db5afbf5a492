# SPDX-License-Identifier: MIT
"""torch -> a model folder: transforms as ONNX graphs (graph.py), priors rounded to integers, card and checksums.

Layout and meaning of the tables: docs/FORMAT.md, "Model files".
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from vqcodec.bitstream.codebook import ACT_BITS, LATENT_BITS, quality_level
from vqcodec.bitstream.codebook import anchor_weights as hat_weights
from vqcodec.model.prior import LOG_ONE
from vqcodec.model.zoo import GRADIENT
from vqcodec.train.graph import Graph
from vqcodec.train.graph import array as _array
from vqcodec.train.networks import BasePrior, Block, Codec, PriorStep
from vqcodec.train.quantise import VectorQuantiser
from vqcodec.train.refinement import refinement_graph

Tables = dict[str, NDArray[Any]]


def _round_layer(out: Tables, name: str, weight: Tensor, bias: Tensor | None) -> None:
    """Weights to 16 bits under a power of two per layer, bias at the scale of the sums."""
    w = _array(weight)
    peak = float(np.abs(w).max(initial=0)) or 1.0
    shift = min(24, math.floor(math.log2(32767 / peak)))
    out[f"{name}.weight"] = np.rint(w * 2.0**shift).astype(np.int16)
    b = np.zeros(len(w)) if bias is None else _array(bias)
    out[f"{name}.bias"] = np.rint(b * 2.0 ** (ACT_BITS + shift)).astype(np.int64)
    out[f"{name}.shift"] = np.array(shift, np.int64)


def _round_conv(out: Tables, name: str, conv: nn.Conv2d) -> None:
    weight = conv.weight[:, 0] if conv.groups > 1 else conv.weight[:, :, 0, 0]
    _round_layer(out, name, weight, conv.bias)


def _round_block(out: Tables, name: str, block: Block) -> None:
    parts = ["enter", "depthwise", "leave", *(["expand", "reduce"] if block.ffn else [])]
    for part in parts:
        _round_conv(out, f"{name}.{part}", getattr(block, part))


def integer_tables(model: Codec, base_prior: BasePrior) -> Tables:
    """Codebook and priors in integers; the frequency tables (`tables.*`) are counted on them afterwards."""
    out: Tables = {}
    one = 2.0**ACT_BITS
    assert model.config.exportable()
    assert isinstance(model.quantiser, VectorQuantiser)
    out["codebook"] = np.rint(_array(model.quantiser.codebook) * one).astype(np.int32)
    p = model.prior
    _round_conv(out, "prior.enter", p.enter)
    for i, block in enumerate(p.blocks):
        _round_block(out, f"prior.blocks.{i}", block)
    _round_conv(out, "prior.base_mean", p.base_mean)
    hats = np.stack([hat_weights(quality_level(q), model.config.anchors) for q in range(1, 101)])
    for i, step in enumerate(p.steps):
        assert isinstance(step, PriorStep)
        name = f"prior.steps.{i}"
        if step.context is not None:
            _round_conv(out, f"{name}.context", step.context)
        if step.carry is not None:
            _round_conv(out, f"{name}.carry", step.carry)
        _round_conv(out, f"{name}.base", step.base)
        out[f"{name}.quality"] = np.rint(hats @ _array(step.quality) * one).astype(np.int32)
        _round_block(out, f"{name}.block1", step.block1)
        _round_block(out, f"{name}.block2", step.block2)
        _round_conv(out, f"{name}.out", step.out)
    sigma = _array(p.sigma)
    out["prior.sigma"] = np.rint(sigma * 2.0**LATENT_BITS).astype(np.int32)
    out["prior.inverse_sigma"] = np.rint(one / sigma).astype(np.int32)
    step_size = np.maximum(1, np.rint(np.exp(hats @ _array(model.log_step)) * 2.0**LATENT_BITS))
    out["prior.step_size"] = step_size.astype(np.int32)
    out["prior.log2_ratio"] = np.rint((np.log2(sigma * 2.0**LATENT_BITS) - np.log2(step_size)) * one).astype(np.int32)
    out["prior.chunks"] = np.array(p.chunks, np.int32)
    out["prior.halves"] = np.array(p.halves, np.int32)
    b = base_prior
    _round_conv(out, "base_prior.enter", b.enter)
    out["base_prior.passes"] = np.rint(_array(b.passes) * one).astype(np.int32)
    _round_conv(out, "base_prior.spread", b.spread)
    for i, block in enumerate(b.blocks):
        _round_block(out, f"base_prior.blocks.{i}", block)
    _round_conv(out, "base_prior.out", b.out)
    out["base_prior.exp2"] = np.rint(LOG_ONE * 2.0 ** (-np.arange(256) / 256)).astype(np.int32)
    return out


def analysis_graph(model: Codec) -> bytes:
    """The analysis transform: x [1, 3, H, W], hat [1, A] -> y [1, M, h, w], z [1, D, h, w]."""
    a, c, g = model.analysis, model.config, Graph()
    x = g.node("Sub", ["x", g.constant(np.array(0.5))])
    h = g.conv(x, a.patch)
    for block in a.blocks8:
        h = g.block(h, block)
    h = g.conv(g.gain(h, a.gain8), a.down)
    for block in a.blocks16:
        h = g.block(h, block)
    h = g.gain(h, a.gain16)
    y = g.node("Add", [g.conv(x, a.linear), g.conv(h, a.out, scale_out=a.sigma)])
    z = g.node("Add", [g.conv(y, a.base_linear, scale_in=1 / a.sigma), g.conv(h, a.base_out)])
    g.rename(y, "y")
    g.rename(z, "z")
    return g.serialise(
        {"x": [1, 3, "H", "W"], "hat": [1, c.anchors]},
        {"y": [1, c.latents, "h", "w"], "z": [1, c.codebook_dim, "h", "w"]},
    )


def synthesis_graph(model: Codec) -> bytes:
    """The synthesis transform: y [1, M, h, w], hat [1, A + 1] -> x [1, 3, H, W], nominally in [0, 1]."""
    s, c, g = model.synthesis, model.config, Graph()
    h = g.gain(g.conv("y", s.enter, scale_in=1 / s.sigma), s.gain_in)
    for block in s.blocks16:
        h = g.block(h, block)
    h = g.depth_to_space(g.conv(g.gain(h, s.gain16), s.up), 2, c.synthesis_width8)
    for block in s.blocks8:
        h = g.block(h, block)
    fine = g.depth_to_space(g.conv(g.gain(h, s.gain8), s.out), 8, 3)
    coarse = g.depth_to_space(g.conv("y", s.linear), 16, 3)
    x = g.node("Add", [g.node("Add", [coarse, fine]), g.constant(np.array(0.5))])
    g.rename(x, "x")
    return g.serialise({"y": [1, c.latents, "h", "w"], "hat": [1, c.anchors + 1]}, {"x": [1, 3, "H", "W"]})


def halos(model: Codec) -> tuple[int, int]:
    """Reach of analysis and synthesis beyond a latent's own block, in latents."""
    c = model.config
    analysis = c.analysis_blocks16 + math.ceil(c.analysis_blocks8 / 2)
    synthesis = c.synthesis_blocks16 + math.ceil(c.synthesis_blocks8 / 2)
    return analysis, synthesis


def write_model(folder: Path, name: str, model: Codec, tables: Tables, notes: dict[str, Any]) -> None:
    """Write the model folder: `tables.npz`, the three graphs, `model.json` with their sizes and sha256.

    Args:
        folder: made if missing.
        name: the model's id.
        tables: complete integer tables, the counted ones included.
        notes: what the card says about training and data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "tables.npz", **tables)  # type: ignore[arg-type]
    (folder / "analysis.onnx").write_bytes(analysis_graph(model))
    (folder / "synthesis.onnx").write_bytes(synthesis_graph(model))
    (folder / GRADIENT).write_bytes(refinement_graph(model))
    files = {}
    for path in ("tables.npz", "analysis.onnx", "synthesis.onnx", GRADIENT):
        data = (folder / path).read_bytes()
        files[path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    analysis_halo, synthesis_halo = halos(model)
    card = {
        "id": name,
        "anchors": model.config.anchors,
        "lambda_min": model.config.lambda_min,
        "lambda_max": model.config.lambda_max,
        "analysis_halo": analysis_halo,
        "synthesis_halo": synthesis_halo,
        "files": files,
        **notes,
    }
    (folder / "model.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
