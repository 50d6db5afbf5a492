# SPDX-License-Identifier: MIT
"""torch -> a model folder: transforms as ONNX graphs (graph.py), priors rounded to integers, card and checksums.

Layout and meaning of the tables: docs/FORMAT.md, "Model files".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqcodec.bitstream.codebook import CODE_BITS
from vqcodec.model import engines
from vqcodec.model.prior import LOG_ONE, OCTAVE
from vqcodec.model.zoo import AIM, ANSWERS
from vqcodec.train.aim_graph import aim_graph
from vqcodec.train.calibrate import prior_tables
from vqcodec.train.codec import Codec
from vqcodec.train.finish import Report, Sample, quiet
from vqcodec.train.graph import Graph, array
from vqcodec.train.prior import BasePrior
from vqcodec.train.prior_graph import prior_graphs
from vqcodec.train.rounding import Tables
from vqcodec.train.transform_graphs import analysis, synthesis


def integer_tables(model: Codec, base_prior: BasePrior, samples: Sequence[Sample], report: Report = quiet) -> Tables:
    """Codebook and priors in integers; the frequency tables (`tables.*`) are counted on them afterwards.

    Args:
        samples: crops of one size through the analysis, on which the rounding is measured.
        report: told how far it is.
    """
    return {
        "codebook": np.rint(array(model.quantiser.codebook) * 2.0**CODE_BITS).astype(np.int32),
        "base_prior.exp2": np.rint(LOG_ONE * 2.0 ** (-np.arange(OCTAVE) / OCTAVE)).astype(np.int32),
        **prior_tables(model.cpu().eval(), base_prior.cpu().eval(), samples, report),
    }


def analysis_graph(model: Codec) -> bytes:
    """The analysis transform: x [1, 3, H, W], hat [1, A] -> y [1, M, h, w], z [1, D, h, w]."""
    c, g = model.config, Graph()
    for name, outside in zip(analysis(g, model.analysis), "yz", strict=True):
        g.rename(name, outside)
    return g.serialise(
        {"x": [1, 3, "H", "W"], "hat": [1, c.rows]},
        {"y": [1, c.latents, "h", "w"], "z": [1, c.codebook_dim, "h", "w"]},
    )


def synthesis_graph(model: Codec) -> bytes:
    """The synthesis transform: y [1, M, h, w], hat [1, A + 1] -> x [1, 3, H, W], nominally in [0, 1]."""
    c, g = model.config, Graph()
    g.rename(synthesis(g, model.synthesis, "y"), "x")
    return g.serialise({"y": [1, c.latents, "h", "w"], "hat": [1, c.rows + 1]}, {"x": [1, 3, "H", "W"]})


def halos(model: Codec) -> tuple[int, int]:
    """Reach of analysis and synthesis beyond a latent's own block, in latents."""
    c = model.config
    analysis = c.analysis_blocks16 + math.ceil(c.analysis_blocks8 / 2)
    synthesis = c.synthesis_blocks16 + math.ceil(c.synthesis_blocks8 / 2)
    return analysis, synthesis


def write_model(folder: Path, name: str, model: Codec, tables: Tables, notes: dict[str, Any]) -> None:
    """Write the model folder: `tables.npz`, the graphs, `model.json` with their sizes and sha256.

    Args:
        folder: made if missing.
        name: the model's id.
        tables: complete integer tables, the counted ones included.
        notes: what the card says about training and data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "tables.npz", **tables)  # type: ignore[arg-type]  # inflating would take longer than reading
    (folder / "analysis.onnx").write_bytes(analysis_graph(model))
    (folder / "synthesis.onnx").write_bytes(synthesis_graph(model))
    (folder / AIM).write_bytes(aim_graph(model))
    graphs = prior_graphs(tables)
    for path, data in graphs.items():
        (folder / path).write_bytes(data)
    reference = engines.Plain(tables)
    onnx = engines.Onnx(graphs.__getitem__, 1, reference)
    onnx.load_all()
    files = {}
    for path in ("tables.npz", "analysis.onnx", "synthesis.onnx", AIM, *graphs):
        data = (folder / path).read_bytes()
        files[path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    analysis_halo, synthesis_halo = halos(model)
    card = {
        "id": name,
        "tunes": list(model.config.tunes),
        "anchors": model.config.anchors,
        "lambda_min": model.config.lambda_min,
        "lambda_max": model.config.lambda_max,
        "analysis_halo": analysis_halo,
        "synthesis_halo": synthesis_halo,
        "files": files,
        ANSWERS: onnx.answers,
        **notes,
    }
    (folder / "model.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
