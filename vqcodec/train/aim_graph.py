# SPDX-License-Identifier: MIT
"""The graph behind the encoder's aim: what the synthesis makes of latents, its error, and the slopes of that.

A float's estimate for the encoder alone; nothing of it reaches the entropy coder.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vqcodec.model.aim import INPUTS
from vqcodec.train.codec import Codec
from vqcodec.train.graph import Graph
from vqcodec.train.transform_graphs import synthesis


def aim_graph(model: Codec) -> bytes:
    """Latents and the picture that they are to restore -> the error's slopes along the latents.

    Inputs (float32): y [1, M, h, w]; x [1, 3, 16 h, 16 w] in [0, 1]; hat [1, R], the weights of the anchors of every
    tune; weight [1, 1, 16 h, 16 w] of each pixel's squared error.

    Output: slopes [1, M, h, w] of the sum over all samples of weight * squared error, with respect to y.
    """
    c, g = model.config, Graph()
    hat = g.node("Concat", ["hat", g.constant(np.zeros((1, 1), np.float32), half=False)], axis=1)
    restored = synthesis(g, model.synthesis, "y", hat)
    error = g.sub(g.node("Clip", [restored, g.scalar(0), g.scalar(1)]), "x")
    (slopes,) = g.gradient({error: g.mul(g.mul(error, "weight"), g.scalar(2))}, ["y"])
    g.rename(slopes, "slopes")
    grid = [1, c.latents, "h", "w"]
    shapes: dict[str, list[Any]] = {
        "y": grid, "x": [1, 3, "H", "W"], "hat": [1, c.rows], "weight": [1, 1, "H", "W"],
    }  # fmt: skip
    return g.serialise({name: shapes[name] for name in INPUTS}, {"slopes": grid})
