# SPDX-License-Identifier: MIT
"""The realistic decoder or the denoiser joins a model that is there already: one more graph in the model's folder.

Files that were written with the model get the new decoder, too: what identifies a model is its tables alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from vqcodec.errors import InputError
from vqcodec.model.zoo import DENOISER, DENOISER_HALO, REALISTIC, REALISTIC_HALO, find
from vqcodec.train.codec import Codec
from vqcodec.train.denoiser import Denoiser, denoiser_graph
from vqcodec.train.denoiser import halo as denoiser_halo
from vqcodec.train.export import synthesis_graph
from vqcodec.train.graph import Graph, array
from vqcodec.train.layers import SLOPE, Gain
from vqcodec.train.texture import Grain, Residual, Texture, halo


def _gain(g: Graph, x: str, gain: Gain, full: float) -> str:
    """Gains of the quality, whose weights sum to one (the 1 of 1 + gain), and of the quality times the realism."""
    table = array(gain.table)
    half = len(table) // 2
    table[:half] += 1
    table[half:] *= full
    return g.mul(x, g.as_channels(g.node("MatMul", ["hat", g.constant(table)])))


def _grain(g: Graph, x: str, grain: Grain) -> str:
    f = grain.filters
    noise = g.convolve("noise", array(f.weight), None, int(f.stride[0]), int(f.padding[0]))
    return g.add(x, g.mul(noise, g.conv(x, grain.strength)))


def _interpolated(g: Graph, x: str, times: int) -> str:
    scales = g.constant(np.array([1, 1, times, times], np.float32), half=False)
    return g.node("Resize", [x, "", scales], mode="linear", coordinate_transformation_mode="half_pixel")


def _residual(g: Graph, x: str, block: Residual) -> str:
    h = g.node("LeakyRelu", [g.conv(x, block.enter)], alpha=SLOPE)
    return g.add(x, g.conv(h, block.leave))


def texture_graph(model: Codec, texture: Texture, full: float = 1.0) -> bytes:
    """The realistic decoder's network, as `transform.RealisticSynthesis` runs it.

    `full` is the realism in training that a reader's realism of 1 stands for.

    Inputs: y [1, M, h, w], picture [1, 3, H, W] (the faithful one), hat [1, 2 (A + 1)] (the quality's weights, then
    these times the realism), realism [1, 1, 1, 1], noise [1, 1, H, W]. Output: x [1, 3, H, W].
    """
    t, g = texture, Graph()
    seen = g.node("Sub", ["picture", g.constant(np.array(0.5))])
    h = _gain(g, g.conv("y", t.enter, scale_in=1 / t.sigma), t.gain16, full)
    for block in t.blocks16:
        h = g.block(h, block)
    h = _interpolated(g, g.conv(h, t.up8), 2)
    h = _gain(g, _grain(g, h, t.grain8), t.gain8, full)
    for block in t.blocks8:
        h = g.block(h, block)
    assert t.see.bias is not None
    look = g.convolve(seen, array(t.see.weight), array(t.see.bias), int(t.see.stride[0]), int(t.see.padding[0]))
    h = g.node("LeakyRelu", [g.add(_interpolated(g, g.conv(h, t.up4), 2), look)], alpha=SLOPE)
    h = _gain(g, _grain(g, h, t.grain4), t.gain4, full)
    for residual in t.blocks4:
        assert isinstance(residual, Residual)
        h = _residual(g, h, residual)
    h = _gain(g, h, t.gain_out, full)
    parts, start = [], 0  # noise and picture one after the other: half the memory of both at once
    for source, filters in (("noise", t.noise_filters), (seen, t.picture_filters)):
        here = slice(start, start + filters.out_channels)
        assert t.strengths.bias is not None
        small = g.convolve(h, array(t.strengths.weight[here]), array(t.strengths.bias[here]))
        filtered = g.convolve(source, array(filters.weight), None, 1, int(filters.padding[0]))
        strong = g.mul(_interpolated(g, small, 4), filtered)
        parts.append(g.convolve(strong, full * array(t.out.weight[:, here]), None))
        start = here.stop
    added = g.add(*parts)
    x = g.add("picture", g.mul(added, "realism"))
    g.rename(x, "x")
    levels = 2 * (model.config.rows + 1)
    return g.serialise(
        {
            "y": [1, model.config.latents, "h", "w"], "picture": [1, 3, "H", "W"], "hat": [1, levels],
            "realism": [1, 1, 1, 1], "noise": [1, 1, "H", "W"],
        },
        {"x": [1, 3, "H", "W"]},
    )  # fmt: skip


def attach(folder: Path, model: Codec, texture: Texture, full: float = 1.0) -> None:
    """Write `realistic.onnx` into a model's folder, and its size and sha256 into `model.json`. `full`: as above.

    Raises:
        ModelError: there is no model.
        InputError: it is the model of another checkpoint.
    """
    card = find(folder).card
    if hashlib.sha256(synthesis_graph(model)).hexdigest() != card["files"]["synthesis.onnx"]["sha256"]:
        raise InputError(f"the model in {folder} was not made from this checkpoint")
    _join(
        folder,
        REALISTIC,
        texture_graph(model, texture, full),
        REALISTIC_HALO,
        halo(texture.config, int(card["synthesis_halo"])),
    )


def attach_denoiser(folder: Path, network: Denoiser) -> None:
    """Write `denoiser.onnx` into a model's folder, and its size, sha256 and halo into `model.json`.

    Raises:
        ModelError: there is no model.
    """
    _join(folder, DENOISER, denoiser_graph(network), DENOISER_HALO, denoiser_halo(network.config))


def _join(folder: Path, name: str, data: bytes, halo_name: str, reach: int) -> None:
    """Write a graph, then the card that names it, each by rename."""
    card = find(folder).card
    card["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    card[halo_name] = reach
    for path, content in ((name, data), ("model.json", (json.dumps(card, indent=1) + "\n").encode())):
        part = folder / f"{path}.part"
        part.write_bytes(content)
        os.replace(part, folder / path)
