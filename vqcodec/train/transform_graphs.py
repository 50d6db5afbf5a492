# SPDX-License-Identifier: MIT
"""The order of the transforms' layers, for every graph that holds one: written for the exporter, read by `shipped.py`.

`transforms.py` computes the same in torch.
"""

from __future__ import annotations

import numpy as np

from vqcodec.train.graph import Graph
from vqcodec.train.transforms import Analysis, Synthesis


def analysis(g: Graph, a: Analysis) -> tuple[str, str]:
    """x [1, 3, H, W] in [0, 1], hat [1, R] -> latents [1, M, h, w] and base vectors [1, D, h, w]."""
    x = g.node("Sub", ["x", g.constant(np.array(0.5))])
    h = g.conv(x, a.patch)
    for block in a.blocks8:
        h = g.block(h, block)
    h = g.conv(g.gain(h, a.gain8), a.down)
    for block in a.blocks16:
        h = g.block(h, block)
    h = g.gain(h, a.gain16)
    y = g.add(g.conv(x, a.linear), g.conv(h, a.out, scale_out=a.sigma))
    z = g.add(g.conv(y, a.base_linear, scale_in=1 / a.sigma), g.conv(h, a.base_out))
    return y, z


def synthesis(g: Graph, s: Synthesis, latents: str, hat: str = "hat") -> str:
    """Latents [1, M, h, w], hat [1, R + 1] -> [1, 3, H, W], not clipped."""
    h = g.gain(g.conv(latents, s.enter, scale_in=1 / s.sigma), s.gain_in, hat)
    for block in s.blocks16:
        h = g.block(h, block)
    h = g.depth_to_space(g.conv(g.gain(h, s.gain16, hat), s.up), 2, s.up.out_channels // 4)
    for block in s.blocks8:
        h = g.block(h, block)
    fine = g.depth_to_space(g.conv(g.gain(h, s.gain8, hat), s.out), 8, 3)
    coarse = g.depth_to_space(g.conv(latents, s.linear), 16, 3)
    return g.add(g.add(coarse, fine), g.constant(np.array(0.5)))
