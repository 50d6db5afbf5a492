# SPDX-License-Identifier: MIT
"""The variants of the bake-off: one plain table of what each changes in a ModelConfig. No torch, nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vqcodec.train.config import ModelConfig

Settings = dict[str, Any]


def _half_chunks(c: ModelConfig) -> Settings:
    """Every chunk in two, at multiples of 8 where there is room: twice as many context steps."""
    split = [(max(1, chunk // 2 // 8 * 8) if chunk >= 16 else chunk // 2, chunk) for chunk in c.chunks]
    return {"chunks": tuple(part for first, chunk in split for part in (first, chunk - first))}


# name -> settings of ModelConfig that differ from those of `default`, or what makes them from those
VARIANTS: dict[str, Settings | Callable[[ModelConfig], Settings]] = {
    "default": {},
    "k256": {"codebook_size": 256},
    "k4096": {"codebook_size": 4096},
    "k16384": {"codebook_size": 16384},
    "2x256": {"base_stages": 2, "codebook_size": 256},
    "2x1024": {"base_stages": 2},
    "rotation": {"base_gradient": "rotation"},
    "simvq": {"base_learning": "simvq"},
    "simvq-rotation": {"base_learning": "simvq", "base_gradient": "rotation"},
    "simvq-k16384": {"base_learning": "simvq", "codebook_size": 16384},
    "scalar-base": {"base": "scalar"},
    "refine-z": {"lattice": "Z"},
    "refine-d4": {"lattice": "D4"},
    "refine-e8": {"lattice": "E8"},
    "refine-choice": {"choice": "rate"},
    "refine-vq1": {"vector_dim": 1},
    "refine-vq2": {"vector_dim": 2},
    "refine-vq4": {"vector_dim": 4, "vector_reach": 1},
    "refine-straight2": {"vector_dim": 2, "vector_rate": "straight-through"},
    "refine-rate2": {"vector_dim": 2, "choice": "rate"},
    "refine-ecvq2": {"vector_dim": 2, "choice": "rate", "vector_stages": 2, "vector_reach": 4},
    "refine-alternate": {"vector_dim": 2, "choice": "rate", "vector_learning": "lloyd"},
    "start-dct": {"frontend": "dct"},
    "start-random": {"frontend": "random"},
    "1-step": lambda c: {"chunks": (c.latents,), "checkerboard": (1,)},
    "2-steps": lambda c: {"chunks": (c.latents,)},
    "3-steps": {"checkerboard": (1,)},
    "6-chunks": lambda c: {**_half_chunks(c), "checkerboard": (1,)},
    "8-steps": lambda c: {**_half_chunks(c), "checkerboard": (2, 2, 1)},
    "9-steps": lambda c: {**_half_chunks(c), "checkerboard": (2, 2, 2, 1)},
    "6-chunks-carry": lambda c: {**_half_chunks(c), "checkerboard": (1,), "carry": True},
    "8-steps-carry": lambda c: {**_half_chunks(c), "checkerboard": (2, 2, 1), "carry": True},
    "12-steps": _half_chunks,
    "mean-base": {"prior_mean": "base"},
    "mean-none": {"prior_mean": "none"},
    "no-base-context": {"base_context": False},
    "no-gains": {"gains": False},
    "no-shortcut": {"shortcut": False},
    "wide-analysis": lambda c: {"analysis_width8": 2 * c.analysis_width8, "analysis_width16": 2 * c.analysis_width16},
    "deep-synthesis": lambda c: {
        "synthesis_blocks8": 2 * c.synthesis_blocks8,
        "synthesis_blocks16": 2 * c.synthesis_blocks16,
    },
    "wide-synthesis": lambda c: {
        "synthesis_width8": 2 * c.synthesis_width8,
        "synthesis_width16": 2 * c.synthesis_width16,
    },
    "wide-prior": lambda c: {"prior_width": 2 * c.prior_width},
}


def settings_of(model: ModelConfig, name: str) -> Settings:
    """What the variant changes in `model`."""
    settings = VARIANTS[name]
    return settings(model) if callable(settings) else settings
